"A model meets a data set in many places; in each of them features that are not those of its training are refused, or said."
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from videolights.cli import main, validation_split
from videolights.config import Config, DataConfig, InputError
from videolights.data.annotations import write_annotations
from videolights.data.store import Dataset
from videolights.deploy.export import export_onnx
from videolights.deploy.runtime import Runtime
from videolights.explore.page import open_all
from videolights.explore.report import write_report
from videolights.files import read_json, read_jsonl
from videolights.model.videolights import load
from videolights.training.loop import predict, train

MODEL = dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, slots=3, align_dim=8)
# one line and one paragraph separator, a next line, and a file separator: `str.splitlines` ends lines there, JSON lines go on
QUERIES = ["a dog\u2028runs", "waves \x85break", "a bus\u2029stops", "snow \x1cfalls"]


def source(name, kind, dim, **more): return dict(name=name, kind=kind, dim=dim, folder=name, **more)


SOURCES = [source("clips", "video", 6), source("words", "text", 4), source("nouns", "text", 4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A data set of four videos with two text sources of one width, a run of one epoch on it, and its bundle."
    folder, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    for name, dim in dict(clips=6, wide=8, words=4, nouns=4, more=4, narrow=3).items():
        (folder / name).mkdir()
        file, key = ("v{}.npz", "features") if name in ("clips", "wide") else ("qid{}.npz", "last_hidden_state")
        for i in range(4): np.savez(folder / name / file.format(i), **{key: rng.normal(size=(10 if key == "features" else 3, dim))})
    write_annotations(folder / "rows.jsonl", [dict(qid=i, vid=f"v{i}", query=q, duration=20, relevant_windows=[[4, 10]]) for i, q in enumerate(QUERIES)])
    values = dict(name="tiny", protocol="charades", clip_seconds=2, splits=dict(train="rows.jsonl", val="rows.jsonl"), sources=SOURCES)
    def save(**change): (folder / "data.yaml").write_text(yaml.safe_dump(values | change))
    save()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(data="data.yaml", model=MODEL, train=dict(epochs=1, batch_size=4))))
    recipe = Config.load(folder / "recipe.yaml")
    run = train(recipe, folder / "run", progress=False)
    export_onnx(load(run), folder / "bundle")
    return SimpleNamespace(folder=folder, data=folder / "data.yaml", recipe=recipe, run=run, bundle=folder / "bundle", save=save)


@pytest.fixture
def setting(trained):
    yield trained
    trained.save()      # the data set as it was


clips, words, nouns = SOURCES
CHANGED = {
    "two text sources change places": dict(sources=[clips, nouns, words]),
    "another name": dict(sources=[clips, words, {**nouns, "name": "more"}]),
    "not normalised": dict(sources=[clips, words, {**nouns, "normalize": False}]),
    "another width": dict(sources=[clips, words, source("nouns", "text", 3) | dict(folder="narrow")]),
    "a wider video": dict(sources=[source("clips", "video", 8) | dict(folder="wide"), words, nouns]),
    "a source less": dict(sources=[clips, words]),
    "longer clips": dict(clip_seconds=4),
    "another instant": dict(at=0.0),
}
DOORS = {
    "evaluate a bundle": lambda s, _: main(["evaluate", str(s.bundle), str(s.data)]),
    "evaluate a run": lambda s, _: main(["evaluate", str(s.run)]),
    "predict with a bundle": lambda s, _: Runtime.load(s.bundle).predict_dataset(Dataset(s.data, "val")),
    "predict with a checkpoint": lambda s, _: predict(load(s.run), Dataset(s.data, "val"), DataConfig.load(s.data)),
    "explore a run": lambda s, _: open_all([s.run], s.data),
    "explore a bundle": lambda s, _: open_all([s.bundle], s.data),
    "report": lambda s, tmp: write_report(tmp / "report.html", s.run),
    "export with scores": lambda s, _: validation_split(s.run, s.data),
    "export with scores on its own data": lambda s, _: validation_split(s.run),
    "resume": lambda s, tmp: train(s.recipe.with_changes({"train.epochs": 2}), shutil.copytree(s.run, tmp / "run"), resume=True, progress=False),
}


