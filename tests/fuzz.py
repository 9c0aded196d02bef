"""Bad input for every verb: `python tests/fuzz.py --cases 1000 --seed 1` prints verdicts by verb, and how to repeat what went wrong.

A case spoils one thing: a value or a key in a YAML or JSON file, the bytes of a file, what lies at a path, the value of an option, or where an output goes.
Each runs in a process of its own (forked, so that imports are paid once) on a copy of a tiny world, with limits of time and memory. Verdicts:
ok; refused (one line that says where), vague (one line that does not); problems (`data check` and what goes on past single faults); the bad ones in BAD.
"""
import argparse
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st

BAD = "traceback unexpected hang crash changed silent endless".split()
ROOT = Path(__file__).resolve().parent.parent
TINY = dict(dim=32, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, slots=4, align_dim=16)
DATA, VAL, TRAIN = "world/toyworld.yaml", "world/annotations/val.jsonl", "world/annotations/train.jsonl"
VIDEO, VIDEOS = "world/videos/toy_val_0000.mp4", "world/videos"
FEATURES, TEXT = "world/builtin_video/toy_val_0000.npz", "world/builtin_text/qid1000000.npz"
BUNDLE, STORE = ["bundle/model.onnx", "bundle/contract.json"], ["world/store/index.json", "world/store/builtin.npy"]
RUN = ["run/config.json", "run/best/model.safetensors", "run/best/config.json"]
MOMENTS, PAIRS, RELEASED = "predictions.jsonl", "pairs.jsonl", "released.ckpt"


@dataclass(frozen=True)
class Verb:
    "A command that works, what it reads, and its options by kind."
    line: str
    reads: tuple = ()        # files without which it cannot work
    numbers: tuple = ()      # options that take a number
    words: tuple = ()        # options that take a text, "" is the last positional word
    outputs: tuple = ()      # options that name a file or folder to write
    writes: tuple = ()       # beginnings of paths outside out/ that it is asked to write
    weight: int = 4          # how often it is drawn
    patience: int = 1        # its time limit, in those of others


