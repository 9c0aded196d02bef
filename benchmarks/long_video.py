"""Long videos in windows: what they cost, and whether the windows find anything.

    python benchmarks/long_video.py BUNDLE [--minutes 5 15 60]                  time and memory on random features, cut into windows and in one piece
    python benchmarks/long_video.py BUNDLE --data DATA.yaml [--join 6]          R1 on long videos made of --join videos of a split each

A fresh process measures each row, so that its peak memory is its own. With --data the videos of the split are put one behind the other, and each query is
asked about the whole: "plain" in one piece, "windows" with the confidences that the windows gave, "weighed" as the runtime answers.
"""
import argparse
import json
import subprocess
import sys

import numpy as np

ONE = """
import json, resource, sys, time
import numpy as np
from videolights.deploy.runtime import Runtime
runtime = Runtime.load(sys.argv[1], "cpu", 1)
c, clips, window = runtime.contract, int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(2018)
video, text = rng.standard_normal((clips, c["video_dim"]), np.float32), rng.standard_normal((8, c["text_dim"]), np.float32)
runtime.predict(video[:75], text, window=0)
start = time.perf_counter(); runtime.predict(video, text, window=window); seconds = time.perf_counter() - start
print(json.dumps(dict(seconds=seconds, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)))
"""


def cost(bundle, clips, window):
    "Seconds and peak MiB of one query about a video."
    return json.loads(subprocess.run([sys.executable, "-c", ONE, bundle, str(clips), str(window)], capture_output=True, text=True, check=True).stdout)


def costs(args):
    from videolights.deploy.bundle import open_bundle
    contract = open_bundle(args.bundle)
    size = args.window or contract.get("train_clips", 75)
    print(f"{'minutes':>8}{'clips':>8}{'windows of ' + str(size):>22}{'':>10}{'in one piece':>16}")
    for minutes in args.minutes:
        clips = round(60 * minutes / contract["clip_seconds"])
        a = cost(args.bundle, clips, size)
        b = cost(args.bundle, clips, 0) if clips <= args.whole else None
        print(f"{minutes:>8g}{clips:>8}{a['seconds']:>14.2f} s{a['mib']:>10.0f} MiB" + (f"{b['seconds']:>11.2f} s{b['mib']:>8.0f} MiB" if b else f"{'-':>13}"))


def joined(dataset, count, seed=2018):
    "Long items: (features, [(item, first clip)]) of `count` videos each, in a shuffled order."
    videos = {}
    for i in range(len(dataset)): videos.setdefault((item := dataset[i])["vid"], []).append(item)
    order = np.random.default_rng(seed).permutation(list(videos))
    for i in range(0, len(order) - count + 1, count):
        group = [videos[vid] for vid in order[i:i + count]]
        starts = np.cumsum([0, *(len(items[0]["video"]) for items in group)])
        yield np.concatenate([items[0]["video"] for items in group]), [(item, start) for items, start in zip(group, starts) for item in items]


def score(args):
    from unittest.mock import patch
    from videolights.deploy import runtime as rooms
    from videolights.config import DataConfig
    from videolights.data.store import Dataset
    from videolights.evaluation.reports import evaluate
    data, runtime = DataConfig.load(args.data), rooms.Runtime.load(args.bundle, "cpu", 1)
    dataset, answers, truth = Dataset(data, args.split), {"plain": [], "windows": [], "weighed": []}, []
    size = args.window or runtime.contract.get("train_clips") or max(len(dataset[i]["video"]) for i in range(len(dataset)))
    for video, asked in joined(dataset, args.join):
        texts, names = [item["text"] for item, _ in asked], [{key: item[key] for key in ("qid", "query", "vid")} for item, _ in asked]
        answers["plain"] += runtime.predict(video, texts, identities=names, window=0)
        answers["weighed"] += runtime.predict(video, texts, identities=names, window=size)
        with patch.object(rooms, "mean_inside", lambda curve, moments: np.ones(len(moments))):
            answers["windows"] += runtime.predict(video, texts, identities=names, window=size)
        truth += [dict(qid=item["qid"], query=item["query"], vid=item["vid"], duration=len(video) * data.clip_seconds,
                       relevant_windows=(item["windows"] + start * data.clip_seconds).tolist()) for item, start in asked]
    print(f"{len(truth)} queries, {args.join} videos put together, windows of {size} clips")
    for name, found in answers.items():
        brief = evaluate([p.to_dict() for p in found], truth, protocol=data.protocol, clip_seconds=data.clip_seconds)["brief"]
        print(f"  {name:<8}", "  ".join(f"{metric} {value:.2f}" for metric, value in brief.items() if value is not None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.5, 15, 60, 240])
    parser.add_argument("--whole", type=int, default=2000, help="clips up to which a video is also asked in one piece (it needs memory for clips x clips)")
    parser.add_argument("--window", type=int, default=0, help="clips of a window (default: the longest training video)")
    parser.add_argument("--data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--join", type=int, default=6)
    args = parser.parse_args()
    (score if args.data else costs)(args)


if __name__ == "__main__": main()
