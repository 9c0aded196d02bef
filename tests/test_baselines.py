"""Moment-DETR, QD-DETR and TR-DETR as presets: what holds for every model here holds for them, and published checkpoints give the published answers.

The references below are small models in the published layout, written for this test with torch's own attention; their weights are random.
"""
import json
import math
import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from videolights.config import Config, DataConfig, InputError, LossConfig, ModelConfig, Source
from videolights.data.batches import append_tef, collate
from videolights.losses.objective import Objective, term_weights
from videolights.model.moment_detr import load_moment_detr
from videolights.model.qd_detr import load_qd_detr
from videolights.model.tr_detr import load_tr_detr
from videolights.model.videolights import VideoLights, load

BASELINES = ["moment-detr", "qd-detr", "tr-detr"]
SMALL = dict(video_dim=12, text_dim=10, dim=32, heads=4, feedforward=48, slots=5)


def small(name, **changes): return ModelConfig.preset(name, **{**SMALL, **changes})


def item(vid, clips, words, windows):
    rng = np.random.default_rng((clips, words))
    inside = np.array([any(a <= 2 * l < b for a, b in windows) for l in range(clips)], float)
    return dict(qid=vid, vid=vid, video=rng.normal(size=(clips, 12)), text=rng.normal(size=(words, 10)), saliency=inside * rng.integers(1, 13, clips),
                windows=np.array(windows, float).reshape(-1, 2))


ITEMS = [item("a", 9, 5, [[2, 8], [12, 16]]), item("b", 6, 3, [[0, 12]]), item("c", 7, 4, [[0, 6]]), item("d", 1, 1, [[0, 2]])]


@pytest.mark.parametrize("refinement", ["its own", "paper"])
@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_is_its_items_and_padding_is_not_there(name, refinement):
    torch.manual_seed(0)
    config = small(name) if refinement == "its own" else small(name, refinement="paper")
    model, objective = VideoLights(config).eval(), Objective(LossConfig.preset(name))
    batch, wide = collate(ITEMS, 2), collate(ITEMS, 2, clips=17, words=9)
    with torch.no_grad():
        together, padded = model(*batch.inputs), model(*wide.inputs)
        for i, one in enumerate(ITEMS):
            alone, clips = model(*collate([one], 2).inputs), len(one["video"])
            for out in (together, padded):
                assert torch.allclose(out.spans[i], alone.spans[0], atol=1e-5) and torch.allclose(out.logits[i], alone.logits[0], atol=1e-5)
                assert torch.allclose(out.saliency[i, :clips], alone.saliency[0], atol=1e-5) and (out.saliency[i, clips:] == 0).all()
        losses, same = (objective(model.training_outputs(*b.inputs), b, 2) for b in (batch, wide))
    for term in losses: assert torch.allclose(losses[term], same[term], atol=1e-4), term


@pytest.mark.parametrize("refinement", ["its own", "paper"])
@pytest.mark.parametrize("name", BASELINES)
def test_every_parameter_learns(name, refinement):
    "With the preset's own losses, no parameter is carried along for nothing."
    torch.manual_seed(0)
    model = VideoLights(small(name) if refinement == "its own" else small(name, refinement="paper")).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.05 * torch.randn_like(p))       # away from zeros that stop a gradient in the first step
    batch = collate(ITEMS, 2)
    terms = Objective(LossConfig.preset(name))(model.training_outputs(*batch.inputs), batch)
    assert set(terms) == {k for k, w in term_weights(LossConfig.preset(name), 0).items() if w} | {"total"}
    terms["total"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-5}
    reasons = (r"\.k\.bias|k_(content|position)\.bias",       # moves all logits of a softmax alike
               r"^decoder\.layers\.0\.slots\.",               # slots are all zero there, so they tell each other nothing
               r"^saliency\.score\.bias")                      # the losses compare scores of one video
    assert not [n for n in silent if not re.search("|".join(reasons), n)]


