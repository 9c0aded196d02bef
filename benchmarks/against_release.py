"""This package beside a checkout of the authors' repository (dpaul06/VideoLights): the same answer first, then inference and training steps, round by round in one run.

    python benchmarks/against_release.py CHECKOUT [--what inference onnx step] [--device cuda] [--compile] [--json FILE]
    python benchmarks/against_release.py CHECKOUT --train DATA.yaml [--epochs 8] [--seed 2018] [--set dim_feedforward=256 enc_layers=2] [--json FILE]

Nothing in the checkout is changed and nothing of it is kept. What it imports and this machine lacks is stood in for while it is read, and its one move to a GPU stays where it is on the CPU.
The released form here gets the checkout's weights and must give its answers before anything is timed; the paper's form has the same sizes. All do a whole training step: both passes, all losses with
their matching, backward, clipped gradients and AdamW; the authors' in fp32, the only precision that it runs in, also beside ours in bf16. With --train the authors' model learns one of this package's data sets with the authors' losses, options and choice of the best epoch, is
evaluated as this package evaluates, and its row has the columns of README's table.
"""
import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import yaml

from checkout import inputs_of, open_checkout, read_options, targets_of, their_loss, train, update
from machine import PRECISIONS, operations, product_rate
from train_step import targets
from videolights.config import InputError, LossConfig, ModelConfig, TrainConfig
from videolights.data.batches import append_tef
from videolights.deploy.bundle import INPUTS, MODEL
from videolights.deploy.export import export_onnx
from videolights.deploy.precision import to_int8
from videolights.deploy.sessions import open_session
from videolights.files import write_json
from videolights.losses.highlights import draw_rank_pairs
from videolights.losses.objective import Objective
from videolights.model.released import load_released, released_loss_config
from videolights.model.videolights import VideoLights
from videolights.training.loop import Trainee

SIZES = "video_dim", "text_dim", "dim", "heads", "feedforward", "fusion_layers", "encoder_layers", "decoder_layers", "slots", "align_dim", "max_words", "dropout", "input_dropout"
ANSWER_TOLERANCE, LOSS_TOLERANCE = 1e-5, 1e-4           # absolute, relative


def random_batch(args, size):
    "A batch of random features with temporal endpoints, all items equally long, one moment each."
    c, mask = ModelConfig.preset(args.preset), lambda n: torch.ones(size, n, dtype=torch.bool, device=args.device)
    video = append_tef(torch.randn(size, args.clips, c.video_dim, device=args.device), mask(args.clips))
    return targets((video, mask(args.clips), torch.randn(size, args.words, c.text_dim, device=args.device), mask(args.words)))


def build(theirs, args):
    "The authors' model, criterion and options, and our two forms: the released one with the same weights, the paper's with the same sizes."
    torch.manual_seed(args.seed)
    widths = ModelConfig.preset(args.preset)
    options = read_options(theirs, [], args.set, args.device, v_feat_dim=widths.video_dim, t_feat_dim=widths.text_dim, max_q_l=args.words, max_v_l=args.clips)
    model, criterion, *_ = theirs.setup(options)
    with torch.no_grad():
        for p in model.parameters(): p += 0.02 * torch.randn_like(p)      # some start at zero, and would hide a difference
    released = load_released(model.state_dict(), vars(options)).to(args.device)
    paper = VideoLights(ModelConfig.preset(args.preset, **{name: getattr(released.config, name) for name in SIZES})).to(args.device)
    return model, criterion, options, released, paper


@torch.no_grad()
def check_answers(model, criterion, options, released, batch):
    "Largest differences of the released form to the authors' model, in evaluation mode; an error where one is too large."
    pairs = draw_rank_pairs(batch.saliency, batch.video_mask)
    wanted, ours = model.eval()(**inputs_of(batch)), released.eval()(*batch.inputs)
    found = {key: float((a - wanted[name]).abs().max()) for key, a, name in
             (("spans", ours.spans, "pred_spans"), ("logits", ours.logits, "pred_logits"), ("saliency", ours.saliency, "saliency_scores"))}
    total = float(their_loss(criterion, wanted, targets_of(batch, pairs), 0))
    mine = Objective(released_loss_config(vars(options)))(released.training_outputs(*batch.inputs), batch, 0, pairs)["total"]
    found["loss"] = abs(float(mine) / total - 1)
    print("largest difference to the authors' answers: " + ", ".join(f"{key} {value:.1e}" for key, value in found.items()) + " (relative)", flush=True)
    for key, value in found.items():
        if not value <= (LOSS_TOLERANCE if key == "loss" else ANSWER_TOLERANCE):
            raise SystemExit(f"against_release: {key} differs by {value:.1e} from the authors' answer, so nothing was timed")
    return found


