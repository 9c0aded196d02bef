"""How close a training step comes to what the machine's matrix products allow, in fp32 and bf16: forward with mismatched pairs, all losses, backward.

    python benchmarks/train_step.py [--batch 32] [--preset released] [--device cuda --compile]

The assignment of slots to moments is part of the step (it runs on the CPU and is not counted among the operations); the optimiser's update is not.
"""
import argparse

import torch

from machine import add_arguments, measure
from videolights.config import LossConfig
from videolights.data.batches import Batch
from videolights.losses.objective import Objective


def targets(inputs):
    "One moment per item in the middle of the video, graded labels inside."
    video, video_mask, text, text_mask = inputs
    size, clips = video_mask.shape
    spans = torch.tensor([0.5, 0.3], device=video.device).expand(size, 1, 2)
    inside = (torch.arange(clips, device=video.device) / clips - 0.5).abs() < 0.15
    everyone = torch.ones(size, dtype=torch.bool, device=video.device)
    return Batch(video, video_mask, text, text_mask, spans, everyone[:, None], (inside * 4.0).expand(size, clips), everyone, everyone, [])


def prepare(model, inputs):
    model.train().requires_grad_(True)
    objective, batch = Objective(LossConfig()), targets(inputs)

    def step():
        model.zero_grad()
        objective(model.training_outputs(*inputs), batch)["total"].backward()
    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    measure(parser.parse_args(), prepare, "training step")


if __name__ == "__main__": main()
