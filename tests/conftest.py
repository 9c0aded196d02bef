"""Shared fixtures: where the project lives and where real data lies."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REALDATA = Path(os.environ.get("VIDEOLIGHTS_REALDATA", ROOT.parent / "shared" / "realdata"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="session")
def root() -> Path:
    "The project's root folder."
    return ROOT


@pytest.fixture(scope="session")
def realdata(realdata_or_none) -> Path:
    "The folder of real feature files and annotations; tests that need it are skipped where it is absent."
    if realdata_or_none is None: pytest.skip(f"no real data at {REALDATA}; set VIDEOLIGHTS_REALDATA to the folder that holds it")
    return realdata_or_none


@pytest.fixture(scope="session")
def realdata_or_none() -> Path | None:
    "The same folder, or None: for tests that real data only enrich."
    return REALDATA.resolve() if REALDATA.is_dir() else None


@pytest.fixture
def played(tmp_path, monkeypatch):
    "A data set and a base recipe in files, and a function that puts a script in place of `videolights train`. It returns the list of runs that were started, as (name, gpu)."
    data = dict(name="played", protocol="charades", clip_seconds=1, splits=dict(val="val.jsonl"), sources=[
        dict(name="v", kind="video", dim=4, folder="v"), dict(name="t", kind="text", dim=4, folder="t")])
    (tmp_path / "data.yaml").write_text(json.dumps(data))
    (tmp_path / "base.yaml").write_text("data: data.yaml\nmodel: {dim: 16, heads: 2}\ntrain: {epochs: 10, lr: 2.0}\n")

    def put(actor):
        started = []
        (tmp_path / "actor.py").write_text(actor)

        def play(config, folder, threads, gpu):
            started.append((folder.name, gpu))
            recipe = folder.with_name(f"{folder.name}.recipe.json")
            recipe.write_text(json.dumps(config.to_dict()))
            with open(folder.with_name(f"{folder.name}.log"), "a") as log:
                return subprocess.Popen([sys.executable, "-S", tmp_path / "actor.py", recipe, folder], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)

        monkeypatch.setattr("videolights.training.grids.start_run", play)
        monkeypatch.setattr("videolights.training.grids.gpus", lambda: 0)
        return started
    return put
