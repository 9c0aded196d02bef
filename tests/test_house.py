"What keeps the house in order: settings, folders, notebook order and size, the figures of `make house`, lazy imports."
import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec

import house
import pytest
from conftest import ROOT

import videolights as vl

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NUMBERED = house.notebooks()
FOLDERS = "core features data model losses evaluation training deploy explore encoders cli".split()
name = lambda path: str(path.relative_to(ROOT / "nbs"))


LIMITS = dict(tokens=142_100, median=12, p90=28, longest=60, wide=0, unseen=0, chained=0, shapeless=0)
PAPER_SHARE = 0.1205      # of all tokens: model and losses


def cells(path, kind): return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def exported_module(path):
    "Dotted name of the module that a notebook exports."
    found = re.findall(r"^#\| default_exp (\S+)", "\n".join(cells(path, "code")), re.M)
    assert len(found) == 1, f"{name(path)} should name one module to export"
    return f"videolights.{found[0]}"


def test_settings_agree():
    project, settings = tomllib.loads((ROOT / "pyproject.toml").read_text()), configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    facts, nbdev = dict(settings["DEFAULT"]), project["tool"]["nbdev"]
    expected = {key: str(value) for key, value in nbdev.items() if key != "update_pyproject"}
    about = project["project"]
    expected |= dict(lib_name=about["name"], version=vl.__version__, min_python=about["requires-python"].removeprefix(">="), license=about["license"],
                     author=about["authors"][0]["name"], description=about["description"], keywords=", ".join(about["keywords"]))
    assert {k: v.lower() for k, v in facts.items()} == {k: v.lower() for k, v in expected.items()}
    assert f"version: {vl.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_small_and_introduced(path):
    assert path.stat().st_size <= 500_000
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"]
    first = notebook["cells"][0]
    text = "".join(first["source"])
    assert first["cell_type"] == "markdown" and text.startswith("# ") and "\n> " in text


def pictures(path):
    "Sizes in bytes of the saved pictures of a notebook."
    outputs = [out.get("data", {}) for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    return [len("".join(data[kind])) * 3 // 4 for data in outputs for kind in ("image/png", "image/jpeg") if kind in data]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name in ("model", "losses", "explore")], ids=name)
def test_rooms_of_the_paper_show_a_picture(path):
    assert pictures(path) and max(pictures(path)) <= 60_000


def test_folders_mirror_the_package():
    for path in NUMBERED:
        stem = re.sub(r"^\d\d_", "", path.stem)
        own = stem if house.folder(path) in ("core", "cli") else f"{house.folder(path)}.{stem}"
        assert exported_module(path) == f"videolights.{own}"
    assert list(dict.fromkeys(house.folder(p) for p in NUMBERED)) == FOLDERS, "numbers grow from folder to folder"
    numbers = [p.name[:2] for p in NUMBERED]
    assert len(set(numbers)) == len(numbers)
    for folder in FOLDERS[:-1]: assert 3 <= sum(house.folder(p) == folder for p in NUMBERED) <= 14, folder


def imported_modules(source):
    "Modules that a cell imports, each `from package import module` as one."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_numeric_order_is_dependency_order():
    modules = {exported_module(p): p.name for p in NUMBERED}
    wrong = [f"{path.name} imports {imported} of {modules[imported]}"
             for path in NUMBERED for out, source in house.code_cells(path) if out
             for imported in imported_modules(source) if modules.get(imported, "") > path.name]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_notebook():
    hand_written = {"__init__.py", "__main__.py", "_modidx.py"}
    files = {p for p in (ROOT / "videolights").rglob("*.py") if p.name not in hand_written}
    assert files == {ROOT / f"{exported_module(p).replace('.', '/')}.py" for p in NUMBERED}


def test_house_keeps_its_figures():
    "Limits that were reached once; `make house` prints where a folder stands, `make house ALL=1` each notebook."
    f = house.figures()
    for figure, limit in LIMITS.items(): assert f[figure] <= limit, f"{figure} is {f[figure]}, the limit {limit}; see `make house ALL=1`"
    assert not f["twice"], f"one name, one thing: {f['twice']}"
    assert f["paper"] / f["tokens"] >= PAPER_SHARE


def test_readme_maps_the_house():
    readme = (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        if path.name == "index.ipynb": continue
        summary = re.search(r"^> (.+)$", cells(path, "markdown")[0], re.M)[1]
        assert f"| [{path.stem}](nbs/{name(path)}) | {summary} |" in readme, f"{name(path)} is not in the README's map (nbs/index.ipynb) with its summary"
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", readme)]
    assert not [link for link in links if not (ROOT / link).exists()], "these links of the README lead nowhere"
    for block in re.findall(r"```python\n(.*?)```", readme, re.S): compile(block, "README.md", "exec")


def fresh(code):
    "Run code in a fresh interpreter; its output."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_import_is_light():
    heavy = "[m for m in ('torch', 'onnxruntime', 'onnx', 'scipy', 'plotly', 'av', 'transformers') if m in sys.modules]"
    assert fresh(f"import sys, videolights as vl; vl.Config; vl.ModelConfig; print({heavy})") == "[]"
    assert fresh(f"import sys, videolights.cli as c; c.main(['--version']); print({heavy})").endswith("[]")
    assert "torch" not in fresh(f"import sys, videolights.deploy.runtime, videolights.data.store, videolights.evaluation.reports; print({heavy})")


def test_public_names_resolve():
    for public in vl.__all__: assert getattr(vl, public).__doc__, f"vl.{public} needs a docstring"
    assert set(vl.__all__) <= set(dir(vl))
    with pytest.raises(AttributeError): vl.Nothing


def test_old_modules_say_where_they_are():
    for old, new in vl._MOVED.items():
        assert find_spec(f"videolights.{new}"), f"{new} is no module"
        with pytest.raises(ModuleNotFoundError, match=f"is videolights.{new} since"): import_module(f"videolights.{old}")
    with pytest.raises(ImportError, match="is videolights.training.loop.train since"): from videolights.training import train  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="No module named 'videolights.nothing'"): import_module("videolights.nothing")


def test_public_names_are_typed(tmp_path):
    "What a type checker sees of the lazy names."
    (tmp_path / "look.py").write_text("import videolights as vl\nreveal_type(vl.Runtime.load)\nreveal_type(vl.train)\n")
    done = subprocess.run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, tmp_path / "look.py"],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("Type of") == 2, done.stdout + done.stderr
    assert "Unknown" not in done.stdout


def test_ci_runs_make_test():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_shipped_bundles_are_small():
    for bundle in (p for p in (ROOT / "exported").glob("*") if p.is_dir()):
        assert sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file()) < 5_000_000, f"{bundle} is too large to ship"