WORK = ("--workers", "--batch"), ("--device", "--weights", "--ray-address")
VERBS = {
    "check": Verb(f"data check {DATA}", (DATA, VAL, TRAIN, FEATURES, TEXT), weight=6),
    "pack": Verb(f"data pack {DATA}", (DATA, VAL, TRAIN, FEATURES, TEXT), writes=("world/store",)),
    "toyworld": Verb("toyworld out/toy --train-videos 1 --val-videos 1", numbers=("--train-videos", "--val-videos", "--seed"), outputs=("",), weight=2),
    "extract": Verb(f"extract {VIDEOS} --sources builtin --out out/features --annotations {VAL}", (VIDEO, VAL), WORK[0] + ("--clip-seconds", "--at"),
                    WORK[1] + ("--sources", "--protocol", "--engine"), ("--out",)),
    "synthesize": Verb(f"synthesize {VIDEOS} --captioner colours --out out/made --held-out none.jsonl", ("none.jsonl",),
                       WORK[0] + tuple("--interval --clip-seconds --at --shortest --common --seed --examples".split()),
                       WORK[1] + ("--captioner", "--matcher", "--frame", "--sources"), ("--out",), weight=3),
    "train": Verb("train recipe.yaml --out out/run", ("recipe.yaml", DATA, VAL, TRAIN, *STORE), ("--epochs", "--lr"), ("--set", "--pretrained"), ("--out",), weight=10),
    "resume": Verb("train recipe.yaml --out run --resume", ("recipe.yaml", DATA, "run/config.json"), ("--epochs", "--lr"), ("--set",), writes=("run",), weight=3),
    "ablate": Verb("ablate grid.yaml --out out/grid", ("grid.yaml", "recipe.yaml", DATA), ("--jobs",), (), ("--out",), weight=5, patience=4),
    "tune": Verb("tune search.yaml --out out/search", ("search.yaml", "recipe.yaml", DATA), ("--trials", "--jobs"), (), ("--out",), weight=5, patience=4),
    "evaluate run": Verb("evaluate run --out out/scores.json", (*RUN, DATA, VAL), (), ("--split", "--protocol"), ("--out", "--per-query"), ("run/predictions_",)),
    "evaluate bundle": Verb(f"evaluate bundle {DATA}", (*BUNDLE, DATA, VAL, *STORE), (), ("--split", "--protocol"), ("--out", "--per-query")),
    "evaluate file": Verb(f"evaluate {MOMENTS} {VAL} --slices", (MOMENTS, VAL), ("--clip-seconds",), ("--protocol",), ("--out", "--per-query"), weight=10),
    "convert": Verb(f"convert {RELEASED} --out out/converted", (RELEASED,), outputs=("--out",), weight=2),
    "export": Verb("export run --out out/bundle", RUN[1:], ("--tolerance",), ("--split", "--precision", "--encoder", "--data"), ("--out",), weight=1, patience=4),
    "benchmark": Verb("benchmark bundle --no-torch --seconds 0.01 --batch 1 --clips 8", BUNDLE, tuple("--batch --clips --words --threads --seconds".split()),
                      ("--provider", "--precision"), ("--out",), weight=2),
    "predict": Verb(f"predict bundle {VIDEO} red --out out/a.jsonl", (*BUNDLE, VIDEO), ("--top", "--min-confidence"), ("--provider", "--precision", "--fps", "--weights", ""),
                    ("--out", "--csv", "--edl", "--render"), weight=10),
    "predict list": Verb(f"predict bundle {PAIRS} --out out/found.jsonl", (*BUNDLE, PAIRS), ("--top", "--min-confidence"), ("--fps",), ("--out", "--csv", "--edl")),
    "predict folder": Verb(f"predict bundle {VIDEOS} red --out out/found.jsonl", BUNDLE, ("--top",), ("",), ("--out", "--csv", "--edl"), weight=3),
    "serve": Verb("serve bundle --port 0", BUNDLE, ("--port", "--max-mb", "--max-seconds-of-video", "--timeout", "--threads"),
                  ("--host", "--folder", "--provider", "--precision"), weight=3),
    "report": Verb("report run --out out/report.html", ("run/config.json", "run/log.csv"), (), ("--videos",), ("--out",), ("run/queries",), weight=3),
    "explore": Verb(f"explore bundle {MOMENTS} {DATA} --html out/page.html", (*BUNDLE, MOMENTS, DATA, VAL), ("--clip-seconds",), ("--split", "--videos", "--protocol"),
                    ("--html",)),
    "demo": Verb("demo --out out/demo", outputs=("--out",), weight=0),
}

# the world ------------------------------------------------------------------------------------------------------------------------

def run(*words):
    "A command in this process; its exit code."
    from videolights.cli import main
    return main([str(word) for word in words])


def write(path, value):
    "YAML, JSON or JSON lines, as the name says."
    dumps = {".yaml": lambda x: yaml.safe_dump(x, sort_keys=False, allow_unicode=True), ".json": json.dumps,
             ".jsonl": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}
    path.write_text(dumps[path.suffix](value), encoding="utf-8", errors="surrogatepass")


def read(path):
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line] if path.suffix == ".jsonl" else yaml.safe_load(text)


def build(folder):
    "A data set of five videos with its store, a run of one epoch, recipes, a bundle, predictions: all that verbs read."
    import torch
    os.chdir(folder)
    assert run("toyworld", "world", "--train-videos", 3, "--val-videos", 2) == 0
    assert run("data", "pack", DATA) == 0
    write(Path("recipe.yaml"), dict(data=DATA, model=TINY, train=dict(epochs=1, batch_size=4, lr=1e-3)))
    write(Path("grid.yaml"), dict(base="recipe.yaml", rows={"base": {}, "narrow": {"model.dim": 16}}, seeds=[1], metrics=["MR-full-mAP"]))
    write(Path("search.yaml"), dict(base="recipe.yaml", trials=1, seeds=[1], space={"train.lr": dict(low=1e-4, high=1e-2, log=True), "model.slots": [4, 5]}))
    assert run("train", "recipe.yaml", "--out", "run") == 0
    shutil.copytree(ROOT / "exported" / "toyworld", "bundle")
    shutil.copy("run/predictions_val.jsonl", MOMENTS)
    rows = read(Path(VAL))
    write(Path(PAIRS), [dict(video=VIDEO, query=row["query"], qid=row["qid"]) for row in rows[:3]])
    write(Path("none.jsonl"), [{**rows[0], "vid": "elsewhere"}])
    torch.save({"model": {"weight": torch.zeros(3)}}, RELEASED)


