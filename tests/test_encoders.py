"""Encoders of frames and tokens: CLIP in torch, the same exported, and what runs without torch."""
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

import videolights.encoders.onnx as export
from tiny_bundle import tiny_bundle
from videolights.deploy.bundle import open_bundle
from videolights.config import InputError
from videolights.encoders.clip import ClipEncoder, random_clip
from videolights.deploy.exported import DESCRIPTION, ENCODER_FILES, TEXT, VIDEO, ExportedEncoder, is_encoder, open_encoder
from videolights.features.protocol import FeatureEncoder, encode_file, get_encoder
from videolights.features.video import read_clips

QUERIES = ["a dog runs", "THE  Ball isn't\tred?!", "una niña corre 3½ km", "狗在跑 🐕 e\u0301", "Ελλάδα <|endoftext|> dog", "runs " * 300]


@pytest.fixture(scope="module")
def clip(tmp_path_factory): return random_clip(tmp_path_factory.mktemp("clip") / "small", width=96, states=64)


@pytest.fixture(scope="module")
def encoder(clip): return ClipEncoder.from_pretrained(clip, device="cpu")


@pytest.fixture(scope="module")
def bundle(clip, tmp_path_factory): return export.export_encoder(clip, tmp_path_factory.mktemp("exported") / "clip")


@pytest.fixture(scope="module")
def video(tmp_path_factory): return export.draw_waves(tmp_path_factory.mktemp("video") / "Wellen 1.mp4", 66, 102, 7)


@pytest.fixture(scope="module")
def model_bundle(bundle, tmp_path_factory):
    "A model bundle that was trained on this CLIP, as far as its contract tells, with the encoder inside."
    from videolights.deploy.bundle import MODEL, answer_key, seal
    folder = shutil.copytree(tiny_bundle()[1], tmp_path_factory.mktemp("model") / "tiny")
    contract = open_bundle(folder)
    for source, name in zip(contract["sources"], ("clip", "clip_text")): source["name"] = name
    contract["encoder"] = "clip"
    graph = onnx.load(folder / MODEL)
    onnx.helper.set_model_props(graph, {"videolights": answer_key(contract)})
    onnx.save(graph, folder / MODEL)
    shutil.copytree(bundle, folder / "encoder")
    seal(folder, {key: value for key, value in contract.items() if key not in ("files", "bundle_version")})
    return folder


def close(a, b): return a.shape == b.shape and np.abs(a - b).max() < 1e-4    # single precision, sums of some hundred products of numbers around one


@pytest.mark.parametrize("size", [(1, 32, 32), (5, 270, 480), (33, 101, 37), (2, 20, 24)], ids=str)
def test_onnx_frames_equal_torch(encoder, bundle, size):
    frames = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert close(ExportedEncoder(bundle).embed_frames(frames), encoder.embed_frames(frames))


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_onnx_pipeline_equals_torch(encoder, bundle, video, batch):
    exported = ExportedEncoder(bundle, threads=1, batch=batch)
    assert isinstance(exported, FeatureEncoder)
    assert exported.facts == encoder.facts
    for seconds, rows in ((2, 4), (1, 7)):
        found = encode_file(exported, video, seconds)
        assert found.shape == (rows, 96)
        assert found.dtype == np.float32
        assert close(found, encode_file(encoder, video, seconds))
    assert all(map(close, exported.encode_text(QUERIES), encoder.encode_text(QUERIES)))


def test_tokens_are_those_of_transformers(clip, bundle):
    exported, theirs = ExportedEncoder(bundle), CLIPTokenizer.from_pretrained(clip)
    for query, encoding in zip(QUERIES, exported.tokenize(QUERIES)):
        assert encoding.ids == theirs(query, truncation=True)["input_ids"]
        assert len(exported.words(query)) == len(encoding.ids) <= 77
    assert exported.words("A dog") == ["<|startoftext|>", "A", "dog", "<|endoftext|>"]


