"""What a machine needs to answer from a video file: the size of an environment with `videolights[runtime,video]`, and its first answer.

    python benchmarks/environment.py [--bundle exported/toyworld] [--extras runtime,video]

Builds a wheel of this checkout, installs it into a new environment, renders a small video, and runs `videolights predict` on it three times, each in a new process.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from videolights.features.video import write_video

ROOT = Path(__file__).resolve().parent.parent


def megabytes(path): return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file()) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=str(ROOT / "exported" / "toyworld"))
    parser.add_argument("--extras", default="runtime,video")
    args = parser.parse_args()
    run = lambda *command: subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
        run(sys.executable, "-m", "venv", folder / "env")
        empty = megabytes(folder / "env")
        run(folder / "env/bin/python", "-m", "pip", "install", "--quiet", f"{next(folder.glob('*.whl'))}[{args.extras}]")
        print(f"environment: {megabytes(folder / 'env'):.0f} MB, {empty:.0f} of them Python's own pip; the largest parts:")
        packages = next((folder / "env/lib").glob("python*/site-packages"))
        for size, name in sorted(((megabytes(p), p.name) for p in packages.iterdir() if p.is_dir()), reverse=True)[:8]: print(f"{size:>8.0f} MB  {name}")
        video = write_video(folder / "video.mp4", np.random.default_rng(0).integers(0, 255, (200, 96, 128, 3)).astype(np.uint8), 10)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            answer = run(folder / "env/bin/videolights", "predict", Path(args.bundle).resolve(), video, "a red circle moves to the left", "--json")
            times.append(time.perf_counter() - start)
        windows = json.loads(answer)["pred_relevant_windows"]
        print(f"`videolights predict` on 20 s of video, whole process: {', '.join(f'{t:.2f} s' for t in times)} ({len(windows)} windows)")


if __name__ == "__main__": main()