def preload():
    "What verbs import, once for all cases."
    import av, onnxruntime, optuna, pandas, plotly, scipy.optimize, torch  # noqa: E401, F401
    import videolights.deploy.serving, videolights.encoders.synthesis, videolights.evaluation.reports, videolights.explore.page  # noqa: E401, F401
    import videolights.explore.report, videolights.training.grids, videolights.training.loop, videolights.training.search  # noqa: E401, F401


# cases ----------------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Case:
    "What is spoiled: `where` picks a file, an option or a place in a file, as far as there are some."
    verb: str
    kind: str
    how: str = ""
    where: tuple = (0, 0)
    value: Any = None


HUGE = [math.nan, math.inf, -math.inf, 1e400, 1e308, 1e-320, 10**9, -10**9, 10**12, 2**63, 10**400, 1e-6, -1, 0, 100_000]
numbers = st.sampled_from(HUGE) | st.integers(-3, 4) | st.floats(-2, 2) | st.integers(10**8)
ODD = ["", " ", "0", "1e-4", "nan", "..", "/", ".", "a/b", "~", "-x", "--", "\u2028", "a\u2028b", "\x00", "a\x00b", "\ud800", "\n", "a\nb", "x" * 5000, "{}", "[", "*", "&a", "null",
       "=", "a=", "=b", "${HOME}", "${NOWHERE}", "\x1b[31m", "é" * 300, "؟", "../../etc/passwd", "%s{}", "{vid}", "no", "train", "val", "none", "1:2"]
texts = st.sampled_from(ODD) | st.text(max_size=12)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=3), max_leaves=6)
KINDS = dict(value=8, number=8, key=4, bytes=5, place=4, option=6, word=4, output=5, none=1)
HOWS = dict(key=["drop", "rename", "double", "number", "null key"], place=["missing", "folder", "loop", "dangling", "fifo", "zeros", "link"],
            bytes=["empty", "cut", "flip", "binary", "utf-16", "bom", "crlf", "deep", "bomb", "line separators", "more"],
            output=["input", "folder", "twice", "null", "deep", "through a file", "link", "itself"])
VERB_NAMES = [name for name, verb in VERBS.items() for _ in range(verb.weight)]
KIND_NAMES = [name for name, weight in KINDS.items() for _ in range(weight)]


def draw_cases(count, seed):
    "The same cases for the same numbers (and version of hypothesis): what is spoiled is drawn evenly, the values are hypothesis's."
    found, rng = [], random.Random(seed)

    @seeded(seed)
    @settings(max_examples=count, database=None, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    @given(values, numbers, texts)
    def collect(value, number, text):
        verb, kind, where = rng.choice(VERB_NAMES), rng.choice(KIND_NAMES), (rng.randrange(10_000), rng.randrange(10_000))
        found.append(Case(verb, kind, rng.choice(HOWS.get(kind, [""])), where, dict(value=value, number=number, option=number, word=text).get(kind)))
    while len(found) < count: collect()     # hypothesis ends early where it has seen all values
    return found[:count]


# spoiling -------------------------------------------------------------------------------------------------------------------------

def places(value, here=()):
    "Every place in a structure, as the keys that lead there."
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*here, key)
        yield from places(value[key], (*here, key))


def pick(options, index): return options[index % len(options)]


def is_number(x): return isinstance(x, (int, float)) and not isinstance(x, bool)


