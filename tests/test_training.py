"""Training as a user runs it: killed and resumed, shuffled, and on real features."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from videolights.config import Config, DataConfig, ModelConfig, TrainConfig
from videolights.data.batches import collate
from videolights.data.store import Dataset
from videolights.data.toyworld import make_toyworld
from videolights.losses.objective import Objective
from videolights.model.videolights import VideoLights, load
from videolights.training.loop import ShuffledText, predict, train


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toyworld(tmp_path_factory.mktemp("toy"), train_videos=16, val_videos=4, progress=False)


@pytest.fixture(scope="module")
def config(toy):
    return Config(data=str(toy), model=ModelConfig.preset("toyworld", dim=32, feedforward=64),
                  train=TrainConfig(epochs=4, batch_size=4, lr=1e-3, schedule="cosine"))


def launch(recipe, out, *more):
    return subprocess.Popen([sys.executable, "-m", "videolights", "train", str(recipe), "--out", str(out), *more],
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_killed_and_resumed_equals_uninterrupted(config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.to_dict()))
    whole = launch(recipe, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    cut, log = launch(recipe, tmp_path / "cut"), tmp_path / "cut" / "log.csv"
    deadline = time.time() + 120
    while not log.exists() and cut.poll() is None and time.time() < deadline: time.sleep(0.01)
    time.sleep(0.15)                                            # somewhere inside the second epoch
    cut.send_signal(signal.SIGKILL)
    assert cut.wait() == -signal.SIGKILL, "the run ended before it could be killed: make it longer"
    assert len(log.read_text().splitlines()) < 1 + config.train.epochs
    resumed = launch(recipe, tmp_path / "cut", "--resume")
    assert resumed.wait(300) == 0, resumed.stderr.read()
    one, two = (load(tmp_path / name / "last").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not list((tmp_path / "cut").glob(".*.tmp"))
    assert not list((tmp_path / "cut").glob(".*.old"))


def test_predictions_do_not_depend_on_the_batch(config, toy):
    data = DataConfig.load(toy)
    dataset = Dataset(data, "val")
    torch.manual_seed(0)
    model = VideoLights(ModelConfig.preset("toyworld", dim=32, feedforward=64)).eval()
    for one, many in zip(predict(model, dataset, data, batch_size=1), predict(model, dataset, data, batch_size=16)):
        assert one["qid"] == many["qid"]
        # predictions have four digits: numbers that differ by rounding may be printed one apart
        np.testing.assert_allclose(one["pred_saliency_scores"], many["pred_saliency_scores"], atol=2e-4)
        np.testing.assert_allclose(sorted(w[2] for w in one["pred_relevant_windows"]), sorted(w[2] for w in many["pred_relevant_windows"]), atol=2e-4)


def test_padding_changes_no_output_and_no_loss(toy):
    data = DataConfig.load(toy)
    dataset = Dataset(data, "train")
    items = [dataset[i] for i in (0, 9, 20, 31)]
    model = VideoLights(ModelConfig.preset("toyworld", dim=32, feedforward=64)).eval()
    objective, losses, outputs = Objective(Config().loss), [], []
    for clips, words in ((0, 0), (60, 25)):
        batch = collate(items, data.clip_seconds, clips=clips, words=words)
        with torch.no_grad(): losses.append(objective(model.training_outputs(*batch.inputs), batch, epoch=5)); outputs.append(model(*batch.inputs))
    # single precision has 6e-8 of a number, and a sum over some hundred clips and words loses two digits more
    for name in losses[0]: torch.testing.assert_close(losses[0][name], losses[1][name], atol=2e-5, rtol=2e-5, msg=name)
    torch.testing.assert_close(outputs[0].spans, outputs[1].spans, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs[0].saliency, outputs[1].saliency[:, :outputs[0].saliency.shape[1]], atol=1e-5, rtol=0)


def test_shuffled_text_deals_every_query_to_another_video(toy):
    dataset = Dataset(toy, "train")
    shuffled = ShuffledText(dataset, seed=1)
    vids = [row["vid"] for row in dataset.annotations]
    assert sorted(shuffled.deal) == list(range(len(vids)))
    assert all(vids[i] != vids[j] for i, j in enumerate(shuffled.deal))
    np.testing.assert_array_equal(shuffled[3]["video"], dataset[3]["video"])
    np.testing.assert_array_equal(shuffled[3]["text"], dataset[int(shuffled.deal[3])]["text"])


def test_early_stopping_and_named_selection(config, tmp_path):
    changed = config.with_changes({"train.patience": 1, "train.epochs": 30, "train.lr": 1e-9, "train.select": "MR-full-mAP"})
    run = train(changed, tmp_path / "run", progress=False)
    rows = (run / "log.csv").read_text().splitlines()
    assert 2 <= len(rows) - 1 < 30
    assert json.loads((run / "metrics_val.json").read_text())["epoch"] >= 1


def test_one_epoch_on_real_features(realdata, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEOLIGHTS_REALDATA", str(realdata))
    monkeypatch.setenv("VIDEOLIGHTS_STORE", str(tmp_path / "store"))
    recipe = Config.load("recipes/charades_clip.yaml").with_changes({"train.epochs": 1, "model.dim": 32, "model.feedforward": 64, "train.batch_size": 128})
    run = train(recipe, tmp_path / "run", progress=False)
    metrics, rows = json.loads((run / "metrics_val.json").read_text()), (run / "predictions_val.jsonl").read_text().splitlines()
    assert len(rows) == 588
    assert metrics["brief"]["MR-mIoU"] > 5              # a few points: eight epochs of such models bring 30 and more (Table V, small)
