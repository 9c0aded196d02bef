"Extraction, synthesis, answers, grids and searches on a Ray cluster of two machines: workers and machines die, and the results are those of one machine."
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT
from filelock import FileLock

ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'videolights[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

from videolights.cli import main  # noqa: E402
from videolights.config import InputError  # noqa: E402
from videolights.data.toyworld import make_toyworld  # noqa: E402
from videolights.encoders import cluster  # noqa: E402
from videolights.encoders.captioners import get_captioner  # noqa: E402
from videolights.encoders.extraction import FAILURES, Job, encode_videos, extract, open_encoders  # noqa: E402
from videolights.encoders.synthesis import Recipe, synthesize  # noqa: E402
from videolights.files import read_json, read_jsonl, write_json, write_jsonl  # noqa: E402
from videolights.features.video import write_video  # noqa: E402
from videolights.training.grids import Grid, Interrupted, Workers, run_grid  # noqa: E402

pytestmark = pytest.mark.slow      # a minute: Ray starts a dozen processes


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory):
    stubs = tmp_path_factory.mktemp("stubs")
    (stubs / "rfc3987.py").touch()      # Ray imports jsonschema, and where jupyter is installed this compiles a grammar for seconds in each of Ray's processes, unless it finds this
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(stubs), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))      # workers import this file's classes
        try:
            machines = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, object_store_memory=100 * 2**20))
            machines.add_node(num_cpus=1, object_store_memory=100 * 2**20)
            ray.init(address=machines.address, log_to_driver=False)
        except Exception as e: pytest.skip(f"no Ray cluster can be started here ({type(e).__name__}: {str(e)[:100]})")
        yield machines
        ray.shutdown(); machines.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i in range(9): write_video(folder / f"v{i}.mp4", (np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((12, 12, 1))).astype(np.uint8) for _ in range(44)), 2)
    (folder / "letter.mp4").write_text("Dear editor,\n" * 50)
    return folder


def files(folder, pattern): return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob(pattern)) if p.is_file()}


def deadly(log, jobs, *details):
    "Encode videos in a worker that is killed in the middle of a chunk: once at v2, and whenever it opens v5."
    for job in jobs:
        with open(Path(log, "begun"), "a") as begun: begun.write(job.vid + "\n")
        if job.vid == "v5" or (job.vid == "v2" and not Path(log, "v2").exists()):
            Path(log, job.vid).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from encode_videos([job], *details)


