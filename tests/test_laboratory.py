"The laboratory: every word counts, pairs are minimal, a seed is one world everywhere, nothing of anybody's is lost, and a run stands beside its floors."
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import yaml

from videolights.cli import main
from videolights.config import Config, DataConfig, InputError, ModelConfig, TrainConfig
from videolights.data.laboratory import make_laboratory, scene_of
from videolights.data.store import check
from videolights.data.toyworld import COLOURS, MOTIONS, SHAPES
from videolights.files import read_array, read_json, read_jsonl

WORDS = {**{w: ("colour", w) for w in COLOURS}, **{w: ("shape", w) for w in SHAPES},
         **{w: ("motion", m) for m, (_, verb) in MOTIONS.items() for w in verb.split() if w not in ("travels", "around")}}
PICKS = ("first", "second", "before", "after")


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return make_laboratory(tmp_path_factory.mktemp("made") / "lab", 36, 12, progress=False)


def fits(event, words): return all(getattr(event, key) == value for key, value in (WORDS[w] for w in words if w in WORDS))


def find(events, words):
    "Places of the events that answer words which may lack some: read off the list, one by one."
    pick = next((w for w in words if w in PICKS), "")
    phrase, anchor = (words[:words.index("just")], words[words.index("just") + 1:]) if "just" in words else (words, [])
    found = [i for i, e in enumerate(events) if fits(e, phrase)]
    if pick in ("first", "second"): return found[("first", "second").index(pick):][:1]
    if "just" not in words: return found
    beside = lambda i, step: 0 <= i + step < len(events) and fits(events[i + step], anchor)
    steps = {"before": (1,), "after": (-1,)}.get(pick, (1, -1))
    return [i for i in found if any(beside(i, step) for step in steps)]


def test_every_word_counts():
    kinds = set()
    for number in range(60):
        _, script, rows = scene_of("train", number, seed=5)
        for row in rows:
            words, windows = row["query"].split(), [[e.start * 2, (e.start + e.clips) * 2] for e in script.events]
            found = find(script.events, words)
            assert [windows[i] for i in found] == row["relevant_windows"], row
            for i, word in enumerate(words):
                if word in WORDS or word in PICKS: assert find(script.events, words[:i] + words[i + 1:]) != found, (row, word)
            if row["kind"] == "order":
                at = words.index("just")
                assert find(script.events, words[at + 2:] + words[at:at + 2] + words[:at]) not in ([], found)
            kinds.add(row["kind"])
    assert kinds == {"attribute", "order", "ordinal", "several"}


def test_pairs_differ_in_a_word_and_in_their_answer(laboratory):
    pairs = {}
    for row in read_jsonl(laboratory.parent / "annotations/val.jsonl"):
        if "pair" in row: pairs.setdefault(row["pair"], []).append(row)
    assert len(pairs) > 12
    for pair in pairs.values():
        for a, b in combinations(pair, 2):
            assert a["vid"] == b["vid"] and a["kind"] == b["kind"] and a["relevant_windows"] != b["relevant_windows"]
            assert [x == y for x, y in zip(a["query"].split(), b["query"].split(), strict=True)].count(False) == 1
        assert len(pair) == 2


def test_a_seed_is_one_world_in_every_process(laboratory, tmp_path):
    assert main(["toyworld", str(tmp_path / "other"), "--preset", "hard", "--train-videos", "4", "--val-videos", "2", "--seed", "7"]) == 0
    make = "import sys; from videolights.data.laboratory import make_laboratory as m; m(sys.argv[1], 36, 12, progress=False)"
    for threads in "12":
        subprocess.run([sys.executable, "-c", make, tmp_path / threads], check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": threads})
    hashes = [read_json(folder / "settings.json")["sha256"] for folder in (laboratory.parent, tmp_path / "1", tmp_path / "2", tmp_path / "other")]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert hashes[0] in laboratory.read_text()
    assert main(["toyworld", str(tmp_path / "drawn"), "--preset", "hard", "--render", "--train-videos", "1", "--val-videos", "1", "--seed", "7"]) == 0
    drawn = DataConfig.load(tmp_path / "drawn/toyworld.yaml")
    assert check(drawn, progress=False) == [] and len(list((tmp_path / "drawn/videos").glob("*.mp4"))) == 2
    assert read_jsonl(drawn.path("annotations/val.jsonl")) == [r for r in read_jsonl(tmp_path / "other/annotations/val.jsonl") if r["vid"] == "toy_val_00000"]


def test_data_set_is_sound_and_its_parts_are_nested(laboratory, root, monkeypatch):
    data = DataConfig.load(laboratory)
    assert check(data, progress=False) == []
    rows = {split: read_jsonl(data.path(file)) for split, file in data.splits.items()}
    assert len(rows["train_250"]) == 250 and rows["train_250"] == rows["train"][:250]
    for split in ("val_bag", "val_masked"):
        for row, other in zip(rows["val"], rows[split], strict=True):
            assert row["relevant_windows"] == other["relevant_windows"] and row["query"] != other["query"]
            if split == "val_bag": assert sorted(row["query"].split()) == sorted(other["query"].split())
    monkeypatch.setenv("VIDEOLIGHTS_LABORATORY", str(laboratory.parent))
    recipe = DataConfig.load(root / "recipes/data/laboratory.yaml")
    assert recipe.sources == data.sources and recipe.contract() == data.contract() and recipe.path() == data.path()


def test_nothing_is_lost_and_what_was_cut_off_is_made_again(tmp_path, monkeypatch):
    folder = tmp_path / "lab"
    make_laboratory(folder, 3, 1, progress=False)
    whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with monkeypatch.context() as m:
        m.setattr(np, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): make_laboratory(folder, 4, 1, progress=False)
    assert "sha256" not in read_json(folder / "settings.json")
    assert all(len(read_array(p)) for p in folder.rglob("*.npy"))
    make_laboratory(folder, 3, 1, progress=False)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == whole
    (folder / "lab_text/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="mine.txt"): make_laboratory(folder, 3, 1, progress=False)
    with pytest.raises(InputError, match="choose another folder"): make_laboratory(tmp_path, 3, 1, progress=False)
    assert (folder / "lab_text/mine.txt").read_text() == "mine"


def test_a_run_stands_beside_its_floors(laboratory, tmp_path, capsys):
    model = ModelConfig(dim=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, slots=3)
    config = Config(data=str(laboratory), model=model, train=TrainConfig(epochs=1, train_split="train_250"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--floors", "--slices"]) == 0
    said = capsys.readouterr().out
    for floor in ("this run", "wrong videos", "words shuffled", "a word left out", "best window", "kind order"): assert f"\n{floor} " in said
