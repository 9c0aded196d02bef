"""Searches: what is drawn, stopped, resumed and refused. Most runs are played by a script that writes a run's log, so that nothing is trained."""
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from videolights.training import search as tuning
from videolights.cli import main
from videolights.config import Config, InputError
from videolights.data.toyworld import make_toyworld
from videolights.files import locked
from videolights.training.grids import Grid, Interrupted
from videolights.training.loop import train
from videolights.training.search import Search, tune

ACTOR = """
import json, os, sys, time
from pathlib import Path
recipe, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
t = recipe["train"]
if recipe["loss"]["giou"] == 7: sys.exit("/far/away/run: loss became nan")
out.mkdir(parents=True, exist_ok=True)
(out / "pid").write_text(str(os.getpid()))
for epoch in range(1, t["epochs"] + 1):
    score = t["lr"] * epoch + (t["seed"] % 10) / 1000
    log = "epoch,seconds,MR-R1@0.5,MR-R1@0.7,MR-mIoU\\n" + "".join(f"{e},6,{score * e / epoch},{score * e / epoch},{score * e / epoch}\\n" for e in range(1, epoch + 1))
    (out / "log.tmp").write_text(log); (out / "log.tmp").replace(out / "log.csv")
    if t["lr"] < 1: time.sleep(0.2)
brief = {"MR-R1@0.5": score, "MR-R1@0.7": score, "MR-mIoU": score}
(out / "metrics_val.json").write_text(json.dumps(dict(epoch=t["epochs"], brief=brief)))
"""
SPACE = {"train.lr": dict(low=.1, high=10., log=True), "model.fusion": ["bi", "uni"]}


@pytest.fixture
def stage(tmp_path, played):
    "An actor in place of training. Returns a function that writes and loads a search, and the list of runs that were started."
    started = played(ACTOR)

    def write(**search):
        (tmp_path / "search.yaml").write_text(yaml.safe_dump(dict(base="base.yaml", space=SPACE, trials=8, startup=2, warmup=1, seeds=[11]) | search, sort_keys=False))
        return Search.load(tmp_path / "search.yaml")
    return write, started


def summary(found): return sorted((row["trial"], row["state"], row["score"], row["epochs"], str(row["changes"])) for row in found["trials"])


def alive(pid):
    try: os.kill(pid, 0); return True
    except ProcessLookupError: return False


def test_a_search_finds_prunes_and_writes_recipes(stage, tmp_path):
    write, started = stage
    search, out = write(trials=12), tmp_path / "out"
    found = tune(search, out, progress=False)
    rows = {row["trial"]: row for row in found["trials"]}
    assert len(started) == len(rows) == 12
    assert rows[0]["changes"] == {"train.lr": 2.0, "model.fusion": "bi"}
    assert rows[0]["state"] == "finished"
    slow = [row for row in found["trials"] if row["state"] == "stopped early"]
    assert slow
    assert all(2 <= row["epochs"] < 10 and row["changes"]["train.lr"] < 10 for row in slow)
    for row in slow:                                                                       # stopped, not merely left out: slow actors never wrote their last epochs
        folder, = (path for path in (out / "runs").glob(f"trial-{row['trial']:03d}-*") if path.is_dir())
        assert not alive(int((folder / "pid").read_text())) and not (folder / "done.json").exists()
        if row["changes"]["train.lr"] < 1: assert len((folder / "log.csv").read_text().splitlines()) - 1 < 10
    best = found["trials"][0]
    assert best["score"] == max(row["score"] for row in rows.values()) > rows[0]["score"]
    assert best["trial"] == found["best"]
    assert Config.load(out / "best.yaml") == search.config(best["changes"], 11)
    grid = Grid.load(out / "check.yaml")
    assert grid.seeds == [12, 13, 14]
    assert grid.config("tuned", 12) == search.config(best["changes"], 12)
    assert grid.config("base", 12) == search.config({}, 12)
    text = (out / "results.md").read_text()
    assert text.count("\n| ") >= 12
    assert f"Best: trial {found['best']}" in text
    assert found == json.loads((out / "results.json").read_text())
    figure = tuning.tuning_figure(found)
    assert len(figure.data[1].x) == 12
    assert sum(symbol == "circle-open" for symbol in figure.data[1].marker.symbol) == len(slow)


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(stage, tmp_path, monkeypatch):
    "Whatever the moment: a trial that was running is taken up again under its number, and nothing is counted twice."
    write, started = stage
    search = write(seeds=[11, 12])
    whole = tune(search, tmp_path / "whole", progress=False)
    count, report, reports = len(started), tuning.optuna.Trial.report, []

    def die_after_seven(trial, value, step):
        report(trial, value, step); reports.append(1)
        if len(reports) == 7: raise Interrupted("power cut")
    monkeypatch.setattr(tuning.optuna.Trial, "report", die_after_seven)
    with pytest.raises(InputError, match="power cut"): tune(search, tmp_path / "cut", progress=False)      # in the middle of an epoch
    monkeypatch.setattr(tuning.optuna.Trial, "report", report)
    assert summary(tune(search, tmp_path / "cut", progress=False)) == summary(whole)
    before = len(started)
    assert count < before <= 2 * count + 1
    assert summary(tune(search, tmp_path / "cut", progress=False)) == summary(whole)
    assert len(started) == before                                                          # what is done is not run again
    longer = tune(replace(search, trials=9), tmp_path / "cut", progress=False)
    assert set(summary(whole)) < set(summary(longer))
    assert len(longer["trials"]) == 9


