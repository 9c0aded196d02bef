"""All that exported/ ships, made anew: trained on one thread, exported, scored, put in place (`make bundles`).

    python exported/rebuild.py [--only toyworld] [--precision fp16 int8] [--reuse]

`toyworld` draws its videos and trains as `videolights demo` does, and makes the example of videolights.data.example, which the notebooks open; `charades_clip` trains recipes/charades_clip.yaml where the data set lies at
VIDEOLIGHTS_REALDATA, and is passed over where it does not. The best checkpoint of each run, weights that only training uses included, is kept in
--checkpoints (runs/shipped), and `--reuse` exports it again without training: a new version of the format changes no answer. Where no checkpoint is kept,
`--reuse` completes the bundle that is shipped, as `videolights export BUNDLE --data DATA.yaml` does. Nothing that is shipped is touched before its successor is complete. Trained weights differ from one make of processor to the next, so the metrics are printed beside those shipped.
"""
import argparse
import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "videolights" / "data" / "example" / "toyworld.npz"
REALDATA = ROOT.parent / "shared" / "realdata"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = "1"      # read when torch is imported


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BUNDLES, default=list(BUNDLES), help="bundles to make")
    parser.add_argument("--out", type=Path, default=ROOT / "exported", help="where the bundles go")
    parser.add_argument("--checkpoints", type=Path, help="where the best checkpoints go (runs/shipped, or OUT/checkpoints with --out)")
    parser.add_argument("--precision", nargs="+", default=[], choices=["fp16", "int8"], help="further precisions; none are shipped")
    parser.add_argument("--epochs", type=int, help="fewer than the recipe's, to try the way")
    parser.add_argument("--videos", type=int, nargs=2, metavar=("TRAIN", "VAL"), default=(120, 40), help="of the toy world")
    parser.add_argument("--reuse", action="store_true", help="export the checkpoints that are kept, or complete the bundles, without training")
    asked = parser.parse_args(words)
    asked.checkpoints = asked.checkpoints or (ROOT / "runs" / "shipped" if asked.out == ROOT / "exported" else asked.out / "checkpoints")
    return asked


def toyworld(work, asked):
    "The demo's recipe on freshly drawn videos."
    from videolights.cli import demo_config
    from videolights.config import DataConfig
    from videolights.data.store import pack
    from videolights.data.toyworld import make_toyworld
    path = make_toyworld(work / "toyworld", *asked.videos)
    pack(DataConfig.load(path))
    return demo_config(path)


def charades_clip(work, asked):
    "The recipe on real features, or None where they are not."
    from videolights.config import Config, DataConfig
    os.environ.setdefault("VIDEOLIGHTS_REALDATA", str(REALDATA))
    config = Config.load(ROOT / "recipes" / "charades_clip.yaml")
    data = DataConfig.load(config.data)
    return config if data.path(data.splits["train"]).exists() else None


BUNDLES = dict(toyworld=toyworld, charades_clip=charades_clip)


def trained(config, work, asked):
    "A run's best checkpoint, with the metrics of its validation split beside it."
    from videolights.files import read_json, write_json
    from videolights.training.loop import train
    if asked.epochs: config = replace(config, train=replace(config.train, epochs=asked.epochs))
    run = train(config, work / "run")
    metrics = read_json(run / f"metrics_{config.train.eval_split}.json")
    write_json(run / "best" / "metrics.json", metrics["brief"])
    return run / "best"


def record(model, item, clip_seconds):
    "What every stage makes of an item: name -> array."
    import torch
    from videolights.data.batches import collate
    from videolights.evaluation.predictions import foreground, windows_from_spans
    from videolights.model.attention import watch_attention
    from videolights.model.videolights import Stage
    batch = collate([item], clip_seconds)
    masks = Stage(batch.video_mask, batch.text_mask)
    with torch.no_grad(), watch_attention(model) as weights:
        stages = model.trace(*batch.inputs)
        attention = {f"attention.{name}": w for name, w in weights.items()}
    with torch.no_grad():
        position = model.contextualize(stages["refinement"], masks)[2]
        slots, anchors = model.decoder(*model.sequence(stages["encoder"], position, masks))
        trained = model.training_outputs(*batch.inputs)
    output = stages["output"]
    found = {f"{name}.{side}": getattr(stages[name], side) for name in ("projection", "refinement", "t2v", "fusion", "encoder") for side in ("video", "text")}
    found |= attention | {"video": batch.video, "text": batch.text, "saliency": output.saliency, "feedback": trained.feedback_saliency}
    found = {name: x[0].numpy() for name, x in found.items()}
    found |= {f"decoder.{name}": x[:, 0].numpy() for name, x in dict(slots=slots, anchors=anchors, spans=trained.spans, logits=trained.logits).items()}
    scores = foreground(found["decoder.logits"][-1])
    return found | dict(windows=windows_from_spans(found["decoder.spans"][-1], scores, len(item["video"]) * clip_seconds))


