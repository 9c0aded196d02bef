"""How much faster training reads the packed store than the feature folders: time per item, measured alternately in one run.

    python benchmarks/read_features.py [--data recipes/data/charades_clip.yaml] [--items 500]

Both ways read what one item of a data set needs and return the same float32 arrays; files are in the page cache for both.
"""
import argparse
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from videolights.config import DataConfig
from videolights.data.annotations import read_annotations, write_annotations
from videolights.data.store import Dataset, FeatureStore, FolderFeatures, pack

ROOT = Path(__file__).resolve().parent.parent
TARGET = 10   # times faster per item


def subset(data, items, folder):
    "The same data set with some rows of its first split, to be packed elsewhere."
    split, name = next(iter(data.splits.items()))
    rows = read_annotations(data.path(name), data.protocol)
    rows = random.Random(2018).sample(rows, min(items, len(rows)))
    write_annotations(folder / "rows.jsonl", rows)
    return replace(data, splits={split: str(folder / "rows.jsonl")}, store=str(folder / "store")), split


def seconds_per_item(dataset):
    start = time.perf_counter()
    for i in range(len(dataset)): dataset[i]
    return (time.perf_counter() - start) / len(dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=ROOT / "recipes/data/charades_clip.yaml", help="a data set's YAML file")
    parser.add_argument("--items", type=int, default=500, help="rows of its first split to read")
    parser.add_argument("--rounds", type=int, default=5, help="times both are read; the median counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, split = subset(DataConfig.load(args.data), args.items, Path(folder))
        pack(data, progress=False)
        ways = {"folders": Dataset(data, split, FolderFeatures(data)), "store": Dataset(data, split, FeatureStore.open(data))}
        times = {name: [] for name in ways}
        for name, dataset in [*ways.items()] * (args.rounds + 1): times[name].append(seconds_per_item(dataset))
        folders, store = (statistics.median(times[name][1:]) for name in ways)   # the first round warms the page cache
        print(f"{data.name}: {len(ways['store'])} items; per item {folders * 1e6:.0f} µs from folders, {store * 1e6:.0f} µs from the store")
        print(f"ratio {folders / store:.1f} (target: at least {TARGET})")
    return int(folders / store < TARGET)


if __name__ == "__main__": raise SystemExit(main())
