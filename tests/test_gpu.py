"The one command for a GPU, rehearsed on the CPU: every row has numbers or a reason, all runs with torch, NumPy and YAML alone, and what should fail does."
import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from itertools import product

import numpy as np
import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


def rehearse(folder, *words, python=(sys.executable,), path=(), **environment):
    "The script's answer in a process of its own: the process, and the rows it wrote."
    environment = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(map(str, path)), VIDEOLIGHTS_REALDATA=str(folder / "none")) | environment
    done = subprocess.run([*python, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--out", str(folder / "gpu.json"), *words], capture_output=True,
                          text=True, timeout=300, env=environment)
    return done, json.loads((folder / "gpu.json").read_text())


def bare(folder):
    "A folder that holds what torch, NumPy and YAML consist of and need, and nothing else."
    folder.mkdir()
    waiting, seen = ["torch", "numpy", "pyyaml"], set()
    while waiting:
        name = waiting.pop()
        try: found = distribution(name)
        except PackageNotFoundError: continue            # of another system
        if name in seen: continue
        seen.add(name)
        waiting += [re.match(r"[\w.-]+", need)[0] for need in found.requires or [] if "extra ==" not in need]
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists(): (folder / top).symlink_to(found.locate_file(top))
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    "Six videos of noise and a recipe for them."
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for kind in ("video", "text"): (folder / kind).mkdir()
    rows = [dict(qid=i, query="a word", vid=f"v{i}", duration=8, relevant_windows=[[2, 4]]) for i in range(6)]
    for row in rows:
        np.savez(folder / "video" / f"{row['vid']}.npz", features=rng.standard_normal((8, 6)).astype(np.float32))
        np.savez(folder / "text" / f"qid{row['qid']}.npz", last_hidden_state=rng.standard_normal((2, 5)).astype(np.float32))
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [dict(name=kind, kind=kind, dim=dim, folder=kind) for kind, dim in (("video", 6), ("text", 5))]
    (folder / "data.yaml").write_text(json.dumps(dict(name="noise", protocol="charades", clip_seconds=1, splits=dict(train="all.jsonl", val="all.jsonl"),
                                                      store=str(folder / "store"), sources=sources)))
    (folder / "noise.yaml").write_text("data: data.yaml\nmodel: {dim: 16, heads: 2, feedforward: 16, encoder_layers: 1, decoder_layers: 1}\n"
                                       "train: {batch_size: 3, ema: 0.5}\n")
    return folder / "noise.yaml"


def wanted(batches):
    "Every row that is promised."
    yield from (("parity", None, engine, p, None) for engine, p in product(("torch", "onnxruntime", "onnxruntime bound"), ("fp32", "fp16", "bf16")))
    yield from (("rate", None, "torch", p, None) for p in ("fp32", "fp16", "bf16"))
    for of, engines, precisions in (("inference", ("torch", "torch compiled"), ("fp32", "fp16", "bf16")), ("training", ("torch", "torch compiled"), ("fp32", "bf16")),
                                    ("bundle", ("onnxruntime", "onnxruntime bound"), ("fp32", "fp16"))):
        yield from (("speed", of, *how) for how in product(engines, precisions, batches))


def check_rows(written, batches):
    "All rows are there, and each has what it promises or says why not."
    rows = written["rows"]
    named = {tuple(row["row"].get(key) for key in ("kind", "of", "engine", "precision", "batch")): row for row in rows}
    assert not set(wanted(batches)) - set(named)
    for row in rows:
        assert row.get("skipped") or "error" in row or row.keys() & {"difference", "gflop_per_s", "p50_ms", "metrics", "nodes"}, row
        if "p50_ms" in row: assert row["p50_ms"] > 0 and row["of_rate"] > 0 and row["peak_mb"] > 0
    return named


def test_every_row_is_measured_or_says_why(tmp_path):
    done, written = rehearse(tmp_path, "--no-compile", path=[ROOT])
    assert done.returncode == 0, done.stdout + done.stderr
    named = check_rows(written, (1, 2))
    assert {row["skipped"].split(":")[0] for row in written["rows"] if "skipped" in row and row["row"]["kind"] != "seed"} == {"--no-compile", "bundles have no bf16"}
    assert all("VIDEOLIGHTS_REALDATA" in row["skipped"] or "not every" in row["skipped"] or "not there" in row["skipped"] for row in written["rows"]
               if row["row"]["kind"] == "seed")
    assert named["provider", None, "onnxruntime", None, None]["ours"] == "refused"
    assert len((tmp_path / "gpu.md").read_text().splitlines()) == 2 + len(written["rows"])
    again, resumed = rehearse(tmp_path, "--no-compile", "--resume", "--minutes", "0", path=[ROOT])       # no time at all: what was measured is kept
    assert again.returncode == 0 and [row for row in resumed["rows"] if "skipped" not in row] == [row for row in written["rows"] if "skipped" not in row]


def test_torch_numpy_and_yaml_are_enough(tmp_path, recipe):
    done, written = rehearse(tmp_path, "--batch", "2", "--precision", "fp32", "--recipe", str(recipe), python=(sys.executable, "-S"),
                             path=[bare(tmp_path / "bare")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"scipy.optimize", "accelerate", "safetensors", "huggingface_hub"} <= set(written["about"]["stood_in"])
    assert any("compile_s" in row for row in written["rows"])
    for row in written["rows"]:
        assert "skipped" not in row or "onnxruntime" in row["row"].get("engine", ""), row
        if "onnxruntime" in row["row"].get("engine", ""): assert row["skipped"] == "ONNX Runtime is not installed"
    assert [row["row"]["seed"] for row in written["rows"] if "metrics" in row] == [2018, 2019, 2020, "mean, lowest, highest"]


def test_a_wrong_weight_and_a_silent_fallback_fail(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import copy

    import gpu
    import graphs
    import torch
    from rows import Report
    args = gpu.arguments(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")])
    model, inputs = gpu.fresh(args)
    wrong = copy.deepcopy(model)
    with torch.no_grad(): wrong.heads.label.weight[0, 0] += 0.01
    report = Report(args.out, {}, 1, False)
    for name, tried in (("same", model), ("wrong", wrong)):
        report.add(lambda: gpu.torch_parity(tried, model, inputs(2), "cpu", "fp32"), kind="parity", engine=name)
    fp16 = graphs.Graphs(args, model, tmp_path)
    monkeypatch.setattr(graphs, "open_session", lambda path, device: __import__("onnxruntime").InferenceSession(path))       # on the CPU, whatever was asked for
    report.add(fp16.provider, kind="provider")
    report.add(lambda: 1 / 0, kind="speed")
    assert [row.get("passed") for row in report.rows] == [True, False, False, None]
    assert report.failures == report.rows[1:] and report.rows[3]["error"].startswith("ZeroDivisionError")
    nothing = gpu.differences(*[[np.full(2, x)] * 3 for x in (np.nan, 0.0)], "fp32")
    assert not nothing["passed"]


@pytest.mark.parametrize("shape", [(10, 1), (5, 3), (2, 4), (3, 0)])
def test_the_assignment_without_scipy_is_scipys(monkeypatch, shape):
    from scipy.optimize import linear_sum_assignment
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bare
    for seed in range(5):
        cost = np.random.default_rng(seed).standard_normal(shape)
        assert dict(zip(*bare.linear_sum_assignment(cost))) == dict(zip(*linear_sum_assignment(cost)))
