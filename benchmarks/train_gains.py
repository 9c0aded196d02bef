"""What each shortcut of the training step is worth alone: the step with all of them, and without one at a time, round by round in one run.

    python benchmarks/train_gains.py [--batch 32] [--preset released] [--seconds 60] [--json FILE]

A step is forward with mismatched pairs, all losses, backward, clipped gradients and AdamW, in fp32. A gain is the median of the time without the shortcut over
the median with all. Run it on a quiet machine: gains of a few percent drown in anything else.
"""
import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import nn

from machine import add_arguments, build
from train_step import targets
from videolights.config import LossConfig
from videolights.files import write_json
from videolights.losses.objective import Objective
from videolights.model import attention, dropout, projection

SHORTCUTS = {
    "all": nullcontext,
    "without noise by the byte": lambda: patch.object(dropout.Dropout, "forward", nn.Dropout.forward),
    "without the fast slope of PReLU": lambda: patch.object(attention.PReLU, "forward", nn.PReLU.forward),
    "without the sentence apart": lambda: patch.object(projection.MaskedConv, "forward", joined),
    "without the fused AdamW": nullcontext,
}
in_parts = projection.MaskedConv.forward


def joined(self, x, mask, *more):
    "The convolution of all columns side by side."
    return in_parts(self, torch.cat((x, *(part.expand(*x.shape[:2], -1) for part in more)), -1), mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--json", type=Path, help="file to write the times to")
    parser.set_defaults(batch=[32], seconds=60)
    args = parser.parse_args()
    model, inputs = build(args)
    model.train()
    objective, batch = Objective(LossConfig()), targets(inputs(args.batch[0]))
    optimizers = {fused: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused) for fused in (True, False)}

    def step(name):
        optimizer = optimizers["AdamW" not in name]
        with SHORTCUTS[name]():
            objective(model.training_outputs(*batch.inputs), batch)["total"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()

    times, end = {name: [] for name in SHORTCUTS}, time.perf_counter() + args.seconds
    step("all")
    while not times["all"] or time.perf_counter() < end:
        for name, taken in times.items():
            start = time.perf_counter()
            step(name)
            taken.append(time.perf_counter() - start)
    middle = {name: median(taken) for name, taken in times.items()}
    print(f"{args.preset}, batch {args.batch[0]}, {args.clips} clips, {args.words} words, {torch.get_num_threads()} threads, {len(times['all'])} rounds")
    for name, seconds in middle.items(): print(f"{name:34}{seconds * 1e3:9.0f} ms{seconds / middle['all']:8.3f}")
    if args.json: write_json(args.json, dict(vars(args) | dict(json=None), threads=torch.get_num_threads(), seconds_per_step=middle))


if __name__ == "__main__": main()