def test_a_search_goes_on_from_every_state_of_its_journal(stage, tmp_path):
    "Killed when a trial was trained but its verdict not yet written, when the next was not yet begun, when it was drawn by half."
    search = stage[0](seeds=[11, 12])
    whole = tune(search, tmp_path / "whole", progress=False)
    lines = (tmp_path / "whole/journal.log").read_bytes().splitlines(keepends=True)
    verdicts = [k for k, line in enumerate(lines) if b"datetime_complete" in line]
    assert len(verdicts) == 8
    for k in (verdicts[0], verdicts[3], verdicts[3] + 1, verdicts[3] + 3, len(lines) - 1):
        cut = shutil.copytree(tmp_path / "whole", tmp_path / f"cut{k}")
        (cut / "journal.log").write_bytes(b"".join(lines[:k]) + lines[k][:len(lines[k]) // 2])
        assert summary(tune(search, cut, progress=False)) == summary(whole), lines[k]


def test_ctrl_c_ends_the_runs_and_leaves_their_trials_open(stage, tmp_path, monkeypatch):
    "Two slow runs at once; who waits for them is interrupted, as by Ctrl-C. Taken up again, by one job."
    write, started = stage
    search, runs = write(trials=2, change={"train.lr": .2}), tmp_path / "out/runs"

    def status(study):
        if len(list(runs.glob("*/pid"))) == 2: raise KeyboardInterrupt
        return ""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tuning, "_status", status)
        tune(search, tmp_path / "out", jobs=2, progress=False)
    assert not any(alive(int(pid.read_text())) for pid in runs.glob("*/pid"))
    assert not list(runs.glob("*/done.json"))
    assert {trial.state.name for trial in tuning.open_study(search, tmp_path / "out").trials} == {"WAITING"}
    found = tune(search, tmp_path / "out", progress=False)
    assert [row["state"] for row in found["trials"]] == ["finished"] * 2
    assert len(started) == 4


def test_several_seeds_and_several_jobs(stage, tmp_path):
    write, started = stage
    found = tune(write(seeds=[11, 12], trials=5), tmp_path / "out", jobs=3, progress=False)
    best = found["trials"][0]
    assert len(found["trials"]) == 5 and best["epochs"] == 20 and best["score"] == pytest.approx(10 * best["changes"]["train.lr"] + .0015)
    assert next(row for row in found["trials"] if row["trial"] == 0)["state"] == "finished"


def test_failed_trials_are_reported_and_a_base_that_fails_ends_the_search(stage, tmp_path, capsys):
    write, started = stage
    write(space={"loss.giou": [1.0, 7.0]}, trials=6)
    assert main(["tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "out")]) == 0
    said, found = capsys.readouterr(), json.loads((tmp_path / "out/results.json").read_text())
    failed = [row for row in found["trials"] if row["state"] == "failed"]
    assert failed
    assert all(row["why"] == "run: loss became nan" for row in failed)
    assert f"- trial {failed[0]['trial']}: run: loss" in said.out
    assert f"videolights train {tmp_path}/out/best.yaml" in said.out
    assert (tmp_path / "out/figures/trials.html").exists()
    write(change={"loss.giou": 7.0})
    assert main(["tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "bad")]) == 2
    assert "the base recipe cannot be trained: run: loss became nan" in capsys.readouterr().err
    (tmp_path / "actor.py").write_text(ACTOR.replace("== 7", "== 99"))                     # put right: the same command goes on
    assert main(["tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "bad"), "--trials", "2"]) == 0


def test_a_folder_keeps_to_its_search_and_to_one_at_a_time(stage, tmp_path):
    write, _ = stage
    search = write(trials=1)
    tune(search, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="another space"): tune(write(trials=1, space={"train.lr": [1.0, 2.0]}), tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="another base"): tune(write(trials=1, change={"train.epochs": 3}), tmp_path / "out", progress=False)
    with locked(tmp_path / "out"), pytest.raises(InputError, match="is in use by another process"): tune(search, tmp_path / "out", progress=False)


@pytest.mark.parametrize("search, said", [
    (dict(space={}), "space is empty"), (dict(space={"train.lrr": [1., 2.]}), "did you mean 'lr'"), (dict(space={"colour": [1, 2]}), "unknown key 'colour'"),
    (dict(space={"train.lr": dict(low="1e-4", high=1.)}), "1.0e-4"), (dict(space={"train.lr": dict(low=3., high=1.)}), "`low <= high` must hold"), (dict(space={"train.lr": [2.0]}), "two or more"),
    (dict(space={"train.lr": dict(low=0., high=4., log=True)}), "`low > 0` must hold"), (dict(space={"train.lr": dict(low=3., high=4.)}), "leaves out the base recipe.* value 2.0"), (dict(space={"train.lr": 1e-3}), "list of two or more choices"),
    (dict(space={"model.dim": dict(low=14, high=18, step=2)}), "dim is 14"), (dict(space={"model.dim": dict(low=8.5, high=16)}), "should be int, found 8.5"), (dict(space={"model.fusion": dict(low=1, high=2)}), "should be str"),
    (dict(space={"model.fusion": ["bi", "both"]}), "choose from"), (dict(space={"train.seed": [1, 2]}), "under change"), (dict(trials=0), "trials is 0"), (dict(seeds=[]), "seeds is empty"),
    (dict(change={"train.eval_split": "test"}), "validation split"), (dict(base="none.yaml"), "none.yaml: no such file"), (dict(colour=1), "unknown key 'colour'")], ids=str)
def test_a_wrong_search_is_refused_before_anything_runs(stage, tmp_path, capsys, search, said):
    with pytest.raises(InputError, match=said): stage[0](**search)
    assert main(["tune", str(tmp_path / "search.yaml")]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_killed_while_it_trains(tmp_path, monkeypatch):
    "A real search on rendered videos, killed without warning: its run dies with it, and the same command ends where an uninterrupted search ends."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    toy = make_toyworld(tmp_path / "toy", train_videos=4, val_videos=2, queries=2, progress=False)
    model = dict(video_dim=96, text_dim=64, dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(dict(data=str(toy), model=model, train=dict(epochs=3, batch_size=2, lr=1e-3))))
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(dict(base="base.yaml", space={"train.lr": dict(low=1e-4, high=1e-2, log=True)}, trials=2)))
    command = [sys.executable, "-m", "videolights", "tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "cut")]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while not (logs := list((tmp_path / "cut/runs").glob("trial-000-*/log.csv"))) and search.poll() is None and time.time() < deadline: time.sleep(0.02)
    search.kill(); search.wait()
    assert logs and not (logs[0].parent / "done.json").exists(), "the run ended before the search could be killed: make it longer"
    time.sleep(1)
    rows = logs[0].read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(rows.splitlines()) < 4, "the run outlived its search"
    ended = SimpleNamespace(poll=lambda: 0, returncode=0, terminate=int, wait=int, stdin=SimpleNamespace(close=int))
    monkeypatch.setattr("videolights.training.grids.start_run", lambda config, folder, *_: (train(config, folder, progress=False), ended)[1])      # in this process, undisturbed
    whole = tune(Search.load(tmp_path / "search.yaml"), tmp_path / "whole", progress=False)
    assert summary(json.loads((tmp_path / "cut/results.json").read_text())) == summary(whole)


def test_shipped_searches(root, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_REALDATA", "/data")
    for path in sorted((root / "recipes/tuning").glob("*.yaml")):
        search = Search.load(path)
        assert search.trials >= 10 and search.config({}, 1).train.eval_split == "val"
