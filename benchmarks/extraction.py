"""What one decode for all encoders, batches across videos and several workers are worth, against reading and encoding one thing after another.

    python benchmarks/extraction.py [--videos FOLDER] [--copies 8] [--width 8] [--size 112] [--batch 8] [--workers 1 2 4] [--device cpu] [--json benchmarks/results/extraction.json]

Without a folder, ten-second videos of noise are rendered. The encoder is a SlowFast of the given width (64 is the published one) with random weights.
"""
import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from videolights.encoders.extraction import Job, decode_ahead, encode_videos
from videolights.encoders.slowfast import SlowFast, SlowFastEncoder
from videolights.files import write_json
from videolights.features.video import find_videos, read_clips, read_views, write_video

VIEWS = [(32, 224), (1, None), (1, 224)]      # SlowFast, CLIP, BLIP-2


def render(folder, count):
    "Videos of ten seconds, 270 x 480 at 30 frames a second: smooth noise that moves."
    rng = np.random.default_rng(0)
    for i in range(count):
        texture = np.kron(rng.integers(0, 256, (40, 70, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        write_video(folder / f"{i}.mp4", (texture[t % 50:t % 50 + 270, t % 80:t % 80 + 480] for t in range(300)), 30)
    return folder


def clips_per_second(run):
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def decoding(paths, workers):
    "Rows of (what, clips a second): each view by itself, all at once, by several workers."
    each = lambda: sum(max(sum(1 for _ in read_clips(p, 2, *view)) for view in VIEWS) for p in paths)
    yield "decode once per encoder", clips_per_second(each)
    yield "decode once for all", clips_per_second(lambda: sum(1 for p in paths for _ in read_views(p, 2, VIEWS)))
    for n in workers:
        jobs = [Job(p.stem, p, ["a", "b", "c"]) for p in paths]
        yield f"  decode once for all, {n} workers", clips_per_second(lambda: sum(isinstance(c, dict) for _, c in decode_ahead(jobs, dict(zip("abc", VIEWS)), 2, n)))


def encoding(clips, encoder, batch):
    "The encoder alone: clip by clip, and in batches."
    for size in (1, batch):
        encoder.batch = size
        encoder.encode_video(clips[:size])
        yield f"encode in batches of {size}", clips_per_second(lambda: len(encoder.encode_video(clips)))


def together(paths, encoder, batch, workers):
    "Everything: one video after another against the command's way."
    encoder.batch = batch
    yield "one video after another", clips_per_second(lambda: sum(len(encoder.encode_video(read_clips(p, 2, 32, encoder.frame_size))) for p in paths))
    for n in workers:
        jobs = [Job(p.stem, p, ["slowfast"]) for p in paths]
        run = lambda: sum(job.reason is None for job in encode_videos(jobs, {"slowfast": encoder}, tempfile.mkdtemp(), 2, batch, n))
        yield f"  extract, {n} workers", clips_per_second(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="a folder of good videos")
    parser.add_argument("--copies", type=int, default=8, help="videos to render without --videos")
    parser.add_argument("--width", type=int, default=8, help="channels of the SlowFast's first convolution")
    parser.add_argument("--size", type=int, default=112, help="side of the pictures that it sees; published 224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rates there")
    args = parser.parse_args()
    folder = args.videos or render(Path(tempfile.mkdtemp()), args.copies)
    paths = find_videos(folder)
    encoder = SlowFastEncoder(SlowFast(args.width), size=args.size, device=args.device, batch=args.batch)
    clips = list(islice((clip for p in paths for clip in read_clips(p, 2, 32, args.size)), 2 * args.batch))
    print(f"{'':32}{'clips/s':>9}{'ratio':>8}")
    rates = {}
    for rows in (decoding(paths, args.workers), encoding(clips, encoder, args.batch), together(paths, encoder, args.batch, args.workers)):
        first = None
        for what, rate in rows:
            first = first or rate
            rates[what.strip()] = round(rate, 1)
            print(f"{what:32}{rate:9.1f}{rate / first:8.2f}", flush=True)
    facts = dict(encoder=f"SlowFast, {args.width} channels, {args.size} x {args.size}", batch=args.batch, videos=len(paths))
    if args.json: write_json(args.json, dict(unit="clips per second", cores=os.cpu_count(), load=round(os.getloadavg()[0], 1)) | facts | dict(rates=rates))


if __name__ == "__main__": main()