def their_step(model, criterion, options, batch):
    "A training step of the authors' code."
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.wd)
    labels = targets_of(batch, draw_rank_pairs(batch.saliency, batch.video_mask))
    forward = lambda: their_loss(criterion, model(**inputs_of(batch)), labels, 0)
    return forward, lambda total: update(model, optimizer, total, options.grad_clip)


def our_step(model, loss, batch, compiled=False):
    "A training step as `videolights train` does it."
    t, trainee = TrainConfig(), Trainee(model, Objective(loss))
    optimizer = torch.optim.AdamW(model.parameters(), lr=t.lr, weight_decay=t.weight_decay, fused=True)
    if compiled: trainee.compile()
    return lambda: trainee(batch, 0)["total"], lambda total: update(model, optimizer, total, t.clip_norm)


def stepping(forward, finish):
    "A call that makes one training step; autocast, where there is any, covers model and losses, as accelerate has it."
    def call(autocast):
        with autocast: total = forward()
        finish(total)
    return call


def answering(model, ask):
    "A call that answers a batch."
    model.eval().requires_grad_(False)
    def call(autocast):
        with autocast: ask()
    return call


def open_graphs(released, device):
    "Name -> session of the released form as ONNX Runtime has it; none, and why, where it cannot be exported here."
    kind = device.partition(":")[0]
    try:
        print("exporting ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            full, small = export_onnx(released, Path(folder) / "bundle") / MODEL, Path(folder) / "int8.onnx"
            to_int8(full, small)
            return {f"released ONNX {name}": open_session(path, kind, torch.get_num_threads()) for name, path in (("fp32", full), ("int8", small))}, ""
    except (ImportError, InputError) as e: return {}, f"ONNX Runtime: {e}"


def asking(session, batch):
    "A call that answers a batch in ONNX Runtime, whose graph adds the endpoints itself."
    values = [x.cpu().numpy() for x in batch.inputs]
    feed = dict(zip(INPUTS, [values[0][..., :-2], *values[1:]]))
    return lambda autocast: session.run(["spans", "logits", "saliency"], feed)


def contestants(what, size, built, graphs, args):
    "Name -> call, the authors' first; all have the same batch."
    model, criterion, options, released, paper = built
    batch = random_batch(args, size)
    if what == "inference":
        return {"authors": answering(model, lambda: model(**inputs_of(batch))),
                **{name: answering(m, lambda m=m: m(*batch.inputs)) for name, m in (("released", released), ("paper", paper))},
                **{name: asking(session, batch) for name, session in graphs.items()}}
    for m in (model, released, paper): m.train().requires_grad_(True)
    forms = {"released": (released, released_loss_config(vars(options))), "paper": (paper, LossConfig())}
    calls = {"authors": stepping(*their_step(model, criterion, options, batch))}
    return calls | {name + " compiled" * compiled: stepping(*our_step(*form, batch, compiled))
                    for compiled in (False, True)[:1 + args.compile] for name, form in forms.items()}


def race(calls, precision, args):
    "Seconds of each call in each round, in which every call comes once, and of its first call. The authors' code knows no mixed precision and stays in fp32."
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    kind, times = args.device.partition(":")[0], {name: [] for name in calls}
    def run(name):
        wait(); start = time.perf_counter()
        calls[name](torch.autocast(kind, PRECISIONS[precision], enabled=precision != "fp32" and name != "authors")); wait()
        return time.perf_counter() - start
    first = {name: run(name) for name in calls}            # compiles, where that is asked for
    for name in calls: run(name)
    end = time.perf_counter() + args.seconds * len(calls)
    while time.perf_counter() < end or len(times["authors"]) < 3:
        for name in calls: times[name].append(run(name))
    return times, first


def processor(device):
    "Its name, and what it can do in one instruction."
    if device.startswith("cuda"): return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name, flags = (re.search(rf"^{key}\s*: (.*)", about, re.M) for key in ("model name", "flags"))
    able = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flags and flag in flags[1].split()]
    return f"{name[1] if name else 'processor without a name'} ({', '.join(able) or 'no AVX2'})"


