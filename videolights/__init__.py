"""VideoLights: find the moments of a video that match a sentence, and score every clip.

Names are looked up on first use, so `import videolights as vl` loads neither torch nor ONNX Runtime.
"""

__version__ = "0.2.0"

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config, DataConfig, InputError, LossConfig, ModelConfig, Source, TrainConfig
    from .data.store import Dataset, FeatureStore
    from .data.toyworld import make_toyworld
    from .deploy.export import export_onnx
    from .deploy.runtime import Prediction, Runtime
    from .evaluation.reports import evaluate
    from .losses.objective import Objective
    from .model.moment_detr import load_moment_detr
    from .model.qd_detr import load_qd_detr
    from .model.released import load_released
    from .model.tr_detr import load_tr_detr
    from .model.videolights import Output, VideoLights, load
    from .training.loop import train

_NAMES = {
    "config": ["Config", "DataConfig", "InputError", "LossConfig", "ModelConfig", "Source", "TrainConfig"],
    "data.store": ["Dataset", "FeatureStore"],
    "data.toyworld": ["make_toyworld"],
    "deploy.export": ["export_onnx"],
    "deploy.runtime": ["Prediction", "Runtime"],
    "evaluation.reports": ["evaluate"],
    "losses.objective": ["Objective"],
    "model.moment_detr": ["load_moment_detr"],
    "model.qd_detr": ["load_qd_detr"],
    "model.released": ["load_released"],
    "model.tr_detr": ["load_tr_detr"],
    "model.videolights": ["Output", "VideoLights", "load"],
    "training.loop": ["train"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "Config", "DataConfig", "Dataset", "FeatureStore", "InputError", "LossConfig", "ModelConfig", "Objective",
    "Output", "Prediction", "Runtime", "Source", "TrainConfig", "VideoLights", "evaluate", "export_onnx", "load",
    "load_moment_detr", "load_qd_detr", "load_released", "load_tr_detr", "make_toyworld", "train",
]

# Modules of 0.1 that have another name now. Leaves with 0.3.
_MOVED = {
    "benchmark": "deploy.benchmark", "bulk": "deploy.bulk", "bundle": "deploy.bundle",
    "data.captioners": "encoders.captioners", "data.cluster": "encoders.cluster",
    "data.extraction": "encoders.extraction", "data.features": "data.store", "data.synthesis": "encoders.synthesis",
    "encoders.builtin": "features.builtin", "encoders.exported": "deploy.exported",
    "encoders.frames": "features.frames", "encoders.protocol": "features.protocol", "experiments": "training.grids",
    "explore.app": "explore.page", "export": "deploy.export", "precision": "deploy.precision",
    "reel": "deploy.reel", "runtime": "deploy.runtime", "serving": "deploy.serving", "sessions": "deploy.sessions",
    "tracing": "deploy.tracing", "tuning": "training.search", "video": "features.video",
}


class _Moved:
    "Finds no module: it says where one of the version before is now."

    @staticmethod
    def find_spec(name, path=None, target=None):
        new = _MOVED.get(name.removeprefix("videolights.")) if name.startswith("videolights.") else None
        if new: raise ModuleNotFoundError(f"{name} is videolights.{new} since version 0.2", name=name)


sys.meta_path.append(_Moved)


def __getattr__(name: str):
    if name not in _HOME: raise AttributeError(f"module 'videolights' has no attribute {name!r}")
    return getattr(import_module(f"videolights.{_HOME[name]}"), name)


def __dir__(): return sorted({*globals(), *__all__})
