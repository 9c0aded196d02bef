"""VideoLights: find the moments of a video that match a sentence, and score every clip.

Names are looked up on first use, so `import videolights as vl` loads neither torch nor ONNX Runtime.
"""

__version__ = "0.1.0"

_ROOMS = {
    "config": ["Config", "DataConfig", "InputError", "LossConfig", "ModelConfig", "Source", "TrainConfig"],
    "data.features": ["Dataset", "FeatureStore"],
    "data.toyworld": ["make_toyworld"],
    "evaluation.reports": ["evaluate"],
    "export": ["export_onnx"],
    "losses.objective": ["Objective"],
    "model.moment_detr": ["load_moment_detr"],
    "model.qd_detr": ["load_qd_detr"],
    "model.released": ["load_released"],
    "model.tr_detr": ["load_tr_detr"],
    "model.videolights": ["Output", "VideoLights", "load"],
    "runtime": ["Prediction", "Runtime"],
    "training": ["train"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'videolights' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"videolights.{_HOME[name]}"), name)


def __dir__(): return sorted([*globals(), *__all__])
