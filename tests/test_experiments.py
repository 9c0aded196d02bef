"""Grids of recipes: what is run, where, and what the table says. Most runs are played by a script that writes a run's files, so that nothing is trained."""
import csv
import json
import re

import numpy as np
import pytest
import torch
import yaml

from videolights.training import grids
from videolights.cli import main
from videolights.config import Config, InputError
from videolights.data.laboratory import make_laboratory
from videolights.evaluation.intervals import interval
from videolights.files import write_json
from videolights.training.grids import Grid, run_grid, to_latex, to_markdown, to_rows
from videolights.training.loop import train

QUERIES = [dict(qid=q, query="x", vid=f"v{q // 2}", duration=20, relevant_windows=[[0, 10]]) for q in range(24)]
ACTOR = """
import json, sys
from pathlib import Path
recipe, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
if recipe["train"]["seed"] == 13: sys.exit(print("/somewhere/else/data.yaml: this seed brings bad luck") or 2)
out.mkdir(parents=True, exist_ok=True)
end = 10 if recipe["model"]["refinement"] == "paper" else 8
rows = [dict(qid=q, query="x", vid=f"v{q // 2}", pred_relevant_windows=[[0, end, .9]]) for q in range(24)]
(out / "predictions_val.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
brief = {"MR-R1@0.5": 100.0, "MR-mIoU": 10.0 * end + recipe["train"]["seed"] % 10}
(out / "metrics_val.json").write_text(json.dumps(dict(epoch=1, brief=brief)))
(out / "log.csv").write_text("epoch,seconds\\n1,60\\n")
"""


@pytest.fixture
def stage(tmp_path, played):
    "A grid, and an actor in place of `videolights train`. Returns a function that writes a grid's file, and the list of runs that were started."
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    started = played(ACTOR)

    def write(**grid):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(dict(base="base.yaml", rows={"paper": {}, "no FRA": {"model.refinement": "none"}}, seeds=[11, 12]) | grid, sort_keys=False))
        return tmp_path / "grid.yaml"
    return write, started