@pytest.mark.parametrize("name", BASELINES)
def test_stages_are_traced(name):
    model = VideoLights(small(name)).eval()
    stages = model.trace(*collate(ITEMS, 2).inputs)
    assert list(stages) == ["projection", "refinement", "t2v", "fusion", "encoder", "decoder", "output"]
    for stage in list(stages.values())[:5]: assert stage.video.shape == (4, 9, 32) and stage.text.shape == (4, 5, 32)


@pytest.mark.parametrize("name, refinement", [("moment-detr", "paper"), ("qd-detr", "none"), ("tr-detr", "tr-detr")])
def test_exports_agree_at_other_shapes(name, refinement, tmp_path):
    "The exporter compares stages, attentions and answers at shapes it was not traced with; TR-DETR's GRU is in its graph."
    from videolights.deploy.export import export_onnx
    torch.manual_seed(0)
    model = VideoLights(small(name, refinement=refinement, dim=16, feedforward=16, projection_layers=1, fusion_layers=1, encoder_layers=1, decoder_layers=1))
    data = DataConfig("example", "custom", 2.0, {}, [Source("v", "video", 12, "v"), Source("t", "text", 10, "t")])
    bundle = export_onnx(model, tmp_path / name, data.contract())
    parity = json.loads((bundle / "parity.json").read_text())
    assert parity["worst"] < 1e-4 and {case["clips"] for case in parity["cases"]} == {2, 37, 75}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    from videolights.data.toyworld import make_toyworld
    return make_toyworld(tmp_path_factory.mktemp("toy") / "toy", train_videos=4, val_videos=2, queries=2, progress=False)


@pytest.mark.parametrize("name", BASELINES)
def test_an_ordinary_recipe_trains_them(name, toy, tmp_path):
    model = f"{{preset: {name}, dim: 16, heads: 2, feedforward: 16}}"
    (tmp_path / "recipe.yaml").write_text(f"data: {toy}\nmodel: {model}\nloss: {{preset: {name}}}\ntrain: {{epochs: 1, batch_size: 8}}\n")
    from videolights.training.loop import train
    run = train(Config.load(tmp_path / "recipe.yaml").with_changes({"model.refinement": "paper"}), tmp_path / "run", progress=False)
    model = load(run)
    assert model.config.fusion == ModelConfig.preset(name).fusion and model.refinement is not None
    assert np.isfinite(json.loads((run / "metrics_val.json").read_text())["brief"]["MR-full-mAP"])


def test_negative_pairs_are_what_they_cost():
    "Without them the contrast is with the video's own clips, exactly."
    torch.manual_seed(0)
    model, batch, losses = VideoLights(small("qd-detr")).eval(), collate(ITEMS, 2), Objective(LossConfig.preset("qd-detr"))
    out = model.training_outputs(*batch.inputs)
    alone = losses(replace(out, negative_saliency=None), batch)
    batch.mismatched[:] = False
    assert "negative_pair" not in alone and torch.allclose(alone["contrast"], losses(out, batch)["contrast"])


# The published layouts

class Projection(nn.Sequential):
    def __init__(self, dim_in, dim, layers):
        class Block(nn.Module):
            def __init__(self, a, relu):
                super().__init__()
                self.LayerNorm, self.net, self.relu = nn.LayerNorm(a), nn.Sequential(nn.Dropout(0.), nn.Linear(a, dim)), relu
            def forward(self, x): x = self.net(self.LayerNorm(x)); return x.relu() if self.relu else x
        super().__init__(*(Block(dim_in if i == 0 else dim, i < layers - 1) for i in range(layers)))


