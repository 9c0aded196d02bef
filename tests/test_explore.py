"""Heat maps, figures and the report, as a user of the installed package meets them."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHROMIUM, CHROMIUM_FLAGS, needs_chromium

go = pytest.importorskip("plotly.graph_objects")
torch = pytest.importorskip("torch")

from videolights.config import Config, DataConfig, InputError, ModelConfig, Source
from videolights.data.batches import append_tef
from videolights.evaluation.reports import per_query_rows
from videolights.explore.figures import figure1, figure6, save_figure
from videolights.explore.heatmaps import (STAGES, attention_map, attention_names, contrast, load_traced, save_traced, trace_query,
                                          word_clip_similarity, word_labels)
from videolights.explore.report import choose_examples, inflate, packed_plotly, write_report
from videolights.files import write_json, write_jsonl
from videolights.model.videolights import VideoLights
from videolights.pictures import TRUTH, heat_map

HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="document.title=1"> & "more"'
CLIPS, SECONDS = 30, 2.0


class Made_up:
    "Looks like a Dataset: ten queries, one of them hostile."
    def __init__(self, root):
        sources = [Source("colour", "video", 12, "v"), Source("hash", "text", 8, "t")]
        self.data = DataConfig("made <b>up</b>", "qvhighlights", SECONDS, dict(val="val.jsonl"), sources, str(root))
        self.annotations = [dict(qid=q, vid=f"v{q}", query=HOSTILE if q == 0 else f"query number {q}",
                                 relevant_windows=[[2. * q, 2. * q + 20]]) for q in range(10)]

    def __len__(self): return len(self.annotations)

    def __getitem__(self, i):
        rng, row = np.random.default_rng(i), self.annotations[i]
        clips, (start, end) = np.arange(CLIPS) * SECONDS, row["relevant_windows"][0]
        return dict(row, duration=CLIPS * SECONDS, video=np.float32(rng.normal(size=(CLIPS, 12))),
                    text=np.float32(rng.normal(size=(len(row["query"].split()), 8))),
                    saliency=np.float32((start <= clips) & (clips < end)) * 9, windows=np.array(row["relevant_windows"]), has_windows=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2018)
    return VideoLights(ModelConfig(video_dim=12, text_dim=8, dim=32, heads=4, feedforward=64, encoder_layers=1, decoder_layers=1))


@pytest.fixture
def run(tmp_path, model):
    rng, data = np.random.default_rng(1), Made_up(tmp_path)
    rows = [dict(qid=a["qid"], query=a["query"], vid=a["vid"], pred_relevant_windows=[[3. * q, 3. * q + 20, .9 - q / 20], [40., 60., .1]],
                 pred_saliency_scores=rng.normal(size=CLIPS).tolist()) for q, a in enumerate(data.annotations)]
    folder = tmp_path / "run"
    write_jsonl(folder / "predictions_val.jsonl", rows)
    write_json(folder / "metrics_val.json", {"brief": {"MR-full-R1@0.5": 50.0, "MR-full-mAP": 40.0}})
    write_json(folder / "config.json", Config(model=model.config).to_dict())
    (folder / "log.csv").write_text("epoch,lr,loss_total,MR-full-R1@0.5\n0,1e-4,9,\n1,1e-4,7,50\n")
    return folder, data


def test_light_imports():
    code = "import sys, videolights.{}; print([m for m in ('torch', 'plotly', 'av', 'jinja2') if m in sys.modules])"
    for module in ("pictures", "explore.results", "explore.heatmaps", "explore.figures", "explore.report", "explore.page"):
        assert subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True).stdout.strip() == "[]", module


@pytest.mark.parametrize("clips,words,width", [(1, 1, 4), (75, 32, 16), (7, 3, 256)])
def test_word_clip_similarity(clips, words, width):
    rng = np.random.default_rng(clips)
    v, t = rng.normal(size=(clips, width)).astype("float16"), rng.normal(size=(words, width)).astype("float16")
    c = word_clip_similarity(v, t)
    assert c.shape == (words, clips)
    assert np.abs(c).max() <= 1
    assert np.allclose(c, word_clip_similarity(np.float64(v) * rng.uniform(.1, 1e4, (clips, 1)), np.float64(t) * 1e-3))
    assert np.allclose(contrast(c).sum(1), 0)


def test_stages_of_the_model(model):
    item = Made_up(".")[3]
    model.train()
    features = trace_query(model, item, SECONDS).stages
    maps = {stage: word_clip_similarity(*pair) for stage, pair in features.items()}
    assert model.training
    assert tuple(maps) == tuple(STAGES)
    assert {m.shape for m in maps.values()} == {(3, CLIPS)}
    video, text = (torch.tensor(item[k])[None] for k in ("video", "text"))
    mask, text_mask = torch.ones(1, CLIPS, dtype=bool), torch.ones(1, 3, dtype=bool)
    with torch.no_grad(): traced = model.eval().trace(append_tef(video, mask), mask, text, text_mask)
    for stage in STAGES:
        assert np.allclose(features[stage][0], traced[stage].video[0])
        assert np.allclose(features[stage][1], traced[stage].text[0])
        assert np.allclose(maps[stage], torch.cosine_similarity(traced[stage].text[0][:, None], traced[stage].video[0][None], dim=-1),
                           atol=1e-5)


def test_masking_is_the_shorter_sentence(model, tmp_path):
    item = Made_up(".")[3]
    whole, masked = trace_query(model, item, SECONDS), trace_query(model, item, SECONDS, keep=[True, False, True])
    shorter = trace_query(model, dict(item, text=item["text"][[0, 2]], query="query 3"), SECONDS)
    assert masked.words == ["query", "3"]
    assert not np.allclose(masked.saliency, whole.saliency)
    for stage in STAGES:
        for a, b in zip(masked.stages[stage], shorter.stages[stage]): assert np.allclose(a, b)
    assert {n for names in attention_names(whole).values() for n in names.values()} == {n for n in whole.attention if not n.endswith("slots")}
    back = load_traced(save_traced(tmp_path / "pass.npz", whole))
    for name in whole.attention:
        if not name.endswith("slots"): assert attention_map(back, name, 1).values.shape[1] == CLIPS
        assert (back.attention[name] == whole.attention[name]).all()
        assert np.allclose(whole.attention[name].sum(-1), 1, atol=1e-5)
    (tmp_path / "pass.npz").write_text("cut short")
    with pytest.raises(InputError, match="not a saved pass"): load_traced(tmp_path / "pass.npz")


def test_a_bundle_is_explored_without_torch(root, tmp_path):
    code = f"""
