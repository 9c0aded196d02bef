"Written with videolights 0.1 (modules videolights.training, videolights.data.features): a tiny data set, its packed store, a tiny run, and what that version read and predicted."
import json, sys, os, shutil
from pathlib import Path
import numpy as np
out = Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True); os.chdir(out)
import videolights; print(videolights.__file__)
from videolights.config import Config, DataConfig
from videolights.data.features import Dataset, pack, FeatureStore
from videolights.training import train, predict
from videolights.model.videolights import load
rng = np.random.default_rng(2018)
for kind in ("v", "t"): Path(kind).mkdir(exist_ok=True)
rows = []
for i in range(6):
    clips, words = 5 + i, 2 + i % 3
    video = rng.standard_normal((clips, 3)) * .3 + [0, 1, 0]
    video[i % 3:i % 3 + 2] += [2, -1, 0]                               # what happens in the moment
    np.savez(f"v/v{i}.npz", features=video.astype(np.float32))
    np.savez(f"t/q{i}.npz", features=rng.standard_normal((words, 2)).astype(np.float32))
    a = i % 3
    rows.append(dict(qid=f"q{i}", query="a red ball", vid=f"v{i}", duration=2.0 * clips, relevant_windows=[[2.0 * a, 2.0 * a + 4]],
                     relevant_clip_ids=[a, a + 1], saliency_scores=[[3, 3, 2], [4, 3, 3]]))
Path("all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
Path("data.yaml").write_text("""name: tiny
protocol: qvhighlights
clip_seconds: 2
splits: {train: all.jsonl, val: all.jsonl}
sources:
- {name: v, kind: video, dim: 3, folder: v, file: "{vid}.npz", key: features}
- {name: t, kind: text, dim: 2, folder: t, file: "{qid}.npz", key: features}
store: store
max_words: 5
""")
Path("recipe.yaml").write_text("""data: data.yaml
model: {dim: 4, heads: 1, feedforward: 8, dropout: 0.0, input_dropout: 0.0, projection_layers: 1, encoder_layers: 1, decoder_layers: 1, slots: 2, align_dim: 4, kernel: 1}
train: {epochs: 30, eval_every: 10, batch_size: 3, lr: 0.03, seed: 2018}
""")
data = DataConfig.load("data.yaml")
pack(data, progress=False)
store = FeatureStore.open(data)
train(Config.load("recipe.yaml"), "run", progress=False)
shutil.rmtree("run/tensorboard")
for name in ("v", "t"): shutil.rmtree(name)                        # the store holds their numbers
rows = predict(load("run"), Dataset(data, "val"), data)
read = dict(video={f"v{i}": store.video(f"v{i}").tolist() for i in range(6)}, text={f"q{i}": store.text(f"q{i}").tolist() for i in range(6)})
Path("expected.json").write_text(json.dumps(dict(store=read, predictions=rows)) + "\n")
