"""The runtime: without torch, honest about where it runs, and strict about what it opens and reads."""
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from tiny_bundle import tiny_bundle
from conftest import ROOT
from videolights.config import DataConfig, InputError
from videolights.data.batches import append_tef
from videolights.data.store import Dataset, l2_normalize
from videolights.data.toyworld import make_toyworld
from videolights.features.protocol import encode_file, get_encoder
from videolights.evaluation.predictions import foreground, windows_from_spans
from videolights.deploy.bundle import BUNDLE, CONTRACT, MODEL, TRAINING, open_bundle, seal
from videolights.deploy.runtime import Runtime
from videolights.features.video import write_video
from videolights.files import read_json


@pytest.fixture(scope="module")
def bundle(): return tiny_bundle()[1]


@pytest.fixture(scope="module")
def runtime(bundle): return Runtime.load(bundle, providers="cpu", threads=1)


@pytest.fixture
def copy(bundle, tmp_path): return shutil.copytree(bundle, tmp_path / "copy")


def pairs(count, seed=0):
    "Videos and texts of different lengths."
    rng = np.random.default_rng(seed)
    rows = lambda n, dim: l2_normalize(rng.standard_normal((n, dim)))
    return [rows(n, 96) for n in rng.integers(1, 60, count)], [rows(n, 64) for n in rng.integers(1, 12, count)]


def fresh(code): subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_import_needs_no_torch(): fresh("import sys, videolights.deploy.runtime; assert 'torch' not in sys.modules")


def test_prediction_needs_no_torch(bundle):
    fresh("import sys; sys.modules['torch'] = None\n"
          "import numpy as np; from videolights.deploy.runtime import Runtime\n"
          f"prediction = Runtime.load({str(bundle)!r}).predict(np.ones((5, 96)), np.ones((3, 64)))\n"
          "assert prediction.windows.shape == (10, 3) and prediction.saliency.shape == (5,)")


def test_answers_are_torchs(runtime):
    model, (videos, texts) = tiny_bundle()[0], pairs(6)
    was_training = model.training
    model.eval()
    for video, text in zip(videos, texts):
        mask, words = torch.ones(1, len(video), dtype=torch.bool), torch.ones(1, len(text), dtype=torch.bool)
        with torch.no_grad(): out = model(append_tef(torch.from_numpy(video)[None], mask), mask, torch.from_numpy(text)[None], words)
        found = runtime.predict(video, text)
        expected = windows_from_spans(out.spans[0].numpy(), foreground(out.logits[0].numpy()), 2 * len(video))
        assert np.abs(found.windows[:, 2] - expected[:, 2]).max() < 1e-4
        assert np.abs(found.saliency - out.saliency[0].numpy()).max() < 1e-4
        assert np.abs(np.sort(found.windows[:, :2], 0) - np.sort(expected[:, :2], 0)).max() < 1e-4 * 2 * len(video)
    model.train(was_training)


def test_batch_equals_singles(runtime):
    videos, texts = pairs(9)
    together = runtime.predict_batch(videos, texts, batch_size=4)
    for a, video, text in zip(together, videos, texts):
        b = runtime.predict(video, text)
        assert np.abs(a.windows[:, 2] - b.windows[:, 2]).max() < 1e-5
        assert np.allclose(a.saliency, b.saliency, atol=1e-5)
        assert np.abs(np.sort(a.windows[:, :2], 0) - np.sort(b.windows[:, :2], 0)).max() < 1e-3


def test_many_queries_about_one_video(runtime):
    (video, *_), texts = pairs(9)
    together = runtime.predict(video, texts, batch_size=4)
    for a, text in zip(together, texts):
        b = runtime.predict(video, text)
        assert np.abs(a.windows[:, 2] - b.windows[:, 2]).max() < 1e-5
        assert np.allclose(a.saliency, b.saliency, atol=1e-5)
    assert runtime.predict(video, []) == []
    assert runtime.predict([video], [texts[0]])[0].windows.shape == (10, 3)


