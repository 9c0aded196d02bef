"""Shared fixtures: where the project lives and where real data lies."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    "The project's root folder."
    return ROOT


@pytest.fixture(scope="session")
def realdata() -> Path:
    "The folder of real feature files and annotations; tests that need it are skipped where it is absent."
    folder = Path(os.environ.get("VIDEOLIGHTS_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set VIDEOLIGHTS_REALDATA to the folder that holds it")
    return folder.resolve()


@pytest.fixture(scope="session")
def realdata_or_none() -> Path | None:
    "The same folder, or None: for tests that real data only enrich."
    folder = Path(os.environ.get("VIDEOLIGHTS_REALDATA", ROOT.parent / "shared" / "realdata"))
    return folder.resolve() if folder.is_dir() else None