def test_a_failed_run_is_reported_and_the_rest_finished(stage, tmp_path, capsys):
    write, started = stage
    path = write(seeds=[11, 13])
    assert main(["ablate", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 2
    said, table = capsys.readouterr(), json.loads((tmp_path / "out/table.json").read_text())
    assert "2 runs failed" in said.err
    assert len(started) == 4
    assert [r["seeds"] for r in table["rows"].values()] == [[11], [11]]
    assert all("data.yaml: this seed brings bad luck" in why for why in table["failed"].values())
    assert not any("/" in why for why in table["failed"].values())                       # no folders of this machine in what is kept
    assert "Failed:" in (tmp_path / "out/table.md").read_text()
    for name in re.findall(r"- `(\S+)`", said.out): assert (tmp_path / "out/runs" / f"{name}.log").exists()
    (tmp_path / "actor.py").write_text(ACTOR.replace("== 13", "== 99"))                  # put right: only what failed is run again
    assert main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 0
    again = json.loads((tmp_path / "out/table.json").read_text())
    assert len(started) == 6
    assert all(r["seeds"] == [11, 13] for r in again["rows"].values())
    assert again["failed"] == {}
    assert {p.name for p in (tmp_path / "out/figures").iterdir()} >= {"mr-r1-0.5.html", "mr-miou.html"}


def test_the_table_in_every_form(stage, tmp_path):
    write, _ = stage
    grid = Grid.load(write(title="Played", paper=dict(source="a paper", rows={"paper": {"mIoU": 99.9}})))
    table, failed = run_grid(grid, tmp_path / "out", progress=False)
    assert not failed
    paper, changed = to_rows(table)
    assert (paper["MR-mIoU"], paper["MR-mIoU spread"]) == (101.5, pytest.approx(np.sqrt(.5), abs=.005))
    lines = {line.split(" | ")[0]: line for line in to_markdown(table).splitlines() if "±" in line}
    assert lines["| paper"].endswith("| **100.0** ± 0.0 | **101.5** ± 0.7 | 2 |")
    assert lines["| no FRA"].endswith("| **100.0** ± 0.0 | 81.5 ± 0.7 | 2 |")                         # a tie has two best
    assert changed["difference"] == -20
    pair = table["rows"]["no FRA"]["paired"][""]
    assert pair["difference"] == pytest.approx(-20)
    assert pair["low"] == pytest.approx(-20)
    assert pair["p"] < .01
    assert table["rows"]["paper"]["paired"] == {}
    assert (pair["queries"], pair["videos"], pair["seeds"]) == (24, 12, 2)
    assert pair["verdict"] == changed["verdict"] == "differs"
    text = (tmp_path / "out/table.md").read_text()
    assert text == to_markdown(table)
    assert "**101.5** ± 0.7" in text
    assert "| no FRA | -20.0 | -20.0 to -20.0 | < 0.001 | differs |" in text
    ours, theirs = text.split("Published, not measured here (a paper)")
    assert "99.9" in theirs
    assert "99.9" not in ours
    assert "**" not in theirs
    latex = (tmp_path / "out/table.tex").read_text()
    assert latex == to_latex(table)
    assert latex.count(r"\\") == 3
    assert r"\textbf{101.5} $\pm$ 0.7" in latex
    assert "99.9" not in latex
    rows = list(csv.DictReader(open(tmp_path / "out/table.csv")))
    assert [r["row"] for r in rows] == ["paper", "no FRA"]
    assert float(rows[1]["MR-mIoU"]) == 81.5
    assert float(rows[1]["difference"]) == -20


def test_a_grid_says_first_what_it_can_tell(stage, tmp_path, capsys):
    "A plan trains nothing; spreads and minutes come from finished rows once there are some; old tables, without verdicts, are still read."
    write, started = stage
    path = str(write(seeds=[1, 2, 3, 4, 5]))
    assert main(["ablate", path, "--out", str(tmp_path / "out"), "--plan"]) == 0
    planned = capsys.readouterr().out
    assert not started and not (tmp_path / "out").exists()
    assert "2 x 1 x 5 = 10 runs, 10 to do; how long is not known" in planned
    assert re.search(r"24 queries of 12 videos can tell differences of \d+\.\d points .* one point takes \d+ seeds, or (\d+|over 999) times the videos \(spreads of charades_clip\)", planned)
    assert main(["ablate", path, "--out", str(tmp_path / "out")]) == 0
    assert planned in capsys.readouterr().out
    assert main(["ablate", path, "--out", str(tmp_path / "out"), "--plan"]) == 0
    again = capsys.readouterr().out
    assert "0 to do; 1.0 minutes each, 5 a row" in again and "differences of 0.0 points" in again and "rows that are done" in again
    table = json.loads((tmp_path / "out/table.json").read_text())
    for name in ("verdict", "spread", "resolvable"): del table["rows"]["no FRA"]["paired"][""][name]
    assert "| -20.0 to -20.0 | < 0.001 | - |" in to_markdown(table) and to_rows(table)[1]["difference"] == -20


def test_several_sets(stage, tmp_path):
    "Columns say their set, each set has its own difference, and a row may be unfinished on one of them."
    write, started = stage
    (tmp_path / "wide.yaml").write_text("data: data.yaml\nmodel: {dim: 32, heads: 2}\n")
    grid = Grid.load(write(sets={"small": {}, "wide": {"base": "wide.yaml"}, "unlucky": {"train.lr": 0.5}}, metrics=["MR-mIoU"], seeds=[11]))
    assert grid.config("no FRA", 11, "wide").model.dim == 32 and len(grid.runs()) == 6
    (tmp_path / "actor.py").write_text(ACTOR.replace('recipe["train"]["seed"] == 13', 'recipe["train"]["lr"] == 0.5 and recipe["model"]["refinement"] == "none"'))
    table, failed = run_grid(grid, tmp_path / "out", progress=False)
    assert table["metrics"] == ["small MR-mIoU", "wide MR-mIoU", "unlucky MR-mIoU"] and len(failed) == 1
    assert table["rows"]["no FRA"]["values"] == {"small MR-mIoU": [81.0], "wide MR-mIoU": [81.0], "unlucky MR-mIoU": []}
    assert set(table["rows"]["no FRA"]["paired"]) == {"small", "wide"} and table["rows"]["no FRA"]["seeds"] == []
    assert "| no FRA wide | -20.0 |" in to_markdown(table)


def test_runs_share_the_gpus(stage, tmp_path, monkeypatch):
    write, started = stage
    monkeypatch.setattr(grids, "gpus", lambda: 2)
    run_grid(Grid.load(write(seeds=[1, 2])), tmp_path / "out", progress=False)
    assert {gpu for _, gpu in started[:2]} == {0, 1}


@pytest.mark.parametrize("lr", [1e-05, 1e-4, 2.5e-7])
def test_a_run_s_recipe_is_read_as_it_was_written(tmp_path, lr):
    "JSON writes 0.00001 as 1e-05, which YAML takes for text: recipes beside runs are read as JSON."
    config = Config(data=str(tmp_path / "data.yaml")).with_changes({"train.lr": lr})
    write_json(tmp_path / "run.recipe.json", config.to_dict())
    assert Config.load(tmp_path / "run.recipe.json") == config
    (tmp_path / "run.recipe.json").write_text('{"train": ')
    with pytest.raises(InputError, match="run.recipe.json: not valid JSON"): Config.load(tmp_path / "run.recipe.json")


def test_names_follow_everything_that_matters(stage):
    write, _ = stage
    names = set(Grid.load(write()).runs())
    assert names == set(Grid.load(write(title="another", paper={})).runs())
    assert not names & set(Grid.load(write(change={"train.lr": 0.01})).runs()) and all(re.fullmatch(r"[a-z0-9.-]+-1[12]-[0-9a-f]{8}", n) for n in names)


@pytest.mark.parametrize("grid, said", [
    (dict(rows={}), "rows is empty"), (dict(seeds=[]), "seeds is empty"), (dict(base=""), "give the grid a base"), (dict(colour=1), "unknown key 'colour'"),
    (dict(rows={"a": {"model.preset": "detr"}}), "row 'a': model preset is 'detr'"), (dict(sets={"b": {"loss.rnak": 1.0}}), "did you mean 'rank'"),
    (dict(paper={"row": {}}), "paper: unknown key 'row'"), (dict(rows={"a": {"base": "none.yaml"}}), "none.yaml: no such file")], ids=str)
def test_a_wrong_grid_is_refused_before_anything_runs(stage, grid, said):
    with pytest.raises(InputError, match=said): Grid.load(stage[0](**grid))


def test_the_paired_test_keeps_its_word():
    "Equal rows differ by nothing; of true intervals about 95 % hold the truth; queries of one video count as one when they agree."
    rng = np.random.default_rng(0)
    scores = lambda gain, noise, each=1: {str(q): [f"v{q // each}", float(gain + noise[q])] for q in range(len(noise))}
    noise = 30 * rng.normal(size=120)
    few = interval([scores(5, noise[:9])], [scores(0, noise[:9])])
    assert few["difference"] == pytest.approx(5) and few["low"] is few["high"] is few["p"] is None        # nine videos are no evidence
    same = interval([scores(0, noise)] * 3, [scores(0, noise)] * 3)
    assert same["difference"] == same["low"] == same["high"] == 0 and same["p"] == 1
    held = 0
    for _ in range(60):
        found = interval([scores(5, 20 * rng.normal(size=80))], [scores(0, 20 * rng.normal(size=80))])
        held += found["low"] <= 5 <= found["high"]
    assert held >= 50
    video = np.repeat(20 * rng.normal(size=30), 10)                        # ten queries a video, all alike
    apart, together = (interval([scores(3, video, each)], [scores(0, 0 * video, each)]) for each in (1, 10))
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])


