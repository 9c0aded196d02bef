"The authors' side of `against_release.py`: a checkout of their repository as it can be used from here, and their training on one of this package's data sets."
import logging
import random
import re
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from videolights.config import DataConfig, InputError
from videolights.data.store import Dataset
from videolights.evaluation.reports import evaluate
from videolights.model.videolights import Output
from videolights.training.loop import predict

OWN = "video_lights", "utils", "standalone_eval"        # packages of a checkout
TRAINING = ["--dec_layers=3", "--enc_layers=3", "--bicmf_layers=1", "--mr_to_hd_loss", "--hard_pos_neg_loss", "--contrastive_align_loss"]   # as its scripts for QVHighlights and Charades-STA have it
CHARADES = ["--dset_name=charadesSTA", "--contrastive_align_loss_coef=0.3", "--lr_drop=100"]
SHOWN = re.compile("MR-(full-)?[^-]+")                  # figures of all moments, long and short


def open_checkout(path, device):
    "What is used of the authors' code, imported from a checkout; a module that this machine lacks is a dummy meanwhile."
    if not (path / "video_lights" / "model.py").is_file():
        raise InputError(f"{path}: no checkout of the authors' repository (it holds no video_lights/model.py); give the folder that git cloned")
    sys.path.insert(0, str(path.resolve()))
    sys.dont_write_bytecode, absent = True, []
    while True:
        try: from video_lights import config, inference, start_end_dataset, train; break     # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as e:
            if not e.name or e.name.partition(".")[0] in OWN: raise InputError(f"{path}: {e}; is the checkout complete?") from None
            sys.modules[e.name] = MagicMock()
            absent.append(e.name)
    for name in absent: del sys.modules[name]
    logging.getLogger().setLevel(logging.WARNING)       # it turns everybody's up
    logging.getLogger("video_lights").setLevel(logging.ERROR)
    if device == "cpu": torch.Tensor.cuda = lambda self, *_, **__: self
    return SimpleNamespace(options=config.BaseOptions, setup=inference.setup_model, score=train.calculate_stop_score, dataset=start_end_dataset.StartEndDataset,
                           collate=start_end_dataset.start_end_collate, prepare=start_end_dataset.prepare_batch_inputs)


def read_options(theirs, words, changes, device, **fields):
    "The authors' options: their defaults, the words of their scripts, then ours and those of --set."
    options = theirs.options()
    options.initialize()
    found = options.parser.parse_args(TRAINING + words)
    for key, value in (fields | changes).items():
        if not hasattr(found, key): raise InputError(f"--set {key}: the checkout has no such option; it has {', '.join(sorted(vars(found)))}")
        setattr(found, key, value)
    found.device = torch.device(device)
    found.v_feat_dim += 2                               # temporal endpoints
    found.use_tef = found.use_video = True
    return found


def inputs_of(batch):
    "A batch as the authors' model takes it."
    return dict(src_txt=batch.text, src_txt_mask=batch.text_mask.float(), src_vid=batch.video, src_vid_mask=batch.video_mask.float())


def targets_of(batch, pairs):
    "Its labels as their criterion takes them."
    return dict(span_labels=[dict(spans=spans[real]) for spans, real in zip(batch.spans, batch.span_mask)], saliency_all_labels=batch.saliency,
                saliency_pos_index=(batch.saliency > 0).long(), saliency_pos_labels=pairs[0], saliency_neg_labels=pairs[1])


def their_loss(criterion, outputs, labels, epoch):
    "The authors' losses, weighted and summed."
    terms = criterion(outputs, labels, epoch)
    return sum(terms[name] * weight for name, weight in criterion.weight_dict.items() if name in terms)


def update(model, optimizer, total, limit):
    "What follows a loss in a training step."
    optimizer.zero_grad()
    total.backward()
    clip_grad_norm_(model.parameters(), limit)
    optimizer.step()


class Answers(torch.nn.Module):
    "The authors' model, asked as ours is."
    contract = None

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, video, video_mask, text, text_mask):
        out = self.model(src_txt=text, src_txt_mask=text_mask.float(), src_vid=video, src_vid_mask=video_mask.float())
        return Output(out["pred_spans"], out["pred_logits"], out["saliency_scores"])


def items_of(theirs, dataset, options):
    "A split as the authors' data set gives it, with their endpoints, labels and pairs of clips; only the features are read by us."
    class Items(theirs.dataset):
        def __init__(self):
            vars(self).update(vars(options), data=dataset.annotations, data_path="train", load_labels=True, use_glove=False, a_feat_dirs=None, clip_len=options.clip_length)

        def __getitem__(self, i):
            self.item = dataset[i]
            return super().__getitem__(i)

        def _get_query_feat_by_qid(self, qid): return torch.tensor(self.item["text"], dtype=torch.float32)

        def _get_video_feat_by_vid(self, vid): return torch.tensor(self.item["video"], dtype=torch.float32)
    return Items()


def train(theirs, path, changes, device, seed):
    "Train the authors' model on a data set; the figures of the epoch that their score likes best, and of every epoch."
    data = DataConfig.load(path)
    if data.protocol == "tvsum": raise InputError(f"{path}: TVSum is trained another way in the checkout; only data sets of moments are")
    options = read_options(theirs, [] if data.protocol == "qvhighlights" else CHARADES, changes, device, v_feat_dim=data.video_dim, t_feat_dim=data.text_dim,
                           max_q_l=data.max_words, max_v_l=data.max_clips, clip_length=data.clip_seconds, seed=seed)
    random.seed(seed); np.random.seed(seed); torch.manual_seed(seed)
    learned, held = Dataset(data, "train"), Dataset(data, "val")
    loader = DataLoader(items_of(theirs, learned, options), options.bsz, shuffle=True, collate_fn=theirs.collate)
    model, criterion, optimizer, scheduler = theirs.setup(options)
    epochs = []
    for epoch in range(options.n_epoch):
        model.train()
        for _, batch in tqdm(loader, desc=f"epoch {epoch + 1} of {options.n_epoch}", leave=False, mininterval=1):
            inputs, labels = theirs.prepare(batch, options.device)
            update(model, optimizer, their_loss(criterion, model(**inputs), labels, epoch), options.grad_clip)
        scheduler.step()
        brief = evaluate(predict(Answers(model), held, data), held.annotations, data.protocol, data.clip_seconds)["brief"]
        known = {name.replace("MR-", "MR-full-") if data.protocol == "charades" else name: value or 0 for name, value in brief.items()}
        epochs.append(dict(epoch=epoch + 1, score=theirs.score(known, opts=options), **brief))
        print(f"epoch {epoch + 1}  score {epochs[-1]['score']:.2f}  " + "  ".join(f"{name} {brief[name]:.2f}" for name in brief if SHOWN.fullmatch(name)), flush=True)
    best = max(epochs, key=lambda row: row["score"])
    shown = {name.removeprefix("MR-").removeprefix("full-"): f"{best[name]:.2f}" for name in brief if SHOWN.fullmatch(name)}
    print("\n| validation, best of its epochs | " + " | ".join(shown) + " |\n" + "| --- " * (len(shown) + 1) + "|")
    print(f"| the authors' code, seed {seed}, epoch {best['epoch']} of {options.n_epoch} | " + " | ".join(shown.values()) + " |")
    return dict(data=str(path), seed=seed, epochs=options.n_epoch, changes=changes, best=best, rows=epochs)
