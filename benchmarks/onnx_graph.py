"""What each change of the exported graph gains, and how soon ONNX Runtime answers beside torch, in one run.

    python benchmarks/onnx_graph.py [--preset released videolights-b] [--batch 1 8 32] [--json FILE]

Random weights, features of SlowFast + CLIP + BLIP-2's widths. All take turns of a quarter of a second, and the shortest answer of each counts: call by call, threads of one that wait
for more work would slow the next.
"""
import argparse
import itertools
import json
import platform
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx_ir
import torch

from videolights.config import ModelConfig
from videolights.deploy.bundle import INPUTS
from videolights.deploy.export import Graph, example_inputs, trace_onnx
from videolights.deploy.precision import CONVERTERS
from videolights.deploy.sessions import open_session, quiet
from videolights.deploy.tracing import SIMPLER, simplify
from videolights.model.videolights import VideoLights

WIDTHS = dict(video_dim=3584, text_dim=1280)


def processor():
    "What the operating system calls the processor, and what it can do that matters here."
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), platform.processor())
    return " ".join([name, *(flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f" {flag}" in info)])


def write_graphs(model, folder):
    "As traced, each change alone, all, and all in other precisions: name -> file, number of nodes."
    raw, files = folder / "traced.onnx", {}
    with patch("videolights.deploy.tracing.simplify"): trace_onnx(Graph(model, 2.0), dict(dataset="random", sources=[], **WIDTHS), raw)
    for name, how in {"traced": None, **{f"{x} alone": [x] for x in SIMPLER}, "fp32": SIMPLER}.items():
        graph, files[name] = onnx_ir.load(raw), folder / f"{name}.onnx"
        if how: simplify(graph, how)
        onnx_ir.save(graph, files[name])
    for name, convert in {"traced, int8": CONVERTERS["int8"], **CONVERTERS}.items():
        files[name] = folder / f"{name}.onnx"
        with quiet(): convert(files["traced" if "," in name else "fp32"], files[name])
    return {name: (path, len(onnx_ir.load(path).graph)) for name, path in files.items()}


def shortest(calls, seconds):
    "Milliseconds of each call's shortest answer."
    best, end = dict.fromkeys(calls, float("inf")), time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or max(best.values()) == float("inf"):
        for name, call in calls.items():
            call()
            turn = time.perf_counter() + .25
            while (start := time.perf_counter()) < turn:
                call()
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def measure(preset, args, folder):
    "A row per graph: nodes, milliseconds per batch, and how many times torch's time that saves."
    torch.manual_seed(2018)
    model = VideoLights(ModelConfig.preset(preset, **WIDTHS)).eval()
    graphs, rows = write_graphs(model, folder), {}
    sessions, network = {name: open_session(path, "cpu", args.threads) for name, (path, _) in graphs.items()}, Graph(model, 2.0)
    for batch in args.batch:
        inputs = example_inputs(model.config, batch, args.clips, args.words)
        tensors, given = [torch.from_numpy(x) for x in inputs], dict(zip(INPUTS, inputs))
        calls = {"torch": torch.inference_mode()(lambda: network(*tensors))}
        calls |= {name: lambda session=session: session.run(["spans", "scores", "saliency"], given) for name, session in sessions.items()}
        exact = calls["traced"]()
        for name, ms in shortest(calls, args.seconds).items():
            row = rows.setdefault(name, dict(preset=preset, graph=name, nodes=graphs[name][1] if name in graphs else None, ms={}, difference=0.0))
            row["ms"][str(batch)] = round(ms, 2)
            if name in graphs: row["difference"] = max(row["difference"], *(float(np.abs(a - b).max()) for a, b in zip(calls[name](), exact)))
    return list(rows.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["released", "videolights-b"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clips", type=int, default=75)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of ONNX Runtime (default torch's)")
    parser.add_argument("--seconds", type=float, default=2, help="for each graph and batch (default 2)")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads, {args.clips} clips, {args.words} words")
    rows = []
    for preset in args.preset:
        with tempfile.TemporaryDirectory() as folder: rows += measure(preset, args, Path(folder))
    print(f"{'preset':16}{'graph':24}{'nodes':>6}{'differs by':>12}" + "".join(f"{f'ms at {batch}':>11}" for batch in args.batch) + "   times as fast as torch")
    for preset, group in itertools.groupby(rows, lambda row: row["preset"]):
        first, *others = group
        for row in (first, *others):
            faster = "".join(f"{first['ms'][b] / ms:7.2f}" for b, ms in row["ms"].items())
            print(f"{preset:16}{row['graph']:24}{row['nodes'] or '':>6}{row['difference']:12.1e}" + "".join(f"{ms:11.2f}" for ms in row["ms"].values()) + faster)
    if args.json: args.json.write_text(json.dumps(dict(processor=processor(), threads=args.threads, clips=args.clips, words=args.words, rows=rows), indent=1) + "\n")


if __name__ == "__main__": main()
