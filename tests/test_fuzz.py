"Bad input of every kind, a few cases of each: what is refused is refused in one line, nothing is lost, nothing goes on for ever (`python tests/fuzz.py --cases 1000` tries more)."
import fuzz
import pytest

from videolights.config import Config, DataConfig, InputError, parse_yaml
from videolights.evaluation.reports import evaluate, per_query_rows

BAD = [verdict for verdict in fuzz.BAD if verdict != "silent"]


def test_fifty_cases():
    quick = [number for number, case in enumerate(fuzz.draw_cases(70, 7)) if case.verb not in ("export", "ablate", "tune", "benchmark")][:50]     # these start processes of their own
    shown = []
    found = fuzz.fuzz(70, 7, quick, seconds=60, show=lambda number, verdict, case, words, what, said, seconds: shown.append(f"{verdict}: {words} ({case} in {what}): {said}"))
    assert len(found) == 50
    wrong = [line for line in shown if line.startswith(tuple(BAD))]
    assert not wrong, "\n".join(wrong)


NUMBERS = [(f"{part}.{f.name}", f) for part in ("model", "loss", "train") for f in getattr(Config(), part).__dataclass_fields__.values() if f.type in (int, float)]


@pytest.mark.parametrize("name, field", NUMBERS, ids=[name for name, _ in NUMBERS])
def test_every_number_has_a_range(name, field):
    low, high = field.metadata["range"]
    assert low <= field.default <= high
    wrong = [low - 1 - abs(low), high * 2 + 1, float("nan"), float("inf"), 10**400, True, "1", None, [1]] + [2.5] * (field.type is int)
    for value in wrong:
        with pytest.raises(InputError, match=field.name) as error: Config().with_changes({name: value})
        assert len(str(error.value)) < 300


CONTRACT = dict(name="x", protocol="custom", clip_seconds=2, splits={"val": "val.jsonl"}, sources=[
    dict(name="v", kind="video", dim=4, folder="v"), dict(name="t", kind="text", dim=4, folder="t")])


@pytest.mark.parametrize("change, says", [
    (dict(splits={"train": 3}), "splits"), (dict(splits={"a/b": "x"}), "no name for a file"), (dict(sources="clip"), "sources"), (dict(sources=[5]), "sources"), (dict(clip_seconds=1e-6), "clip_seconds"),
    (dict(sources=[CONTRACT["sources"][0] | {"name": "../up"}, CONTRACT["sources"][1]]), "no name for a file"), (dict(sources=[CONTRACT["sources"][0] | {"dim": 10**9}, CONTRACT["sources"][1]]), "dim"),
    (dict(max_words=0), "max_words"), (dict(root=None), "root"), (dict(name="a\0b"), "name"), (dict(protocol=["custom"]), "protocol"), (dict(at=float("nan")), "at is")], ids=str)
def test_wrong_contracts(change, says, tmp_path):
    fuzz.write(tmp_path / "data.yaml", CONTRACT | change)
    with pytest.raises(InputError, match=says) as error: DataConfig.load(tmp_path / "data.yaml")
    assert str(error.value).startswith(str(tmp_path / "data.yaml"))


@pytest.mark.parametrize("text", [fuzz.bomb(".yaml"), "a: &a [*a]", "a: 1\na: 2", "a: 1\n\0b: 2", "a: " + "[" * 9999, "a: 2001-99-99", "!!timestamp x", "a: " + "9" * 5000, "? {a: 1}\n: 2", "a: !!python/name:os.system"])
def test_yaml_that_nobody_meant(text):
    with pytest.raises(ValueError) as error: parse_yaml(text)
    assert len(str(error.value)) < 400


ROW = dict(qid=1, query="a dog", vid="v", duration=20, relevant_windows=[[0, 10]], relevant_clip_ids=[0], saliency_scores=[[4, 4, 4]])
ANSWER = dict(qid=1, query="a dog ", vid="v", pred_relevant_windows=[[0, 10, .9]], pred_saliency_scores=[.5] * 10)


@pytest.mark.parametrize("change, says", [
    (dict(vid="w"), "the vid 'w', the ground truth 'v'"), (dict(query="a cat"), "the query 'a cat'"), (dict(qid=True), "has no qid"), (dict(qid="1"), "write qids alike"), (dict(qid=[1]), "has no qid"),
    (dict(pred_relevant_windows=[["0", "10", "0.9"]]), "triples"), (dict(pred_relevant_windows=[[0, 10, float("nan")]]), "NaN"), (dict(pred_relevant_windows=[[0, 10**400, 1]]), "triples"),
    (dict(pred_saliency_scores="high"), "one score per clip"), (dict(pred_saliency_scores=[True] * 10), "one score per clip")], ids=str)
def test_answers_that_cannot_be_scored(change, says):
    with pytest.raises(InputError, match=says): evaluate([ANSWER | change], [ROW])
    for seconds in (0, float("nan"), 1e-6, "2"):
        with pytest.raises(InputError, match="clip_seconds"): evaluate([ANSWER], [ROW], clip_seconds=seconds)


def test_windows_outside_are_counted_and_change_nothing():
    outside = [ANSWER | dict(pred_relevant_windows=[[0, 10, .9], [-3, 4, .5], [15, 40, .2]])]
    with pytest.warns(UserWarning, match="windows outside their videos: 2;"): result = evaluate(outside, [ROW])
    assert result["brief"]["MR-full-R1@0.7"] == evaluate([ANSWER], [ROW])["brief"]["MR-full-R1@0.7"] == 100


@pytest.mark.parametrize("line", [
    "evaluate a b --clip-seconds 1e-6", "evaluate a b --clip-seconds nan", "explore a b --clip-seconds 0", "extract v --sources builtin --out o --batch 1000000000", "extract v --sources builtin --out o --at -1",
    "extract v --sources builtin --out o --workers 100000", "benchmark b --threads 100000", "benchmark b --batch 1000000000", "train r.yaml --epochs 1000000000000", "ablate g.yaml --jobs 1e9", "tune s.yaml --trials 0",
    "predict b v.mp4 q --top 1000000000", "predict b v.mp4 q --min-confidence nan", "export r --tolerance nan", "export r --tolerance -1", "toyworld t --train-videos 1000000000", "toyworld t --seed -1",
    "explore a b --port 99999"])
def test_numbers_of_the_command_line_have_bounds(line, capsys):
    *_, option, value = line.split()
    assert fuzz.run(*line.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{option}: '{value}' is not a" in said


@pytest.mark.parametrize("change", [dict(pred_relevant_windows=[[0, 10, .9], {"a": 1}]), dict(pred_relevant_windows=[[0, 10]]), dict(pred_saliency_scores=["high"])], ids=str)
def test_answers_that_cannot_be_drawn(change):
    with pytest.raises(InputError, match="qid 1 has a 'pred_"): per_query_rows([ANSWER | change], [ROW])
