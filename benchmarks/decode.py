"""How fast a machine turns video files into the frames that encoders want: the first of the rates that a plan for many hours of video needs.

    python benchmarks/decode.py --videos FOLDER [--workers 1 2 4] [--clip-seconds 2] [--json benchmarks/results/decode.json]

Rates are seconds of video per second of wall clock. `packets` reads the file without decoding, `frames` decodes every frame and unpacks none, the others unpack what one encoder wants or all of them, one after another in one process or in
several workers. Without a folder, videos of moving noise are rendered; noise is harder to decode than the world.
"""
import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from videolights.encoders.extraction import Job, decode_ahead
from videolights.files import write_json
from videolights.features.video import probe, read_views, write_video

VIEWS = {"slowfast": (32, 224), "clip": (1, None), "blip2": (1, 224), "caption": (1, (224, 224))}


def render(folder, count=4, seconds=20):
    rng = np.random.default_rng(0)
    for i in range(count):
        texture = np.kron(rng.integers(0, 256, (60, 90, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        write_video(folder / f"{i}.mp4", (texture[t % 50:t % 50 + 360, t % 60:t % 60 + 640] for t in range(25 * seconds)), 25)
    return folder


def packets(path):
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]): packet.size


def frames(path):
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for _ in container.decode(container.streams.video[0]): pass


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="a folder of good videos")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clip-seconds", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many (default 3)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = sorted((args.videos or render(Path(tempfile.mkdtemp()))).rglob("*.mp4"))
    infos = [probe(p) for p in paths]
    seconds = sum(i.duration_s for i in infos)
    view = lambda path, names: [None for _ in read_views(path, args.clip_seconds, [VIEWS[n] for n in names])]
    ways = {"packets": lambda: [packets(p) for p in paths], "frames": lambda: [frames(p) for p in paths]}
    ways |= {name: lambda name=name: [view(p, [name]) for p in paths] for name in VIEWS}
    features = ["slowfast", "clip", "blip2"]
    ways |= {"slowfast+clip+blip2, one after another": lambda: [view(p, [name]) for name in features for p in paths], "slowfast+clip+blip2, together": lambda: [view(p, features) for p in paths]}
    for n in args.workers:
        ways[f"slowfast+clip+blip2, together, {n} workers"] = lambda n=n: [None for _ in decode_ahead([Job(p.stem, p, features) for p in paths], VIEWS, args.clip_seconds, n)]
    rates = {name: round(seconds / min(timed(call) for _ in range(args.repeat)), 1) for name, call in ways.items()}
    first = rates["slowfast+clip+blip2, one after another"]
    for name, rate in rates.items(): print(f"{name:45}{rate:10.1f} x real time{rate / first:8.2f}")
    facts = [dict(seconds=round(i.duration_s, 1), fps=round(i.fps, 2), width=i.width, height=i.height, bytes=p.stat().st_size) for p, i in zip(paths, infos)]
    if args.json: write_json(args.json, dict(unit="seconds of video per second", cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), machine=platform.machine(), clip_seconds=args.clip_seconds, videos=facts, rates=rates))


if __name__ == "__main__": main()
