"""Many clients at once, every answer compared with the one that a single thread gives.

    python benchmarks/soak.py BUNDLE [--clients 50] [--seconds 120] [--places 50] [--out soak.json]

Starts the service on a free port of this machine. Each client asks, again and again, other queries about other small videos, every second time as an upload;
an answer is right when it is the very numbers that the runtime gives by itself. Ends with 1 where an answer was wrong or a request was lost. Prints requests by
status and seconds from request to answer.
"""
import argparse
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from videolights.deploy.runtime import Runtime
from videolights.features.video import write_video

SERVE = """
import sys
from videolights.deploy.serving import Limits, serve
serve(sys.argv[1], sys.argv[2], port=0, limits=Limits(workers=2, waiting=max(int(sys.argv[3]) - 2, 0)), providers="cpu", threads=1)
"""
WORDS = "a red circle|a blue square|a green star moves|a ball|a triangle grows|a circle moves to the left|two stars|nothing at all".split("|")


def make_questions(folder, bundle, videos=8):
    "(video, queries, the single thread's rows): each video with each query, alone and beside another."
    runtime, rng = Runtime.load(bundle, "cpu", 1), np.random.default_rng(2018)
    for i in range(videos):
        frames = rng.integers(0, 255, (20 + 10 * i, 6, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        path = write_video(folder / f"{i}.mp4", frames, 10)
        for j, word in enumerate(WORDS):
            queries = [word, WORDS[(i + j) % len(WORDS)]][:1 + j % 2]
            yield path, queries, [plain(p.to_dict()) for p in runtime.predict_video(path, queries)]


def plain(row): return json.loads(json.dumps({k: v for k, v in row.items() if k not in ("top_clips", "vid")}))


def ask(port, path, queries, upload):
    "(status, rows) of one request on a connection of its own."
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    if upload:
        parts = [b'--line\r\nContent-Disposition: form-data; name="file"; filename="v.mp4"\r\n\r\n' + path.read_bytes()]
        parts += [b'--line\r\nContent-Disposition: form-data; name="query"\r\n\r\n' + q.encode() for q in queries]
        body, kind = b"\r\n".join([*parts, b"--line--\r\n"]), "multipart/form-data; boundary=line"
    else: body, kind = json.dumps(dict(path=path.name, queries=queries)).encode(), "application/json"
    try:
        line.request("POST", "/predict" if upload else "/predict/path", body, {"Content-Type": kind})
        answer = line.getresponse()
        return answer.status, json.loads(answer.read()).get("predictions", [])
    finally: line.close()


def client(seed, port, questions, end):
    "(status, whether it is right, seconds) of each request until `end`."
    rng, done = random.Random(seed), []
    while time.perf_counter() < end:
        path, queries, expected = rng.choice(questions)
        start = time.perf_counter()
        try: status, rows = ask(port, path, queries, upload=len(done) % 2)
        except (OSError, http.client.HTTPException) as e: status, rows = type(e).__name__, []
        done.append((status, status != 200 or [plain(row) for row in rows] == expected, time.perf_counter() - start))
    return done


def soak(bundle, clients, seconds, places):
    "What came of it."
    with tempfile.TemporaryDirectory() as folder:
        questions = list(make_questions(Path(folder), bundle))
        server = subprocess.Popen([sys.executable, "-c", SERVE, bundle, folder, str(places)], stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline().split("127.0.0.1:")[1].split()[0])
            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                done = sum(pool.map(lambda i: client(i, port, questions, start + seconds), range(clients)), [])
            took = time.perf_counter() - start
        finally:
            server.terminate()
            server.wait()
    right = [s for status, _, s in done if status == 200]
    shares = dict(p50=.5, p90=.9, p99=.99, max=1) if right else {}
    return dict(clients=clients, places=places, seconds=round(took, 1), requests=len(done), wrong=sum(not ok for _, ok, _ in done), questions=len(questions),
                by_status={str(k): n for k, n in Counter(status for status, _, _ in done).items()}, per_second=round(len(right) / took, 1),
                latency_s={name: round(float(np.quantile(right, q)), 3) for name, q in shares.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--places", type=int, help="requests that may be worked on or wait (default: as many as clients)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    found = soak(args.bundle, args.clients, args.seconds, args.clients if args.places is None else args.places)
    print(json.dumps(found, indent=1))
    if args.out: args.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["wrong"] > 0 or not set(found["by_status"]) <= {"200", "503"})


if __name__ == "__main__": sys.exit(main())
