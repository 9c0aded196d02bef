"""Do the windows of finished runs score better when overlapping ones are dropped (NMS) or joined (confidence-weighted means)?

    python benchmarks/merging.py RUN [RUN ...]            # each run's saved predictions of its evaluated split

Nothing is trained: the saved predictions are post-processed anew and scored. Figures are the means over the runs, with the mean
difference to the untouched windows and its standard error over runs.
"""
import argparse
from pathlib import Path

import numpy as np

from videolights.config import Config, DataConfig
from videolights.evaluation.reports import evaluate
from videolights.files import read_jsonl
from videolights.spans import nms, temporal_iou
from videolights.training import open_split

METRICS = ("MR-R1@0.5", "MR-R1@0.7", "MR-mIoU")


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
    data = DataConfig.load(config.data)
    rows = [{**row, "pred_relevant_windows": change(np.array(row["pred_relevant_windows"])).tolist()}
            for row in read_jsonl(run / f"predictions_{config.train.eval_split}.jsonl")]
    result = evaluate(rows, open_split(config, config.train.eval_split).annotations, protocol=data.protocol)
    return np.array([*(result["brief"][name] for name in METRICS), result["full"]["MR-mAP"]["average"]], float)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path)
    runs = arguments.parse_args().runs
    plain = np.stack([score(run, lambda windows: windows) for run in runs])
    print(f"{len(runs)} runs".ljust(18), *(name.rjust(18) for name in (*METRICS, "MR-mAP")))
    print("as predicted".ljust(18), *(f"{x:.2f}".rjust(18) for x in plain.mean(0)))
    for what, change in (("NMS", dropped), ("joined", joined)):
        for threshold in (.3, .5, .7, .8, .9):
            now = np.stack([score(run, lambda windows: change(windows, threshold)) for run in runs])
            gain = now - plain
            error = gain.std(0, ddof=1) / len(runs) ** .5 if len(runs) > 1 else np.full(len(METRICS) + 1, np.nan)
            print(f"{what} {threshold}".ljust(18), *(f"{x:.2f} ({g:+.2f} ± {e:.2f})".rjust(18) for x, g, e in zip(now.mean(0), gain.mean(0), error)))


if __name__ == "__main__": main()