class Layer(nn.Module):
    "Attention, feed-forward and norms under the published names."

    def __init__(self, d, heads, hidden, norms, prelu, more=()):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, heads, batch_first=True)
        for name in more: setattr(self, name, nn.MultiheadAttention(d, heads, batch_first=True))
        self.linear1, self.linear2 = nn.Linear(d, hidden), nn.Linear(hidden, d)
        for i in range(norms): setattr(self, f"norm{i + 1}", nn.LayerNorm(d))
        if prelu: self.activation = nn.PReLU()
        self.prelu = prelu

    def feed(self, x): x = self.linear1(x); return self.linear2(self.activation(x) if self.prelu else x.relu())

    def encode(self, x, pos, pad):
        x = self.norm1(x + self.self_attn(x + pos, x + pos, x, key_padding_mask=pad)[0])
        return self.norm2(x + self.feed(x))

    def read(self, x, pos, words, pad):
        x = x + self.self_attn(x + pos, words, words, key_padding_mask=pad)[0]
        return self.norm2(x + self.feed(self.norm1(x)))


class MLP(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
    def forward(self, x):
        for i, layer in enumerate(self.layers): x = layer(x) if i == len(self.layers) - 1 else layer(x).relu()
        return x


def waves(x, d):
    "Sine and cosine of x (...) in turn, d of them."
    out = torch.zeros(*x.shape, d)
    for i in range(d):
        angle = x / 10000 ** (2 * (i // 2) / d)
        out[..., i] = angle.sin() if i % 2 == 0 else angle.cos()
    return out


def places(mask, d):
    count = mask.float().cumsum(1)
    return waves(count / (count[:, -1:] + 1e-6) * 2 * math.pi, d)


class Published(nn.Module):
    "What the three have in common."

    def __init__(self, d=32, heads=4, hidden=48, slots=5, query_dim=32, layers=2, prelu=False, align=0):
        super().__init__()
        self.d, self.heads = d, heads
        self.input_vid_proj, self.input_txt_proj = Projection(14, d, 2), Projection(10, d, 2)
        self.txt_position_embed = nn.Module(); self.txt_position_embed.LayerNorm = nn.LayerNorm(d); self.txt_position_embed.position_embeddings = nn.Embedding(32, d)
        self.transformer = nn.Module()
        part = lambda made: nn.ModuleDict(dict(layers=nn.ModuleList(made)))
        self.transformer.encoder = part(Layer(d, heads, hidden, 2, prelu) for _ in range(layers))
        self.query_embed, self.span_embed, self.class_embed = nn.Embedding(slots, query_dim), MLP(d, d, d, 2), nn.Linear(d, 2)
        for side in ("query", "txt", "vid") if align else (): setattr(self, f"contrastive_align_projection_{side}", nn.Linear(d, align))
        self.part = part

    def jitter(self):
        torch.manual_seed(1)
        with torch.no_grad():
            for p in self.parameters(): p.add_(0.1 * torch.randn_like(p))
        return self.eval()


class PublishedMomentDETR(Published):
    def __init__(self):
        super().__init__(align=8)
        self.transformer.decoder = self.part(Layer(self.d, self.heads, 48, 3, False, ["multihead_attn"]) for _ in range(2))
        self.transformer.decoder["norm"] = nn.LayerNorm(self.d)
        self.saliency_proj = nn.Linear(self.d, 1)

    def forward(self, video, video_mask, text, text_mask):
        v, t = self.input_vid_proj(video), self.input_txt_proj(text)
        x, pad, pos = torch.cat((v, t), 1), ~torch.cat((video_mask, text_mask), 1), torch.cat((places(video_mask, self.d), torch.zeros_like(t)), 1)
        for layer in self.transformer.encoder["layers"]: x = layer.encode(x, pos, pad)
        slots, q = torch.zeros(len(v), 5, self.d), self.query_embed.weight[None]
        for layer in self.transformer.decoder["layers"]:
            slots = layer.norm1(slots + layer.self_attn(slots + q, slots + q, slots)[0])
            slots = layer.norm2(slots + layer.multihead_attn(slots + q, x + pos, x, key_padding_mask=pad)[0])
            slots = layer.norm3(slots + layer.feed(slots))
        slots = self.transformer.decoder["norm"](slots)
        return self.span_embed(slots).sigmoid(), self.class_embed(slots), self.saliency_proj(x[:, :v.shape[1]])[..., 0]


class AnchorLayer(nn.Module):
    "A decoder layer with the projections of conditional attention."

    def __init__(self, d, heads, hidden, first):
        super().__init__()
        self.d, self.heads, self.first = d, heads, first
        for name in ("qcontent", "qpos", "kcontent", "kpos", "v"): setattr(self, f"sa_{name}_proj", nn.Linear(d, d))
        for name in ("qcontent", "kcontent", "kpos", "v", "qpos_sine", *(["qpos"] if first else [])): setattr(self, f"ca_{name}_proj", nn.Linear(d, d))
        self.self_attn, self.cross_attn = (nn.ModuleDict(dict(out_proj=nn.Linear(d, d))) for _ in range(2))
        self.linear1, self.linear2, self.activation = nn.Linear(d, hidden), nn.Linear(hidden, d), nn.PReLU()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for _ in range(3))

    def attend(self, q, k, v, pad=None):
        cut = lambda x: x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        logits = cut(q) @ cut(k).transpose(2, 3) / (q.shape[-1] // self.heads) ** .5
        if pad is not None: logits = logits.masked_fill(pad[:, None, None], -torch.inf)
        return (logits.softmax(-1) @ cut(v)).transpose(1, 2).flatten(2)

    def forward(self, x, memory, pos, pad, place, sine):
        q, k = self.sa_qcontent_proj(x) + self.sa_qpos_proj(place), self.sa_kcontent_proj(x) + self.sa_kpos_proj(place)
        x = self.norm1(x + self.self_attn["out_proj"](self.attend(q, k, self.sa_v_proj(x))))
        q, k, kp, sine = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory), self.ca_kpos_proj(pos), self.ca_qpos_sine_proj(sine)
        if self.first: q, k = q + self.ca_qpos_proj(place), k + kp
        beside = lambda a, b: torch.cat([y.view(*y.shape[:2], self.heads, -1) for y in (a, b)], 3).flatten(2)
        x = self.norm2(x + self.cross_attn["out_proj"](self.attend(beside(q, sine), beside(k, kp), self.ca_v_proj(memory), pad)))
        return self.norm3(x + self.linear2(self.activation(self.linear1(x))))


def logit(x): return (x.clamp(1e-3, 1) / (1 - x).clamp(1e-3, 1)).log()


class PublishedAnchors(Published):
    "Text-to-video layers and a decoder with anchors: QD-DETR's and TR-DETR's."

    def __init__(self):
        super().__init__(query_dim=2, prelu=True)
        d = self.d
        self.transformer.t2v_encoder = self.part(Layer(d, self.heads, 48, 2, True) for _ in range(2))
        decoder = self.transformer.decoder = self.part(AnchorLayer(d, self.heads, 48, i == 0) for i in range(2))
        decoder["norm"], decoder["query_scale"], decoder["ref_point_head"] = nn.LayerNorm(d), MLP(d, d, d), MLP(d, d, d)
        decoder["bbox_embed"], decoder["ref_anchor_head"] = MLP(d, d, d, 2), MLP(d, d, 1)

    def decode(self, memory, pos, pad):
        decoder, x = self.transformer.decoder, torch.zeros(len(memory), 5, self.d)
        used = anchor = self.query_embed.weight.sigmoid().expand(len(memory), -1, -1)
        for i, layer in enumerate(decoder["layers"]):
            if i: used = anchor = (decoder["bbox_embed"](x) + logit(anchor)).sigmoid()
            sine = torch.cat([waves(anchor[..., k] * 2 * math.pi, self.d // 2) for k in (0, 1)], -1)
            place = decoder["ref_point_head"](sine)
            if i: sine = sine * decoder["query_scale"](x)
            x = layer(x, memory, pos, pad, place, sine * decoder["ref_anchor_head"](x).sigmoid() / anchor[..., 1:])
        slots = decoder["norm"](x)
        return (self.span_embed(slots) + logit(used)).sigmoid(), self.class_embed(slots)


class PublishedQDDETR(PublishedAnchors):
    def __init__(self):
        super().__init__()
        self.saliency_proj1, self.saliency_proj2 = nn.Linear(self.d, self.d), nn.Linear(self.d, self.d)
        self.global_rep_token, self.global_rep_pos = nn.Parameter(torch.randn(self.d)), nn.Parameter(torch.randn(self.d))

    def forward(self, video, video_mask, text, text_mask):
        v, t, pos = self.input_vid_proj(video), self.input_txt_proj(text), places(video_mask, self.d)
        for layer in self.transformer.t2v_encoder["layers"]: v = layer.read(v, pos, t, ~text_mask)
        first = lambda token, x: torch.cat((token.expand(len(x), 1, -1), x), 1)
        x, placed, pad = first(self.global_rep_token, v), first(self.global_rep_pos, pos), F.pad(~video_mask, (1, 0))
        for layer in self.transformer.encoder["layers"]: x = layer.encode(x, placed, pad)
        spans, logits = self.decode(x[:, 1:], pos, ~video_mask)
        return spans, logits, (self.saliency_proj1(x[:, 1:]) * self.saliency_proj2(x[:, :1])).sum(-1) / self.d ** .5


class PublishedTRDETR(PublishedAnchors):
    def __init__(self):
        super().__init__()
        d, conv = self.d, lambda a: nn.ModuleDict(dict(conv1d=nn.Conv1d(a, self.d, 1)))
        self.fuser, attention, concat = nn.Module(), nn.Module(), nn.Module()
        self.fuser.cq_attention, self.fuser.cq_concat = attention, concat
        attention.w4C, attention.w4Q, attention.w4mlu, attention.cqa_linear = *(nn.Parameter(torch.randn(s)) for s in ((d, 1), (d, 1), (1, 1, d))), conv(4 * d)
        concat.weighted_pool, concat.conv1d = nn.ParameterDict(dict(weight=nn.Parameter(torch.randn(d, 1)))), conv(2 * d)
        self.gru_extractor = nn.ModuleDict(dict(gru=nn.GRU(d, d, batch_first=True)))
        self.saliency_proj1 = nn.Linear(d, d)

    def fuse(self, v, t):
        a, c = self.fuser.cq_attention, self.fuser.cq_concat
        score = v @ a.w4C + (t @ a.w4Q).transpose(1, 2) + (v * a.w4mlu) @ t.transpose(1, 2)
        words, clips = score.softmax(2), score.softmax(1)
        seen = torch.cat((v, words @ t, v * (words @ t), v * (words @ clips.transpose(1, 2) @ v)), 2)
        mixed = a.cqa_linear["conv1d"](seen.transpose(1, 2)).transpose(1, 2)
        sentence = ((t @ c.weighted_pool["weight"]).softmax(1) * t).sum(1, keepdim=True)
        return c.conv1d["conv1d"](torch.cat((mixed, sentence.expand_as(mixed)), 2).transpose(1, 2)).transpose(1, 2).relu()

    def forward(self, video, video_mask, text, text_mask):
        assert video_mask.all() and text_mask.all()      # the published code sees padding
        projected, t, pos = self.input_vid_proj(video), self.input_txt_proj(text), places(video_mask, self.d)
        v = self.fuse(projected, t)
        for layer in self.transformer.t2v_encoder["layers"]: v = layer.read(v, pos, t, None)
        score = lambda x: self.saliency_proj1(x).sum(-1) / self.d ** .5
        encode = lambda x: self.transformer.encoder["layers"][1].encode(self.transformer.encoder["layers"][0].encode(x, pos, None), pos, None)
        x = encode(v)
        x = encode(x + v * score(x).softmax(1)[..., None])
        spans, logits = self.decode(x, pos, None)
        scores = []
        for i in range(len(x)):
            centre, width = spans[i, logits[i].softmax(-1)[:, 0].argmax()].tolist()
            first, last = (math.floor((centre + side * width / 2) * x.shape[1]) for side in (-1, 1))
            moment = projected[i, first:last + 1]
            _, h = self.gru_extractor["gru"](F.pad(moment, (0, 0, 0, x.shape[1] - len(moment)))[None])
            scores.append(score(x[i] * (1 + projected[i] @ h[0, 0])[:, None]))
        return spans, logits, torch.stack(scores)


def published_inputs(padded):
    torch.manual_seed(2)
    lengths = torch.tensor([[9], [6]]), torch.tensor([[4], [3]])
    video_mask, text_mask = (torch.arange(n)[None] < (some if padded else torch.full((2, 1), n)) for n, some in zip((9, 4), lengths))
    return append_tef(torch.randn(2, 9, 12) * video_mask[..., None], video_mask), video_mask, torch.randn(2, 4, 10), text_mask


CASES = [(PublishedMomentDETR, load_moment_detr, True), (PublishedQDDETR, load_qd_detr, True), (PublishedTRDETR, load_tr_detr, False)]


@pytest.mark.parametrize("published, loader, padded", CASES, ids=BASELINES)
def test_a_published_checkpoint_gives_the_published_answers(published, loader, padded, tmp_path):
    theirs, inputs = published().jitter(), published_inputs(padded)
    options = dict(nheads=4, dropout=0.1, input_dropout=0.5, max_q_l=32, dset_name="hl", device=torch.device("cpu"))
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    torch.save(dict(model=state, optimizer={}, lr_scheduler={}, epoch=3, opt=Namespace(**options)), tmp_path / "model_best.ckpt")
    model = loader(tmp_path / "model_best.ckpt")
    with torch.no_grad(): ours, wanted = model(*inputs), theirs(*inputs)
    for a, b in zip(ours, wanted): np.testing.assert_allclose(a.numpy(), b.masked_fill(~inputs[1], 0).numpy() if b.dim() == 2 else b.numpy(), atol=2e-5)
    assert all(name.startswith(("txt_position_embed.", "contrastive_align_projection_vid.")) for name in model.unused) and model.unused
    assert model.contract["video_dim"] == 12 and model.contract["protocol"] == "qvhighlights"
    model.save_pretrained(tmp_path / "ours")
    with torch.no_grad(): assert torch.equal(load(tmp_path / "ours")(*inputs).spans, ours.spans)


@pytest.mark.parametrize("published, loader, padded", CASES, ids=BASELINES)
def test_a_foreign_checkpoint_is_refused_by_name(published, loader, padded, tmp_path):
    state = published().state_dict()
    with pytest.raises(InputError, match="unknown to the layout of .*: input_aud_proj.weight"): loader(state | {"input_aud_proj.weight": torch.zeros(1)}, {"nheads": 4})
    with pytest.raises(InputError, match="heads.label.bias is missing"): loader({k: v for k, v in state.items() if k != "class_embed.bias"}, {"nheads": 4})
    with pytest.raises(InputError, match="holds no parameter for 'heads.label.weight'"): loader({k: v for k, v in state.items() if k != "class_embed.weight"}, {"nheads": 4})
    with pytest.raises(InputError, match="pre_norm is True"): loader(state, {"nheads": 4, "pre_norm": True})
    torch.save(dict(model=state), tmp_path / "bare.ckpt")
    (tmp_path / "opt.json").write_text(json.dumps(dict(nheads=2, max_q_l=16)))           # options beside the weights, as published
    assert loader(tmp_path / "bare.ckpt").config.heads == 2 and loader(tmp_path / "bare.ckpt", {"nheads": 4}).config.heads == 4
