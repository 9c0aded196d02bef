"Training data from bare videos: a harsh folder, leakage, crash and resume, the tiny BLIP-2 end to end, and the command."
import json

import numpy as np
import pytest

from videolights.cli import main
from videolights.config import Config, DataConfig, InputError
from videolights.encoders import synthesis
from videolights.data.annotations import read_annotations
from videolights.encoders.captioners import get_captioner, get_matcher
from videolights.encoders.extraction import open_encoders, videos_by_id
from videolights.data.store import Dataset, check
from videolights.encoders.synthesis import Recipe, choose_videos, synthesize, to_queries
from videolights.files import read_json, read_jsonl, write_jsonl
from videolights.features.video import write_video

COLOURS = [(200, 35, 35), (50, 150, 60), (45, 75, 190), (240, 150, 50)]


def film(path, seconds, seed, fps=2):
    "A small square of one colour on another, both changing every ten seconds."
    rng = np.random.default_rng(seed)
    scenes = [rng.permutation(4)[:2] for _ in range(seconds // 10 + 1)]
    frames = np.zeros((round(seconds * fps), 48, 64, 3), np.uint8)
    for i in range(len(frames)):
        ground, thing = scenes[int(i / fps) // 10]
        frames[i] = COLOURS[ground]; frames[i, 14:34, 22:42] = COLOURS[thing]
    write_video(path, frames, fps)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i, (name, seconds) in enumerate({"a.mp4": 34, "zwei größere.mp4": 20, "short.mp4": 6, "sub/c.mp4": 47}.items()):
        (folder / name).parent.mkdir(exist_ok=True); film(folder / name, seconds, i)
    (folder / "empty.mp4").touch(); (folder / "letter.avi").write_text("Dear editor,\n" * 50); (folder / "letter.txt").write_text("Dear editor,\n" * 50)
    (folder / "half.mp4").write_bytes((folder / "a.mp4").read_bytes()[:1500])
    return folder


@pytest.fixture(scope="module")
def stand_in(): return get_captioner("colours")


def contents(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_harsh_folder_becomes_a_data_set(videos, stand_in, tmp_path):
    out = tmp_path / "out"
    result = synthesize(videos, stand_in, stand_in, out, encoders=open_encoders(["builtin"]), progress=False)
    assert set(result["failed"]) == {"empty", "half", "letter"}
    assert result["captioned"] == 4
    assert {row["video"].rpartition("/")[2] for row in read_jsonl(out / "caption_failures.jsonl")} == {"empty.mp4", "half.mp4", "letter.avi"}
    data = DataConfig.load(result["data"])
    assert check(data, progress=False) == []
    assert read_annotations(data.path(data.splits["train"]), clip_seconds=2) == result["rows"]
    assert {row["vid"] for row in result["rows"]} == {"a", "zwei größere", "c"}                      # six seconds make no interval
    for i, item in enumerate(Dataset(data, "train")):
        labels, row = item["saliency"], result["rows"][i]
        assert (labels[row["relevant_clip_ids"]] > 0).all()
        assert np.count_nonzero(labels) == len(row["relevant_clip_ids"])
        assert labels.max() <= 12
    page = (out / "examples.html").read_text()
    assert page.count("<img") == len(result["rows"])
    assert "http" not in page
    assert "<script" not in page


def test_captions_name_what_is_there_and_scores_follow(videos, stand_in, tmp_path):
    rows = synthesize(videos, stand_in, stand_in, tmp_path, progress=False)["rows"]
    words, scenes = dict(enumerate(("red", "green", "blue", "orange"))), [np.random.default_rng(0)]
    drawn = [scenes[0].permutation(4)[:2] for _ in range(4)]
    for row in (r for r in rows if r["vid"] == "a"):
        ground, thing = drawn[int(row["relevant_windows"][0][0] // 10)]
        assert row["query"] == f"something {words[thing]} in front of {words[ground]}"
        assert min(sum(s) for s in row["saliency_scores"]) > 10


@pytest.mark.parametrize("form", ["paper", "released"])
def test_a_cut_run_ends_as_an_uncut_one(videos, stand_in, tmp_path, monkeypatch, form):
    recipe = Recipe(saliency=form, frame="sharpest")
    synthesize(videos, stand_in, stand_in, tmp_path / "whole", recipe, progress=False)
    write, written = synthesis.write_json, []

    def power_cut(path, value):
        if "captions" in str(path):
            written.append(path)
            if len(written) == 3: raise KeyboardInterrupt
        write(path, value)
    monkeypatch.setattr(synthesis, "write_json", power_cut)
    with pytest.raises(KeyboardInterrupt): synthesize(videos, stand_in, stand_in, tmp_path / "cut", recipe, progress=False)
    monkeypatch.undo()
    assert len(list((tmp_path / "cut" / "captions").iterdir())) == 2
    assert not (tmp_path / "cut" / "queries").exists()
    again = synthesize(videos, stand_in, stand_in, tmp_path / "cut", recipe, progress=False)
    assert again["skipped"] == 2
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_damaged_record_is_named(videos, stand_in, tmp_path):
    synthesize(videos, stand_in, stand_in, tmp_path, progress=False)
    (tmp_path / "captions" / "a.json").write_text('{"vid": "a", ')
    with pytest.raises(InputError, match="captions/a.json: not valid JSON"): synthesize(videos, stand_in, stand_in, tmp_path, progress=False)


def test_held_out_videos_never_get_in(videos, stand_in, tmp_path):
    held = tmp_path / "val.jsonl"
    write_jsonl(held, [dict(qid=1, query="x", vid="c", duration=47, relevant_windows=[[0, 2]])])
    with pytest.raises(InputError, match=r"c\.mp4: video 'c' is held out by .*val\.jsonl"):
        synthesize(videos, stand_in, stand_in, tmp_path / "out", held_out=[held], progress=False)
    assert not (tmp_path / "out").exists()                                                           # before anything is done
    (tmp_path / "charades_test.txt").write_text("a 0.0 3.0##a person sits.\n")
    with pytest.raises(InputError, match="video 'a' is held out"): choose_videos(videos_by_id(videos)[0], held_out=[tmp_path / "charades_test.txt"])
    with pytest.raises(InputError, match="none of its videos"): choose_videos({"z": None}, only=[held])


def test_real_splits_do_not_leak(realdata):
    "The released splits of QVHighlights share no video, so its training videos pass and a validation video does not."
    files = {s: next((realdata / "qvhighlights" / "annotations").glob(f"*{s}*.jsonl")) for s in ("train", "val", "test")}
    found = {row["vid"]: f"{row['vid']}.mp4" for s in ("train", "val") for row in read_jsonl(files[s])}
    chosen = choose_videos(found, [files["train"]], [files["val"], files["test"]])
    assert 7000 < len(chosen) < len(found)
    with pytest.raises(InputError, match="is held out by .*val"): choose_videos(found, held_out=[files["val"], files["test"]])


def test_tiny_blip2_end_to_end(videos, tmp_path):
    pytest.importorskip("transformers")
    from videolights.encoders.blip2 import random_blip2, random_captioner
    weights, heads = random_captioner(tmp_path / "captioner"), random_blip2(tmp_path / "heads")
    out = {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        captioner = get_captioner("blip2", weights, device="cpu", sample=True)
        out[name] = synthesize(videos, captioner, get_matcher("blip2", heads, device="cpu"), tmp_path / name, Recipe(saliency="released", seed=seed), progress=False)
    records = [contents(tmp_path / name / "captions") for name in out]
    assert records[0] == records[1] != records[2]
    scores = [sum(s) for row in out["one"]["rows"] for s in row["saliency_scores"]]
    assert scores
    assert min(scores) > np.e - 1e-3
    assert max(scores) < np.exp(2.5) + 1e-3
    with pytest.raises(InputError, match="made with sample True, not False"):
        synthesize(videos, get_captioner("blip2", weights, device="cpu"), get_matcher("blip2", heads, device="cpu"), tmp_path / "one", Recipe(saliency="released", seed=1), progress=False)
    (heads / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no BLIP-2 could be loaded"): get_matcher("blip2", heads, device="cpu")


def test_filters():
    interval = lambda clip, caption: dict(clip=clip, frame=0, caption=caption, similarity=[.2] * 5)
    captions = ["a dog", "a blurry picture of the screen", "a man and a man and a man", "a girl pets a dog", "a girl pets a dog"]
    rows, dropped = to_queries([dict(vid="v", clips=25, intervals=[interval(5 * i, c) for i, c in enumerate(captions)])], Recipe())
    assert [(r["query"], r["relevant_windows"], len(r["saliency_scores"])) for r in rows] == [("a girl pets a dog", [[30, 50]], 10)]
    assert [d["reason"] for d in dropped] == ["too short", "generic", "repeats itself"]


def test_command(videos, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["synthesize", str(videos), "--captioner", "colours", "--sources", "builtin", "--out", str(out)]
    assert main(command) == 1                                                                        # some files failed
    said = capsys.readouterr().out
    assert "held out: nothing" in said
    assert f"{len(read_jsonl(out / 'queries' / 'train.jsonl'))}, 0 captions left out" in said
    assert "failed:   3 files" in said
    assert main(["train", "--help"]) == 0
    assert "--pretrained" in capsys.readouterr().out
    for wrong, says in ([*command[:2], "--captioner", "blip3", "--out", "x"], "choose from blip2, colours"), (command + ["--clip-seconds", "3"], "no whole number of clips"):
        assert main(wrong) == 2
        assert says in capsys.readouterr().err


def test_pretrain_then_fine_tune(videos, stand_in, tmp_path, capsys):
    pytest.importorskip("torch")
    result = synthesize(videos, stand_in, stand_in, tmp_path / "synthetic", encoders=open_encoders(["builtin"]), progress=False)
    config = Config.from_dict(dict(data=str(result["data"]), model=dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1), train=dict(epochs=1, eval_split="", batch_size=4)))
    (tmp_path / "pt.yaml").write_text(json.dumps(config.to_dict()))
    assert main(["train", str(tmp_path / "pt.yaml"), "--out", str(tmp_path / "pt")]) == 0
    assert main(["train", str(tmp_path / "pt.yaml"), "--pretrained", str(tmp_path / "pt"), "--lr", "1e-9", "--set", "model.slots=5", "--out", str(tmp_path / "tuned")]) == 0
    report = read_json(tmp_path / "tuned" / "pretrained.json")
    assert report["new"] == report["left"] and len(report["new"]) == 1, report["new"]          # the table of slots
    assert f"pretrained: {tmp_path / 'pt'}: {len(report['taken'])} tensors taken" in capsys.readouterr().out
    assert read_json(tmp_path / "tuned" / "config.json")["train"]["lr"] == 1e-9


def test_pretraining_recipes_fit_the_ones_they_prepare(root, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_DATA", "/data")
    for path in (root / "recipes").glob("*_pt.yaml"):
        one, two = (Config.load(p) for p in (path, path.with_name(path.name.replace("_pt", ""))))
        sources = [[(s.name, s.kind, s.dim, s.normalize) for s in DataConfig.load(c.data).sources] for c in (one, two)]
        assert one.model == two.model
        assert sources[0] == sources[1]
        assert one.train.eval_split == ""
        assert one.loss.align == 0.01