import sys
from videolights.config import DataConfig
from videolights.data.store import Dataset
from videolights.data.toyworld import make_toyworld
from videolights.explore.page import open_all, write_explorer
opened = open_all([{str(root / 'exported/toyworld')!r}], make_toyworld({str(tmp_path / 'toy')!r}, 1, 1, progress=False))
page = write_explorer({str(tmp_path / 'page.html')!r}, opened)
from videolights.explore.widgets import HeatmapExplorer
e = HeatmapExplorer(opened.models, opened.dataset, opened.systems)
e.ask.value, e.encoder = '', opened.encoder
print(page.stat().st_size < 2_000_000, e.canvas.figure.data[0].z.shape[1] == len(e.panel.item['video']), 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr[-1500:]


def test_models_of_other_features_are_refused(model):
    item = Made_up(".")[3]
    with pytest.raises(InputError, match="clips have 5 columns"): trace_query(model, dict(item, video=item["video"][:, :5]), SECONDS)
    maps = {"fusion": np.zeros((3, 8))}
    with pytest.raises(InputError, match="two: has no map of fusion"): figure1({"one": maps, "two": {"fusion": np.zeros((2, 8))}}, ["a"] * 3, SECONDS)


def test_published_systems_side_by_side(realdata, tmp_path):
    from videolights.explore.page import open_all, write_explorer
    folder = realdata / "qvhighlights"
    names = {"Moment-DETR": "moment_detr", "QD-DETR": "QD-DETR", "EaTR": "EaTR"}
    opened = open_all([(name, folder / f"predictions/{file}.val.jsonl.gz") for name, file in names.items()],
                      folder / "annotations/highlight_val_release.jsonl", protocol="qvhighlights")
    item, rows = opened.dataset[7], {n: rows[7] for n, rows in opened.systems.items()}
    systems = {n: (r["pred_relevant_windows"], r["pred_saliency_scores"]) for n, r in rows.items()}
    fig = figure6(item["duration"], 2.0, systems, item["windows"], item["saliency"], top=1)
    assert list(fig.layout.yaxis.ticktext) == ["true", *names]
    assert len([t for t in fig.data if isinstance(t, go.Scatter)]) == 4
    assert save_figure(fig, tmp_path / "six.html").stat().st_size < 300_000
    assert write_explorer(tmp_path / "page.html", opened, count=12).stat().st_size < 2_000_000


@pytest.mark.parametrize("clips,words,stages,columns", [(1, 1, 1, 1), (75, 13, 3, 1), (20, 32, 5, 3), (8, 2, 2, 2)])
def test_heat_map(clips, words, stages, columns):
    rng = np.random.default_rng(0)
    maps = {s: rng.uniform(-1, 1, (words, clips)) for s in [*STAGES][:stages]}
    saliency = rng.integers(0, 12, clips)
    fig = heat_map(maps, ["the"] * words, SECONDS, saliency, [[0, 4], [6, 8]], columns=columns)
    heat = [t for t in fig.data if isinstance(t, go.Heatmap)]
    assert all(np.allclose(t.z, m) and t.coloraxis == "coloraxis" for t, m in zip(heat, maps.values(), strict=True))
    assert [k for k in fig.layout.to_plotly_json() if k.startswith("coloraxis")] == ["coloraxis"]
    green = [t for t in fig.data if isinstance(t, go.Scatter) and t.line.color == TRUTH]
    assert len(green) == stages
    for t in green: assert (t.y[:-1].tolist(), t.x0, t.dx) == (saliency.tolist(), 0, SECONDS)
    assert {(t.x0, t.dx) for t in heat} == {(SECONDS / 2, SECONDS)}
    assert len(fig.layout.shapes) == stages * 2


def test_timeline_without_anything():
    for windows, predicted, saliency, frames in [([], [], None, None), ([[0, 4]], [], None, None), ([], [[1, 1, .5]], np.zeros(2), None),
                                                 ([[0, 4]], [[0, 4, 1.]], None, [np.zeros((9, 16, 3), np.uint8)])]:
        fig = figure6(4.0, 2.0, {"predicted": (predicted, saliency)}, windows, saliency, frames)
        assert len(fig.layout.images) == (1 if frames else 0)
        assert json.loads(fig.to_json())


def test_word_labels_never_lie():
    item = dict(query="a dog, running", text=np.zeros((4, 2)))
    assert word_labels(item) == ["a", "dog", ",", "running"]
    assert word_labels(dict(item, text=np.zeros((7, 2))))[0] == "token 1"


def test_examples_are_taken_by_rank(run):
    folder, data = run
    predictions = [json.loads(line) for line in (folder / "predictions_val.jsonl").read_text().splitlines()]
    rows = per_query_rows(predictions[1:], data.annotations)
    chosen = dict(choose_examples(rows))
    assert len(rows) == 9
    assert list(chosen) == ["best", "upper quarter", "median", "lower quarter", "worst"]
    ious = sorted(r["iou"] for r in rows)
    assert (chosen["best"]["iou"], chosen["median"]["iou"], chosen["worst"]["iou"]) == (ious[-1], ious[4], ious[0])


def test_report_is_one_safe_file(run, model, tmp_path):
    folder, data = run
    page = write_report(tmp_path / "report.html", folder, data, model,
                        floors=[{"name": "a <i>floor</i>", "MR-full-mAP": 9.}]).read_text(encoding="utf-8")
    own = page.replace(packed_plotly(), "")
    assert len(page) - len(own) == len(packed_plotly())
    assert len(page) < 2_000_000
    assert all(json.loads(inflate(packed))["data"] for packed in re.findall(r'data-figure="[^"]+">([^<]*)<', own))
    assert not re.search(r'(src|href)="(?!#)', own)
    assert "http" not in re.sub(r"http://www.w3.org\S*", "", own)
    for tag in ("<img", "<i>floor", "<b>up"): assert tag not in own
    assert own.count("</script>") == own.count("<script")
    assert "&lt;/script&gt;" in own
    assert len(own) < 160_000


def test_failed_report_keeps_the_old_one(run, model, tmp_path):
    folder, data = run
    path = tmp_path / "report.html"
    path.write_text("earlier")
    (folder / "metrics_val.json").write_text('{"brief": ')
    with pytest.raises(InputError, match="metrics_val.json"): write_report(path, folder, data, model)
    assert path.read_text() == "earlier"
    assert not list(tmp_path.glob(".*tmp"))


@needs_chromium
def test_report_draws_in_a_browser(run, model, tmp_path):
    folder, data = run
    video = pytest.importorskip("videolights.features.video")
    pytest.importorskip("av")
    frames = (np.full((32, 48, 3), 4 * i, np.uint8) for i in range(60))
    video.write_video(tmp_path / "videos" / "v0.mp4", frames, 1)
    path = write_report(tmp_path / "report.html", folder, data, model)
    options = ["--headless", *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, str(path)], capture_output=True, text=True, timeout=120).stdout
    drawn = re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert "<title>VideoLights on made &lt;b&gt;up&lt;/b&gt;</title>" in drawn
    assert drawn.count("js-plotly-plot") == 2 + 1 + 2 * 5
    assert drawn.count('class="hm"') == 5 * 3 * 2
    assert drawn.count("data:image/jpeg") == 10


