"""Is synthetic pretraining worth it? Queries for the training videos of charades_clip, made without their labels; then pretraining, fine-tuning, and the same recipe from scratch.

    VIDEOLIGHTS_REALDATA=... OMP_NUM_THREADS=1 python benchmarks/pretraining.py --out runs/pretraining [--seeds 2018 2019 2020] [--json benchmarks/results/pretraining.json]

No captioner reads feature files, so Algorithm 1 has a stand-in here. An interval of ten seconds is described by the two nouns, of the 194 that occur in this data set, that are most similar to its clips in CLIP's space,
as standard deviations above what the noun has on all clips, plus the same difference to the rest of the video. A sentence pattern, drawn with the seed, joins them. Saliency is the cosine of clips and the two nouns' mean.
Sentences are encoded as the data set's own queries are: GloVe vectors and CLIP nouns, word by word. Everything else is videolights.encoders.synthesis. The command goes on where it stopped.

With --windows fitted the moments are no fixed intervals: for each video the three nouns and windows of 4 to 20 seconds are taken in which a noun stands out most from the rest of the video. That is not Algorithm 1, but it shows what its
fixed grid costs.
"""
import argparse
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from videolights.config import Config, DataConfig
from videolights.encoders.extraction import save_features
from videolights.data.store import l2_normalize, pack
from videolights.encoders.synthesis import Recipe, tidy, to_queries, to_row
from videolights.evaluation.reports import evaluate
from videolights.files import read_array, read_json, read_jsonl, write_json, write_jsonl, write_text
from videolights.model.videolights import load
from videolights.training.loop import open_split, predict, train

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ["a person with a {} and a {}", "person is near the {} and the {}", "a person holding a {} next to a {}", "the person looks at the {} by the {}", "person in front of a {} and a {}"]
PEOPLE = {"person", "persons", "man", "woman", "girl", "boy", "child"}     # nearly always there, so they tell nothing apart
SHOWN = ("MR-R1@0.3", "MR-R1@0.5", "MR-R1@0.7", "MR-mIoU")


