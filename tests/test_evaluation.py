"""The evaluator against published numbers, an independent count, and bad input."""
import gzip
import json
import time

import numpy as np
import pytest

from videolights.config import InputError
from videolights.evaluation.reports import evaluate, per_query, table


def rows_of(path):
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    with opened as lines: return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def val(realdata):
    return rows_of(realdata / "qvhighlights/annotations/highlight_val_release.jsonl")


@pytest.mark.parametrize("model", ["moment_detr", "QD-DETR", "EaTR"])
def test_published_qvhighlights_numbers_come_out_exactly(realdata, val, model):
    predictions = rows_of(realdata / f"qvhighlights/predictions/{model}.val.jsonl.gz")
    published = json.loads((realdata / f"qvhighlights/predictions/{model}.val.metrics.json").read_text())
    result = evaluate(predictions, val)
    mean_iou = result.pop("MR-full-mIoU")
    assert json.dumps(result) == json.dumps(published)      # keys, order and digits
    rows = per_query(predictions, val)
    assert round(100 * np.mean([row["iou"] for row in rows]), 2) == mean_iou
    assert round(100 * np.mean([row["R1@0.7"] for row in rows]), 2) == published["brief"]["MR-full-R1@0.7"]
    assert len(table(result).splitlines()) == len(published["brief"])


def test_published_charades_numbers_come_out_exactly(realdata):
    folder = realdata / "charades_sta"
    truth = rows_of(folder / "moment_detr.test.gt.jsonl")
    found = [dict(qid=row["qid"], query=row["query"], vid=row["vid"], pred_relevant_windows=row["ranked_predicted_windows"] or [])
             for row in rows_of(folder / "moment_detr.test.jsonl.gz")]
    brief = evaluate(found, truth, "charades")["brief"]
    assert brief == {"MR-R1@0.3": 41.45, "MR-R1@0.5": 25.70, "MR-R1@0.7": 9.95, "MR-mIoU": 26.62}
    custom = evaluate(found, truth, "custom")
    assert custom["brief"]["MR-full-R1@0.3"] == 41.45 and custom["brief"]["MR-full-mIoU"] == 26.62
    half = [{**row, "pred_relevant_windows": row["pred_relevant_windows"] if i % 2 else []} for i, row in enumerate(found)]
    assert 0 < evaluate(half, truth, "charades")["brief"]["MR-R1@0.5"] < brief["MR-R1@0.5"]