def test_inside_an_answer(runtime):
    (video, *_), (text, *_) = pairs(1)
    trace, answer = runtime.trace(video, text), runtime.predict(video, text)
    assert np.allclose(trace.saliency, answer.saliency, atol=1e-6)
    assert np.allclose(np.sort(trace.scores)[::-1], answer.windows[:, 2], atol=1e-6)
    assert trace.attention["fusion.0.t2v"].shape[1:] == (len(video), len(text))
    assert np.allclose(trace.attention["fusion.0.t2v"].sum(-1), 1, atol=1e-5)
    assert {name: (len(v), len(t)) for name, (v, t) in trace.stages.items()} == dict.fromkeys(
        ("projection", "refinement", "t2v", "fusion", "encoder"), (len(video), len(text)))


def long_pair(clips=400, seed=1):
    rng = np.random.default_rng(seed)
    return l2_normalize(rng.standard_normal((clips, 96))).astype(np.float32), l2_normalize(rng.standard_normal((5, 64))).astype(np.float32)


@pytest.mark.parametrize("clips", [1, 2, 39, 40])
def test_a_video_within_one_window_gets_the_plain_answer(runtime, clips):
    video, text = long_pair(clips)
    plain, windowed = runtime.predict(video, text, window=0), runtime.predict(video, text, window=40)
    assert (plain.windows == windowed.windows).all()
    assert (plain.saliency == windowed.saliency).all()


def test_shifting_the_video_shifts_the_answer(runtime):
    video, text = long_pair()
    video[180:200] = video[180]                                               # something happens
    here, later = (runtime.predict(x, text, window=40) for x in (video[40:360], video[:320]))     # by 40 clips: two steps
    assert np.allclose(here.saliency[40:240], later.saliency[80:280], atol=1e-5)
    inner = lambda p, low, high: p.windows[(p.windows[:, 0] >= low) & (p.windows[:, 1] <= high), :2]
    a, b = inner(here, 2 * 60, 2 * 220), inner(later, 2 * 100, 2 * 260)
    assert len(a) == len(b) > 5
    nearest = np.abs(np.sort(a + 80, 0) - np.sort(b, 0)).max()
    assert nearest < .05, nearest


def test_windows_cover_any_length_alike_for_one_or_many(runtime):
    video, text = long_pair(97)
    many, batch = runtime.predict(video, [text, text[:2]], window=40), runtime.predict([video, video[:50]], [text, text], window=40)
    alone = runtime.predict(video, text, window=40)
    for other in (many[0], batch[0]):
        assert np.allclose(other.saliency, alone.saliency, atol=1e-5)
        assert np.allclose(other.windows[:, 2], alone.windows[:, 2], atol=1e-4)
    assert len(alone.saliency) == 97
    assert alone.windows[:, 1].max() <= 194
    assert (np.diff(alone.windows[:, 2]) <= 0).all()
    assert len(batch[1].saliency) == 50


def test_the_contract_says_where_windows_begin(copy, runtime):
    video, text = long_pair(97)
    seal(copy, {**open_bundle(copy), "train_clips": 40})
    cut, asked = Runtime.load(copy, "cpu", 1).predict(video, text), runtime.predict(video, text, window=40)
    assert np.allclose(cut.saliency, asked.saliency, atol=1e-6)
    assert not np.allclose(cut.saliency, runtime.predict(video, text).saliency, atol=1e-3)


def test_predictions_are_sorted_inside_the_video_and_json_ready(runtime):
    (video,), (text,) = pairs(1)
    prediction = runtime.predict(video, text, qid=7, query="a dog", vid="beach", whole_clips=True, nms_threshold=.5)
    assert (np.diff(prediction.windows[:, 2]) <= 0).all()
    assert (prediction.windows[:, :2] % 2 == 0).all()
    assert len(prediction.windows) <= 10
    assert prediction.windows[:, :2].min() >= 0
    assert prediction.windows[:, 1].max() <= 2 * len(video)
    row = json.loads(json.dumps(prediction.to_dict()))
    assert list(row) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    assert len(row["pred_saliency_scores"]) == len(video)
    assert prediction.unit_saliency.min() == 0
    assert prediction.unit_saliency.max() == 1
    assert prediction.top_clips(3)[0, 2] == 1


