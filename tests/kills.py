"""Kills at random moments: every file absent or whole, and after the same command again the results of a run that nobody disturbed.

    python tests/kills.py --kills 100 --seed 1 [--only train export]

A small world is drawn once; then each verb in turn is started in a process of its own, killed (SIGKILL) somewhere within the time that it takes, looked at, and
given again. Prints a row per verb, and what was torn, left over or different.
"""
import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = "1"      # equal sums in every run

import yaml

from videolights.cli import main as videolights
from videolights.config import Config, InputError, ModelConfig, TrainConfig
from videolights.data.toyworld import make_toyworld
from videolights.features.video import probe
from videolights.files import read_array, read_json, read_jsonl

PASSED_OVER = ("tensorboard", ".log", ".lock", ".holder", ".onnx")        # times, addresses; graphs are compared by their parity with PyTorch
VARYING = ("seconds", "peak_memory_mb", "minutes", "mtime_ns", "files", "versions", "code", "cases", "worst", "source")


def make_world(folder):
    "A toy world, a recipe, a grid, a run and a bundle."
    data = make_toyworld(folder / "toy", 6, 3, progress=False)
    config = Config(data=str(data), model=ModelConfig.preset("toyworld", dim=32, feedforward=64, heads=2, encoder_layers=1, decoder_layers=1),
                    train=TrainConfig(epochs=3, batch_size=8, lr=1e-3))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.to_dict()))
    (folder / "grid.yaml").write_text(yaml.safe_dump(dict(base="recipe.yaml", change={"train.epochs": 1}, rows={"all": {}, "no FRA": {"model.refinement": "none"}}, seeds=[1])))
    for words in (["train", folder / "recipe.yaml", "--out", folder / "run"], ["export", folder / "run", "--out", folder / "bundle"]): child(words).join()
    return folder


def commands(world, out):
    "verb -> (its words, what is added when it is given again)."
    packed = dict(yaml.safe_load((world / "toy" / "toyworld.yaml").read_text()), root=str(world / "toy"), store=str(out / "store"))
    out.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.yaml").write_text(yaml.safe_dump(packed))
    labels = [world / "toy" / "annotations" / f"{split}.jsonl" for split in ("train", "val")]
    return dict(
        train=(["train", world / "recipe.yaml", "--out", out / "run"], ["--resume"]),
        extract=(["extract", world / "toy" / "videos", "--sources", "builtin", "--out", out / "features", "--annotations", *labels], []),
        predict=(["predict", world / "bundle", world / "toy" / "videos", "a red circle", "a star blinks", "--out", out / "found.jsonl", "--csv", out / "found.csv"], []),
        pack=(["data", "pack", f"{out}.yaml"], []),
        export=(["export", world / "run", "--out", out / "bundle"], []),
        ablate=(["ablate", world / "grid.yaml", "--out", out / "grid", "--jobs", "1"], []))


def run_quietly(words):
    "One command, its output nowhere."
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2): os.dup2(quiet, fd)
    os._exit(videolights([str(word) for word in words]))


def child(words):
    "A process that runs one command; it starts at once, for what it imports is here already."
    process = multiprocessing.get_context("fork").Process(target=run_quietly, args=(words,))
    process.start()
    return process


def files_in(folder): return [p for p in sorted(folder.rglob("*")) if p.is_file() and not any(part in str(p) for part in PASSED_OVER)]


def content(path):
    "What a file says, without what differs from run to run; an exception where it is torn."
    def plain(value):
        if isinstance(value, dict): return {k: plain(v) for k, v in value.items() if k not in VARYING}
        return [plain(v) for v in value] if isinstance(value, list) else value
    if path.suffix == ".json": return plain(read_json(path))
    if path.suffix == ".jsonl":
        assert path.read_bytes().endswith(b"\n") or not path.stat().st_size, "a cut line"
        rows = read_jsonl(path)
        return {row["video"]: plain(row) for row in rows} if path.name.endswith(".videos.jsonl") else plain(rows)     # of these the last line counts
    if path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}, "a cut row"
        return [[cell for name, cell in zip(rows[0], row) if name not in VARYING] for row in rows]
    if path.suffix in (".npz", ".npy"): return read_array(path, "features" if "_features" in str(path) and "text" not in str(path) else "last_hidden_state" if path.suffix == ".npz" else "").tobytes()
    if path.suffix == ".mp4": return probe(path).duration_s
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file
        return {k: v.tobytes() for k, v in load_file(path).items()}
    if path.suffix == ".html": return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", path.read_text())     # ids of figures
    return path.read_bytes()


def is_hidden(path): return path.name.startswith(".") and path.suffix in (".tmp", ".old") or any(p.startswith(".") and p.endswith((".tmp", ".old")) for p in path.parts)


def look(folder, torn):
    "{file: content} of a folder; names of torn files go to `torn`."
    found = {}
    for path in files_in(folder):
        if is_hidden(path): continue
        try: found[str(path.relative_to(folder))] = content(path)
        except (InputError, AssertionError, ValueError, OSError) as e: torn.append(f"{path.relative_to(folder)}: {e}")
    return found


def try_one(verb, world, out, moment, reference):
    "Kill a verb at a moment, give it again; (whether it was alive, what was torn, left over or different)."
    words, more = commands(world, out)[verb]
    process, torn = child(words), []
    time.sleep(moment)
    alive = process.is_alive()
    try: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass
    process.join()
    look(out, torn)
    again = child(words + more if alive else words + more)
    again.join(300)
    if again.exitcode: torn.append(f"given again it ended with {again.exitcode}")
    now = look(out, torn)
    left = [str(p.relative_to(out)) for p in out.rglob(".*") if is_hidden(p)]
    differ = [name for name in reference.keys() | now.keys() if reference.get(name) != now.get(name)]
    return alive, torn, left, differ


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["train", "extract", "predict", "pack", "export", "ablate"])
    asked = parser.parse_args(words)
    import torch
    import videolights.deploy.export, videolights.training.grids  # noqa: E401, F401    # paid once, for all children
    torch.set_num_threads(1)
    rng, bad = random.Random(asked.seed), []
    with tempfile.TemporaryDirectory(prefix="videolights-kills-") as folder:
        world = make_world(Path(folder, "world"))
        print(f"{'verb':10}{'seconds':>8}{'kills':>7}{'alive':>7}{'torn':>6}{'left':>6}{'other':>7}")
        for number, verb in enumerate(asked.only):
            whole = Path(folder, f"{verb}-whole")
            started = time.time()
            child(commands(world, whole)[verb][0]).join()
            seconds, torn = time.time() - started, []
            reference = look(whole, torn)
            assert reference and not torn, (verb, torn)
            counts = [0] * 5
            for i in range(asked.kills // len(asked.only) + (number < asked.kills % len(asked.only))):
                out = Path(folder, f"{verb}-{i}")
                alive, *faults = try_one(verb, world, out, rng.uniform(0.05, 0.95) * seconds, reference)
                counts = [a + b for a, b in zip(counts, [1, alive, *(bool(f) for f in faults)])]
                bad += [f"{verb}, kill {i}: {fault}" for fault in faults if fault]
                shutil.rmtree(out, ignore_errors=True)
            print(f"{verb:10}{seconds:8.1f}" + "".join(f"{n:>{w}}" for n, w in zip(counts, (7, 7, 6, 6, 7))), flush=True)
    print("\n".join(bad) or "every file absent or whole, nothing left over, all results equal")
    return len(bad)


if __name__ == "__main__": sys.exit(min(main(), 1))