def test_states_are_those_of_transformers(clip, encoder):
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    inputs = tokenizer(QUERIES, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad(): wanted = model.text_model(**inputs).last_hidden_state.numpy()
    for states, row, mask in zip(encoder.encode_text(QUERIES), wanted, inputs["attention_mask"].numpy()): assert close(states, row[mask == 1])


def test_embeddings_are_those_of_transformers(clip, encoder, video):
    from transformers import CLIPImageProcessorPil
    frames = np.concatenate(list(read_clips(video, 1, 1)))
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images=list(frames), return_tensors="pt")["pixel_values"]
    with torch.no_grad(): wanted = CLIPModel.from_pretrained(clip).eval().get_image_features(pixel_values=pixels).pooler_output.numpy()
    found = encode_file(encoder, video, 1)
    assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()      # the processor rounds to whole levels


def test_memory_is_a_batch(encoder):
    asked = []
    def film():
        for i in range(100): asked.append(i); yield np.zeros((1, 40, 40, 3), np.uint8)
    sizes = []
    def embed(frames): sizes.append(len(frames)); assert len(asked) <= sum(sizes) + 1; return np.zeros((len(frames), 96), np.float32)
    small = ClipEncoder.__new__(ClipEncoder)
    small.__dict__ = {**encoder.__dict__, "embed_frames": embed, "batch": 8}
    assert small.encode_video(film()).shape == (100, 96)
    assert max(sizes) == 8


FRESH = """
import sys
for name in ("torch", "transformers", "onnx", "huggingface_hub"): sys.modules[name] = None
import numpy as np
"""


def fresh(code): return subprocess.run([sys.executable, "-c", FRESH + code], check=True, timeout=120, capture_output=True, text=True).stdout


def test_runs_without_torch(encoder, bundle, video, tmp_path):
    fresh(f"""
from videolights.deploy.exported import ExportedEncoder
from videolights.features.protocol import encode_file
encoder = ExportedEncoder({str(bundle)!r}, threads=1)
np.savez({str(tmp_path / 'found.npz')!r}, video=encode_file(encoder, {str(video)!r}, 2.0), text=encoder.encode_text(["a dog runs"])[0])
""")
    with np.load(tmp_path / "found.npz") as found:
        assert close(found["video"], encode_file(encoder, video, 2.0))
        assert close(found["text"], encoder.encode_text(["a dog runs"])[0])


def test_a_model_answers_from_a_file_without_torch(encoder, model_bundle, video):
    out = fresh(f"""
import json
from videolights.deploy.runtime import Runtime
runtime = Runtime.load({str(model_bundle)!r}, providers="cpu", threads=1)
print(json.dumps([p.to_dict() for p in runtime.predict_video({str(video)!r}, ["a dog runs", "the ball"])]))
""")
    from videolights.deploy.runtime import Runtime
    found, runtime = json.loads(out), Runtime.load(model_bundle, providers="cpu", threads=1)
    features = runtime.prepare_video(dict(clip=encode_file(encoder, video, 2.0)))
    for row, query in zip(found, ("a dog runs", "the ball")):
        wanted = runtime.predict(features, runtime.prepare_text(dict(clip_text=encoder.encode_text([query])[0])))
        assert row["query"] == query
        assert np.allclose(row["pred_saliency_scores"], wanted.saliency, atol=2e-3)


def test_the_models_encoder_must_fit(model_bundle, tmp_path, monkeypatch):
    contract = open_bundle(model_bundle)
    assert open_encoder(contract, model_bundle).name == "clip"
    with pytest.raises(InputError, match="trained with 'blip2'"): open_encoder({**contract, "encoder": "blip2"}, model_bundle)
    with pytest.raises(InputError, match="gives 96 columns of video, the contract says 512"): open_encoder({**contract, "video_dim": 512}, model_bundle)
    with pytest.raises(InputError, match="gives 64 columns of text, the contract says 512"): open_encoder({**contract, "text_dim": 512}, model_bundle)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "videolights.encoders.clip")
    with pytest.raises(InputError, match=r"videolights\[encoders\]"): open_encoder(contract, tmp_path)


@pytest.mark.parametrize("name", [*ENCODER_FILES, DESCRIPTION])
def test_a_changed_encoder_is_refused(bundle, tmp_path, name):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    content = (copy / name).read_bytes()
    changed = content.replace(b'"text_dim": 64', b'"text_dim": 65') if name == DESCRIPTION else content[:-1] + bytes([content[-1] ^ 1])
    (copy / name).write_bytes(changed)
    with pytest.raises(InputError) as told: ExportedEncoder(copy)
    assert str(copy) in str(told.value)
    assert "\n" not in str(told.value)
    (copy / name).unlink()
    with pytest.raises(InputError, match="no such file"): ExportedEncoder(copy)