def test_video_file(runtime, tmp_path):
    frames = [np.full((48, 64, 3), [250, 10 * (i // 10), 0], np.uint8) for i in range(73)]   # 7.3 s: the fourth clip is cut short
    path = write_video(tmp_path / "ramp.mp4", frames, 10)
    first, second = runtime.predict_video(path, ["a red square", "it turns yellow"])
    encoder = get_encoder("builtin")
    video, text = runtime.prepare_video(dict(builtin=encode_file(encoder, path, 2.0))), runtime.prepare_text(
        dict(builtin_text=encoder.encode_text(["it turns yellow"])[0]))
    alone = runtime.predict(video, text)
    assert (first.query, first.vid, second.query) == ("a red square", "ramp", "it turns yellow")
    assert np.allclose(second.saliency, alone.saliency, atol=1e-5)
    assert second.windows[:, 1].max() <= second.duration_s <= 7.4 < alone.duration_s
    assert len(runtime.predict_video(path, " ".join(["word"] * 90))) == 1   # cut to the contract's words
    for bad, query in ((tmp_path / "none.mp4", "a dog"), (path, ""), (path, "?!")):
        with pytest.raises(InputError): runtime.predict_video(bad, query)


CLIPS, WORDS = np.ones((4, 96)), np.ones((2, 64))


@pytest.mark.parametrize("video, text, message", [
    (np.ones((4, 95)), WORDS, "95 columns, the contract says 96 .builtin 96."), (CLIPS, np.ones((2, 300)), "300 columns"),
    (np.ones((0, 96)), WORDS, "no rows"), (CLIPS, np.ones((0, 64)), "no rows"), (np.ones(96), WORDS, "shape"),
    (CLIPS * np.nan, WORDS, "NaN"), (CLIPS, WORDS * np.inf, "infinite"), (CLIPS, np.ones((33, 64)), "33 words"),
    (np.array([["a"]]), WORDS, "numbers"), ([[1], [2, 3]], WORDS, "rows differ"),
    (CLIPS * 1e300, WORDS, "up to 1e.300"), (CLIPS, WORDS * np.float32(1e30), "up to 1e.30"), (CLIPS * np.longdouble("1e4000"), WORDS, "video features: holds"),
    (CLIPS.astype(object), WORDS, "object"), (CLIPS * 1j, WORDS, "complex"), (CLIPS > 0, WORDS, "bool"), (torch.ones(4, 96, dtype=torch.bfloat16), WORDS, "no array"),
    (np.ma.masked_array(CLIPS, CLIPS > 0), WORDS, "masked"), (CLIPS.astype("datetime64[s]"), WORDS, "datetime64"), (None, WORDS, "object")])
def test_bad_features_are_one_line(runtime, video, text, message):
    with pytest.raises(InputError, match=message) as e: runtime.predict(video, text)
    assert "\n" not in str(e.value)


def cut(folder, name, size): (folder / name).write_bytes((folder / name).read_bytes()[:size])


def edit(folder, **changes):
    path = folder / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("damage, message", [
    (lambda f: cut(f, "model.onnx", 1000), "model.onnx: is cut short or altered"),
    (lambda f: cut(f, "config.json", 10), "config.json: is cut short"),
    (lambda f: cut(f, "contract.json", 50), "contract.json: not valid JSON"),
    (lambda f: cut(f, "contract.json", 0), "contract.json: not valid JSON"),
    (lambda f: (f / "model.onnx").unlink(), "model.onnx: no such file"),
    (lambda f: (f / "contract.json").unlink(), "is no bundle"),
    (lambda f: (f / "contract.json").write_text("[]"), "describes no bundle"),
    (lambda f: edit(f, bundle_version=99), "upgrade videolights"), (lambda f: edit(f, bundle_version=0), "this package reads 1 and 2"),
    (lambda f: edit(f, clip_seconds=1.0), "does not belong to model.onnx"),
    (lambda f: edit(f, sources=[]), "add up to 0"), (lambda f: edit(f, sources=[1]), "'sources' needs"),
    (lambda f: edit(f, files={}), "lists no model.onnx"), (lambda f: edit(f, files="model.onnx"), "lists no model.onnx"),
    (lambda f: shutil.rmtree(f), "no such folder")])
def test_a_damaged_bundle_is_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message) as e: Runtime.load(copy)
    assert "\n" not in str(e.value)


def test_a_graph_that_is_no_graph_is_refused(copy):
    from videolights.deploy.bundle import sha256
    (copy / "model.onnx").write_bytes(b"no graph")
    edit(copy, files={**json.loads((copy / "contract.json").read_text())["files"], "model.onnx": sha256(copy / "model.onnx")})
    with pytest.raises(InputError, match="model.onnx: cannot be loaded"): Runtime.load(copy)


def test_providers_tell_the_truth(bundle, runtime, capfd):
    assert runtime.providers == runtime.session.get_providers() == ["CPUExecutionProvider"]
    try: found = Runtime.load(bundle, providers="cuda").providers
    except InputError as e:
        assert "CUDAExecutionProvider: cannot be used" in str(e)
        assert "\n" not in str(e)
        with pytest.warns(UserWarning, match="running on the CPU instead"):
            assert Runtime.load(bundle, providers="cuda", allow_fallback=True).providers == ["CPUExecutionProvider"]
        assert capfd.readouterr() == ("", "")
    else: assert found[0] == "CUDAExecutionProvider"


def test_a_missing_onnxruntime_is_told(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r'pip install "videolights\[runtime\]"'): Runtime.load(bundle)


OPTIONS = [(name, value) for name, values in dict(
    identities=[[], [{}], [{}] * 3, ["a", "b"], [{"title": "x"}, {}]], durations_s=[[], [4], [4, 4, 4], [4, -1], [4, 0], [4, np.nan], [np.inf, 4], [4, None], [4, "4"]],
    nms_threshold=[-.1, 1.1, 5, np.nan, "0.5", None], batch_size=[0, -1, 1.5, None, True], window=[-1, 1, 2.5, np.nan, "20"]).items() for value in values]


@pytest.mark.parametrize("name, value", OPTIONS, ids=str)
def test_options_that_would_lose_or_spoil_answers_are_refused(runtime, name, value):
    with pytest.raises(InputError, match=name) as e: runtime.predict_batch([CLIPS, CLIPS], [WORDS, WORDS], **{name: value})
    assert "\n" not in str(e.value)


def test_a_graph_that_answers_nan_is_told(copy):
    graph = onnx.load(copy / MODEL)
    weights = next(x for x in graph.graph.initializer if x.name.endswith("heads.label.bias"))
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full(weights.dims, np.nan, np.float32), weights.name))
    onnx.save(graph, copy / MODEL)
    seal(copy, read_json(copy / CONTRACT))
    with pytest.raises(InputError, match="the graph answers NaN"): Runtime.load(copy, "cpu", 1).predict(CLIPS, WORDS)


SHIPPED = ROOT / "exported" / "toyworld"


@pytest.fixture
def shipped(tmp_path): return shutil.copytree(SHIPPED, tmp_path / "toyworld")


def another(value):
    "A value of the same kind, if that is possible."
    if isinstance(value, dict): return value | {"a": 1}
    if isinstance(value, list): return [*value, value[0]]
    return f"{value}x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("key", [*open_bundle(SHIPPED), "at", "anything"])
def test_every_key_of_the_contract_is_held_by_the_graph(shipped, key):
    contract = open_bundle(shipped)
    edit(shipped, **{key: another(contract.get(key, 0))})
    with pytest.raises(InputError): Runtime.load(shipped)
    if key not in ("at", "anything", *BUNDLE.keys):
        (shipped / CONTRACT).write_text(json.dumps({k: v for k, v in contract.items() if k != key}))
        with pytest.raises(InputError): Runtime.load(shipped)


def test_a_file_that_is_loaded_cannot_be_dropped_added_or_exchanged(shipped):
    contract = open_bundle(shipped)
    edit(shipped, files={name: digest for name, digest in contract["files"].items() if name != TRAINING})
    with pytest.raises(InputError, match="does not belong to model.onnx"): Runtime.load(shipped)
    edit(shipped, files=contract["files"])
    (shipped / "model.int8.onnx").write_bytes((shipped / MODEL).read_bytes())           # not listed, so not opened
    with pytest.raises(InputError, match="has no precision 'int8'"): Runtime.load(shipped, precision="int8")
    (shipped / TRAINING).write_text("{}")
    with pytest.raises(InputError, match="training.json: is cut short or altered"): Runtime.load(shipped)
    with pytest.raises(InputError, match="training.json: is cut short or altered"): BUNDLE.read(shipped, contract, TRAINING)   # after the folder was opened
    (shipped / TRAINING).unlink()
    (shipped / TRAINING).symlink_to(ROOT / "README.md")
    with pytest.raises(InputError, match="training.json: is cut short or altered"): Runtime.load(shipped)


@pytest.mark.parametrize("place", ["beside", "in the working folder"])
def test_a_graph_with_weights_in_another_file_is_refused(copy, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load(copy / MODEL), copy / MODEL, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if place != "beside": shutil.move(copy / "weights.bin", tmp_path / "weights.bin")
    contract = read_json(copy / CONTRACT)
    BUNDLE.seal(copy, contract)
    with pytest.raises(InputError, match="model.onnx: keeps weights in another file"): Runtime.load(copy)


@pytest.fixture(scope="module")
def toy(tmp_path_factory): return DataConfig.load(make_toyworld(tmp_path_factory.mktemp("toy"), train_videos=1, val_videos=6, progress=False))


@pytest.fixture(scope="module")
def trained(): return Runtime.load(SHIPPED, "cpu", 1)


def test_what_a_model_cannot_know_is_said(trained, toy):
    dataset = Dataset(toy, "val")
    assert not [row for row in trained.predict_dataset(dataset) if "warnings" in row]
    video, query = toy.path("videos", f"{dataset.annotations[0]['vid']}.mp4"), dataset.annotations[0]["query"]
    known, dog, long = trained.predict_video(video, [query, "a dog jumps into the lake", " ".join([query] * 20)])
    assert known.warnings == []
    assert dog.warnings == ["unknown words: dog, jumps, lake"]
    assert long.warnings == [f"the query has {20 * len(query.split())} words, the model reads the first 32"]
    assert dog.to_dict()["warnings"] == dog.warnings
    with pytest.warns(UserWarning, match="40 words, the model reads the first 32"): assert len(trained.prepare_text(dict(builtin_text=np.ones((40, 64))))) == 32


@pytest.mark.parametrize("draw", [lambda rng: rng.standard_normal((30, 96)), lambda rng: rng.random((30, 96)), lambda rng: np.eye(96)[:30]], ids=["noise", "uniform", "one column"])
def test_features_unlike_those_of_training_are_said(trained, toy, draw):
    text, video = Dataset(toy, "val")[0]["text"], l2_normalize(draw(np.random.default_rng(0)))
    assert trained.predict(video, text).warnings == ["features far from the training data (100% of clips in builtin)"]
    quiet = Runtime(trained.session, trained.contract)
    np.testing.assert_array_equal(quiet.predict(video, text).windows, trained.predict(video, text).windows)     # numbers do not change


@pytest.mark.parametrize("name", ["toyworld", "charades_clip"])
def test_shipped_bundles_tell_how_far_their_confidence_can_be_trusted(name):
    found = json.loads((ROOT / "exported" / name / "parity.json").read_text())["calibration"]
    assert found["held_out"]["after"]["ece"] <= found["held_out"]["before"]["ece"]
    assert sum(b["queries"] for b in found["curve"]) == found["all"]["after"]["queries"]
    assert found["fitted"]["after"]["queries"] + found["held_out"]["after"]["queries"] == found["all"]["after"]["queries"]
    assert "## Confidence" in (ROOT / "exported" / name / "README.md").read_text()
    weights = {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load(ROOT / "exported" / name / MODEL).graph.initializer}
    assert np.isclose(weights["temperature"], found["temperature"])


def test_the_temperature_is_in_the_graph():
    "Confidence is the logits' softmax at that temperature; windows and their order are what they were."
    bundle = Runtime.load(ROOT / "exported" / "charades_clip", "cpu", 1)
    found = json.loads((ROOT / "exported" / "charades_clip" / "parity.json").read_text())["calibration"]
    rng = np.random.default_rng(3)
    inputs = dict(video=rng.random((1, 20, 512), np.float32), video_mask=np.ones((1, 20), bool), text=rng.random((1, 5, 812), np.float32), text_mask=np.ones((1, 5), bool))
    logits, scores = bundle.session.run(["logits", "scores"], inputs)
    z = logits[0, :, 0] - logits[0, :, 1]
    assert np.allclose(scores[0], 1 / (1 + np.exp(-z / found["temperature"] - found["offset"])), atol=1e-5)
    assert (np.argsort(-scores[0], kind="stable") == np.argsort(-z, kind="stable")).all()
