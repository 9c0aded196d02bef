"""A small untrained model and its bundle, exported once per test run: the exporter takes half a minute."""
import tempfile
from functools import cache
from pathlib import Path

import torch

from videolights.config import DataConfig, ModelConfig, Source
from videolights.deploy.export import export_onnx
from videolights.model.videolights import VideoLights

SOURCES = [Source("builtin", "video", 96, "video"), Source("builtin_text", "text", 64, "text")]
DATA = DataConfig("tiny", "custom", 2.0, {}, SOURCES, encoder="builtin")


@cache
def tiny_bundle():
    "The model, in training mode as it was when exported, and the folder of its bundle."
    torch.manual_seed(2018)
    model = VideoLights(ModelConfig(video_dim=96, text_dim=64, dim=32, heads=4, feedforward=64, encoder_layers=1, decoder_layers=2)).train()
    for mlp in (model.decoder.step, model.heads.span): torch.nn.init.normal_(mlp[-1].weight, std=0.3)     # zero at first: spans would be the anchors, whatever the input
    return model, export_onnx(model, Path(tempfile.mkdtemp()) / "tiny", DATA.contract(), metrics={"MR-full-R1@0.5": 36.1})
