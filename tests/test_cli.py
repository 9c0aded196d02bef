"""The command line: the whole path on a tiny world, and bad input.

Every bad input must give one line (file, item, cure), an exit code other than 0, no traceback, and leave earlier results as they were.
"""
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from videolights.cli import app, document, main
from videolights.files import read_json, read_jsonl, write_jsonl

TINY = dict(dim=32, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, slots=4, align_dim=16)


def run(*words): return main([str(w) for w in words])


def contents(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def refused(capsys):
    "Runs a command that must fail with one line, and returns the line."
    def check(*words, code=2, also=()):
        capsys.readouterr()
        found = run(*words)
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("videolights: error: ")]
        assert found == code, (found, out, err)
        assert len(lines) == 1, err
        assert "Traceback" not in out + err
        for text in also: assert text in lines[0], (text, lines[0])
        return lines[0]
    return check


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "A tiny world, its store, a run of one epoch and a bundle, each made by its command."
    folder = tmp_path_factory.mktemp("made")
    assert run("toyworld", folder / "world", "--train-videos", 3, "--val-videos", 2) == 0
    data = next((folder / "world").glob("*.yaml"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(dict(data=f"world/{data.name}", model=TINY, train=dict(epochs=1, batch_size=4))))
    assert run("data", "check", data) == 0
    assert run("data", "pack", data) == 0
    assert run("train", folder / "recipe.yaml", "--out", folder / "run") == 0
    assert run("export", folder / "run", "--out", folder / "bundle") == 0
    video = next((folder / "world").rglob("*.mp4"))
    return dict(folder=folder, world=folder / "world", data=data.name, recipe=folder / "recipe.yaml", run=folder / "run", bundle=folder / "bundle",
                video=video)


@pytest.fixture
def world(made, tmp_path):
    "A copy of the tiny world to spoil, with its YAML file, its first validation row and that row's files."
    folder = tmp_path / "world"
    shutil.copytree(made["world"], folder, ignore=shutil.ignore_patterns("*.mp4"))
    class World:
        path = folder / made["data"]
        values = yaml.safe_load(path.read_text())
        labels = folder / values["splits"]["val"]
        rows = read_jsonl(labels)
        store = folder / values.get("store", "store")
        def source(self, kind): return next(s for s in self.values["sources"] if s["kind"] == kind)
        def file(self, kind):
            source = self.source(kind)
            name = source.get("file") or ("{vid}.npz" if kind == "video" else "qid{qid}.npz")
            return folder / source["folder"] / name.format(vid=self.rows[0]["vid"], qid=self.rows[0]["qid"])
        def array(self, kind, change):
            source = self.source(kind)
            key = source.get("key") or ("features" if kind == "video" else "last_hidden_state")
            path = self.file(kind)
            np.savez(path, **{key: change(np.load(path)[key])})
        def save(self): self.path.write_text(yaml.safe_dump(self.values)); write_jsonl(self.labels, self.rows)
    return World()


# the whole path ------------------------------------------------------------------------------------------------------------------

def test_evaluate_run_and_file_agree(made, capsys):
    assert run("evaluate", made["run"], "--out", made["folder"] / "a.json") == 0
    table = capsys.readouterr().out
    truth = made["world"] / yaml.safe_load((made["world"] / made["data"]).read_text())["splits"]["val"]
    assert run("evaluate", made["run"] / "predictions_val.jsonl", truth, "--protocol", "qvhighlights", "--out", made["folder"] / "b.json") == 0
    a, b = read_json(made["folder"] / "a.json"), read_json(made["folder"] / "b.json")
    assert a == b
    assert "brief" in a
    assert "mAP" in table


def test_predict_in_a_fresh_process_without_torch(made):
    code = f"""
import sys
from videolights.cli import main
code = main(["predict", {str(made['bundle'])!r}, {str(made['video'])!r}, "a red circle", "a square moves", "--json"])
assert code == 0 and "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["query"] for r in rows] == ["a red circle", "a square moves"]
    for row in rows:
        confidences = [w[2] for w in row["pred_relevant_windows"]]
        assert confidences == sorted(confidences, reverse=True)
        assert len(row["pred_saliency_scores"]) > 1


def test_predict_prints_a_table(made, capsys):
    assert run("predict", made["bundle"], made["video"], "a red circle", "--top", 2) == 0
    out = capsys.readouterr().out
    assert '"a red circle"' in out
    assert "confidence" in out
    assert len(out.strip().splitlines()) == 4


# what the command line says -------------------------------------------------------------------------------------------------------

VERBS = ["data check", "data pack", "toyworld", "extract", "synthesize", "train", "ablate", "tune", "evaluate", "convert", "export", "benchmark",
         "predict", "serve", "report", "explore", "demo"]


def function_of(verb):
    "The function behind a verb, its parameters with their help."
    function = app.parse_commands(verb.split())[1][-1].default_command
    document(function)
    return function


def test_bare_command_shows_every_verb(capsys):
    assert run() == 0
    out = capsys.readouterr().out
    assert "start here:\n  videolights demo" in out
    for verb in VERBS: assert re.search(rf"^│ {verb.split()[0]} ", out, re.M), verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb, capsys):
    assert run(*verb.split(), "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: videolights {verb} " in out
    assert f"examples:\n  videolights {verb}" in out
    assert " ".join(function_of(verb).__doc__.split("\n")[0].split()) in " ".join(out.split())   # lines may be wrapped


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_has_help(verb):
    def check(described):
        for name, kind in described.__annotations__.items():
            if hasattr(kind, "__dataclass_fields__"): check(kind)
            elif name != "return": assert kind.__metadata__[-1].help, f"{verb}: {name} needs a comment on its line"
    check(function_of(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_examples_can_be_copied(verb):
    examples = function_of(verb).__doc__.partition("examples:")[2]
    lines = examples.replace("\\\n", " ").replace("&&", "\n").splitlines()
    words = [shlex.split(line) for line in lines if line.split()[:1] == ["videolights"]]
    assert words
    assert max(len(line) - 4 for line in examples.splitlines()) <= 80, "a terminal of 80 columns would break this line"
    for _, *line in words: app.parse_args(line, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("words,says", [
    ("trian x.yaml", 'Did you mean "train"?'), ("data chek x.yaml", 'Did you mean "check"?'), ("train x.yaml --epoch 3", "Did you mean --epochs?"),
    ("explore a --htlm b c", "Did you mean --html?"), ("predict a b c --precison int8", "Did you mean --precision?"),
    ("train x.yaml --epochs 1.5", "--epochs: '1.5' is not a whole number"), ("benchmark b --batch 1 0", "--batch: '0' is not a whole number"),
    ("serve b --timeout nan", "--timeout: 'nan' is not a number above 0"), ("evaluate a --protocol qvh", '"qvhighlights"'), ("train", "RECIPE"),
    ("extract v --sources builtin", "--out"), ("train x.yaml y.yaml", "y.yaml"), ("train x.yaml --set", "--set")])
def test_wrong_words(words, says, refused): refused(*words.split(), also=[says, "--help`"])


def test_values_of_lists(made):
    "As the old command line took them: several values at once, several times, and lists between positional words."
    given = lambda line: app.parse_args(line, exit_on_error=False, print_error=False)[1].arguments
    assert given("train x.yaml --set a=b c=d --set e=f --resume")["set_"] == ("a=b", "c=d", "e=f")
    assert given("benchmark x --batch 1 32 --clips 75")["batch"] == (1, 32)
    assert given("explore a b c.yaml --port 1")["sources"] == ("a", "b")
    assert given("predict b v.mp4 --json 'a star' 'a ball'")["queries"] == ("a star", "a ball")
    assert given("predict b v.mp4 -- '-x'")["queries"] == ("-x",)
    assert given("extract v --sources=clip --out o --weights clip=a slowfast=b")["work"].weights == ("clip=a", "slowfast=b")
    assert given("train x.yaml --epochs 1 --epochs 2")["epochs"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX shell")
def test_reader_may_leave():
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m videolights --help | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["Usage: videolights COMMAND", "0"]
    assert done.stderr == ""


def test_help_loads_no_arrays():
    code = "import sys; from videolights.cli import main; main(['--help']); print(sorted({'numpy', 'torch', 'markdown_it'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "videolights", "train", "nowhere.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere.yaml" in done.stderr
    shown = subprocess.run([sys.executable, "-m", "videolights", "--debug", "train", "nowhere.yaml"], capture_output=True, text=True)
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr


# data -----------------------------------------------------------------------------------------------------------------------------

SPOILED = {
    "missing array": (lambda w: w.file("video").unlink(), ["no such file"]),
    "wrong width": (lambda w: w.array("video", lambda x: x[:, :-1]), ["columns", "the contract says"]),
    "wrong width of words": (lambda w: w.array("text", lambda x: np.hstack([x, x])), ["columns", "the contract says"]),
    "unreadable array": (lambda w: w.file("video").write_bytes(w.file("video").read_bytes()[:100]), ["cannot be read"]),
    "no array": (lambda w: w.file("text").write_text("not an array"), ["cannot be read"]),
    "zero clips": (lambda w: w.array("video", lambda x: x[:0]), ["clip"]),
    "NaN": (lambda w: w.array("video", lambda x: np.where(np.arange(len(x))[:, None] == 1, np.nan, x)), ["NaN"]),
    "infinite": (lambda w: w.array("text", lambda x: x + np.inf), ["infinite"]),
    "empty query": (lambda w: w.rows[0].update(query="  "), ["empty query"]),
    "window outside": (lambda w: w.rows[0].update(relevant_windows=[[900, 910]]), ["window", "outside"]),
    "duplicate qid": (lambda w: w.rows.append(w.rows[0]), ["duplicate"]),
    "missing labels": (lambda w: w.labels.unlink(), ["no such file"]),
    "labels cut short": (lambda w: w.labels.write_text(w.labels.read_text()[:-20]), ["JSON"]),
}


def spoil(world, name):
    change, says = SPOILED[name]
    change(world)
    if "labels" not in name: world.save()
    return says


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_data(name, world, made, refused, capsys, tmp_path):
    says, before = spoil(world, name), contents(world.store)
    assert run("data", "check", world.path) in (1, 2)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and any(all(s in line for s in says) for line in (out + err).splitlines()), out + err
    if name != "window outside": refused("data", "pack", world.path, also=says)   # windows are no part of a store
    assert before and contents(world.store) == before, "an earlier store must survive"
    shutil.rmtree(world.store)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dict(data=str(world.path), model=TINY, train=dict(epochs=1, batch_size=4, train_split="val"))))
    refused("train", recipe, "--out", tmp_path / "run", also=says)


@pytest.mark.parametrize("key,value,says", [
    ("clip_second", 2, "did you mean 'clip_seconds'"), ("protocol", "qvh", "choose from"), ("sources", [], "no video source"),
    ("clip_seconds", 0, "from 0.04 to 3600"), ("root", "${NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE")])
def test_wrong_contract(key, value, says, world, refused):
    world.values[key] = value
    world.save()
    refused("data", "check", world.path, also=[str(world.path), says])
    refused("data", "pack", world.path, also=[says])


def test_check_counts(world, capsys):
    for name in ("wrong width", "empty query", "window outside"): SPOILED[name][0](world)
    world.save()
    assert run("data", "check", world.path) == 1
    assert "problem" in capsys.readouterr().out.splitlines()[-1]


def test_missing_files(refused, tmp_path):
    for words in (["data", "check"], ["data", "pack"], ["train"], ["export"]): refused(*words, tmp_path / "nowhere", also=["nowhere", "no such"])
    refused("evaluate", tmp_path / "nowhere.jsonl", tmp_path / "truth.jsonl", also=["no such"])
    refused("predict", tmp_path / "nowhere", tmp_path / "v.mp4", "a query", also=["nowhere", "no such"])
    refused("data", "check", tmp_path, also=[str(tmp_path)])


# train, evaluate, export ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change,says", [
    ("model.refinment=none", "did you mean 'refinement'"), ("model.refinement=nothing", "choose from"), ("loss.lr=3", "unknown key"),
    ("train.lr=1e-4", "1.0e-4"), ("epochs", "key=value"), ("optimizer.lr=1", "unknown part"), ("train.epochs=0", "at least 1"),
    ("model.heads=5", "multiple"), ("train.train_split=nowhere", "nowhere"), ("model.dim={", "YAML")])
def test_wrong_settings(change, says, made, refused, tmp_path):
    refused("train", made["recipe"], "--out", tmp_path / "run", "--set", change, also=[says])


def test_unknown_recipe_key(made, refused, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(made["recipe"].read_text().replace("train:", "training:"))
    refused("train", recipe, also=["recipe.yaml", "did you mean 'train'"])


@pytest.fixture
def broken_run(made, tmp_path):
    "A copy of the run whose checkpoints are cut short."
    folder = tmp_path / "run"
    shutil.copytree(made["run"], folder)
    for weights in folder.rglob("*.safetensors"): weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def test_truncated_checkpoint(broken_run, made, refused, tmp_path):
    shutil.copytree(made["bundle"], tmp_path / "bundle")
    before = contents(tmp_path / "bundle"), contents(broken_run)
    refused("evaluate", broken_run, also=["model.safetensors"])
    refused("export", broken_run, "--out", tmp_path / "bundle", also=["model.safetensors"])
    refused("train", made["recipe"], "--out", broken_run, "--resume", also=["safetensors"])
    assert (contents(tmp_path / "bundle"), contents(broken_run)) == before


def test_train_keeps_an_earlier_run(made, refused):
    before = contents(made["run"])
    refused("train", made["recipe"], "--out", made["run"], also=["--resume"])
    assert contents(made["run"]) == before


def test_evaluate_bad_files(made, refused, tmp_path):
    good = read_jsonl(made["run"] / "predictions_val.jsonl")
    truth = made["world"] / yaml.safe_load((made["world"] / made["data"]).read_text())["splits"]["val"]
    bad = tmp_path / "bad.jsonl"
    score = lambda *more, **kw: refused("evaluate", bad, truth, "--out", tmp_path / "scores.json", *more, **kw)
    bad.write_text(json.dumps(good[0])[:-9]); score(also=["line 1"])
    bad.write_text(""); score()
    write_jsonl(bad, good[1:]); score()
    bad.write_text("\n".join(json.dumps({**r, "pred_saliency_scores": [float("nan")] * 3}) for r in good)); score()
    bad.write_text("\n".join(json.dumps({k: v for k, v in r.items() if k != "qid"}) for r in good)); score()
    refused("evaluate", bad, also=["ground truth"])
    refused("evaluate", made["run"], "--split", "nowhere", also=["nowhere"])
    assert not (tmp_path / "scores.json").exists()


# predict --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["model.onnx", "contract.json", "config.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_truncated_bundle(name, how, made, refused, tmp_path):
    shutil.copytree(made["bundle"], tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    path.write_bytes(path.read_bytes()[:-50]) if how == "cut" else path.unlink()
    refused("predict", tmp_path / "bundle", made["video"], "a red circle", also=[name])


def test_bad_videos_and_queries(made, refused, tmp_path):
    ask = lambda video, *queries, **kw: refused("predict", made["bundle"], video, *queries, **kw)
    for query in ("", "   "): ask(made["video"], "a red circle", query, also=["empty"])
    ask(made["video"], "?!", also=["words"])
    ask(tmp_path / "nowhere.mp4", "a red circle", also=["nowhere.mp4"])
    (tmp_path / "text.mp4").write_text("this is no video")
    ask(tmp_path / "text.mp4", "a red circle", also=["text.mp4"])
    (tmp_path / "empty.mp4").write_bytes(b"")
    ask(tmp_path / "empty.mp4", "a red circle", also=["empty.mp4"])
    (tmp_path / "short.mp4").write_bytes(made["video"].read_bytes()[:3000])
    ask(tmp_path / "short.mp4", "a red circle", also=["short.mp4"])
    ask(made["video"], "a red circle", "--top", "0", also=["--top"])


# a full disk, an interruption, the unforeseen ---------------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    "A disk with 8 KB to spare."
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode: pytest.skip("a small disk can be mounted by root only")
    (folder / "filler").write_bytes(bytes(32 * 1024))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk(small_disk, made, refused, world):
    (small_disk / "notes.txt").write_text("earlier work")
    world.values["store"] = str(small_disk / "store")
    world.save()
    for words in (["data", "pack", world.path], ["train", made["recipe"], "--out", small_disk / "run"],
                  ["export", made["run"], "--out", small_disk / "bundle"], ["toyworld", small_disk / "world", "--train-videos", 2]):
        refused(*words, also=["space"])
        assert not [p for p in small_disk.rglob("*.tmp")], words
        for name in ("store", "run", "world"): shutil.rmtree(small_disk / name, ignore_errors=True)
    assert not (small_disk / "bundle").exists()
    assert (small_disk / "notes.txt").read_text() == "earlier work"


def test_full_disk_leaves_earlier_results(made, refused, world, monkeypatch, tmp_path):
    before = contents(world.store)
    (tmp_path / "scores.json").write_text("earlier scores")
    def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("videolights.files._put", full)
    refused("data", "pack", world.path, also=["store", "space"])
    refused("evaluate", made["run"] / "predictions_val.jsonl", world.labels, "--out", tmp_path / "scores.json", also=["scores.json", "space"])
    assert contents(world.store) == before and (tmp_path / "scores.json").read_text() == "earlier scores"


@pytest.mark.parametrize("error,code,says", [
    (KeyboardInterrupt(), 130, "/run --resume"), (MemoryError(), 2, "batch"), (ZeroDivisionError("x"), 1, "--debug"),
    (ModuleNotFoundError("no", name="torch"), 2, "videolights[train]")])
def test_errors_from_within(error, code, says, made, refused, monkeypatch, tmp_path):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr("videolights.training.loop.train", fail)
    refused("train", made["recipe"], "--out", tmp_path / "run", code=code, also=[says])


def test_demo_takes_no_strangers_folder(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused("demo", "--out", tmp_path, also=["--out"])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_evaluate_tells_where_it_fails(made, capsys, tmp_path):
    assert run("evaluate", made["run"], "--slices", "--per-query", tmp_path / "queries.csv") == 0
    out = capsys.readouterr().out
    assert "query <= 6 words" in out
    assert "middle third" in out
    lines = (tmp_path / "queries.csv").read_text().splitlines()
    assert lines[0].startswith("qid,query,vid,length,iou")
    assert len(lines) == 1 + len(read_jsonl(made["run"] / "predictions_val.jsonl"))
