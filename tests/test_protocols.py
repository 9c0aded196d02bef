"""The switches of the ablations, each changing what it should and nothing else, and the awkward videos of the three protocols.

The data here are random numbers: what is tested is that everything trains, not how well.
"""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from videolights.config import Config, InputError, LossConfig, ModelConfig, TrainConfig
from videolights.data.batches import collate
from videolights.data.store import Dataset
from videolights.losses.objective import Objective
from videolights.model.videolights import VideoLights, load
from videolights.training.loop import train

SMALL = dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=2, slots=3, align_dim=8)
MODEL = ModelConfig(video_dim=12, text_dim=10, **SMALL)


def item(vid, clips, words, windows, seed=0, level=4):
    rng = np.random.default_rng((seed, clips, words))
    inside = np.array([any(a <= 2 * l < b for a, b in windows) for l in range(clips)], float)
    return dict(qid=vid, vid=vid, video=rng.normal(size=(clips, 12)), text=rng.normal(size=(words, 10)), saliency=inside * level,
                windows=np.array(windows, float).reshape(-1, 2))


ITEMS = [item("a", 9, 5, [[2, 8], [12, 16]]), item("b", 6, 3, [[4, 8]]), item("c", 7, 4, [[0, 6]])]


def parameters_by_stage(model):
    stages = {}
    for name, p in model.named_parameters(): stages.setdefault(name.split(".")[0], []).append((name, tuple(p.shape)))
    return stages


@pytest.mark.parametrize("change, stages", [
    ({"projection": "linear"}, ["video_projection", "text_projection"]), ({"kernel": 1}, ["video_projection", "text_projection", "refinement"]),
    ({"refinement": "none"}, ["refinement"]), ({"refinement": "released"}, ["refinement"]), ({"correspondence": "padded"}, ["refinement"]),
    ({"fusion": "uni"}, ["fusion"]), ({"fusion": "none"}, ["fusion"]), ({"fusion": "released"}, ["fusion"]), ({"fusion_self": False}, ["fusion"]),
    ({"fusion_layers": 2}, ["fusion"]), ({"fusion_layers": 3}, ["fusion"]), ({"fusion_layers": 4}, ["fusion"]), ({"feedback": False}, ["feedback"]),
    ({"fusion_residual": False}, []), ({"last_relu": False}, []), ({"refine_negatives": False}, []), ({"feedback_padding": True}, []),
    ({"refinement": "tr-detr"}, ["refinement"]), ({"fusion": "qd-detr"}, ["fusion"]), ({"encoder": "clips"}, ["encoder", "saliency"]),
    ({"encoder": "joint"}, ["encoder", "saliency"]), ({"encoder": "clips", "reciprocity": True}, ["encoder", "saliency", "reciprocity"]),
    ({"decoder": "queries"}, ["decoder"]), ({"activation": "relu"}, ["fusion", "encoder", "decoder"]), ({"negative_pairs": False}, []),
    ({"align_dim": 0}, ["query_align", "word_align"]),
], ids=str)
def test_a_model_switch_changes_its_own_stage(change, stages):
    "Parameters change in the named stages alone, and the outputs change (or, for training-only switches, only what training sees)."
    before, after = parameters_by_stage(VideoLights(MODEL)), parameters_by_stage(VideoLights(replace(MODEL, **change)))
    assert {s for s in before | after if before.get(s) != after.get(s)} == set(stages)
    torch.manual_seed(0)
    one = VideoLights(MODEL).eval()
    two = VideoLights(replace(MODEL, **change)).eval()
    two.load_state_dict({k: v for k, v in one.state_dict().items() if k in two.state_dict() and v.shape == two.state_dict()[k].shape}, strict=False)
    batch = collate(ITEMS, 2)
    with torch.no_grad():
        same = all(torch.allclose(x, y, atol=1e-6) for x, y in zip(one(*batch.inputs), two(*batch.inputs)))
        a, b = one.training_outputs(*batch.inputs), two.training_outputs(*batch.inputs)
    assert same == (set(change) <= {"feedback", "refine_negatives", "feedback_padding", "negative_pairs", "align_dim"})
    if "refine_negatives" in change: assert not torch.allclose(a.negative_saliency, b.negative_saliency)
    if "feedback_padding" in change: assert not torch.allclose(a.feedback_saliency, b.feedback_saliency)


LOSSES = {"hard losses": (dict(hard_negative=0., hard_positive=0.), {"hard_negative", "hard_positive"}), "task-coupled loss": (dict(feedback=0.), {"feedback"}),
          "saliency cosine loss": (dict(saliency_cosine=0.), {"saliency_cosine"}), "alignment loss": (dict(align=0.), {"query_text", "video_text"})}


