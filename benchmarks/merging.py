"""Do the windows of finished runs score better when overlapping ones are dropped (NMS) or joined (confidence-weighted means)?

    VIDEOLIGHTS_REALDATA=... python benchmarks/merging.py RUN [RUN ...] [--json benchmarks/results/merging.json]

RUN is the folder of a run, such as those of `videolights ablate recipes/tables/table5-small.yaml`; its saved predictions of its evaluated split are read.

Nothing is trained: the saved predictions are post-processed anew and scored. Figures are the means over the runs, with the mean
difference to the untouched windows and its standard error over runs.
"""
import argparse
from pathlib import Path

import numpy as np

from videolights.config import Config, DataConfig
from videolights.evaluation.reports import evaluate
from videolights.files import read_jsonl, write_json
from videolights.spans import nms, temporal_iou
from videolights.training.loop import open_split

METRICS = ("MR-R1@0.5", "MR-R1@0.7", "MR-mIoU")
THRESHOLDS = (.3, .5, .7, .8, .9)


def dropped(windows, threshold):
    return windows[nms(windows[:, :2], windows[:, 2], threshold)]


def joined(windows, threshold):
    "Each kept window becomes the mean of those it stands for, weighted by confidence."
    kept = dropped(windows, threshold)
    near = temporal_iou(kept[:, None, :2], windows[None, :, :2]) > threshold
    weights = near * windows[:, 2]
    return np.concatenate((weights @ windows[:, :2] / weights.sum(1, keepdims=True), kept[:, 2:]), 1)


def score(run, change):
    config = Config.load(run / "config.json")
    rows = [{**row, "pred_relevant_windows": change(np.array(row["pred_relevant_windows"])).tolist()}
            for row in read_jsonl(run / f"predictions_{config.train.eval_split}.jsonl")]
    result = evaluate(rows, open_split(config, config.train.eval_split).annotations, protocol=DataConfig.load(config.data).protocol)
    return np.array([*(result["brief"][name] for name in METRICS), result["full"]["MR-mAP"]["average"]], float)


def compared(now, plain):
    "Means over runs, mean gains and their standard errors, by metric."
    gain = now - plain
    error = gain.std(0, ddof=1) / len(gain) ** .5 if len(gain) > 1 else np.full(gain.shape[1], np.nan)
    return {name: dict(mean=m, gain=g, error=e) for name, m, g, e in zip((*METRICS, "MR-mAP"), *(x.round(2).tolist() for x in (now.mean(0), gain.mean(0), error)))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    plain = np.stack([score(run, lambda windows: windows) for run in args.runs])
    table = {"as predicted": compared(plain, plain)}
    for what, change in (("NMS", dropped), ("joined", joined)):
        for threshold in THRESHOLDS:
            table[f"{what} at {threshold}"] = compared(np.stack([score(run, lambda windows: change(windows, threshold)) for run in args.runs]), plain)
    print(f"{len(args.runs)} runs".ljust(18), *(name.rjust(22) for name in table["as predicted"]))
    for row, cells in table.items(): print(row.ljust(18), *(f"{c['mean']:.2f} ({c['gain']:+.2f} ± {c['error']:.2f})".rjust(22) for c in cells.values()))
    if args.json: write_json(args.json, dict(runs=[run.name for run in args.runs], rows=table))


if __name__ == "__main__": main()
