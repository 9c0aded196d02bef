"""Shared fixtures: where the project lives and where real data lies."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REALDATA = Path(os.environ.get("VIDEOLIGHTS_REALDATA", ROOT.parent / "shared" / "realdata"))


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
