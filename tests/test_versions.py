"What the version before wrote is read by this one, with the same answers; what is older is refused by its number. `data/before/README.md` says who wrote the files."
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from videolights.cli import main
from videolights.config import Config, DataConfig, InputError
from videolights.data.store import Dataset, FeatureStore
from videolights.deploy.bundle import BUNDLE, BUNDLE_VERSION, CONTRACT, open_bundle
from videolights.deploy.exported import ENCODER_BUNDLE
from videolights.deploy.runtime import Runtime
from videolights.evaluation.reports import evaluate
from videolights.features.video import write_video
from videolights.files import read_json
from videolights.model.videolights import load
from videolights.training.loop import predict, train

BEFORE = ROOT / "tests" / "data" / "before"
# The same weights on the same inputs: processors and libraries add up in different orders, which moves float32 outputs of order one by about 1e-6
# through these two layers. A wrong input, column, mask or weight moves them by more than a hundredth.
ROUNDING = 1e-4


@pytest.fixture
def before(tmp_path):
    "A copy that a test may write into."
    return shutil.copytree(BEFORE, tmp_path / "before")


@pytest.fixture(scope="module", params=[1, 2])
def version(request): return request.param


@pytest.fixture(scope="module")
def answers(version): return read_json(BEFORE / f"bundle_v{version}.json")


@pytest.fixture(scope="module")
def runtime(version): return Runtime.load(BEFORE / f"bundle_v{version}", providers="cpu", threads=1)


@pytest.fixture(scope="module")
def pairs(answers):
    "The inputs that were asked about, drawn as `make_bundle_v1.py` and `make_bundle_v2.py` draw them."
    rng, found = np.random.default_rng(answers["seed"]), []
    for case in answers["answers"]:
        pair = [rng.standard_normal(shape).astype(np.float32) for shape in ((case["clips"], 96), (case["words"], 64))]
        found.append([x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair])
    return found


def agree(prediction, case):
    "Windows by their start: where two confidences are equal but for rounding, their order is not told apart."
    order = lambda windows: np.array(sorted(np.asarray(windows).tolist()))
    np.testing.assert_allclose(order(prediction.windows), order(case["windows"]), rtol=0, atol=ROUNDING * 2 * case["clips"])      # in seconds
    np.testing.assert_allclose(prediction.saliency, case["saliency"], rtol=0, atol=ROUNDING)


def test_artefacts_are_what_they_claim_to_be():
    for version in (1, 2): assert read_json(BEFORE / f"bundle_v{version}" / CONTRACT)["bundle_version"] == version
    assert sum(path.stat().st_size for path in BEFORE.rglob("*") if path.is_file()) < 300_000


def test_an_earlier_bundle_answers_as_it_did(runtime, pairs, answers):
    for (video, text), case in zip(pairs, answers["answers"]): agree(runtime.predict(video, text, whole_clips=False), case)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_an_earlier_bundle_answers_batches(runtime, pairs, answers, batch_size):
    videos, texts = zip(*pairs)
    for prediction, case in zip(runtime.predict_batch(videos, texts, whole_clips=False, batch_size=batch_size), answers["answers"]): agree(prediction, case)


def test_an_earlier_bundle_answers_many_queries_about_one_video(runtime, pairs, answers):
    video, texts = pairs[1][0], [text for _, text in pairs]
    together = runtime.predict(video, texts, whole_clips=False, batch_size=2)
    agree(together[1], answers["answers"][1])
    for prediction, text in zip(together, texts):
        alone = runtime.predict(video, text, whole_clips=False)
        agree(prediction, dict(clips=len(video), windows=alone.windows, saliency=alone.saliency))


def test_an_earlier_bundle_scores_a_data_set(runtime, pairs):
    items = [dict(video=v, text=t, qid=i, query="?", vid=f"v{i}") for i, (v, t) in enumerate(pairs)]
    truth = [dict(qid=i, query="?", vid=f"v{i}", duration=2 * len(v), relevant_windows=[[0, 2]], relevant_clip_ids=[0], saliency_scores=[[3, 3, 3]])
             for i, (v, _) in enumerate(pairs)]
    rows = runtime.predict_dataset(items)
    assert [row["qid"] for row in rows] == [0, 1, 2]
    assert evaluate(rows, truth, protocol=runtime.contract["protocol"], clip_seconds=2)["brief"]