@pytest.mark.parametrize("door", DOORS)
def test_features_of_the_training_are_let_in(setting, door, tmp_path): assert DOORS[door](setting, tmp_path) != 2


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("door", DOORS)
def test_other_features_are_refused(setting, door, change, tmp_path, capsys):
    kept = (setting.run / "predictions_val.jsonl").read_bytes()
    setting.save(**CHANGED[change])
    if door.startswith("evaluate"):
        assert DOORS[door](setting, tmp_path) == 2
        said = capsys.readouterr().err
        assert said.startswith("videolights: error: ") and "unexpected" not in said
    else:
        with pytest.raises(InputError) as e: DOORS[door](setting, tmp_path)
        said = f"{e.value}\n"
    assert said.count("\n") == 1
    assert (setting.run / "predictions_val.jsonl").read_bytes() == kept


@pytest.mark.parametrize("door", [name for name in DOORS if not name.startswith(("predict", "resume"))])
def test_a_data_set_may_hold_more(setting, door, tmp_path):
    setting.save(sources=[clips, source("more", "text", 4), words, nouns])
    assert DOORS[door](setting, tmp_path) != 2


@pytest.mark.parametrize("key, value", [("max_words", 2), ("protocol", "custom"), ("sources", [clips, source("more", "text", 4), words, nouns])])
def test_a_run_goes_on_with_its_own_data(setting, tmp_path, key, value):
    setting.save(**{key: value})
    with pytest.raises(InputError, match="last: .*(another|differ)"): DOORS["resume"](setting, tmp_path)


@pytest.mark.parametrize("change", CHANGED)
def test_weights_that_go_on_with_other_data(setting, change, tmp_path, capsys):
    "Sources that both have must be alike; other differences may be meant, and are said."
    setting.save(**CHANGED[change])
    start = lambda: train(setting.recipe.with_changes({"train.start": str(setting.run)}), tmp_path / "run")
    if change in ("two text sources change places", "not normalised", "another width", "a wider video"):
        with pytest.raises(InputError, match="train.start: .*sources differ"): start()
        return
    differs = read_json(start() / "pretrained.json")["differs"]
    assert list(differs)[0] == {"longer clips": "clip_seconds", "another instant": "at"}.get(change, "sources")
    assert f"; other {list(differs)[0]} (" in next(line for line in capsys.readouterr().out.splitlines() if "pretrained:" in line)


@pytest.mark.parametrize("contract", [None, {"dataset": "tiny", "protocol": "charades"}])
def test_a_checkpoint_that_does_not_say_is_read_with_a_line(setting, contract, tmp_path, capsys):
    run = shutil.copytree(setting.run, tmp_path / "run")
    for part in ("best", "last"):
        file = run / part / "contract.json"
        if contract is None: file.unlink()
        else: file.write_text(json.dumps(contract))
    assert main(["evaluate", str(run)]) == 0
    assert "nothing could be compared" in capsys.readouterr().err
    train(setting.recipe.with_changes({"train.epochs": 2}), run, resume=True, progress=False)


def test_separators_in_queries_go_all_the_way(setting, tmp_path, capsys):
    "Written, packed, trained, scored, resumed, exported."
    run = shutil.copytree(setting.run, tmp_path / "run")
    for words in (["data", "check", setting.data], ["evaluate", run, "--per-query", tmp_path / "queries.csv"], ["evaluate", setting.bundle, setting.data],
                  ["evaluate", run / "predictions_val.jsonl", setting.folder / "rows.jsonl"], ["report", run]):
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    train(setting.recipe.with_changes({"train.epochs": 2}), run, resume=True, progress=False)
    assert [row["query"] for row in read_jsonl(run / "predictions_val.jsonl")] == QUERIES