def compare(theirs, args):
    "Check the answers, then time all; what was found, as it is written to --json."
    built = build(theirs, args)
    result = dict(processor=processor(args.device), threads=torch.get_num_threads(), torch=torch.__version__, preset=args.preset, clips=args.clips, words=args.words,
                  difference=check_answers(*built[:4], random_batch(args, 8)), rows=[], skipped=[])
    def skip(why): result["skipped"].append(why); print("skipped: " + why)
    rates = {p: product_rate(PRECISIONS[p], 1, args.device, size=512) for p in PRECISIONS}
    slow = [p for p in args.precision if rates[p] < rates["fp32"]]
    rates |= {p: product_rate(PRECISIONS[p], 1, args.device) for p in ("fp32", *args.precision) if p not in slow}
    print(f"{result['processor']}, {result['threads']} threads, torch {result['torch']}; matrix products: " + ", ".join(f"{p} {rate / 1e9:.1f} GFLOP/s" for p, rate in rates.items()))
    for p in slow: skip(f"{p}, in which products are slower than in fp32 here")
    result["rates"] = rates
    graphs, why = open_graphs(built[3], args.device) if "onnx" in args.what else ({}, "")
    if why: skip(why)
    print(f"{'':10}{'batch':>6} {'':10}{'':20}{'GFLOP':>8}{'ms':>10}{'times faster':>14}{'of product rate':>17}")
    for what, size in [("inference", size) for size in args.batch if args.what != ["step"]] + [("step", max(args.batch))] * ("step" in args.what):
        calls = contestants(what, size, built, graphs, args)
        flop = {name: operations(lambda: call(torch.autocast("cpu", enabled=False))) for name, call in calls.items() if " " not in name}
        for precision in [p for p in args.precision if p not in slow]:
            times, first = race({name: call for name, call in calls.items() if precision == "fp32" or "ONNX" not in name}, precision, args)
            for name, seconds in times.items():
                best, count, used = min(seconds), flop[name.partition(" ")[0]], "fp32" if name == "authors" else precision
                row = dict(what=what, batch=size, precision=used, model=name, gflop=count / 1e9, ms=best * 1e3, median_ms=median(seconds) * 1e3, rounds=len(seconds), first_ms=first[name] * 1e3,
                           faster=min(times["authors"]) / best, of_rate=count / best / rates[used])
                result["rows"].append(row)
                print(f"{what:10}{size:6} {used:10}{name:20}{row['gflop']:8.1f}{row['ms']:10.1f}{row['faster']:14.2f}{row['of_rate']:17.0%}" + f"   first call {first[name]:.0f} s" * ("compiled" in name), flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a clone of dpaul06/VideoLights")
    parser.add_argument("--train", metavar="DATA.yaml", help="train the authors' model on this data set instead")
    parser.add_argument("--epochs", type=int, help="of --train (default: the authors')")
    parser.add_argument("--what", nargs="+", choices=("inference", "onnx", "step"), default=["inference", "onnx", "step"],
                        help="what to time (default all); onnx is inference with ONNX Runtime as well, whose graph takes a minute to write")
    parser.add_argument("--preset", default="videolights-b", help="the paper's form, whose widths all have (default videolights-b: SlowFast + CLIP + BLIP-2)")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="the authors' options to change, for example enc_layers=2")
    parser.add_argument("--clips", type=int, default=75)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="of inference; a step has the largest (default 1 32)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure our steps with torch.compile as well")
    parser.add_argument("--seconds", type=float, default=5, help="for each model in each row (default 5)")
    parser.add_argument("--seed", type=int, default=2018)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    args = parser.parse_args()
    try:
        args.set = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.set)}
        theirs = open_checkout(args.checkout, args.device)
        epochs = {"n_epoch": args.epochs} if args.epochs else {}
        result = train(theirs, args.train, args.set | epochs, args.device, args.seed) if args.train else compare(theirs, args)
        if args.json: write_json(args.json, result)
    except InputError as e:
        print(f"against_release: {e}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__": main()
