"""All that is to be known of a GPU in one call of under ten minutes: does it answer as the CPU does, how fast, and does it train as well?

    make gpu [ARGS="--resume"]                  needs torch, NumPy and YAML; ONNX Runtime and the exporter are measured where they are installed
    make gpu ARGS="--device cpu --quick"        a rehearsal

In this order, each a row of one JSON file that is written anew after every row, and of the Markdown table beside it:
parity    spans, logits and saliency of torch, and of ONNX Runtime with plain and with bound inputs and outputs, in fp32 (TF32 off), fp16 and bf16
          against fp32 on the CPU with the same weights and inputs; `difference` is relative to the largest number of an output where that is above 1
provider  ONNX Runtime falls back to the CPU without a word: does our session say so, and how many nodes run where?
rate      operations a second of a large matrix product, in each precision
speed     inference, training step (forward with mismatched pairs, losses, backward) and bundle at each batch size: percentiles of the latency, pairs
          a second, share of that rate, peak memory (of torch's tensors; for ONNX Runtime all that is taken on the card; on the CPU the process's)
seed      the recipe trained with three seeds, where its data are (VIDEOLIGHTS_REALDATA)
and at last speed with torch.compile, whose compilation takes a minute a row. A row that cannot be measured says why. `--resume` keeps what an earlier call of the same
machine and settings has measured. The exit status is 1 where parity or provider failed, or a row raised an error.
"""
from bare import STOOD_IN      # before anything of videolights

import argparse
import copy
import os
import platform
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import torch

import inference
import train_step
from graphs import TOYWORLD, Graphs
from machine import PRECISIONS, add_arguments, build, operations, padded, product_rate
from rows import Report, Skip, once
from videolights.config import Config, DataConfig, InputError
from videolights.deploy.benchmark import latencies, summary
from videolights.files import read_json, write_text
from videolights.model.videolights import Output

ROOT = Path(__file__).resolve().parent.parent
TOLERANCES = dict(fp32=1e-4, fp16=1e-2, bf16=5e-2)      # of the full model on the CPU: 8e-4 in fp16, 8e-3 in bf16
SEEDS, ENGINES = (2018, 2019, 2020), {"onnxruntime": False, "onnxruntime bound": True}
QUICK = dict(preset="toyworld", set=["dim=32", "encoder_layers=1", "decoder_layers=1"], clips=12, words=4, batch=[1, 2], seconds=0.0, least=1, backend="eager",
             bundle=TOYWORLD)


def autocast(device, precision): return nullcontext() if precision == "fp32" else torch.autocast(device, PRECISIONS[precision])


def wait(device):
    if device == "cuda": torch.cuda.synchronize()


def peak_mb(device, of_torch=True):
    "Largest memory since the row began (2^20 bytes)."
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return (torch.cuda.max_memory_allocated() if of_torch else total - free) >> 20
    from videolights.training.loop import peak_memory_mb
    return peak_memory_mb()


def differences(found, expected, precision):
    "How far spans, logits and saliency are from what is expected, and whether that is near enough."
    each = {}
    for name, x, y in zip(Output._fields, found, expected):
        x, y = (torch.as_tensor(value).float().cpu() for value in (x, y))
        each[name] = float((x - y).abs().max() / y.abs().max().clamp(min=1))
    worst = float(np.max([*each.values()]))         # NaN where one is
    found = {name: float(f"{x:.2g}") if np.isfinite(x) else str(x) for name, x in each.items()}
    return dict(difference=found, tolerance=TOLERANCES[precision], passed=worst <= TOLERANCES[precision])


@torch.no_grad()
def torch_parity(model, reference, inputs, device, precision):
    "A model on the device against its reference on the CPU."
    with autocast(device, precision): found = model(*inputs)
    return differences(found, reference(*(x.cpu() for x in inputs)), precision)


def fresh(args):
    "The model, with spans that depend on its input: an untrained one answers its anchors."
    model, inputs = build(args)
    for mlp in (model.decoder.step, model.heads.span): torch.nn.init.normal_(mlp[-1].weight, std=0.3)
    return model.eval(), inputs


