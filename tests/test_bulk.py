"Many videos: what fails is listed and stops nothing, what was done is not done again, and an interruption leaves no trace in the answers."
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from videolights.deploy.bulk import Tally, predict_many
from videolights.cli import main
from videolights.config import InputError
from videolights.files import read_jsonl, write_jsonl
from videolights.deploy.runtime import Runtime
from videolights.features.video import write_video

BUNDLE = ROOT / "exported" / "toyworld"
GOOD = ["a b.mp4", "sub dir/#1 100%.MP4", "sub dir/été 日本.mp4"]
BAD = ["broken/empty.mp4", "broken/half.mp4", "broken/letter.mkv"]
QUERIES = ["a red circle", "a square grows"]


@pytest.fixture(scope="module")
def runtime(): return Runtime.load(BUNDLE, providers="cpu", threads=1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    "A folder as people have them: videos with odd names, broken ones, and things that are no videos."
    folder = tmp_path_factory.mktemp("archive")
    for i, name in enumerate(GOOD):
        frames = np.random.default_rng(i).integers(0, 255, (50 + 20 * i, 6, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / "new.mp4", frames, 10).rename(folder / name)
    (folder / "broken").mkdir()
    (folder / BAD[0]).write_bytes(b"")
    (folder / BAD[1]).write_bytes((folder / GOOD[0]).read_bytes()[:3000])
    (folder / BAD[2]).write_text("Dear editor,\n" * 100)
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def whole(runtime, archive, tmp_path_factory):
    "The answers of a run without interruption."
    out = tmp_path_factory.mktemp("whole") / "found.jsonl"
    assert predict_many(runtime, archive, QUERIES, out, progress=False) == Tally(answered=6, kept=0, failed=3)
    return out


def run(*words): return main([str(w) for w in words])


def test_every_video_is_answered_or_listed(runtime, archive, whole):
    rows, failures = read_jsonl(whole), read_jsonl(f"{whole}.failures.jsonl")
    assert [(row["video"], row["query"]) for row in rows] == [(video, query) for video in GOOD for query in QUERIES]
    for video in GOOD:
        alone = [p.to_dict() for p in runtime.predict_video(archive / video, QUERIES)]
        assert [{k: v for k, v in row.items() if k != "video"} for row in rows if row["video"] == video] == alone
    assert [f["video"] for f in failures] == BAD
    assert all(f["video"] in f["reason"] and "\n" not in f["reason"] for f in failures)


def test_a_killed_run_goes_on(runtime, archive, whole, tmp_path):
    out = tmp_path / "found.jsonl"
    code = f"""
import os, signal
import videolights.deploy.bulk as bulk
from videolights.deploy.runtime import Runtime
ask, videos = bulk.answer_pairs, []
def stop_in_the_third(runtime, folder, pairs, **options):
    videos.append(pairs[0].video)
    if videos[-1] == {GOOD[1]!r}:
        with open({str(out)!r}, "a") as half: half.write('{{"video": "sub dir/#1 100%.MP4", "query": "a r')
        os.kill(os.getpid(), signal.SIGKILL)
    return ask(runtime, folder, pairs, **options)
bulk.answer_pairs = stop_in_the_third
bulk.predict_many(Runtime.load({str(BUNDLE)!r}, providers="cpu", threads=1), {str(archive)!r}, {QUERIES!r}, {str(out)!r}, progress=False)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert not out.read_text().endswith("\n")
    assert len(out.read_text().splitlines()) == 3
    assert predict_many(runtime, archive, QUERIES, out, progress=False) == Tally(answered=4, kept=2, failed=3)
    assert out.read_bytes() == whole.read_bytes()
    assert len(read_jsonl(f"{out}.failures.jsonl")) == 3


def test_a_replaced_video_is_asked_about_again(runtime, archive, tmp_path, capsys):
    for i, name in enumerate(GOOD[1:]): shutil.copy(archive / name, tmp_path / f"{i}.mp4")
    out = tmp_path / "out.jsonl"
    ask = lambda *queries: predict_many(runtime, tmp_path, queries, out, progress=False)
    assert ask(*QUERIES) == Tally(4, 0, 0)
    shutil.copy(archive / GOOD[0], tmp_path / "0.mp4")
    assert ask(QUERIES[0]) == Tally(2, 1, 0)                                                      # what was asked before is asked again, too
    expected = [p.to_dict() for p in runtime.predict_video(tmp_path / "0.mp4", QUERIES)]
    assert [{k: v for k, v in row.items() if k != "video"} for row in read_jsonl(out) if row["video"] == "0.mp4"] == expected
    os.utime(tmp_path / "0.mp4")                                                                  # touched, not changed
    assert ask(*QUERIES) == Tally(0, 4, 0)
    (tmp_path / "0.mp4").write_bytes(b"")
    assert ask(*QUERIES) == Tally(0, 2, 1)
    assert [row["video"] for row in read_jsonl(out)] == ["1.mp4", "1.mp4"]
    (tmp_path / "1.mp4").unlink()
    assert ask(*QUERIES) == Tally(0, 0, 1)
    assert len(read_jsonl(out)) == 2                                                              # what is gone has not changed
    assert not capsys.readouterr().err


def test_answers_without_marks_are_taken_on_trust_once_and_said(runtime, archive, tmp_path, capsys):
    shutil.copy(archive / GOOD[0], tmp_path / "a.mp4")
    out, ask = tmp_path / "out.jsonl", lambda: predict_many(runtime, tmp_path, QUERIES, tmp_path / "out.jsonl", progress=False)
    ask(); (tmp_path / "out.jsonl.videos.jsonl").unlink()
    assert ask() == Tally(0, 2, 0)
    assert capsys.readouterr().err.count("taken on trust") == 1
    shutil.copy(archive / GOOD[1], tmp_path / "a.mp4")
    assert ask() == Tally(2, 0, 0)
    assert len(read_jsonl(out)) == 2
    assert not capsys.readouterr().err


def test_two_runs_at_once_write_nothing_twice(archive, whole, tmp_path):
    out = tmp_path / "found.jsonl"
    (tmp_path / "link.jsonl").symlink_to(out)
    out.touch()
    code = f"""
import sys, videolights.deploy.bulk as bulk
from videolights.config import InputError
from videolights.deploy.runtime import Runtime
runtime = Runtime.load({str(BUNDLE)!r}, providers="cpu", threads=1)
print("ready", flush=True); sys.stdin.readline()
try: print(bulk.predict_many(runtime, {str(archive)!r}, {QUERIES!r}, sys.argv[1], progress=False))
except InputError as e: print(e)
"""
    both = [subprocess.Popen([sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in (out, tmp_path / "link.jsonl")]
    for process in both: assert process.stdout.readline() == "ready\n"
    for process in both: process.stdin.write("go\n"); process.stdin.flush()
    said = [process.communicate()[0] for process in both]
    assert sum("answered=6" in text for text in said) == 1, said
    assert all("answered=" in text or "found.jsonl: is in use by another process (pid" in text for text in said), said
    assert out.read_bytes() == whole.read_bytes()


def test_a_video_is_read_once_for_all_its_queries(runtime, archive, tmp_path, monkeypatch):
    opened, real = [], runtime.predict_video
    monkeypatch.setattr(runtime, "predict_video", lambda path, queries: opened.append((path.name, len(queries))) or real(path, queries), raising=False)
    predict_many(runtime, archive / "sub dir", ["a star", "it blinks", "a dog", "a star"], tmp_path / "out.jsonl", progress=False)
    assert opened == [("#1 100%.MP4", 3), ("été 日本.mp4", 3)]
    predict_many(runtime, archive / "sub dir", ["a star", "rain"], tmp_path / "out.jsonl", progress=False)      # a further query of the same videos
    assert opened[2:] == [("#1 100%.MP4", 1), ("été 日本.mp4", 1)]
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 8


def test_a_list(runtime, archive, tmp_path):
    rows = [dict(qid=7, video="a b.mp4", query="a red circle"), dict(qid="x", video="a b.mp4", query="a red circle"),
            dict(video=str(archive / GOOD[2]), query="a star"),
            dict(video="none.mp4", query="a star"), dict(video="a b.mp4", query="привет"), dict(video="a b.mp4", query="a red circle", qid=7)]
    shutil.copy(archive / "a b.mp4", tmp_path)
    write_jsonl(tmp_path / "list.jsonl", rows)
    out = tmp_path / "out.jsonl"
    assert predict_many(runtime, tmp_path / "list.jsonl", [], out, progress=False) == Tally(answered=3, kept=0, failed=2)
    found, failures = read_jsonl(out), read_jsonl(f"{out}.failures.jsonl")
    assert [(r.get("qid"), r["video"], r["vid"]) for r in found] == [(7, "a b.mp4", "a b"), ("x", "a b.mp4", "a b"), (None, str(archive / GOOD[2]), "été 日本")]
    assert {f["video"]: f.get("query") for f in failures} == {"a b.mp4": "привет", "none.mp4": None}            # one query's fault, the video's fault


def test_a_name_that_is_no_text(runtime, archive, tmp_path):
    try: shutil.copy(archive / "a b.mp4", os.fsencode(tmp_path) + b"/odd\xff.mp4")
    except OSError: pytest.skip("this file system takes valid names only")
    for kept in (0, 1): assert predict_many(runtime, tmp_path, ["a star"], tmp_path / "out.jsonl", progress=False) == Tally(1 - kept, kept, 0)
    assert run("predict", BUNDLE, tmp_path, "a star", "--out", tmp_path / "out.jsonl", "--csv", tmp_path / "out.csv", "--edl", tmp_path / "out.edl", "--min-confidence", 0) == 0
    assert "odd?.mp4" in (tmp_path / "out.csv").read_text()
    assert "odd?.mp4" in (tmp_path / "out.edl").read_text()


def test_answers_never_mix(runtime, archive, whole, tmp_path):
    out = tmp_path / "found.jsonl"
    for ending in ("", ".run.json"): shutil.copy(f"{whole}{ending}", f"{out}{ending}")
    before = out.read_bytes()
    ask = lambda *where, **options: predict_many(*where, QUERIES, out, progress=False, **options)
    other = Runtime(runtime.session, {**runtime.contract, "files": {**runtime.contract["files"], "model.onnx": "0" * 64}})
    for refused, says in ((lambda: ask(other, archive), "another bundle"), (lambda: ask(runtime, archive / "sub dir"), "another source"),
                          (lambda: ask(runtime, archive, nms_threshold=.5), "another nms_threshold"),
                          (lambda: ask(runtime, archive, settings={"precision": "int8"}), "another precision")):
        with pytest.raises(InputError, match=says) as e: refused()
        assert str(out) in str(e.value)
        assert "--out" in str(e.value)
        assert "\n" not in str(e.value)
    (tmp_path / "found.jsonl.run.json").unlink()
    with pytest.raises(InputError, match="did not write"): ask(runtime, archive)
    assert out.read_bytes() == before


def test_the_command(archive, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ["predict", BUNDLE, archive, *QUERIES, "--out", out, "--csv", tmp_path / "out.csv", "--edl", tmp_path / "out.edl", "--top", 2, "--min-confidence", 0]
    code = f"import sys; from videolights.cli import main; code = main({list(map(str, command))!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "6 answered" in done.stdout
    assert f"failed: 3, see {out}.failures.jsonl" in done.stdout
    assert "Traceback" not in done.stderr
    table = (tmp_path / "out.csv").read_text().splitlines()
    assert table[0] == "video,query,start_s,end_s,confidence,rank"
    assert 6 <= len(table) - 1 <= 12
    assert str(archive / GOOD[2]) in table[-1]
    assert (tmp_path / "out.edl").read_text().count("FROM CLIP NAME") == len(table) - 1
    before = out.read_bytes(), table
    assert run(*command) == 1
    assert "0 answered, 6 were" in capsys.readouterr().out  # again: nothing new, the same table
    assert (out.read_bytes(), (tmp_path / "out.csv").read_text().splitlines()) == before
    (tmp_path / "out.edl").unlink()
    assert run(*command[:-2]) == 1
    assert "nothing to cut" in capsys.readouterr().err       # an edit list of moments that are hardly sure helps nobody; the table keeps every row
    assert ((tmp_path / "out.csv").read_text().splitlines(), (tmp_path / "out.edl").exists()) == (before[1], False)


@pytest.mark.parametrize("words, says", [
    (["{archive}"], "no query"), (["{archive}", "a star", " "], "query 2: the query is empty"), (["{archive}", "?!"], "holds no words"),
    (["{archive}", "a star", "--json"], "--json"), (["{archive}", "a star", "--render", "x.mp4"], "--render"), (["{tmp}", "a star"], "holds no videos"),
    (["{tmp}/none.jsonl"], "none.jsonl: no such file"), (["{tmp}/bad.jsonl"], "bad.jsonl: row 2"), (["{tmp}/bad.jsonl", "a star"], "brings its own"),
    (["{archive}", "a star", "--out", "{archive}"], "is a folder"), (["{archive}/a b.mp4"], "no query"),
    (["{archive}", "a star", "--out", "{tmp}/bad.jsonl"], "did not write")])
def test_bad_input_is_one_line(words, says, archive, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text(json.dumps(dict(video="a.mp4", query="a star")) + "\n" + json.dumps(dict(query="a star")) + "\n")
    before = sorted(os.listdir(tmp_path))
    assert run("predict", BUNDLE, *(w.format(archive=archive, tmp=tmp_path) for w in words)) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before