def spoil_value(path, case):
    "Another value at some place of a structured file; whether that cannot be right."
    value = read(path)
    known = [p for p in places(value) if case.kind != "number" or is_number(follow(value, p))]
    if not known: return None
    *way, last = pick(known, case.where[1])
    inside = follow(value, way)
    old, inside[last] = inside[last], case.value
    write(path, value)
    return True if is_number(old) and isinstance(case.value, float) and not math.isfinite(case.value) else None


def follow(value, way):
    for key in way: value = value[key]
    return value


def spoil_key(path, case):
    "A key that is missing, misspelt, there twice, or no text."
    value = read(path)
    known = [p for p in places(value) if isinstance(p[-1], str)]
    *way, last = pick(known, case.where[1])
    inside = follow(value, way)
    if case.how == "double":
        row = f"{json.dumps(last)}: {json.dumps(inside[last])}, "
        text = path.read_text() if path.suffix == ".jsonl" else json.dumps(value)
        path.write_text(text.replace(f"{json.dumps(last)}: ", f"{row}{json.dumps(last)}: ", 1))
        return True if path.suffix != ".jsonl" or row in text else None
    kept = inside.pop(last)
    if case.how != "drop": inside[{"rename": f"{last}x", "number": 3, "null key": None}[case.how]] = kept
    write(path, value)
    return None


def bomb(suffix):
    "A few lines that stand for millions."
    if suffix != ".yaml": return "[" * 100_000
    return "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")) + "data: *i\nbase: *i\nname: *i\n"


def spoil_bytes(path, case):
    "Other bytes in a file; whether that cannot be right."
    data, text = path.read_bytes(), path.suffix in (".yaml", ".json", ".jsonl", ".csv")
    at = case.where[1] * 7919 % max(len(data), 1)
    deep = ("a: " + "[" * 5000 + "]" * 5000 if path.suffix == ".yaml" else '{"a":' * 5000 + "1" + "}" * 5000).encode()
    path.write_bytes(dict(empty=b"", cut=data[:at // 2], flip=data[:at] + bytes([data[at] ^ 1 << case.where[1] % 8]) + data[at + 1:], binary=bytes(range(256)) * 20,
                          bom=b"\xef\xbb\xbf" + data, crlf=data.replace(b"\n", b"\r\n"), deep=deep, bomb=bomb(path.suffix).encode(), more=data + b"\x00" * 100,
                          **{"utf-16": data.decode("latin-1").encode("utf-16"), "line separators": data.replace(b" ", "\u2028".encode())})[case.how])
    if case.how in ("empty", "binary", "utf-16", "deep", "bomb") or case.how == "more" and text: return True
    return True if case.how == "cut" and path.suffix in (".json", ".onnx", ".safetensors", ".npz", ".npy", ".mp4") else None


def spoil_place(path, case):
    "Something else where a file should be."
    kept = path.with_name(f"kept{path.suffix}")
    path.rename(kept)
    {"missing": kept.unlink, "folder": path.mkdir, "loop": lambda: path.symlink_to(path.name), "dangling": lambda: path.symlink_to("nowhere"),
     "fifo": lambda: os.mkfifo(path), "zeros": lambda: path.symlink_to("/dev/zero"), "link": lambda: path.symlink_to(kept.name)}[case.how]()
    spare = path.parent.name == "store" or path.parent.name == "videos" and case.verb != "predict"     # others stand in for it
    return case.how != "link" and not spare or None


def with_option(words, option, *values):
    "The command with an option set anew; '' stands for the last positional word that is no option's."
    words = list(words)
    if option == "":
        at = next(i for i, word in enumerate([*words, "--"]) if word.startswith("--")) - 1
        return [*words[:at], *values, *words[at + 1:]]
    if option in words: del words[words.index(option):words.index(option) + 2]
    return [*words, *(f"{option}={value}" for value in values)]


def aim(words, verb, case):
    "Where an output goes; whether it may not go there."
    option, target = pick(verb.outputs, case.where[0]), pick(verb.reads or (DATA,), case.where[1])
    other = pick(verb.outputs, case.where[0] + 1)
    if case.how == "link": os.symlink(Path(target).resolve(), "link")
    place = {"input": target, "folder": str(Path(target).parent), "twice": "out/one", "null": "/dev/null", "deep": "out/a/b/c/d", "through a file": f"{target}/x", "link": "link",
             "itself": "out"}[case.how]
    words = with_option(words, option, place)
    if case.how == "twice" and other != option: words = with_option(words, other, place)
    refused = case.how in ("input", "through a file") or case.how == "link" and bool(verb.reads) or case.how == "twice" and other != option
    return words, place, True if refused and verb.reads else None


def spoil(case, folder):
    "Spoil one thing in `folder`: (words of the command, what was spoiled, whether it must be refused)."
    verb = VERBS[case.verb]
    words = verb.line.split()
    if case.kind in ("option", "word"):
        known = verb.numbers if case.kind == "option" else verb.words
        if not known: return words, "", None
        option = pick(known, case.where[0])
        text = str(case.value).replace("\x00", "?").encode("utf-8", "surrogateescape" if "\udc80" <= str(case.value)[:1] <= "\udcff" else "replace").decode("utf-8", "surrogateescape")
        if option == "--set": text = f"{pick(settable(), case.where[1])}={text}"
        wrong = case.kind == "option" and isinstance(case.value, float) and not math.isfinite(case.value)
        return with_option(words, option, text), option or text[:30], wrong or None
    if case.kind == "output": return aim(words, verb, case) if verb.outputs else (words, "", None)
    spoiled = {"value": spoil_value, "number": spoil_value, "key": spoil_key, "bytes": spoil_bytes, "place": spoil_place}.get(case.kind)
    files = [f for f in verb.reads if case.kind not in ("value", "number", "key") or Path(f).suffix in (".yaml", ".json", ".jsonl")]
    if not (spoiled and files): return words, "", None
    path = pick(files, case.where[0])
    return words, path, spoiled(folder / path, case)


def settable():
    from dataclasses import fields

    from videolights.config import Config
    return [f"{part}.{f.name}" for part in ("model", "loss", "train") for f in fields(getattr(Config(), part))] + ["data", "sources", "model", "x.y", "model.preset"]


# running --------------------------------------------------------------------------------------------------------------------------

def contents(folder, skip):
    "What lies in a folder: a hash a file, where a link leads; special files by their kind."
    def mark(path):
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind): return os.readlink(path)
        return hashlib.sha1(path.read_bytes()).hexdigest() if stat.S_ISREG(kind) else stat.S_IFMT(kind)
    names = [str(p.relative_to(folder)) for p in folder.rglob("*")]
    return {name: mark(folder / name) for name in names if not name.startswith(("out", *skip))}


