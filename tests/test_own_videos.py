"From a folder of videos and a table of queries to an answer, by the commands that each step prints."
import csv
import json
import re
import shlex

import pytest

pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("onnx")

from videolights.cli import main
from videolights.data.toyworld import FPS, render, script_of
from videolights.features.video import write_video


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    "A folder with six videos and a table of their queries, as somebody writes it."
    folder = tmp_path_factory.mktemp("own")
    with open(folder / "queries.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Video", "Start", "End", "Query"])
        for number in range(6):
            vid, script, rows = script_of("val", number, 2018)
            write_video(folder / "videos" / f"{vid}.mp4", render(script), FPS)
            for row in rows:
                for start, end in row["relevant_windows"]: table.writerow([f"{vid}.mp4", start, end, row["query"]])
        table.writerow(["absent.mp4", 0, 2, "nobody"])
    return folder


def test_five_commands_each_of_which_prints_the_next(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    command, printed = "videolights extract videos --sources builtin --annotations queries.csv --out mine", []
    for _ in range(5):
        words = shlex.split(command)[1:]
        if words[0] == "train": words += ["--epochs", "1"]
        if words[0] == "predict": words[2:3] = ["videos/toy_val_00000.mp4" if (own / "videos/toy_val_00000.mp4").exists() else str(next((own / "videos").iterdir()))]
        assert main(words) == 0, command
        printed.append(words[0])
        said = capsys.readouterr().out
        if words[0] == "extract":
            assert "left out: 1 queries" in said
            counts = {split: int(n) for n, split in re.findall(r"(\d+) of (train|val)", said)}
            assert counts["train"] > counts["val"] > 0
        command = next(iter(re.findall(r"^next:? +(.+)$", said, re.M)), "")
    assert printed == ["extract", "train", "evaluate", "export", "predict"]
    widths = json.loads((own / "runs/mine/config.json").read_text())["model"]
    assert (widths["video_dim"], widths["text_dim"]) == (96, 64)
    vids = [{json.loads(line)["vid"] for line in (own / f"mine/annotations/{split}.jsonl").read_text().splitlines()} for split in ("train", "val")]
    assert not vids[0] & vids[1]


def test_what_was_meant_is_said(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    assert main(["extract", "videos", "--sources", "builtin", "--annotations", "queries.csv", "--out", "again", "--val", "0"]) == 0
    recipe = (own / "again/recipe.yaml")
    recipe.write_text("# mine now\n")
    assert main(["extract", "videos", "--sources", "builtin", "--annotations", "queries.csv", "--out", "again", "--val", "0"]) == 0
    assert recipe.read_text() == "# mine now\n"                                        # never written twice
    assert main(["train", "again/dataset.yaml"]) == 2
    assert "is a data set, and training wants a recipe: again/recipe.yaml" in capsys.readouterr().err
    (own / "test.csv").write_text((own / "queries.csv").read_text())
    assert main(["extract", "videos", "--sources", "builtin", "--annotations", "test.csv", "--out", "other"]) == 0
    assert main(["data", "check", "other/dataset.yaml"]) == 1                          # nothing to train on
    assert "none is called train" in capsys.readouterr().out
    (own / "wrong.csv").write_text("name,text\na,b\n")
    assert main(["extract", "videos", "--sources", "builtin", "--annotations", "wrong.csv", "--out", "none"]) == 2
    assert "video,start,end,query" in capsys.readouterr().err
    video = str(next((own / "videos").iterdir()))
    assert main(["predict", "exported/mine", video, "a", "red", "circle"]) == 0
    assert 'quote it: "a red circle"' in capsys.readouterr().err
