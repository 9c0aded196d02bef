"""Training and measuring with torch, NumPy and YAML alone: what the model's modules import besides is stood in for where it is missing.

A machine with a GPU may have no package index. Import this before anything of `videolights`; what can be imported is never replaced.
The stand-ins train in fp32 on one device, find the same assignment of slots to moments as SciPy (slowly, where a video has many moments), and keep
nothing: no checkpoint, no board, no progress.
"""
import importlib
import os
import random
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))     # the package need not be installed


class Hub:
    "A model without a hub."
    def __init_subclass__(cls, **about): pass

    def save_pretrained(self, folder): pass


class Silent:
    "A progress bar or board that shows nothing."
    disable = True

    def __init__(self, *args, **options): pass
    def __getattr__(self, name): return lambda *args, **options: None


class Accelerator:
    "One process, one device, fp32."
    is_main_process, process_index, num_processes = True, 0, 1

    def __init__(self, mixed_precision, kwargs_handlers):
        if mixed_precision != "no": raise NotImplementedError(f"train.precision {mixed_precision} needs accelerate")
        self.device = torch.device("cuda" if torch.cuda.is_available() and "ACCELERATE_USE_CPU" not in os.environ else "cpu")

    def prepare(self, module, optimizer): return module.to(self.device), optimizer
    def backward(self, loss): loss.backward()
    def clip_grad_norm_(self, parameters, most): return torch.nn.utils.clip_grad_norm_(parameters, most)
    def reduce(self, x): return x


def set_seed(seed):
    for start in (random.seed, np.random.seed, torch.manual_seed): start(seed)


@cache
def _orders(most, count): return np.array(list(permutations(range(most), count)), int)


def linear_sum_assignment(cost):
    "Rows and columns of the cheapest assignment: all are tried."
    if cost.shape[0] < cost.shape[1]: return linear_sum_assignment(cost.T)[::-1]
    rows, columns = _orders(*cost.shape), np.arange(cost.shape[1])
    return rows[cost[rows, columns].sum(1).argmin()], columns


def keep_nothing(*args, **options): pass


GROUPS = (
    {"huggingface_hub": dict(PyTorchModelHubMixin=Hub), "safetensors": dict(SafetensorError=OSError, safe_open=None),
     "safetensors.torch": dict(load_file=None, save_file=keep_nothing)},
    {"scipy.optimize": dict(linear_sum_assignment=linear_sum_assignment)},
    {"accelerate": dict(Accelerator=Accelerator, DistributedDataParallelKwargs=Silent), "accelerate.utils": dict(set_seed=set_seed)},
    {"torch.utils.tensorboard": dict(SummaryWriter=Silent)},
    {"tqdm.auto": dict(tqdm=Silent)})


def stand_in():
    "Stand in for what is missing, and name it."
    missing = []
    for group in GROUPS:
        try:
            for name in group: importlib.import_module(name)
        except Exception:      # absent, or made for another version of torch
            missing += group
            for name, held in group.items():
                sys.modules[name] = module = module_from_spec(ModuleSpec(name, None))
                vars(module).update(held)
    return missing


STOOD_IN = stand_in()
