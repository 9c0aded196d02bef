"The benchmarks run and print what they claim to: operations, ideal time, ratio; what is shipped can be made anew."
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from videolights.data.toyworld import make_toyworld
from videolights.files import read_json


@pytest.mark.parametrize("script", ["inference", "train_step"])
def test_speed_benchmarks_run(script):
    words = ["--preset", "toyworld", "--clips", "75", "--words", "9", "--batch", "8", "--seconds", "0.01", "--precision", "fp32", "--set", "kernel=1"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *words], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split()
    assert row[:2] == ["fp32", "8"] and all(float(x.rstrip("%")) > 0 for x in row[2:5])      # operations, time and ideal time are there


def against_release(*words):
    return subprocess.run([sys.executable, str(ROOT / "benchmarks" / "against_release.py"), *map(str, words)], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def test_without_a_checkout_nothing_is_compared(tmp_path):
    done = against_release(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"against_release: {tmp_path}: no checkout") and done.stderr.count("\n") == 1


@pytest.mark.skipif("VIDEOLIGHTS_RELEASE" not in os.environ, reason="VIDEOLIGHTS_RELEASE does not name a checkout of the authors' repository")
def test_the_checkout_is_compared_and_trained(tmp_path):
    checkout, small = os.environ["VIDEOLIGHTS_RELEASE"], ["--set", "dim_feedforward=32", "enc_layers=1", "dec_layers=2", "--json", tmp_path / "found.json"]
    done = against_release(checkout, "--what", "inference", "step", "--precision", "fp32", "--clips", 9, "--words", 5, "--batch", 2, "--seconds", 0.01, *small)
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "found.json")
    assert [(row["what"], row["model"]) for row in found["rows"]] == [(what, model) for what in ("inference", "step") for model in ("authors", "released", "paper")]
    assert max(found["difference"].values()) < 1e-4
    done = against_release(checkout, "--train", make_toyworld(tmp_path / "toy", train_videos=2, val_videos=1, progress=False), "--epochs", 1, *small)
    assert done.returncode == 0, done.stderr
    assert "| the authors' code, seed 2018, epoch 1 of 1 |" in done.stdout and read_json(tmp_path / "found.json")["best"]["epoch"] == 1


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