@once
def compiler(device, backend):
    "Does torch.compile work on this machine at all? It needs a C compiler, and Triton on a GPU."
    try: torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as e: raise Skip(f"torch.compile works not here: {str(e).strip().splitlines()[0][:100]}") from None


def time_torch(args, model, inputs, prepare, flop, rate, precision, batch, compiled):
    "A torch row of speed."
    if compiled:
        if not args.compile: raise Skip("--no-compile")
        compiler(args.device, args.backend)
        torch.compiler.reset()
    model.zero_grad()           # gradients of the row before
    call = prepare(model, inputs(batch))
    timed = torch.compile(call, dynamic=False, backend=args.backend) if compiled else call

    def run():
        with autocast(args.device, precision): timed()
        wait(args.device)
    if args.device == "cuda": torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    first = dict(compile_s=round(time.perf_counter() - start, 1)) if compiled else {}
    return timing(args, run, batch, flop() * batch / rate(precision)) | dict(peak_mb=peak_mb(args.device)) | first


def graph_parity(graphs, device, precision, bound):
    "A graph on the device against the one in fp32 on the CPU."
    graphs.graph(precision)      # the reason why there is none comes first
    inputs = graphs.inputs(4)
    run, read = graphs.call(precision, inputs, bound, device)
    run()
    return differences(read(), graphs.call("fp32", inputs, False, "cpu")[1](), precision) | dict(graph=graphs.graph(precision)[2])


def time_graph(args, graphs, rate, precision, batch, bound):
    "A bundle's row of speed."
    run, _ = graphs.call(precision, graphs.inputs(batch), bound, args.device)
    return timing(args, run, batch, graphs.flop() * batch / rate(precision)) | dict(peak_mb=peak_mb(args.device, False), graph=graphs.graph(precision)[2])


def timing(args, run, batch, ideal_s):
    found = summary(latencies(run, args.seconds, args.least), batch)
    return found | dict(of_rate=round(1e3 * ideal_s / found["p50_ms"], 4))


def train_seed(args, seed, folder):
    "The recipe with a seed: metrics of its best epoch."
    try:
        config = Config.load(args.recipe)
        data = DataConfig.load(config.data)
    except InputError as e: raise Skip(str(e)) from None
    if not data.path(data.splits[config.train.train_split]).exists(): raise Skip(f"{data.root}: the data are not there")
    from videolights.training.loop import train
    start = time.perf_counter()
    changes = {"train.seed": seed} | ({"train.epochs": 1} if args.quick else {})
    run = train(config.with_changes(changes), folder / f"{args.recipe.stem}-{seed}", progress=False)
    brief = read_json(run / f"metrics_{config.train.eval_split}.json")["brief"]
    return dict(seconds=round(time.perf_counter() - start, 1), metrics=brief)


def spread(rows):
    "Mean, lowest and highest of each metric over seeds."
    if any("metrics" not in row for row in rows): raise Skip("not every seed was trained")
    of = lambda name: [row["metrics"][name] for row in rows]
    return dict(metrics={name: [round(mean(of(name)), 2), min(of(name)), max(of(name))] for name, x in rows[0]["metrics"].items() if x is not None})


def describe(args):
    "The machine and the settings."
    found = dict(torch=torch.__version__, python=platform.python_version(), device=platform.machine(), threads=torch.get_num_threads(), stood_in=STOOD_IN)
    try:
        import onnxruntime
        found |= dict(onnxruntime=onnxruntime.__version__, providers=onnxruntime.get_available_providers())
    except ImportError: pass
    if args.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= dict(device=card.name, capability=f"{card.major}.{card.minor}", memory_mb=card.total_memory >> 20, cuda=torch.version.cuda,
                      cudnn=torch.backends.cudnn.version())
    return found | {"settings": {k: str(v) for k, v in vars(args).items() if k not in ("resume", "minutes", "out", "compile")}}


