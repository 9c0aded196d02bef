"Outputs take places of their own: no input is lost, no folder of other things, no device; and what was cut off while it was replaced is found again."
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from videolights import files
from videolights.cli import main
from videolights.config import DataConfig, InputError, ModelConfig
from videolights.data.store import FeatureStore, pack
from videolights.data.toyworld import make_toyworld
from videolights.deploy.bundle import open_bundle
from videolights.features.video import write_video
from videolights.files import atomic_path, read_json, read_jsonl, write_json, write_jsonl
from videolights.model.videolights import VideoLights, load
from videolights.training.checkpoints import save_checkpoint

BUNDLE = ROOT / "exported" / "toyworld"


def run(*words): return main([str(w) for w in words])


def contents(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A place as people have it: a data set, a bundle, a run, predictions and their truth, videos, a list."
    folder = tmp_path_factory.mktemp("whole")
    data = make_toyworld(folder / "toy", 2, 1, progress=False)
    pack(data, progress=False)
    shutil.copytree(BUNDLE, folder / "bundle")
    shutil.copytree(ROOT / "tests" / "data" / "before", folder / "before")
    (folder / "videos").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3)).astype(np.uint8)
    for name in ("a.mp4", "b.mp4"): write_video(folder / "videos" / name, frames, 10)
    write_jsonl(folder / "list.jsonl", [dict(video="videos/a.mp4", query="a red circle")])
    truth = read_jsonl(folder / "toy" / "annotations" / "val.jsonl")
    write_jsonl(folder / "truth.jsonl", truth)
    write_jsonl(folder / "found.jsonl", [dict(qid=row["qid"], pred_relevant_windows=[[0, 4, .9]], pred_saliency_scores=[0.0] * 80) for row in truth])
    (folder / "link.mp4").symlink_to(folder / "videos" / "a.mp4")
    return folder


@pytest.fixture
def place(whole, tmp_path, monkeypatch):
    "A copy to lose things in; paths are relative to it."
    shutil.copytree(whole, tmp_path / "place", symlinks=True)
    (tmp_path / "place" / "link.mp4").unlink()
    (tmp_path / "place" / "link.mp4").symlink_to(tmp_path / "place" / "videos" / "a.mp4")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


PREDICT, MANY, LIST = "predict bundle videos/a.mp4 circle", "predict bundle videos circle --out new.jsonl", "predict bundle list.jsonl"
SCORE, BUNDLED, OLD = "evaluate found.jsonl truth.jsonl", "evaluate bundle toy/toyworld.yaml", "evaluate before/run"


@pytest.mark.parametrize("words", [
    *(f"{PREDICT} --{option} {file}" for option, file in [
        ("out", "videos/a.mp4"), ("csv", "videos/a.mp4"), ("edl", "videos/../videos/a.mp4"), ("render", "link.mp4"), ("out", "bundle/contract.json"), ("csv", "bundle/model.onnx")]),
    f"{MANY} --csv videos/b.mp4", f"{LIST} --out list.jsonl", f"{LIST} --out new.jsonl --csv videos/a.mp4",
    f"{SCORE} --per-query truth.jsonl", f"{SCORE} --out found.jsonl", f"{BUNDLED} --out toy/toyworld.yaml", f"{BUNDLED} --per-query toy/annotations/val.jsonl",
    f"{BUNDLED} --out toy/store/index.json", f"{BUNDLED} --out toy/builtin_video/toy_val_0000.npz", f"{OLD} --out before/run/log.csv", f"{OLD} --per-query before/run/config.json",
    "report before/run --out before/run/log.csv", "benchmark bundle --out bundle/README.md", "explore bundle toy/toyworld.yaml --html toy/toyworld.yaml",
    "explore found.jsonl truth.jsonl --html found.jsonl"])
def test_an_output_is_none_of_the_inputs(words, place, capsys):
    before = contents(place)
    assert run(*words.split()) == 2
    error = capsys.readouterr().err
    assert "would be lost as its --" in error and "--overwrite" in error
    assert contents(place) == before


@pytest.mark.parametrize("words", [f"{PREDICT} --csv same.txt --edl same.txt", f"{PREDICT} --out same.txt --csv ./same.txt --overwrite", f"{SCORE} --out x/../same.txt --per-query same.txt"])
def test_two_outputs_have_two_names(words, place, capsys):
    assert run(*words.split()) == 2
    assert "is named by both" in capsys.readouterr().err
    assert not Path("same.txt").exists()


def test_overwrite_is_the_way_past(place):
    assert run(*f"{SCORE} --out found.jsonl --overwrite".split()) == 0
    assert "brief" in read_json("found.jsonl")
    assert run(*f"{PREDICT} --out link.mp4 --overwrite".split()) == 0
    assert Path("link.mp4").is_symlink()
    assert read_jsonl("videos/a.mp4")[0]["query"] == "circle"