def test_shipped_grids(root, monkeypatch):
    "Every grid of the repository can be run as it is; the small ones speak of charades_clip; published figures stay apart."
    for name in ("VIDEOLIGHTS_DATA", "VIDEOLIGHTS_REALDATA"): monkeypatch.setenv(name, "/data")
    paths = sorted((root / "recipes/tables").glob("*.yaml"))
    assert {p.stem for p in paths} == {"charades_clip", "charades-figures", "laboratory-curve", *(f"laboratory-table{n}" for n in (5, 6, 7)), "released-small", "quality-small", "settings-small", "fig7", "fig7-small", *(f"table{n}" for n in range(2, 9)), *(f"table{n}-small" for n in (5, 6, 7))}
    grids, readme = {p.stem: Grid.load(p) for p in paths}, (root / "recipes/README.md").read_text()
    for name, grid in grids.items():
        assert f"{name}.yaml" in readme
        for *_, config in grid.runs().values():
            assert (root / "recipes/data" / config.data.rsplit("/", 1)[1]).exists()
            if name.endswith("-small"): assert (config.model.dim, config.train.epochs) == (64, 8) and config.data.endswith("charades_clip.yaml")
    shared = grids["laboratory-table5"].runs().keys() & grids["laboratory-table6"].runs().keys()
    assert len(shared) == 5 and all(name.startswith("all-") for name in shared)                      # with one --out they are trained once
    assert grids["laboratory-table5"].config("all", 2018) == Config.load(root / "recipes/laboratory.yaml")
    everything = grids["table5-small"].config("all", 2018)
    assert everything == Config.load(root / "recipes/charades_clip.yaml")                            # all parts together are the recipe
    assert {len(v) for v in grids["table2"].paper["rows"].values()} == {7} and len(grids["table2"].paper["rows"]) == 9
    for part in grids["table7-small"].sets:
        without, with_fra = (grids["table7-small"].config(row, 2018, part).model for row in ("without FRA", "with FRA"))
        assert with_fra.refinement == "paper" != without.refinement


