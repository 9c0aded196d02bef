"""Precisions: three of them agree at other shapes, and none is shipped that loses what people pay for."""
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

import videolights.deploy.precision as precision
from conftest import ROOT
from tiny_bundle import tiny_bundle
from videolights.deploy.bundle import PRECISIONS, open_bundle, seal
from videolights.deploy.calibration import set_temperature
from videolights.cli import main
from videolights.config import DataConfig, InputError
from videolights.data.store import Dataset
from videolights.data.toyworld import make_toyworld
from videolights.deploy.export import INPUTS, example_inputs
from videolights.deploy.runtime import Runtime


@pytest.fixture(scope="module")
def world(tmp_path_factory): return make_toyworld(tmp_path_factory.mktemp("toy"), train_videos=1, val_videos=4, progress=False)


@pytest.fixture(scope="module")
def validation(world): return Dataset(DataConfig.load(world), "val")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, validation):
    copy = shutil.copytree(tiny_bundle()[1], tmp_path_factory.mktemp("precisions") / "tiny")
    precision.add_precisions(copy, ["fp16", "int8"], validation, tolerance=100)
    return copy


@pytest.mark.parametrize("padding", ["none", "ragged", "no words"])
@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 37, 5), (8, 75, 32), (3, 300, 12)], ids=str)
@pytest.mark.parametrize("name, most", [("fp16", .02), ("int8", .1)])
def test_lower_precisions_stay_close(bundle, name, most, shape, padding):
    inputs = dict(zip(INPUTS, example_inputs(tiny_bundle()[0].config, *shape, padding, seed=11)))
    run = lambda file: onnxruntime.InferenceSession(str(bundle / file), providers=["CPUExecutionProvider"]).run(["spans", "scores", "saliency", "unit_saliency"], inputs)
    full, lower = run(PRECISIONS["fp32"]), run(PRECISIONS[name])
    for a, b in zip(full[:2], lower[:2]): assert b.dtype == np.float32 and np.isfinite(b).all() and np.abs(a - b).max() < most
    assert np.abs(full[2] - lower[2]).max() < most * max(1, np.abs(full[2]).max())
    assert (lower[3] <= 1).all()
    if shape == (8, 75, 32): assert any((a != b).any() for a, b in zip(full, lower)), "nothing was converted"


def test_a_bundle_tells_of_its_precisions(bundle):
    found, contract = json.loads((bundle / "parity.json").read_text())["precisions"], open_bundle(bundle)
    assert list(found) == ["fp32", "fp16", "int8"]
    assert all(f["queries"] > 4 and "MR-full-R1@0.5" in f["metrics"] for f in found.values())
    sizes = {name: (bundle / file).stat().st_size for name, file in PRECISIONS.items()}
    assert sizes["fp16"] < .65 * sizes["fp32"]
    assert sizes["int8"] < sizes["fp32"]
    assert all(file in contract["files"] for file in PRECISIONS.values())
    assert "| int8 | `model.int8.onnx` |" in (bundle / "README.md").read_text()
    repeated = {x.key: x.value for x in onnx.load(bundle / PRECISIONS["int8"]).metadata_props}
    assert json.loads(repeated["videolights"])["clip_seconds"] == 2
    video, text = np.ones((5, 96)), np.ones((3, 64))
    answers = [Runtime.load(bundle, "cpu", 1, precision=name).predict(video, text) for name in PRECISIONS]
    assert all(np.allclose(a.windows[:, 2], answers[0].windows[:, 2], atol=.1) for a in answers)


def test_a_precision_that_loses_is_refused_and_nothing_changes(bundle, validation, monkeypatch):
    worse = iter([{"brief": {"MR-full-R1@0.5": 40.0}}, {"brief": {"MR-full-R1@0.5": 38.5}}])
    monkeypatch.setattr(precision, "score_bundle", lambda runtime, dataset: ([dict(pred_saliency_scores=[0])], next(worse)))
    single, before = tiny_bundle()[1], open_bundle(tiny_bundle()[1])
    with pytest.raises(InputError, match="int8 not added, since it loses 1.50 points of MR-full-R1@0.5"):
        precision.add_precisions(single, ["int8"], validation, tolerance=1.0)
    assert open_bundle(single) == before
    assert [path.name for path in single.parent.iterdir()] == ["tiny"]


def test_a_bundle_is_scored_from_the_command_line(bundle, world, capsys, tmp_path):
    assert main(["evaluate", str(bundle), str(world), "--out", str(tmp_path / "m.json")]) == 0
    brief = json.loads((tmp_path / "m.json").read_text())["brief"]
    said = json.loads((bundle / "parity.json").read_text())["precisions"]["fp32"]["metrics"]      # of protocol "custom", which counts a little more
    assert brief == {name: said[name] for name in brief}
    assert main(["evaluate", str(bundle)]) == 2
    assert "name the data set too" in capsys.readouterr().err


def reaches_its_metrics(bundle, data):
    said, (_, found) = open_bundle(bundle)["metrics"], precision.score_bundle(Runtime.load(bundle, "cpu"), Dataset(data, "val"))
    for name, value in said.items():
        if value is not None: assert abs(found["brief"][name] - value) <= 1.0, (name, value, found["brief"][name])


def test_the_shipped_bundle_reaches_its_metrics(tmp_path):
    "exported/toyworld loads, matches its hashes, and scores on freshly rendered videos what it says."
    reaches_its_metrics(ROOT / "exported/toyworld", DataConfig.load(make_toyworld(tmp_path, train_videos=1, val_videos=40, progress=False)))


def test_the_bundle_of_real_data_reaches_its_metrics(realdata, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_REALDATA", str(realdata))
    reaches_its_metrics(ROOT / "exported/charades_clip", DataConfig.load(ROOT / "recipes/data/charades_clip.yaml"))


def test_half_precision_reads_what_it_can_hold(bundle):
    for name, most in (("fp16", 1e5), ("fp32", 1e16)):
        runtime = Runtime.load(bundle, "cpu", 1, precision=name)
        with pytest.raises(InputError, match="video features: holds values up to 1e.(05|16), the graph reads up to"): runtime.predict(np.ones((5, 96)) * most, np.ones((3, 64)))
        with pytest.raises(InputError, match="text features: holds values up to"): runtime.predict(np.ones((5, 96)), np.ones((3, 64)) * -most)


def test_precisions_are_made_from_the_calibrated_graph(tmp_path, validation):
    copy = shutil.copytree(ROOT / "exported/toyworld", tmp_path / "toy")
    set_temperature(copy / PRECISIONS["fp32"], 2.0, -1.0)
    seal(copy, {**json.loads((copy / "contract.json").read_text())})
    precision.add_precisions(copy, ["fp16", "int8"], validation, tolerance=100)
    video, text = validation[0]["video"], validation[0]["text"]
    full, half, eighth = (Runtime.load(copy, "cpu", 1, precision=name).predict(video, text).windows[0, 2] for name in PRECISIONS)
    before = Runtime.load(ROOT / "exported/toyworld", "cpu", 1).predict(video, text).windows[0, 2]
    assert abs(full - half) < .02
    assert abs(full - eighth) < .1
    assert abs(full - before) > .1