@pytest.mark.parametrize("words, given", [(f"{PREDICT} --out", "many"), (f"{PREDICT} --json --out", "one"), (f"{SCORE} --out", "scores"), (f"{PREDICT} --csv", "table")])
def test_devices_and_pipes_are_written_through(words, given, place):
    code = "import sys; from videolights.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    kept = []
    os.mkfifo("pipe")
    reader = threading.Thread(target=lambda: kept.append(Path("pipe").read_text()), daemon=True)
    reader.start()
    assert subprocess.run([*command, "pipe"], env=env, capture_output=True).returncode == 0
    reader.join(10)
    assert Path("pipe").is_fifo()
    shown = subprocess.run([*command, "/dev/stdout"], env=env, capture_output=True, text=True)
    assert shown.returncode == 0 and kept[0] in shown.stdout
    with open("kept.txt", "w") as file: assert subprocess.run([*command, "/dev/stdout"], env=env, stdout=file).returncode == 0
    assert kept[0] in Path("kept.txt").read_text()
    assert subprocess.run([*command, os.devnull], env=env, capture_output=True).returncode == 0
    assert not Path(os.devnull).is_file()


@pytest.fixture
def checkpoint(place):
    model = VideoLights(ModelConfig(video_dim=96, text_dim=64, dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1))
    save_checkpoint(place / "checkpoint", model, DataConfig.load("toy/toyworld.yaml").contract())
    return "checkpoint"


@pytest.mark.parametrize("holds", [["model.onnx"], ["model.onnx", "contract.json", "notes.txt"], ["notes.txt"], ["contract.json", "encoder/mine.txt"], [".git/HEAD"]])
def test_export_replaces_bundles_alone(holds, checkpoint, place, capsys):
    for name in holds: Path("target", name).parent.mkdir(parents=True, exist_ok=True); Path("target", name).write_text("years of work")
    before = contents(place)
    assert run("export", checkpoint, "--out", "target") == 2
    assert ": holds " in capsys.readouterr().err
    assert contents(place) == before


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_run_takes_no_folder_that_is_no_checkpoint(name, place, capsys):
    write_json("recipe.json", dict(data="toy/toyworld.yaml", model=dict(dim=16, heads=2, feedforward=16), train=dict(epochs=1)))
    Path("mine", name).mkdir(parents=True)
    Path("mine", name, "photo.jpg").write_text("years of work")
    assert run("train", "recipe.json", "--out", "mine") == 2
    assert f"mine/{name}" in capsys.readouterr().err
    assert contents("mine") == {Path(name, "photo.jpg"): b"years of work"}


OPENERS = dict(bundle=("bundle", lambda: open_bundle("bundle")), store=("toy/store", lambda: FeatureStore.open(DataConfig.load("toy/toyworld.yaml"))),
               checkpoint=("checkpoint", lambda: load("checkpoint")), run=("before/run/best", lambda: load("before/run")))


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("swaps", [True, False])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new(name, swaps, checkpoint, place, monkeypatch, capfd):
    path, open_it = OPENERS[name]
    if not swaps: monkeypatch.setattr(files, "exchange", lambda a, b: False)
    kill = f"""
import os, shutil, sys
from videolights import files
if not {swaps}: files.exchange = lambda a, b: False
replace = os.replace
def once(a, b): replace(a, b); os._exit(9)
os.replace, files.exchange = once, (lambda a, b, swap=files.exchange: swap(a, b) and os._exit(9))
with files.atomic_path({path!r}) as draft: shutil.copytree({path!r}, draft)
"""
    done = subprocess.run([sys.executable, "-c", kill], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert Path(path).exists() == swaps
    open_it()
    assert ("the earlier one is back" in capfd.readouterr().err) != swaps
    with atomic_path(Path(path).parent / "anything.txt") as draft: draft.write_text("")     # whoever writes there next sweeps
    files._sweep.cache_clear()
    with atomic_path(Path(path).parent / "anything.txt") as draft: draft.write_text("")
    assert not [p for p in Path(path).parent.glob(".*") if p.suffix in (".tmp", ".old")]


def test_separators_of_lines_inside_sentences(place):
    "A line of JSON ends at a line feed alone, whatever a sentence holds."
    odd = "a red\u2028circle \x85 moves\u2029 up\x0b\x0c\x1c"
    rows = read_jsonl("truth.jsonl")
    for row in rows: row["query"] = odd
    write_jsonl("truth.jsonl", rows)
    assert [row["query"] for row in read_jsonl("truth.jsonl")] == [odd] * len(rows)
    assert run(*SCORE.split()) == 0
    write_jsonl("list.jsonl", [dict(video="videos/a.mp4", query=odd)])
    for _ in range(2): assert run(*f"{LIST} --out odd.jsonl".split()) == 0           # the second run goes on, and finds its answer
    assert [row["query"] for row in read_jsonl("odd.jsonl")] == [odd]
    with pytest.raises(InputError, match="line 2 is not valid JSON"):
        Path("odd.jsonl").write_text('{"qid": 1}\n{"qid": \u2028\n')
        read_jsonl("odd.jsonl")
