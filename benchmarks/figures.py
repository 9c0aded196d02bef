"""What Figures 1, 3, 5 and 6 claim, over all validation queries: does a query's sentence light up the clips of its moments, stage by stage, model by model?

    python benchmarks/figures.py --data recipes/data/laboratory.yaml --out benchmarks/results/figures-laboratory.json --arrays videolights/data/example/laboratory.npz "VideoLights=runs/laboratory/runs/all-2018-*" "QD-DETR=..."

Contrast of a stage: cosine of the mean word with each clip, its mean inside the true moments minus its mean outside, over its standard deviation across the clips. Sparsity: Hoyer's, 0 where all clips are alike and 1 where only
one is left, of the same line above its minimum. Means over all queries and the given seeds with 95 % intervals over videos, the mean of each seed, and the difference of each stage to the one before. Several runs of a model are its
seeds. A stage that leaves words and clips as they were is one that the model lacks.
--arrays FILE.npz gets maps, windows and saliency of five queries (best, quartiles and worst by the IoU of the first model's first window; of several seeds the first) and, where the data set has minimal pairs, of three pairs
(best, median and worst in the same order): what `videolights.data.example.compared` reads.
"""
import argparse
import glob
import json
from pathlib import Path

import numpy as np

from videolights.config import DataConfig
from videolights.data.store import Dataset
from videolights.evaluation.intervals import interval
from videolights.evaluation.reports import per_query
from videolights.explore.heatmaps import STAGES, cosine_map, sentence_line, trace_query, word_labels
from videolights.files import atomic_path, read_jsonl, write_json
from videolights.model.videolights import load



def contrast(line, inside):
    "Mean inside minus mean outside, in standard deviations across the clips."
    return (line[inside].mean() - line[~inside].mean()) / max(line.std(), 1e-9)


def sparsity(line):
    "Hoyer's measure of a line above its minimum."
    line = line - line.min()
    root = len(line) ** .5
    return (root - line.sum() / max(np.linalg.norm(line), 1e-9)) / (root - 1)


def own_stages(traced):
    "The stages that change something."
    kept, before = {}, None
    for stage, pair in traced.stages.items():
        if before is None or not all(map(np.array_equal, pair, before)): kept[stage] = pair
        before = pair
    return kept


def measured(run, items, data):
    "stage -> measure -> qid -> [video, value] of one run."
    model, found = load(run), {}
    for item in items:
        inside = item["saliency"] > 0
        if inside.all() or not inside.any(): continue
        traced = trace_query(model, item, data.clip_seconds, data.protocol)
        for stage, pair in own_stages(traced).items():
            line = sentence_line(*pair)
            for measure, value in (("contrast", contrast(line, inside)), ("sparsity", sparsity(line))):
                found.setdefault(stage, {}).setdefault(measure, {})[str(item["qid"])] = [item["vid"], float(value)]
    return found


def brief(found): return {key: found[key] for key in ("mean", "difference", "low", "high") if key in found}


def mean_of(runs, stage, measure):
    "qid -> [video, mean over the seeds]."
    first = runs[0][stage][measure]
    return {qid: [vid, float(np.mean([run[stage][measure][qid][1] for run in runs]))] for qid, (vid, _) in first.items()}


def summary(runs):
    "stage -> measure -> mean with its interval over videos, each seed's mean, and the step from the stage before."
    stages, lines = [stage for stage in STAGES if stage in runs[0]], {}
    for before, stage in zip([None, *stages], stages):
        lines[stage] = {}
        for measure in ("contrast", "sparsity"):
            found = mean_of(runs, stage, measure)
            seeds = [float(np.mean([value for _, value in run[stage][measure].values()])) for run in runs]
            lines[stage][measure] = brief(interval([found])) | dict(seeds=seeds)
            if before: lines[stage][measure]["step"] = brief(interval([found], [mean_of(runs, before, measure)]))
    return lines


