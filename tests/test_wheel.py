"The wheel, installed in a clean environment with the runtime extra alone."
import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

LIGHT = """spans config files cli features.video features.protocol features.frames features.builtin data.annotations data.store data.toyworld
evaluation.moments evaluation.highlights evaluation.reports evaluation.predictions explore.heatmaps deploy.sessions deploy.bundle deploy.exported
deploy.runtime deploy.precision deploy.bulk deploy.reel""".split()   # need no torch


def run(*command, **kwargs):
    "Run a command; its output, or a failure that shows it."
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy, so that nothing built earlier slips in."
    folder = tmp_path_factory.mktemp("build")
    for part in ("pyproject.toml", "README.md", "LICENSE"): shutil.copy(ROOT / part, folder)
    shutil.copytree(ROOT / "videolights", folder / "videolights", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    "The interpreter of a new environment that holds the wheel and what its runtime extra asks for."
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[runtime]")
    return python


def test_wheel_holds_what_the_package_tracks_and_nothing_else(wheel):
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    tracked = set(run("git", "ls-files", "--cached", "videolights", cwd=ROOT).split())
    assert packed == tracked
    assert {"videolights/py.typed", "videolights/deploy/static/bundle_readme.md.jinja"} <= packed


def test_modules_import_without_torch(clean, tmp_path):
    code = f"""
import importlib, importlib.util
import videolights as vl
for module in {LIGHT}: importlib.import_module("videolights." + module)
assert "site-packages" in vl.__file__ and importlib.util.find_spec("torch") is None, vl.__file__
try: vl.VideoLights
except ImportError as e: assert e.name == "torch", e
"""
    run(clean, "-I", "-c", code, cwd=tmp_path)


def test_runtime_never_imports_torch():
    times = subprocess.run([sys.executable, "-X", "importtime", "-c", "import videolights.deploy.runtime"], capture_output=True, text=True, check=True).stderr
    assert "videolights.deploy.runtime" in times
    assert "torch" not in times


def test_command_says_what_to_install(clean, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: data.yaml\n")
    done = subprocess.run([clean, "-I", "-m", "videolights", "train", "recipe.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'videolights[train]'" in done.stderr


def test_bundle_predicts(clean, tmp_path):
    bundle = ROOT / "exported" / "toyworld"
    if not (bundle / "contract.json").exists(): pytest.skip("no bundle in exported/toyworld; write it with `videolights export`")
    code = f"""
import json, numpy as np, videolights as vl
runtime = vl.Runtime.load({str(bundle)!r})
rng = np.random.default_rng(0)
p = runtime.predict(rng.normal(size=(23, runtime.contract["video_dim"])), rng.normal(size=(7, runtime.contract["text_dim"])))
print(json.dumps([p.windows.shape[1], p.windows[:, 2].tolist(), len(p.saliency), bool(np.isfinite(p.windows).all() and np.isfinite(p.saliency).all())]))
"""
    columns, confidences, clips, finite = json.loads(run(clean, "-I", "-c", code, cwd=tmp_path))
    assert columns == 3
    assert clips == 23
    assert finite
    assert confidences == sorted(confidences, reverse=True)
