def __getattr__(name):
    if name in ("train", "predict", "open_split"):     # a module in 0.1; this leaves with 0.3
        raise ImportError(f"videolights.training.{name} is videolights.training.loop.{name} since version 0.2")
    raise AttributeError(f"module 'videolights.training' has no attribute {name!r}")