def chosen(run, items, data):
    "Places of the queries that are shown: by the IoU of a run's first window, and minimal pairs in the same order."
    answers = read_jsonl(Path(run) / "predictions_val.jsonl")
    iou = {row["qid"]: row["iou"] for row in per_query(answers, [item["row"] for item in items], data.protocol, data.clip_seconds)}
    order = sorted(range(len(items)), key=lambda i: (-iou[items[i]["qid"]], items[i]["qid"]))
    at = lambda found, parts: [found[round(share * (len(found) - 1))] for share in np.linspace(0, 1, parts)] if found else []
    pairs = {}
    for i in order:
        if "pair" in items[i]["row"]: pairs.setdefault(items[i]["row"]["pair"], []).append(i)
    return at(order, 5), at([pair for pair in pairs.values() if len(pair) == 2], 3), iou


def arrays(models, items, places, data):
    "What is drawn of each model for each query: a map of every stage that it has, windows, saliency."
    out = {}
    for name, runs in models.items():
        model = load(runs[0])
        for i in places:
            traced, key = trace_query(model, items[i], data.clip_seconds, data.protocol), f"{items[i]['qid']}/{name}"
            for stage in own_stages(traced): out[f"{key}/map/{stage}"] = cosine_map(traced, stage).values.astype(np.float16)
            out |= {f"{key}/windows": traced.windows[:5].astype(np.float32), f"{key}/saliency": traced.saliency.astype(np.float32)}
    return out


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=RUN", help="a pattern may stand for several seeds; the first model chooses the queries")
    parser.add_argument("--data", required=True, help="the data set's YAML file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the claims")
    parser.add_argument("--arrays", type=Path, help=".npz file of what is drawn")
    asked = parser.parse_args(words)
    runs_of = lambda pattern: sorted(path for path in glob.glob(pattern) if Path(path, "best").is_dir())
    models = {name: runs_of(pattern) for name, _, pattern in (model.partition("=") for model in asked.models)}
    for name, runs in models.items():
        if not runs: parser.error(f"{name}: no such run")
    data = DataConfig.load(asked.data)
    dataset = Dataset(data, "val")
    items = [dataset[i] | dict(row=row) for i, row in enumerate(dataset.annotations)]
    table = {}
    for name, runs in models.items():
        table[name] = dict(runs=[Path(run).name for run in runs], stages=summary([measured(run, items, data) for run in runs]))
        for stage, found in table[name]["stages"].items():
            c, step = found["contrast"], found["contrast"].get("step")
            print(f"{name:32}{stage:12}contrast {c['mean']:+.2f} ({c['low']:+.2f} to {c['high']:+.2f})" + (f"  step {step['difference']:+.2f} ({step['low']:+.2f} to {step['high']:+.2f})" if step else ""), flush=True)
    order, pairs, iou = chosen(next(iter(models.values()))[0], items, data)
    write_json(asked.out, dict(data=data.name, queries=len(items), models=table))
    if not asked.arrays: return
    rows = {}
    for place, i in zip(("best", "upper quarter", "median", "lower quarter", "worst"), order): rows.setdefault(i, {})["place"] = place
    for place, pair in zip(("best", "median", "worst"), pairs):
        for i in pair: rows.setdefault(i, {})["pair"] = place
    said = lambda item: dict(qid=item["qid"], vid=item["vid"], query=item["query"], words=word_labels(item), windows=item["row"]["relevant_windows"], saliency=item["saliency"].tolist(), duration=item["duration"], iou=float(iou[item["qid"]]))
    facts = dict(clip_seconds=data.clip_seconds, models=list(models), queries=[dict(place="", pair="") | said(items[i]) | places for i, places in rows.items()])
    with atomic_path(asked.arrays) as draft, open(draft, "wb") as file: np.savez_compressed(file, facts=json.dumps(facts), **arrays(models, items, rows, data))


if __name__ == "__main__": main()