def test_an_earlier_bundle_reads_videos(runtime, tmp_path):
    video = write_video(tmp_path / "v.mp4", np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3)).astype(np.uint8), 10)
    first, second = runtime.predict_video(video, ["a red circle", "it turns"])
    assert first.windows.shape == (3, 3)
    assert second.query == "it turns"


def test_what_version_1_does_not_hold_is_refused_when_asked_for(runtime, pairs, version):
    if version > 1: pytest.skip("from version 2 on graphs hold their stages")
    with pytest.raises(InputError, match="model.onnx: names no stages.*version 1.*export the run again"): runtime.trace(*pairs[1])


def test_an_earlier_bundle_is_completed(runtime, pairs, answers, version, tmp_path):
    "`videolights export BUNDLE` without a data set: the same answers from a bundle of this version."
    assert main(["export", str(BEFORE / f"bundle_v{version}"), "--out", str(tmp_path / "new")]) == 0
    assert open_bundle(tmp_path / "new")["bundle_version"] == BUNDLE_VERSION
    for (video, text), case in zip(pairs, answers["answers"]): agree(Runtime.load(tmp_path / "new", "cpu", 1).predict(video, text, whole_clips=False), case)


@pytest.mark.parametrize("other, says", [(0, "bundle_version is 0, this package reads 1 and 2 and 3"), (-1, "bundle_version is -1"), ("2", "has no bundle_version"),
                                           (BUNDLE_VERSION + 1, "upgrade videolights")])
def test_other_versions_of_a_bundle_are_refused_by_number(before, other, says):
    path = before / "bundle_v1" / CONTRACT
    path.write_text(json.dumps({**read_json(path), "bundle_version": other}))
    with pytest.raises(InputError, match=says) as e: Runtime.load(before / "bundle_v1")
    assert "\n" not in str(e.value)


def test_this_version_and_the_one_before_are_read():
    for kind in (BUNDLE, ENCODER_BUNDLE): assert {max(kind.readable) - 1, max(kind.readable)} - {0} <= set(kind.readable)
    assert open_bundle(ROOT / "exported" / "toyworld")["bundle_version"] == BUNDLE_VERSION


def test_a_store_of_0_1_holds_the_same_numbers():
    stored, store = read_json(BEFORE / "run.json")["store"], FeatureStore.open(DataConfig.load(BEFORE / "data.yaml"))
    for vid, rows in stored["video"].items(): np.testing.assert_array_equal(store.video(vid), np.float32(rows))        # copied, so exactly
    for qid, rows in stored["text"].items(): np.testing.assert_array_equal(store.text(qid), np.float32(rows))


def test_a_run_of_0_1_predicts_the_same():
    data = DataConfig.load(BEFORE / "data.yaml")
    found, wanted = predict(load(BEFORE / "run"), Dataset(data, "val"), data), read_json(BEFORE / "run.json")["predictions"]
    windows = lambda row: np.array(sorted(row["pred_relevant_windows"]))
    for a, b in zip(found, wanted, strict=True):
        assert (a["qid"], a["vid"], a["query"]) == (b["qid"], b["vid"], b["query"])
        np.testing.assert_allclose(windows(a), windows(b), rtol=0, atol=2 * ROUNDING)               # the rows are rounded to four places
        np.testing.assert_allclose(a["pred_saliency_scores"], b["pred_saliency_scores"], rtol=0, atol=2 * ROUNDING)


def test_a_run_of_0_1_goes_on(before):
    log = (before / "run" / "log.csv").read_text()
    config = Config.load(before / "recipe.yaml").with_changes({"train.epochs": 31})
    train(config, before / "run", resume=True, progress=False)
    continued = (before / "run" / "log.csv").read_text()
    assert continued.splitlines()[1].split(",")[0] == "1"
    assert continued.splitlines()[-1].split(",")[0] == "31"
    assert len(continued.splitlines()) == len(log.splitlines()) + 1
    assert Path(before, "run", "last", "training.safetensors").exists()
    assert all(torch.isfinite(p).all() for p in load(before / "run" / "last").parameters())