def describe(vid, clips, nouns, vectors, mean, std, recipe):
    "A video's record, as `synthesis.describe_video` writes it."
    cosine = clips @ vectors.T                                                                  # (L, nouns)
    high, intervals = (cosine - mean) / std, []
    for first in range(0, len(clips) - recipe.clips + 1, recipe.clips):
        inside = np.zeros(len(clips), bool); inside[first:first + recipe.clips] = True
        rest = high[~inside].mean(0) if not inside.all() else 0
        score = high[inside].mean(0) * 2 - rest
        one = int(score.argmax())
        other = next(int(i) for i in np.argsort(-score) if vectors[i] @ vectors[one] < .9)      # not its synonym
        caption = random.Random(f"{recipe.seed} {vid} {first}").choice(PATTERNS).format(nouns[one], nouns[other])
        text = l2_normalize(vectors[one] + vectors[other])
        intervals.append(dict(clip=first, frame=recipe.clips // 2, caption=tidy(caption), similarity=[round(float(s), 4) for s in clips[inside] @ text]))
    return dict(vid=vid, clips=len(clips), intervals=intervals)


def contrasts(high, lengths=(4, 6, 9, 13, 20)):
    "How much each noun stands out in each window, in standard errors: yields (first, end, (nouns,))."
    total, count = np.concatenate([np.zeros((1, high.shape[1])), high.cumsum(0)]), len(high)
    for length in lengths:
        for first in range(0, count - length + 1) if length < count else ():
            inside, rest = total[first + length] - total[first], total[-1] - total[first + length] + total[first]
            yield first, first + length, (inside / length - rest / (count - length)) * (length * (count - length) / count) ** .5


def describe_fitted(vid, clips, nouns, vectors, mean, std, recipe, most=3):
    "Annotation rows of a video, a window where each of the nouns stands out that do so most."
    windows, rows, taken = list(contrasts((clips @ vectors.T - mean) / std)), [], []
    if not windows: return []
    scores = np.stack([score for *_, score in windows])                                         # (windows, nouns)
    for noun in np.argsort(-scores.max(0)):
        if len(rows) == most: break
        if any(vectors[noun] @ vectors[t] > .9 for t in taken): continue
        taken.append(noun)
        place = int(scores[:, noun].argmax())
        first, end, score = windows[place]
        other = next(i for i in np.argsort(-score) if vectors[i] @ vectors[noun] < .9)
        caption = random.Random(f"{recipe.seed} {vid} {first} {noun}").choice(PATTERNS).format(nouns[noun], nouns[other])
        text = l2_normalize(vectors[noun] + vectors[other])
        group = [dict(clip=i, frame=0, caption=caption, similarity=[float(clips[i] @ text)]) for i in range(first, end)]
        row = to_row(dict(vid=vid, clips=len(clips)), group, replace(recipe, interval=recipe.clip_seconds))
        rows.append(row | dict(qid=f"{vid}_{first}_{nouns[noun]}"))
    return rows


def make(data, out, seed, windows):
    "The synthetic data set; path of its YAML file."
    recipe, clip = Recipe(clip_seconds=data.clip_seconds, seed=seed), data.of_kind("video")[0]
    vids = sorted({row["vid"] for row in read_jsonl(data.path(data.splits["train"]))})
    held = {row["vid"] for row in read_jsonl(data.path(data.splits["val"]))}
    assert not held & set(vids)
    known = np.load(data.path("clip_nouns.npz"))
    keep = [i for i, word in enumerate(known["words"]) if word not in PEOPLE]
    nouns, vectors = [str(known["words"][i]) for i in keep], l2_normalize(known["word_embeddings"][keep])
    videos = {vid: l2_normalize(read_array(data.path(clip.folder, f"{vid}.npz"), clip.key)) for vid in vids}
    everything = np.concatenate(list(videos.values())) @ vectors.T
    mean, std = everything.mean(0), everything.std(0)
    common = nouns, vectors, mean, std, recipe
    if windows == "grid": rows, dropped = to_queries([describe(vid, x, *common) for vid, x in videos.items()], recipe)
    else: rows, dropped = [row for vid, x in videos.items() for row in describe_fitted(vid, x, *common)], []
    encode(data, rows, out)
    write_jsonl(out / "train.jsonl", rows); write_jsonl(out / "left_out.jsonl", dropped)
    sources = [dict(name=s.name, kind=s.kind, dim=s.dim, folder=s.folder if s.kind == "video" else str(out / f"{s.name}_features"), key=s.key) for s in data.sources]
    write_text(out / "dataset.yaml", yaml.safe_dump(dict(name="charades_clip_synthetic", protocol="custom", clip_seconds=data.clip_seconds, root=data.root, store=str(out / "store"),
                                                         splits={"train": str(out / "train.jsonl")}, sources=sources), sort_keys=False))
    pack(out / "dataset.yaml", progress=False)
    print(f"{len(rows)} queries of {len(vids)} videos, {len(dropped)} left out; for example: " + "; ".join(row["query"] for row in rows[::len(rows) // 5]), flush=True)
    return out / "dataset.yaml"


def encode(data, rows, out):
    "Text features as the data set's own: tokens, unknown ones dropped, zeros where a word is no noun."
    words, nouns = np.load(data.path("glove_vocab.npz")), np.load(data.path("clip_nouns.npz"))
    place, noun = ({str(w): i for i, w in enumerate(x["words"])} for x in (words, nouns))
    for row in rows:
        tokens = [t for t in re.findall(r"[a-z0-9'/&#-]+|[.,!(]", row["query"] + ".") if t in place]
        save_features(out / "glove_features" / f"qid{row['qid']}.npz", last_hidden_state=words["vectors"][[place[t] for t in tokens]])
        rows_of = [nouns["word_embeddings"][noun[t]] if t in noun else np.zeros(nouns["word_embeddings"].shape[1]) for t in tokens]
        save_features(out / "clip_noun_features" / f"qid{row['qid']}.npz", last_hidden_state=np.stack(rows_of).astype(np.float16))


def run(config, folder):
    "Train, or take what is there; headline metrics of the best epoch, percent."
    if not (folder / "done").exists():
        train(config, folder, resume=(folder / "config.json").exists(), progress=False)
        (folder / "done").touch()
    return folder


def scores(folder, real):
    "Metrics of a run's best checkpoint on the real validation split."
    dataset = open_split(real, "val")
    data = DataConfig.load(real.data)
    brief = evaluate(predict(load(folder), dataset, data), dataset.annotations, data.protocol, data.clip_seconds)["brief"]
    return {name: brief[name] for name in SHOWN}


def summary(rows): return {name: [round(float(np.mean([r[name] for r in rows])), 2), round(float(np.std([r[name] for r in rows], ddof=1)), 2) if len(rows) > 1 else None] for name in SHOWN}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "charades_clip.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2018, 2019, 2020])
    parser.add_argument("--windows", choices=("grid", "fitted"), default="grid", help="Algorithm 1's ten-second intervals, or windows where a noun stands out")
    parser.add_argument("--epochs", type=int, help="of pretraining (default: the recipe's)")
    parser.add_argument("--lr", type=float, help="of fine-tuning (default: the recipe's)")
    parser.add_argument("--scratch", choices=("run", "skip"), default="run", help="train from scratch as well")
    parser.add_argument("--json", type=Path, help="write the table to this file, beside that of the other --windows")
    args = parser.parse_args()
    real, out, result = Config.load(args.recipe), args.out.resolve(), {}
    data = DataConfig.load(real.data)
    made = out / "synthetic" / "dataset.yaml"
    if not made.exists(): make(data, out / "synthetic", real.train.seed, args.windows)
    pretraining = real.with_changes({"data": str(made), "train.eval_split": ""} | ({"train.epochs": args.epochs} if args.epochs else {}))
    before = run(pretraining, out / "pretrained")
    result["pretrained, not fine-tuned"] = [scores(before, real)]
    print(result, flush=True)
    ways = {"fine-tuned": {"train.start": str(before)} | ({"train.lr": args.lr} if args.lr else {})} | ({"from scratch": {}} if args.scratch == "run" else {})
    for name, changes in ways.items():
        result[name] = []
        for seed in args.seeds:
            result[name].append(scores(run(real.with_changes(changes | {"train.seed": seed}), out / f"{name.replace(' ', '_')}_{seed}"), real))
            print(name, seed, result[name][-1], flush=True)
    table = dict(metrics="mean and standard deviation over seeds, percent, charades_clip val, best epoch", seeds=args.seeds, windows=args.windows, synthetic_queries=len(read_jsonl(out / "synthetic" / "train.jsonl")),
                 pretraining_epochs=pretraining.train.epochs, fine_tuning_lr=args.lr or real.train.lr, rows={name: dict(mean_std=summary(rows), each=rows) for name, rows in result.items()})
    print(json.dumps(table, indent=2))
    if args.json: write_json(args.json, (read_json(args.json) if args.json.exists() else {}) | {args.windows: table})


if __name__ == "__main__": main()