@needs_chromium
def test_static_explorer_is_safe_and_answers(run, model, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    from videolights.explore.page import Opened, write_explorer
    from videolights.files import read_jsonl
    folder, data = run
    page = write_explorer(tmp_path / "page.html", Opened(data, {"run": model}, {"run": read_jsonl(folder / "predictions_val.jsonl")}))
    own = page.read_text(encoding="utf-8").replace(packed_plotly(), "")
    assert "<img" not in own
    assert own.count("</script>") == own.count("<script")
    assert not re.search(r'(src|href)="(?!#)', own)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        seen = browser.new_page()
        seen.goto(page.as_uri())
        seen.wait_for_selector("#heat image.map")
        picture = lambda: seen.locator("#heat image.map").first.get_attribute("href")
        chosen = seen.locator("#query").evaluate("list => list.selectedIndex")
        assert chosen == seen.locator("#query option").count() // 2                       # neither the best nor the worst
        seen.locator("#heat .field").first.hover()
        seen.locator(".pointed", has_text=" to ").wait_for()                              # word, clip and value, and what the stage is
        seen.locator("#timeline .moment").first.press("Enter")
        assert seen.locator("#timeline svg > path").last.get_attribute("d").startswith("M")
        before = picture()
        hostile = [i for i, text in enumerate(seen.locator("#query option").all_text_contents()) if "taken" in text]
        seen.locator("#query").select_option(index=hostile[0])
        seen.locator("#title", has_text="document.title").wait_for()
        assert "taken" not in seen.title()
        assert "made <b>up</b>" in seen.title()
        seen.locator("#map").select_option("attention, video → text")
        seen.locator("#heat svg[aria-label*='v2t']").wait_for()
        assert picture() != before
        browser.close()