@pytest.mark.parametrize("form", ["paper", "released"])
def test_loss_switches_alone_and_together(form):
    torch.manual_seed(0)
    model, batch = VideoLights(MODEL).eval(), collate(ITEMS, 2)
    out, full = model.training_outputs(*batch.inputs), LossConfig(form=form)
    pairs = torch.tensor([[2, 1], [2, 3], [0, 1]]), torch.tensor([[1, 0], [3, 0], [1, 5]])
    losses = lambda config: Objective(config)(out, batch, 2, pairs)
    everything = losses(full)
    for change, gone in [*LOSSES.values(), ({k: v for c, _ in LOSSES.values() for k, v in c.items()}, set().union(*(g for _, g in LOSSES.values())))]:
        left = losses(replace(full, **change))
        assert set(everything) - set(left) == gone
        for name in set(left) - {"total"}: assert torch.equal(left[name], everything[name]), name
        assert left["total"] < everything["total"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A data set of random features with two video and two text sources and every awkward length."
    root, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    videos = dict(whole=8, one=1, long=1000, plain=20)
    windows = dict(whole=[[0, 16]], one=[[0, 2]], long=[[0, 2], [1998, 2000]], plain=[[4, 12]])
    rows = []
    for qid, (vid, clips) in enumerate(videos.items()):
        first = int(windows[vid][0][0] // 2)
        ids = sorted({l for a, b in windows[vid] for l in range(int(a // 2), int(b // 2))})
        rows.append(dict(qid=qid, query="x", vid=vid, duration=2 * clips, relevant_windows=windows[vid], relevant_clip_ids=ids,
                         saliency_scores=[[4, 3, 4 - first % 2]] * len(ids)))
    (root / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for folder, dim in (("a", 6), ("b", 4)):
        (root / folder).mkdir()
        for vid, clips in videos.items(): np.savez(root / folder / f"{vid}.npz", features=rng.normal(size=(clips, dim)).astype("f4"))
    for folder, dim in (("s", 5), ("t", 3)):
        (root / folder).mkdir()
        for r in rows: np.savez(root / folder / f"qid{r['qid']}.npz", last_hidden_state=rng.normal(size=(4, dim)).astype("f4"))
    data = dict(name="world", protocol="qvhighlights", clip_seconds=2, splits=dict(train="train.jsonl", val="train.jsonl"), sources=[
        dict(name="a", kind="video", dim=6, folder="a"), dict(name="b", kind="video", dim=4, folder="b"),
        dict(name="s", kind="text", dim=5, folder="s"), dict(name="t", kind="text", dim=3, folder="t")])
    (root / "world.yaml").write_text(yaml.safe_dump(data))
    return root / "world.yaml"


def recipe(data, **changes): return Config(data=str(data), model=ModelConfig(**SMALL), train=TrainConfig(epochs=2, batch_size=2, lr=1e-3)).with_changes(changes)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_awkward_videos_train(world, tmp_path, form):
    "A moment of the whole video, no irrelevant clip, one clip, a thousand clips: losses stay finite (a loss that does not raises) and metrics come out."
    out = train(recipe(world, **{"loss.form": form, "train.crop": 1.0, "train.stretch": 1.0}), tmp_path / "run", progress=False)
    brief = json.loads((out / "metrics_val.json").read_text())["brief"]
    assert np.isfinite(brief["MR-full-mAP"])


def test_feature_sets(world, tmp_path):
    "Some sources of the contract: the right columns, from folders and from the store, and a contract that says so."
    whole, part = Dataset(world, "train")[3], Dataset(world, "train", sources=["b", "s"])[3]
    assert np.array_equal(part["video"], whole["video"][:, 6:]) and np.array_equal(part["text"], whole["text"][:, :5])
    out = train(recipe(world, sources=["b", "s"]), tmp_path / "run", progress=False)
    model = load(out)
    assert (model.config.video_dim, model.config.text_dim) == (4, 5) and [s["name"] for s in model.contract["sources"]] == ["b", "s"]
    with pytest.raises(InputError, match="no source 'clip'"): train(recipe(world, sources=["clip"]), tmp_path / "other", progress=False)
    with pytest.raises(InputError, match="no text source"): train(recipe(world, sources=["b"]), tmp_path / "other", progress=False)


@pytest.fixture(scope="module")
def tvsum(tmp_path_factory, realdata_or_none):
    "TVSum with random features: the data set's own labels when they are at hand, drawn ones otherwise."
    root, rng = tmp_path_factory.mktemp("tvsum"), np.random.default_rng(0)
    for split in ("train", "val"):
        source = realdata_or_none and realdata_or_none / "tvsum" / f"tvsum_{split}_release.jsonl"
        if source and source.exists(): rows = [json.loads(line) for line in open(source)]
        else: rows = [dict(qid=f"{split}{d}{i}", vid=f"{split}{d}{i}", query="x", duration=24, domain=d, label=rng.integers(1, 6, (12, 20)).tolist())
                      for d in ("BK", "VU") for i in range(4 if split == "train" else 1)]
        for row in rows:
            clips = len(row["label"])
            np.save(root / f"{row['vid']}.npy", rng.normal(size=(clips, 6)).astype("f4"))
            np.savez(root / f"{row['vid']}.npz", token=rng.normal(size=(3, 5)).astype("f4"))
        (root / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = dict(name="tvsum", protocol="tvsum", clip_seconds=2, splits=dict(train="train.jsonl", val="val.jsonl"), sources=[
        dict(name="i3d", kind="video", dim=6, folder=".", file="{vid}.npy"), dict(name="text", kind="text", dim=5, folder=".", file="{vid}.npz", key="token")])
    (root / "tvsum.yaml").write_text(yaml.safe_dump(data))
    return root / "tvsum.yaml"


def test_tvsum_trains_a_domain_without_moments(tvsum, tmp_path):
    out = train(recipe(tvsum, **{"train.domain": "BK", "train.batch_size": 4}), tmp_path / "run", progress=False)
    brief = json.loads((out / "metrics_val.json").read_text())["brief"]
    assert set(brief) == {"mAP", "BK"} and brief["mAP"] == brief["BK"]
    assert len(Dataset(tvsum, "train", domain="BK")) == 4
    header = (out / "log.csv").read_text().splitlines()[0]
    assert "loss_rank" in header and "loss_span" not in header          # no matcher: saliency losses only
    with pytest.raises(InputError, match="no row of domain 'XX', only of BK"): train(recipe(tvsum, **{"train.domain": "XX"}), tmp_path / "other", progress=False)
