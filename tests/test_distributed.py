"Training by `accelerate launch`: two processes on one machine give the losses and weights of one."
import csv
import os
import subprocess
import sys

import pytest
import yaml

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from videolights.cli import main  # noqa: E402
from videolights.data.toyworld import make_toyworld  # noqa: E402
from videolights.files import read_jsonl, write_jsonl  # noqa: E402

# A process deals wrong queries within its part of a batch, so the two terms that need them differ: they count for next to nothing here. Dropout would draw other units.
# Queries have one window each and a batch holds all: a loss is a mean over what its process has, and a mean of means is the mean only where parts weigh the same. All else must agree.
RECIPE = dict(model=dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, dropout=0.0, input_dropout=0.0), loss=dict(negative_pair=1e-8, contrast=0.0),
              train=dict(epochs=1, batch_size=16, lr=1e-3, ema=0.5))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    data = make_toyworld(folder / "toy", train_videos=8, val_videos=2, queries=4, progress=False)
    annotations = folder / "toy" / "annotations" / "train.jsonl"
    rows = [row for row in read_jsonl(annotations) if len(row["relevant_windows"]) == 1][:16]
    assert len(rows) == 16
    write_jsonl(annotations, rows)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": str(data), **RECIPE}))
    return folder / "recipe.yaml"


def launched(recipe, out, *options):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", "0", "-m", "videolights", "train", str(recipe), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})      # with --cpu, accelerate starts one process only


def losses(run, epoch): return {k: float(v) for k, v in list(csv.DictReader(open(run / "log.csv")))[epoch].items() if k.startswith("loss_")}


def apart(one, two): return {k for k in one if abs(one[k] - two[k]) > 1e-4 * max(1, abs(one[k]))}


def gradients(run):
    "Those of a run's only step: Adam's first moments are then a tenth of them."
    state = load_file(run / "last" / "training.safetensors")
    return torch.cat([10 * v.flatten() for k, v in sorted(state.items()) if k.endswith(".exp_avg")])


def test_two_processes_train_as_one(recipe, tmp_path):
    """Losses and gradients of the first step agree up to the order in which numbers are added: some 1e-7 of the largest, here 1e-4.

    Weights are not compared one by one: Adam divides a gradient by its own size, so a gradient of almost nothing, whose sign is rounding, moves its weight by the
    learning rate one way or the other. How many do is the machine's affair; all together they are few, and the loss hardly depends on them."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", str(recipe), "--out", str(one)]) == 0
    done = launched(recipe, two)
    if done.returncode and ("gloo" in done.stderr.lower() or "rendezvous" in done.stderr.lower()): pytest.skip(f"two processes cannot talk here: {done.stderr.splitlines()[-1][:150]}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch   1") == 1                                              # one process talks
    assert apart(losses(one, 0), losses(two, 0)) == {"loss_negative_pair"}                  # each really had half of the batch
    a, b = gradients(one), gradients(two)
    assert a.abs().max() > 0
    assert (a - b).abs().max() < 1e-4 * a.abs().max()
    assert main(["train", str(recipe), "--out", str(one), "--resume", "--epochs", "2"]) == 0
    done = launched(recipe, two, "--resume", "--epochs", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert apart(losses(one, 1), losses(two, 1)) <= {"loss_negative_pair"}
    for part in ("last", "best"):
        a, b = (torch.cat([v.flatten() for _, v in sorted(load_file(run / part / "model.safetensors").items())]) for run in (one, two))
        assert (a - b).abs().mean() < 0.05 * 2 * 1e-3, part                                 # of what two steps can move a weight