def test_tvsum_counts_the_top_five_as_its_convention_says(realdata):
    truth = rows_of(realdata / "tvsum/tvsum_train_release.jsonl") + rows_of(realdata / "tvsum/tvsum_val_release.jsonl")
    rng = np.random.default_rng(0)
    for scored in (lambda row: np.mean(row["label"], 1), lambda row: rng.normal(size=len(row["label"]) + 2)):
        predictions = [dict(qid=row["qid"], pred_saliency_scores=scored(row).tolist()) for row in truth]
        domains = {}
        for row, prediction in zip(truth, predictions):
            scores = prediction["pred_saliency_scores"][:len(row["label"])]
            top = sorted(range(len(scores)), key=lambda clip: -scores[clip])[:5]
            for rater in range(20):
                votes = [ratings[rater] for ratings in row["label"]]
                middle = sorted(votes)[(len(votes) - 1) // 2]
                hits, area, before, seen = [votes[clip] > middle for clip in top], 0, 1, 0
                for place, hit in enumerate(hits, 1):
                    seen += hit
                    area += hit * (before + seen / place) / 2
                    before = seen / place
                domains.setdefault(row["domain"], []).append(area / max(sum(hits), 1))
        brief = evaluate(predictions, truth, "tvsum")["brief"]
        means = {domain: 100 * np.mean(domains[domain]) for domain in sorted(domains)}
        assert list(brief) == ["mAP", *means] and len(brief) == 11
        assert np.allclose(list(brief.values()), [np.mean(list(means.values())), *means.values()], atol=.006)


def random_split(rng, queries=40, videos_s=(150, 126, 31)):
    "Ground truth and predictions with ties, several moments, wrong lengths and lists out of order."
    truth, predictions = [], []
    for qid in range(queries):
        duration = int(rng.choice(videos_s)); clips = duration // 2
        windows = [[float(a), float(a + w)] for a, w in zip(rng.integers(0, duration - 10, rng.integers(1, 8)), rng.integers(1, 60, 8))]
        rated = np.sort(rng.choice(clips, rng.integers(0, clips), replace=False)).tolist()
        truth.append(dict(qid=qid, query="q", vid="v", duration=duration, relevant_windows=windows, relevant_clip_ids=rated,
                          saliency_scores=rng.integers(0, 5, (len(rated), 3)).tolist()))
        aims = [windows[i % len(windows)] for i in range(rng.integers(1, 14))]
        guesses = [[max(a + int(rng.integers(-3, 4)), 0), b + 4, round(rng.random(), 1)] for a, b in aims]
        scores = rng.normal(size=clips + rng.integers(-2, 3)).round(1).tolist()
        predictions.append(dict(qid=qid, pred_relevant_windows=guesses, pred_saliency_scores=scores))
    return predictions, truth


def plain_ap(windows, guesses, threshold):
    "Average precision of one query, by the definition."
    def iou(a, b):
        shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
        return shared / (a[1] - a[0] + b[1] - b[0] - shared)
    free, hits = list(range(len(windows))), []
    for guess in sorted(guesses[:10], key=lambda g: -g[2]):
        fitting = [w for w in free if iou(guess, windows[w]) >= threshold]
        hits.append(bool(fitting))
        if fitting: free.remove(max(fitting, key=lambda w: (iou(guess, windows[w]), w)))
    precision = [sum(hits[:k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / len(windows)


@pytest.mark.filterwarnings("ignore:.*most confident first")
def test_average_precision_equals_a_plain_count_query_by_query():
    for seed in range(5):
        predictions, truth = random_split(np.random.default_rng(seed))
        for row, prediction, item in zip(per_query(predictions, truth), predictions, truth):
            plain = [plain_ap(item["relevant_windows"], prediction["pred_relevant_windows"], t / 100) for t in range(50, 100, 5)]
            assert np.isclose(row["AP"], np.mean(plain))


def test_all_queries_at_once_are_faster_than_one_by_one(realdata, val):
    "Measured in one run, so that no machine's speed counts: all metrics of 1,550 queries against the plain count of their average precision."
    predictions = rows_of(realdata / "qvhighlights/predictions/QD-DETR.val.jsonl.gz")
    def seconds(work): start = time.process_time(); work(); return time.process_time() - start
    given = {row["qid"]: row["pred_relevant_windows"] for row in predictions}
    def plain(rows): return [plain_ap(row["relevant_windows"], given[row["qid"]], t / 100) for row in rows for t in range(50, 100, 5)]
    arrays, loop = min(seconds(lambda: evaluate(predictions, val)) for _ in range(3)), seconds(lambda: plain(val))
    print(f"evaluate: {arrays:.2f} s for {len(val)} queries; average precision alone, one by one: {loop:.2f} s")
    assert arrays < loop


@pytest.mark.filterwarnings("ignore:.*most confident first")
def test_order_of_rows_changes_nothing():
    predictions, truth = random_split(np.random.default_rng(7))
    for protocol in ("qvhighlights", "custom", "charades"):
        assert evaluate(predictions[::-1], truth, protocol) == evaluate(predictions, truth, protocol)


@pytest.mark.parametrize("change, says", [
    (dict(pred_relevant_windows=[[9, 3, .5]]), "qid 0 has a window in 'pred_relevant_windows' that ends before it starts"),
    (dict(pred_relevant_windows=[[3, 9, float("nan")]]), "qid 0 has a NaN"),
    (dict(pred_relevant_windows=[[3, 9]]), "qid 0 has a 'pred_relevant_windows' that is no list of [start_s, end_s, confidence]"),
    (dict(pred_relevant_windows=None), "qid 0 has no 'pred_relevant_windows'"),
    (dict(pred_saliency_scores=[float("inf")]), "qid 0 has a NaN or an infinity in 'pred_saliency_scores'"),
    (dict(pred_saliency_scores=[]), "qid 0 has an empty 'pred_saliency_scores'"),
    (dict(qid=1), "qid 1 occurs twice"),
    (dict(qid="0"), "qid 0 is a number on one side and a text on the other"),
    (dict(qid=9), "qid 0 has no prediction"),
    (dict(qid=None), "row 1 has no qid"),
])
@pytest.mark.filterwarnings("ignore:.*most confident first")
def test_bad_predictions_get_one_line(change, says):
    predictions, truth = random_split(np.random.default_rng(1), 5)
    with pytest.raises(InputError) as error: evaluate([{**predictions[0], **change}, *predictions[1:]], truth)
    assert says in str(error.value) and "\n" not in str(error.value) and ";" in str(error.value)
