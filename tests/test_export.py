"""The exported graph gives torch's answers, and an export that fails leaves nothing behind."""
import json
import re

import numpy as np
import onnxruntime
import pytest
import torch

import videolights.deploy.export as export
from tiny_bundle import DATA, tiny_bundle
from videolights.deploy.bundle import open_bundle
from videolights.config import InputError
from videolights.data.batches import append_tef
from videolights.evaluation.predictions import foreground
from videolights.spans import span_to_window

SHAPES = [(1, 2, 1), (2, 37, 5), (8, 75, 32), (3, 300, 12)]


@pytest.fixture(scope="module")
def model(): return tiny_bundle()[0]


@pytest.fixture(scope="module")
def bundle(): return tiny_bundle()[1]


@pytest.fixture(scope="module")
def session(bundle): return onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("padding", ["none", "ragged", "no words"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onnx_equals_torch(model, session, shape, padding):
    inputs = video, video_mask, text, text_mask = export.example_inputs(model.config, *shape, padding, seed=7)
    found = dict(zip(export.OUTPUTS, session.run(list(export.OUTPUTS), dict(zip(export.INPUTS, inputs)))))
    video, video_mask, text, text_mask = map(torch.from_numpy, inputs)
    was_training = model.training
    with torch.no_grad(): out = model.eval()(append_tef(video, video_mask), video_mask, text, text_mask)
    model.train(was_training)
    for name in ("spans", "logits", "saliency"):
        assert found[name].shape == getattr(out, name).shape
        assert np.abs(found[name] - getattr(out, name).numpy()).max() < 1e-4, name
    seconds = 2.0 * inputs[1].sum(1)[:, None, None]
    assert np.allclose(found["windows"], np.clip(span_to_window(found["spans"]) * seconds, 0, seconds), atol=1e-3)
    assert np.allclose(found["scores"], foreground(found["logits"]), atol=1e-6)


def test_padding_changes_no_answer(model, session):
    video, video_mask, text, text_mask = export.example_inputs(model.config, 1, 11, 4)
    run = lambda *inputs: session.run(["windows", "scores", "saliency"], dict(zip(export.INPUTS, inputs)))
    longer = lambda x, n: np.concatenate((x, np.zeros((1, n, *x.shape[2:]), x.dtype)), 1)
    alone = run(video, video_mask, text, text_mask)
    padded = run(longer(video, 20), longer(video_mask, 20), longer(text, 9), longer(text_mask, 9))
    for a, b in zip(alone, padded): assert np.allclose(a, b[:, :a.shape[1]], atol=1e-4)


def test_axes_are_dynamic_and_the_graph_knows_its_contract(session, bundle):
    shapes = [["videos", "clips", 96], ["videos", "clips"], ["batch", "words", 64], ["batch", "words"]]
    assert [x.shape for x in session.get_inputs()] == shapes
    assert [x.shape[0] for x in session.get_outputs()[:6]] == ["batch"] * 6
    lone = json.loads(session.get_modelmeta().custom_metadata_map["contract"])
    assert lone["sources"] == DATA.contract()["sources"]
    assert lone["metrics"] == {"MR-full-R1@0.5": 36.1}
    assert lone["versions"]["torch"]


def test_many_texts_share_their_videos(model, session):
    video, video_mask, text, text_mask = export.example_inputs(model.config, 6, 21, 4, "ragged", seed=3)
    run = lambda *inputs: session.run(["windows", "scores", "unit_saliency", "attention.fusion.0.t2v"], dict(zip(export.INPUTS, inputs)))
    for videos in (1, 2, 3):
        which = np.arange(6) % videos
        for a, b in zip(run(video[:videos], video_mask[:videos], text, text_mask), run(video[which], video_mask[which], text, text_mask)):
            assert np.abs(a - b).max() < 1e-4


def test_inner_outputs_are_torchs(model, session):
    inputs = export.example_inputs(model.config, 2, 19, 6, "ragged", seed=5)
    graph = export.Graph(model.eval(), 2.0)
    with torch.no_grad(): expected = graph(*map(torch.from_numpy, inputs))
    model.train()
    found = dict(zip(expected, session.run(list(expected), dict(zip(export.INPUTS, inputs)))))
    assert {name.split(".")[1] for name in expected if name.startswith("stage.")} == {"projection", "refinement", "t2v", "fusion", "encoder"}
    for name, x in expected.items(): assert np.abs(found[name] - x.numpy()).max() < 1e-3 if name == "windows" else np.abs(found[name] - x.numpy()).max() < 1e-4, name
    unit = found["unit_saliency"]
    assert (unit[~inputs[1]] == 0).all()
    assert unit.max(1).tolist() == [1, 1]
    assert (np.where(inputs[1], unit, 1).min(1) == 0).all()


def test_bundle_tells_what_it_is(bundle):
    contract, parity = open_bundle(bundle), json.loads((bundle / "parity.json").read_text())
    assert contract["clip_seconds"] == 2.0
    assert contract["opset"] == export.OPSET
    assert contract["versions"]["torch"] == torch.__version__
    assert contract["metrics"] == {"MR-full-R1@0.5": 36.1}
    assert sorted(contract["files"]) == ["README.md", "config.json", "model.onnx", "parity.json"]
    assert parity["worst"] < 1e-4
    assert len(parity["cases"]) == 9
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["tiny"]


def test_model_is_left_as_it_was(model): assert model.training and all(p.requires_grad for p in model.parameters())


def test_readme_code_runs_without_videolights(model, bundle, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.S)[1]
    assert "videolights" not in code
    monkeypatch.chdir(bundle.parent)
    (video,), _, (text,), _ = export.example_inputs(model.config, 1, 10, 3)
    names = dict(video=video, text=text)
    exec(code, names)
    assert names["best"].shape == (2,)
    assert 0 <= names["best"][0] <= names["best"][1] <= 20


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["interrupt", "full disk"])
def test_a_failed_export_keeps_the_earlier_bundle(model, bundle, monkeypatch, fault):
    def fail(graph, contract, path): path.write_bytes(b"half"); raise fault
    before = open_bundle(bundle)
    monkeypatch.setattr(export, "trace_onnx", fail)
    with pytest.raises((KeyboardInterrupt, InputError)): export.export_onnx(model, bundle, DATA.contract())
    assert open_bundle(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]


def test_a_graph_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "trace_onnx", lambda graph, contract, path: path.write_bytes(b"graph"))
    for difference in (2e-4, float("nan")):
        monkeypatch.setattr(export, "measure_parity", lambda graph, path: [dict.fromkeys(export.COMPARED, difference)])
        with pytest.raises(InputError, match="differs from torch"): export.export_onnx(model, tmp_path / "bad", DATA.contract())
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_does_not_fit_is_not_packed(model, bundle, tmp_path):
    before = open_bundle(bundle)
    with pytest.raises(InputError, match="no such"): export.export_onnx(model, bundle, DATA.contract(), encoder=tmp_path / "clip")
    assert open_bundle(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]


def test_a_contract_of_another_model_is_refused(model, tmp_path):
    for change in (dict(video_dim=100), dict(text_dim=1), dict(max_words=64)):
        with pytest.raises(InputError, match="contract: "): export.export_onnx(model, tmp_path / "x", {**DATA.contract(), **change})
    with pytest.raises(InputError, match="holds thesis.tex, so it is more than a bundle"):
        (tmp_path / "thesis.tex").write_text("mine")
        export.export_onnx(model, tmp_path, DATA.contract())