def test_dead_workers_lose_nothing(two_machines, videos, tmp_path, monkeypatch):
    alone, shared, log = tmp_path / "alone", tmp_path / "shared", tmp_path / "log"
    log.mkdir()
    rows = [dict(qid=i, query="a grey noise", vid=f"v{i}", duration=22, relevant_windows=[[0, 4]]) for i in range(9)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    builtin = open_encoders(["builtin"])
    extract(videos, builtin, alone, annotations=[tmp_path / "train.jsonl"], progress=False)
    monkeypatch.setattr(cluster, "encode_videos", partial(deadly, log))      # travels to the workers with the work
    run, data, left = extract(videos, builtin, shared, annotations=[tmp_path / "train.jsonl"], progress=False, encode=cluster.encode_on_cluster(["builtin"], chunk=3))
    begun = (log / "begun").read_text().split()
    assert begun.count("v2") == 2
    assert begun.count("v5") == 3    # died once; given up after three
    assert set(run.failed) == {"v5", "letter"}
    assert "3 workers died of it" == run.failed["v5"]
    assert sorted(run.done) == [f"v{i}" for i in range(9) if i != 5]
    expected = files(alone, "*.npz")
    del expected[Path("builtin_features/v5.npz")]
    assert files(shared, "*.npz") == expected
    assert left == {"train": 1}
    assert not list(shared.rglob("*.tmp"))
    assert not (shared / ".parts").exists()
    assert {Path(r["video"]).stem for r in read_jsonl(shared / FAILURES)} == {"v5", "letter"}

    monkeypatch.undo()                                                                        # once more, with a decoder that bears v5: nothing else is touched
    before = {p: p.stat().st_mtime_ns for p in shared.rglob("v*.npz")}
    again, *_ = extract(videos, builtin, shared, annotations=[tmp_path / "train.jsonl"], progress=False, encode=cluster.encode_on_cluster(["builtin"]))
    assert again.done == ["v5"]
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert files(shared, "*").keys() == files(alone, "*").keys()
    for pattern in ("*.npz", "annotations/*"): assert files(shared, pattern) == files(alone, pattern)


@pytest.fixture
def third_machine(two_machines):
    machine = two_machines.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    yield machine
    if machine in two_machines.list_all_nodes(): two_machines.remove_node(machine)


@pytest.fixture
def seen(two_machines, third_machine, monkeypatch):
    "What comes back from the workers; with the first of it the third machine is taken away."
    stream, seen = cluster.stream, []

    def lose_a_machine(*args):
        for answer in stream(*args):
            if not seen: two_machines.remove_node(third_machine, allow_graceful=False)
            seen.append(answer)
            yield answer
    monkeypatch.setattr(cluster, "stream", lose_a_machine)
    return seen


def test_a_machine_goes_away_and_synthesis_is_the_same(seen, videos, tmp_path):
    stand_in, recipe = get_captioner("colours"), Recipe()
    one = synthesize(videos, stand_in, stand_in, tmp_path / "alone", recipe, progress=False)
    caption = cluster.caption_on_cluster(("colours", "", {}), ("colours", "", {}), chunk=2)
    two = synthesize(videos, stand_in, stand_in, tmp_path / "shared", recipe, progress=False, caption=caption)
    assert seen
    assert two["rows"] == one["rows"]
    assert two["captioned"] == one["captioned"] == 9
    assert list(two["failed"]) == list(one["failed"]) == ["letter"]
    assert files(tmp_path / "alone", "captions/*") == files(tmp_path / "shared", "captions/*")
    assert (tmp_path / "alone" / "examples.html").read_bytes() == (tmp_path / "shared" / "examples.html").read_bytes()


def test_a_worker_that_cannot_begin_is_one_line(two_machines, videos, tmp_path):
    work = cluster.Work(list, None, tmp_path / "unseen")
    with pytest.raises(InputError, match="does not see this folder"):
        list(cluster.stream(work, [Job("v0", videos / "v0.mp4")], 4))


def test_a_machine_goes_away_and_the_answers_are_the_same(seen, videos, tmp_path):
    for name, *engine in ("alone",), ("shared", "--engine", "ray"):
        out = tmp_path / name
        out.mkdir()
        assert main(["predict", str(ROOT / "exported/toyworld"), str(videos), "a red circle", "a star blinks", "--out", f"{out}/found.jsonl", "--csv", f"{out}/found.csv", *engine]) == 1
    assert {vid for vid, _ in seen} == {str(i) for i in range(10)}
    read = lambda name, ending: sorted(Path(tmp_path, name, f"found{ending}").read_text().splitlines())
    for ending in (".csv", ".jsonl", ".jsonl.failures.jsonl", ".jsonl.videos.jsonl"): assert read("shared", ending) == read("alone", ending)
    assert len(read("shared", ".jsonl")) == 18
    assert files(tmp_path / "shared", "*").keys() == files(tmp_path / "alone", "*").keys()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    data = make_toyworld(folder / "world", train_videos=8, val_videos=10, queries=2, progress=False)
    model = dict(video_dim=96, text_dim=64, dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1)
    write_json(folder / "base.yaml", dict(data=str(data), model=model, train=dict(epochs=4, batch_size=4)))
    write_json(folder / "grid.yaml", dict(base="base.yaml", rows={"paper": {}, "no FRA": {"model.refinement": "none"}}, seeds=[1, 2]))
    write_json(folder / "search.yaml", dict(base="base.yaml", space={"train.lr": dict(low=1e-4, high=1e-2, log=True)}, trials=2, change={"train.epochs": 1}))
    return folder / "grid.yaml"


def training_on(machine):
    "The process that trains there, once it has something to go on from."
    raylet = machine.all_processes["raylet"][0].process.pid
    while True:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []        # none of what has ended
            if "_train_watched" in str(command) and Path(command[-1], "last").exists() and raylet in [p.pid for p in process.parents()]: return process
        time.sleep(.01)


def test_a_machine_goes_away_and_the_table_is_the_same(two_machines, third_machine, grid, tmp_path, capsys):
    lost = []

    def lose_a_machine():
        process = training_on(third_machine)
        process.suspend()                       # so that it can't be done before
        lost.append(Path(process.cmdline()[-1]))
        two_machines.remove_node(third_machine, allow_graceful=False)
        with suppress(psutil.NoSuchProcess): process.resume()
    thread = threading.Thread(target=lose_a_machine, daemon=True)
    thread.start()
    assert main(["ablate", str(grid), "--out", str(tmp_path / "shared"), "--engine", "ray"]) == 0
    thread.join()
    run_grid(Grid.load(grid), tmp_path / "alone", progress=False)
    alone, shared = (read_json(tmp_path / name / "table.json") for name in ("alone", "shared"))
    for table in (alone, shared):
        del table["code"]
        for row in table["rows"].values(): assert len(row.pop("minutes")) == 2
    assert shared == alone
    begun = {run.name: len(list(run.glob("tensorboard/events*"))) for run in (tmp_path / "shared/runs").iterdir() if run.is_dir()}
    assert begun == {name: 1 + (name == lost[0].name) for name in begun}
    with capsys.disabled(): print(f"\nlost with its machine: {lost[0].name}; times begun: {json.dumps(begun)}\n{(tmp_path / 'shared/table.md').read_text()}")


def test_a_search_is_the_same(two_machines, grid, tmp_path):
    for name, *engine in ("alone",), ("shared", "--engine", "ray"): assert main(["tune", str(grid.with_name("search.yaml")), "--out", str(tmp_path / name), *engine]) == 0
    alone, shared = ([{**trial, "minutes": 0} for trial in read_json(tmp_path / name / "results.json")["trials"]] for name in ("alone", "shared"))
    assert shared == alone


def test_an_interrupt_ends_the_runs(two_machines, grid, tmp_path):
    workers, folder = Workers(1, cluster.train_on_cluster()), tmp_path / "run"
    endless = Grid.load(grid).config("paper", 1).with_changes({"train.epochs": 10**4})

    def interrupt():
        if (folder / "last").exists(): raise KeyboardInterrupt
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(workers.train, endless, folder)
        with pytest.raises(KeyboardInterrupt): workers.wait([future], interrupt)
    assert isinstance(future.exception(), Interrupted)
    with FileLock(f"{folder}.lock", timeout=60): assert not (folder / "done.json").exists()      # whoever trained lets go
