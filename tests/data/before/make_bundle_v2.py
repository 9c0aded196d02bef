"Written with the package of commit 7dd834e (bundle version 2): a tiny bundle and what its own runtime answers."
import json, sys
from pathlib import Path
import numpy as np, torch
from videolights.config import DataConfig, ModelConfig, Source
from videolights.deploy.export import export_onnx
from videolights.model.videolights import VideoLights
from videolights.deploy.runtime import Runtime
out = Path(sys.argv[1])
sources = [Source("builtin", "video", 96, "video"), Source("builtin_text", "text", 64, "text")]
data = DataConfig("tiny", "qvhighlights", 2.0, {}, sources, encoder="builtin")
torch.manual_seed(2018)
model = VideoLights(ModelConfig(video_dim=96, text_dim=64, dim=4, heads=1, feedforward=8, projection="linear", refinement="none", fusion="none", align_dim=0, activation="relu", encoder_layers=1, decoder_layers=1, projection_layers=1, slots=3)).eval()
for p in (*model.heads.parameters(), *model.decoder.step.parameters()): torch.nn.init.normal_(p, std=0.5)
export_onnx(model, out / "bundle_v2", data.contract(), metrics={"MR-full-R1@0.5": 36.1})
rt = Runtime.load(out / "bundle_v2", "cpu", threads=1)
rng = np.random.default_rng(7)
answers = []
for clips, words in ((1, 1), (12, 4), (40, 9)):
    v, t = (rng.standard_normal((n, d)).astype(np.float32) for n, d in ((clips, 96), (words, 64)))
    v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t))
    p = rt.predict(v, t, whole_clips=False)
    answers.append(dict(clips=clips, words=words, windows=p.windows.tolist(), saliency=p.saliency.tolist()))
(out / "bundle_v2.json").write_text(json.dumps(dict(seed=7, answers=answers)))