def test_a_row_of_table_v_in_a_small_laboratory(root, tmp_path, monkeypatch):
    "The shipped grid, cut to one row, one seed and two epochs, in a laboratory of a few videos: the command's figures are those of the same recipe trained by hand."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = make_laboratory(tmp_path / "laboratory", 6, 3, progress=False)
    shipped = yaml.safe_load((root / "recipes/tables/laboratory-table5.yaml").read_text())
    cut = {"data": str(data), "train.epochs": 2, "train.batch_size": 16}
    base = str(root / "recipes/laboratory.yaml")
    grid = dict(base=base, change=shipped["change"] | cut, rows={"FRA": shipped["rows"]["FRA"]}, seeds=[2018], metrics=["MR-full-mAP", "HL-min-Fair-mAP"])
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert main(["ablate", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/table.json").read_text())["rows"]["FRA"]
    config = Config.load(base).with_changes(shipped["change"] | shipped["rows"]["FRA"] | cut | {"train.seed": 2018})
    torch.set_num_threads(1)
    train(config, tmp_path / "by_hand", progress=False)
    by_hand = json.loads((tmp_path / "by_hand/metrics_val.json").read_text())["brief"]
    assert {m: values[0] for m, values in found["values"].items()} == {m: by_hand[m] for m in ("MR-full-mAP", "HL-min-Fair-mAP")}
    assert "±" not in (tmp_path / "out/table.md").read_text()                                        # one seed has no spread


@pytest.mark.parametrize("name", ["table5", "table6", "table7", "fig7", "settings", "quality", "released"])
def test_committed_tables_are_those_of_the_shipped_grids(root, monkeypatch, name):
    monkeypatch.setenv("VIDEOLIGHTS_REALDATA", "/data")
    grid, table = Grid.load(root / f"recipes/tables/{name}-small.yaml"), json.loads((root / f"benchmarks/results/{name}-small.json").read_text())
    measured = {row: (r["changes"], r["seeds"]) for row, r in table["rows"].items()}
    dropped = {row for row, (changes, _) in measured.items() if changes.keys() & {"loss.quality", "loss.layer_matches"}}    # options that did not help and are gone
    assert len(dropped) == (2 if name == "quality" else 0)
    assert {row: found for row, found in measured.items() if row not in dropped} == {row: (changes, grid.seeds) for row, changes in grid.rows.items()}
    assert table["change"] == grid.change