def in_child(work, folder, seconds, memory_gib=6):
    "Run something in a process of its own, in `folder`; (exit code, None where time ran out, a signal's below 0; what it printed; what it said on stderr)."
    out, err = folder / "out.stdout", folder / "out.stderr"
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_AS, (memory_gib * 2**30,) * 2)
            for path, number in ((out, 1), (err, 2)): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False, errors="backslashreplace") for number in (1, 2))
            code = work()
        except SystemExit as e: code = e.code if isinstance(e.code, int) else 1
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code or 0)
    end, code = time.time() + seconds, None
    while time.time() < end and code is None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done: code = os.waitstatus_to_exitcode(status)
        else: time.sleep(0.01)
    try: os.killpg(child, signal.SIGKILL)     # and what it may have started
    except ProcessLookupError: pass
    if code is None: os.waitpid(child, 0)
    return code, out.read_text(errors="replace"), err.read_text(errors="replace")


def judge(code, out, err, same, invalid, what):
    "The verdict about one case."
    lines = [line for line in err.split("\n") if line.startswith("videolights: error:")]
    if code is None: return "hang"
    if not same: return "changed"
    if code < 0: return "crash"
    if "Traceback (most recent call last)" in out + err: return "traceback"
    if any("error: unexpected " in line for line in lines): return "unexpected"
    if len(out + err) > 100_000 or any(len(line) > 3000 for line in lines): return "endless"
    if code and not lines: return "problems" if code == 1 else "traceback"
    if code: return "refused" if not what or what in lines[0] or Path(what).name in lines[0] or Path(what).parent.name in lines[0] else "vague"
    return "silent" if invalid else "ok"


