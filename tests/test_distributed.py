"Training by `accelerate launch`: two processes on one machine give the losses and weights of one."
import csv
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from videolights.cli import main  # noqa: E402
from videolights.data.toyworld import make_toyworld  # noqa: E402
from videolights.files import read_jsonl, write_json, write_jsonl  # noqa: E402

# A process deals wrong queries within its part of a batch, so the two terms that need them differ: they count for (next to) nothing here. Dropout would draw other units.
# Queries have one window each and batches are even: a loss is a mean over what its process has, and a mean of means is the mean only where parts weigh the same. All else must agree.
RECIPE = dict(model=dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, dropout=0.0, input_dropout=0.0), loss=dict(negative_pair=0.0001, contrast=0.0),
              train=dict(epochs=2, batch_size=8, lr=1e-3, ema=0.5))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    data = make_toyworld(folder / "toy", train_videos=8, val_videos=2, queries=4, progress=False)
    annotations = folder / "toy" / "annotations" / "train.jsonl"
    rows = [row for row in read_jsonl(annotations) if len(row["relevant_windows"]) == 1][:16]
    assert len(rows) == 16
    write_jsonl(annotations, rows)
    write_json(folder / "recipe.json", {"data": str(data), **RECIPE})
    return folder / "recipe.json"


def launched(recipe, out, *options):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", "0", "-m", "videolights", "train", str(recipe), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})      # with --cpu, accelerate starts one process only


def losses(run): return [{k: float(v) for k, v in row.items() if k.startswith("loss_")} for row in csv.DictReader(open(run / "log.csv"))]


def test_two_processes_train_as_one(recipe, tmp_path):
    assert main(["train", str(recipe), "--out", str(tmp_path / "one")]) == 0
    done = launched(recipe, tmp_path / "two")
    if done.returncode and ("gloo" in done.stderr.lower() or "rendezvous" in done.stderr.lower()): pytest.skip(f"two processes cannot talk here: {done.stderr.splitlines()[-1][:150]}")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two):
        assert {k for k in a if abs(a[k] - b[k]) > 1e-4 * max(1, abs(a[k]))} <= {"loss_negative_pair"}, (a, b)
    assert abs(one[0]["loss_negative_pair"] - two[0]["loss_negative_pair"]) > 1e-4          # each really had half of every batch
    assert done.stdout.count("epoch   1") == 1                                              # one process talks
    for part in ("last", "best"):
        a, b = (load_file(tmp_path / n / part / "model.safetensors") for n in ("one", "two"))
        assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a), part