def measure(args, report, folder):
    "All rows in their order."
    model, inputs = fresh(args)
    graphs, tasks = Graphs(args, model, folder), dict(inference=inference.prepare, training=train_step.prepare)
    reference, few = copy.deepcopy(model).cpu(), padded(inputs(4))
    for precision in args.precision:
        report.add(lambda: torch_parity(model, reference, few, args.device, precision), kind="parity", engine="torch", precision=precision)
    for precision, (engine, bound) in product(args.precision, ENGINES.items()):
        report.add(lambda: graph_parity(graphs, args.device, precision, bound), kind="parity", engine=engine, precision=precision)
    report.add(graphs.provider, kind="provider", engine="onnxruntime")

    size = 256 if args.quick else 8192 if args.device == "cuda" else 1024
    rate = once(lambda precision: product_rate(PRECISIONS[precision], args.seconds, args.device, size))
    for precision in args.precision: report.add(lambda: dict(gflop_per_s=round(rate(precision) / 1e9, 1)), kind="rate", engine="torch", precision=precision)
    flops = {of: once(partial(lambda prepare: operations(prepare(model, inputs(2))) / 2, prepare)) for of, prepare in tasks.items()}

    def speed(of, compiled, batch):
        for precision in args.precision:
            if (of, precision) == ("training", "fp16"): continue        # would need a scaler of gradients
            report.add(lambda: time_torch(args, model, inputs, tasks[of], flops[of], rate, precision, batch, compiled),
                       kind="speed", of=of, engine="torch compiled" if compiled else "torch", precision=precision, batch=batch)
    for of, batch in product(tasks, args.batch): speed(of, False, batch)
    for precision, (engine, bound), batch in product([p for p in args.precision if p != "bf16"], ENGINES.items(), args.batch):
        report.add(lambda: time_graph(args, graphs, rate, precision, batch, bound), kind="speed", of="bundle", engine=engine, precision=precision, batch=batch)
    rows = []
    for seed in SEEDS:
        rows.append(report.add(lambda: train_seed(args, seed, folder), max((r.get("seconds", 0) for r in rows), default=0), kind="seed", of=args.recipe.stem, seed=seed))
    report.add(lambda: spread(rows), kind="seed", of=args.recipe.stem, seed="mean, lowest, highest")
    for batch, of in product(sorted(args.batch, key=lambda n: n != 32), tasks): speed(of, True, batch)     # time may run out: the usual batch first


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one call each, one epoch a seed: to see that all of it works")
    parser.add_argument("--least", type=int, help="calls of each measurement at least")
    parser.add_argument("--minutes", type=float, default=8, help="no row begins later (default 8)")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out holds, if machine and settings are the same")
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead of exporting the model")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (default inductor; with --quick eager, which only traces)")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "charades_clip.yaml")
    parser.add_argument("--out", type=Path, help="JSON file (benchmarks/results/gpu.json; on the CPU runs/gpu.json)")
    parser.set_defaults(device="cuda", batch=[1, 8, 32, 256], precision=list(PRECISIONS), compile=True, seconds=1.0, least=5)
    if parser.parse_args(words).quick: parser.set_defaults(**QUICK)
    args = parser.parse_args(words)
    if args.device not in ("cuda", "cpu"): parser.error("--device is cuda or cpu; CUDA_VISIBLE_DEVICES chooses the card")
    if args.device == "cuda" and not torch.cuda.is_available(): parser.error("torch sees no CUDA device; --device cpu --quick rehearses")
    args.out = args.out or (ROOT / "benchmarks" / "results" if args.device == "cuda" else ROOT / "runs") / "gpu.json"
    return args


def main(words=None):
    args = arguments(words)
    if args.device == "cpu": os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"       # read by CUDA's libraries: ONNX Runtime multiplies in TF32 where nobody forbids it
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report = Report(args.out, describe(args), args.minutes, args.resume)
    with tempfile.TemporaryDirectory(prefix="videolights-") as folder: measure(args, report, Path(folder))
    write_text(args.out.with_suffix(".md"), report.table())
    print(f"\n{report.table()}\n{args.out} and {args.out.with_suffix('.md').name}: {len(report.rows)} rows, {len(report.failures)} failed")
    for row in report.failures: print(f"FAILED {row}")
    return 1 if report.failures else 0


if __name__ == "__main__": sys.exit(main())