def try_case(case, world, folder, seconds):
    "Run a case on a copy of the world: (verdict, words, what was spoiled, what was said)."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world, folder, symlinks=True)
    (folder / "out").mkdir()
    config = folder / "run" / "config.json"
    config.write_text(config.read_text().replace(str(world), str(folder)))      # a run names its data set by an absolute path
    at = os.getcwd()
    os.chdir(folder)
    try: words, what, invalid = spoil(case, folder)
    finally: os.chdir(at)
    before = contents(folder, VERBS[case.verb].writes)

    def work():
        import uvicorn
        uvicorn.Server.run = lambda *args, **kwargs: None     # the service says where it listens, and ends
        return run(*words)
    code, out, err = in_child(work, folder, seconds * VERBS[case.verb].patience)
    after = contents(folder, VERBS[case.verb].writes)
    same = all(after.get(name) == mark for name, mark in before.items())
    changed = [name for name in before if after.get(name) != before[name]][:3]
    said = [line for line in err.strip().split("\n") if line.startswith("videolights: error:")] or (err or out).strip().split("\n")[-1:]
    return judge(code, out, err, same, invalid, what), words, what, said[0] + (f" [changed: {', '.join(changed)}]" if changed else "")


def table(found):
    "Verdicts by verb, and by kind."
    verdicts = ["ok", "refused", "vague", "problems", *BAD]
    rows = {}
    for case, verdict, *_ in found:
        for name in (case.verb, f"({case.kind})"): rows.setdefault(name, Counter())[verdict] += 1
    rows["all"] = Counter(verdict for _, verdict, *_ in found)
    lines = [["", *verdicts]] + [[name, *(str(rows[name][v] or "-") for v in verdicts)] for name in (*VERBS, *(f"({k})" for k in KINDS), "all") if name in rows]
    return "\n".join(f"{name:17}" + "".join(f"{v:>10}" for v in counts) for name, *counts in lines)


def fuzz(count, seed, only=None, seconds=90, show=print, keep=None):
    "Run cases; [(case, verdict, words, what was spoiled, what was said, its number)]."
    drawn, found = draw_cases(count, seed), []
    preload()
    with tempfile.TemporaryDirectory() as home:
        world = Path(home, "world")
        world.mkdir()
        code, out, err = in_child(lambda: build(world), world, 300)
        assert code == 0, out + err
        for name in ("out.stdout", "out.stderr"): (world / name).unlink()
        for number in range(len(drawn)) if only is None else only:
            began = time.time()
            verdict, words, what, said = try_case(drawn[number], world, Path(keep or Path(home, "case")).resolve(), seconds)
            found.append((drawn[number], verdict, words, what, said, number))
            show(number, verdict, drawn[number], words, what, said, time.time() - began)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, nargs="*", help="only these, by number; with --keep their folder stays")
    parser.add_argument("--keep", help="folder to run in, left as it is after the last case")
    parser.add_argument("--seconds", type=float, default=90, help="time limit of a case")
    parser.add_argument("--verbose", action="store_true", help="show every case, not only those that went wrong")
    given_ = parser.parse_args()

    def show(number, verdict, case, words, what, said, seconds):
        if not (given_.verbose or verdict in (*BAD, "vague")): return
        print(f"{verdict}: videolights {' '.join(words)[:200]!r}  ({case.kind} {case.how} {str(case.value)[:60]!r} in {what}; {seconds:.1f} s)\n    {said[:500]}\n"
              f"    python tests/fuzz.py --cases {given_.cases} --seed {given_.seed} --case {number} --verbose", flush=True)
    found = fuzz(given_.cases, given_.seed, given_.case, given_.seconds, show, given_.keep)
    print(table(found))
    return any(verdict in BAD for _, verdict, *_ in found)


if __name__ == "__main__": sys.exit(main())