def write_example(checkpoint, config, path, traced=3):
    "The example of videolights.data.example: the first two validation videos, a checkpoint, and what it makes of each video's first queries."
    import numpy as np
    from safetensors.numpy import load_file
    from videolights.data.store import Dataset
    from videolights.data.toyworld import FPS, render, script_of
    from videolights.features.protocol import split_words
    from videolights.files import atomic_path
    from videolights.model.videolights import load
    model, dataset = load(checkpoint), Dataset(config.data, "val")
    seconds, arrays, videos = dataset.data.clip_seconds, {f"weights/{name}": x for name, x in load_file(checkpoint / "model.safetensors").items()}, {}
    for number in range(2):
        vid, script, _ = script_of("val", number, 2018)
        rate = int(FPS * seconds)
        arrays[f"video/{vid}/frames"] = np.stack(list(render(script)))[rate // 2::rate]
        for item in (dataset[i] for i, row in enumerate(dataset.annotations) if row["vid"] == vid):
            arrays[f"video/{vid}/features"] = item["video"]
            rows = videos.setdefault(vid, [])
            own = {name: np.asarray(item[name]) for name in ("windows", "saliency", "text")}
            if len(rows) < traced: own |= {f"trace/{name}": x for name, x in record(model, item, seconds).items()}
            arrays |= {f"query/{item['qid']}/{name}": x for name, x in own.items()}
            rows.append(dict(qid=item["qid"], query=item["query"], words=split_words(item["query"])))
    arrays["facts"] = json.dumps(dict(config=asdict(model.config), loss=asdict(config.loss), clip_seconds=seconds, videos=videos))
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as draft, open(draft, "wb") as file: np.savez_compressed(file, **arrays)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def rebuild(name, work, asked):
    "One bundle: train or reuse, export, complete, put it and its checkpoint in place."
    from videolights.config import DataConfig
    from videolights.data.store import Dataset
    from videolights.deploy.calibration import complete_bundle
    from videolights.deploy.export import export_onnx
    from videolights.deploy.precision import add_precisions
    from videolights.files import atomic_path, read_json
    from videolights.model.videolights import load
    bundle, kept, draft = asked.out / name, asked.checkpoints / name, work / "draft" / name
    shipped = read_json(bundle / "contract.json")["metrics"] if (bundle / "contract.json").exists() else {}
    if asked.reuse and not (shipped or kept.is_dir()): raise SystemExit(f"{kept}: no such checkpoint to reuse; leave --reuse out, and it is trained")
    config = BUNDLES[name](work, asked)
    if config is None: return print(f"{name}: passed over, its data set is not at {os.environ['VIDEOLIGHTS_REALDATA']}")
    data, best = DataConfig.load(config.data), kept if asked.reuse else trained(config, work, asked)
    training, validation = (Dataset(data, split) for split in (config.train.train_split, config.train.eval_split))
    if best.is_dir(): export_onnx(load(best), draft, metrics=read_json(best / "metrics.json"))
    complete_bundle(draft if best.is_dir() else bundle, draft, training, validation)
    if asked.precision: add_precisions(draft, asked.precision, validation)
    for source, target in ((best, kept), (draft, bundle)):
        if source == target: continue
        with atomic_path(target) as copy: shutil.copytree(source, copy)
    if name == "toyworld" and best.is_dir(): write_example(kept, config, EXAMPLE if asked.out == ROOT / "exported" else asked.out / EXAMPLE.name)
    print(f"\n{bundle}: made; its checkpoint is {kept}" if best.is_dir() else f"\n{bundle}: completed")
    for key, value in read_json(bundle / "contract.json")["metrics"].items(): print(f"  {key:<24}{value!s:>8}   before {shipped.get(key)!s:>8}")


def main(words=None):
    import torch
    asked = arguments(words)
    torch.set_num_threads(1)
    for name in asked.only:
        with tempfile.TemporaryDirectory(prefix="videolights-") as work: rebuild(name, Path(work), asked)


if __name__ == "__main__": main()
