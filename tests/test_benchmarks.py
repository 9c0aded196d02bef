"The benchmarks run and print what they claim to: operations, ideal time, ratio; what is shipped can be made anew."
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT


@pytest.mark.parametrize("script", ["inference", "train_step"])
def test_speed_benchmarks_run(script):
    words = ["--preset", "toyworld", "--clips", "75", "--words", "9", "--batch", "8", "--seconds", "0.01", "--precision", "fp32", "--set", "kernel=1"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *words], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split()
    assert row[:2] == ["fp32", "8"] and all(float(x.rstrip("%")) > 0 for x in row[2:5])      # operations, time and ideal time are there


def rebuild(*words, **environment):
    done = subprocess.run([sys.executable, str(ROOT / "exported" / "rebuild.py"), *map(str, words)], capture_output=True, text=True, timeout=600,
                          env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_toy_worlds_bundle_can_be_made_anew(tmp_path):
    from videolights.deploy.bundle import open_bundle
    from videolights.deploy.runtime import Runtime
    from videolights.model.videolights import load
    said = rebuild("--only", "toyworld", "--epochs", 1, "--videos", 3, 2, "--out", tmp_path)
    contract, shipped = open_bundle(tmp_path / "toyworld"), open_bundle(ROOT / "exported" / "toyworld")
    described = lambda c: {key: c[key] for key in ("dataset", "protocol", "clip_seconds", "max_words", "encoder", "sources", "opset")}
    assert described(contract) == described(shipped)
    assert sorted(contract["metrics"]) == sorted(shipped["metrics"])
    assert sorted(contract["files"]) == sorted(shipped["files"])
    assert f"its checkpoint is {tmp_path / 'checkpoints' / 'toyworld'}" in said
    kept = load(tmp_path / "checkpoints" / "toyworld")
    assert any(name.startswith("feedback") for name in kept.state_dict())                 # weights that only training uses are kept, too
    assert not any(path.name.startswith(".") for path in tmp_path.rglob("*"))
    videos, texts = np.ones((9, 96), np.float32), np.ones((3, 64), np.float32)
    before = Runtime.load(tmp_path / "toyworld", "cpu", 1).predict(videos, texts)
    rebuild("--only", "toyworld", "--reuse", "--videos", 3, 2, "--out", tmp_path)                           # the same weights exported again give the same answers
    again = Runtime.load(tmp_path / "toyworld", "cpu", 1).predict(videos, texts)
    np.testing.assert_array_equal(again.saliency, before.saliency)


def test_a_bundle_without_its_data_is_passed_over(tmp_path):
    said = rebuild("--only", "charades_clip", "--out", tmp_path, VIDEOLIGHTS_REALDATA=str(tmp_path / "none"))
    assert "charades_clip: passed over, its data set is not at" in said
    assert not list(tmp_path.iterdir())