def test_an_export_that_fails_keeps_the_earlier_one(encoder, bundle, monkeypatch):
    before = (bundle / DESCRIPTION).read_bytes()
    def copied(encoder, folder):
        for name in (VIDEO, TEXT): shutil.copy(bundle / name, folder)
    monkeypatch.setattr(export, "save_graphs", copied)
    other = ClipEncoder.from_pretrained(random_clip(bundle.parent / "other", width=96, states=64, seed=7), device="cpu")
    with pytest.raises(InputError, match="not written, since its features differ"): export.export_encoder(other, bundle)
    def stopped(encoder, folder): (folder / VIDEO).write_bytes(b"half"); raise KeyboardInterrupt
    monkeypatch.setattr(export, "save_graphs", stopped)
    with pytest.raises(KeyboardInterrupt): export.export_encoder(encoder, bundle)
    shutil.rmtree(bundle.parent / "other")
    assert (bundle / DESCRIPTION).read_bytes() == before
    assert [p.name for p in bundle.parent.iterdir()] == ["clip"]


def test_bundle_tells_what_it_is(bundle, monkeypatch):
    described, parity = json.loads((bundle / DESCRIPTION).read_text()), json.loads((bundle / "parity.json").read_text())
    assert described["licence"] == "MIT (openai/CLIP)"
    assert described["weights"] == "small"
    assert described["preprocessing"]["crop"] == 32
    assert parity["worst"] < 1e-4
    assert len(parity["cases"]) == len(export.VIDEOS) + len(export.SENTENCES)
    for name in (VIDEO, TEXT): assert str(bundle.parent.parent).encode() not in (bundle / name).read_bytes()
    code = (bundle / "README.md").read_text().split("```python\n")[2].split("```")[0]
    assert "videolights" not in code
    monkeypatch.chdir(bundle.parent)
    exec(code, names := {})
    assert names["embeddings"].shape == (1, 96)
    assert names["states"].shape == (1, len(names["ids"][0]), 64)


def test_weights_that_are_missing_are_one_line(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_CLIP", str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"; empty.mkdir()
    no_weights = shutil.copytree(clip, tmp_path / "no_weights"); (no_weights / "model.safetensors").unlink()
    cut = shutil.copytree(clip, tmp_path / "cut"); (cut / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes()[:3000])
    from safetensors.torch import load_file, save_file
    part = shutil.copytree(clip, tmp_path / "part")
    save_file({k: v for k, v in load_file(clip / "model.safetensors").items() if "visual_projection" not in k}, part / "model.safetensors", {"format": "pt"})
    for load in (lambda: get_encoder("clip"), *(lambda s=s: ClipEncoder.from_pretrained(s) for s in (empty, no_weights, cut, part))):
        with pytest.raises(InputError, match="no CLIP could be loaded .* download config.json, model.safetensors") as told: load()
        assert "\n" not in str(told.value)
    monkeypatch.setenv("VIDEOLIGHTS_CLIP", str(clip))
    assert get_encoder("clip").video_dim == 96


def test_hub_is_not_reached_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/clip-of-no-one: no CLIP could be loaded"): get_encoder("clip", weights="nobody/clip-of-no-one")


def test_what_is_an_encoder(clip, bundle, tmp_path):
    assert is_encoder(clip)
    assert is_encoder("openai/clip-vit-large-patch14")
    assert not is_encoder(bundle)
    assert not is_encoder(tmp_path)
    assert not is_encoder(tiny_bundle()[1])
    assert not is_encoder(tmp_path / "clip")


def test_rows_fit_stored_features(encoder, realdata):
    for vid in ("3MSZA", "Y1HGC"):
        with np.load(realdata / "charades_clip" / "clip_features" / f"{vid}.npz") as stored: rows = stored["features"]
        assert rows.shape[1] == 512
        assert len(encode_file(encoder, realdata / "videos" / f"charades_{vid}.mp4", 1.0)) == len(rows)    # clips of one second
    with np.load(realdata / "qvhighlights" / "release_layout" / "clip_text_features" / "qid5263.npz") as stored: states = stored["last_hidden_state"]
    query = "Animation of the planet earth with some letters appearing on it"
    assert states.shape == (len(query.split()) + 2, 512)                    # a row per word and two marks: real CLIP has these words as single tokens
