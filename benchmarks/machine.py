"What a benchmark needs to be honest: the operations a call takes, the rate at which this machine multiplies matrices, and the time between them."
import argparse
import time

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from videolights.config import ModelConfig
from videolights.model.videolights import VideoLights

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_arguments(parser):
    parser.add_argument("--preset", default="videolights-b", help="model (default videolights-b: SlowFast + CLIP + BLIP-2)")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="fields of the model to change, for example kernel=1")
    parser.add_argument("--clips", type=int, default=75)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="measure torch.compile as well")
    parser.add_argument("--seconds", type=float, default=5, help="time spent on each measurement (default 5)")


def build(args):
    "The model that the arguments describe, and its inputs for a batch size."
    widths = dict(video_dim=3584, text_dim=1280) if args.preset == "released" else {}
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=") for item in args.set)}
    torch.manual_seed(2018)
    model = VideoLights(ModelConfig.preset(args.preset, **widths | changes)).to(args.device)

    def inputs(batch):
        mask = lambda n: torch.ones(batch, n, dtype=torch.bool, device=args.device)
        c = model.config
        return (torch.randn(batch, args.clips, c.video_dim + 2, device=args.device), mask(args.clips),
                torch.randn(batch, args.words, c.text_dim, device=args.device), mask(args.words))
    return model, inputs


def padded(inputs):
    "Inputs whose videos and texts have different lengths, zeros behind."
    for x, mask in (inputs[:2], inputs[2:]):
        lengths = torch.linspace(mask.shape[1], 1, len(mask), device=mask.device).long()
        mask &= torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
        x *= mask[..., None]
    return inputs


def best_time(call, seconds, device):
    "Shortest of as many calls as fit, after two to warm up."
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times, end = [], time.perf_counter() + seconds
    for _ in range(2): call(); wait()
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call(); wait()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate(dtype, seconds, device, size=1024):
    "FLOP/s of a large matrix product, the best this machine can do."
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size ** 3 / best_time(lambda: a @ b, seconds, device)


def operations(call):
    "FLOP of one call: two for each multiplication with its addition, in matrix products and convolutions."
    with FlopCounterMode(display=False) as counter: call()
    return counter.get_total_flops()


def measure(args, prepare, what):
    """Print a row per precision and batch size. `prepare(model, batch_inputs)` returns the call to time."""
    model, inputs = build(args)
    print(f"{what}: {args.preset} {' '.join(args.set)}, {args.clips} clips, {args.words} words, {torch.get_num_threads()} threads, {args.device}")
    rates = {p: product_rate(PRECISIONS[p], args.seconds, args.device) for p in args.precision}
    print("matrix products: " + ", ".join(f"{p} {rate / 1e9:.0f} GFLOP/s" for p, rate in rates.items()))
    print(f"{'':14}{'batch':>6}{'GFLOP':>9}{'ms':>10}{'ideal ms':>10}{'of ideal':>10}{'to fp32':>9}")
    first = {}
    for compiled in (False, True) if args.compile else (False,):
        for precision in args.precision:
            for batch in args.batch:
                call = prepare(model, inputs(batch))
                flop = operations(call)
                timed = torch.compile(call) if compiled else call
                def run():
                    with torch.autocast(args.device.partition(":")[0], PRECISIONS[precision], enabled=precision != "fp32"): timed()
                seconds = best_time(run, args.seconds, args.device)
                ideal = flop / rates[precision]
                if precision == "fp32": first[compiled, batch] = seconds
                faster = f"{first[compiled, batch] / seconds:9.2f}" if (compiled, batch) in first else f"{'-':>9}"
                print(f"{precision + (' compiled' if compiled else ''):14}{batch:6}{flop / 1e9:9.1f}{seconds * 1e3:10.1f}{ideal * 1e3:10.1f}{ideal / seconds:10.0%}"
                      + faster, flush=True)
