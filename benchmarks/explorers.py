"""How long the explorers take to answer: a change of query or stage, a masked word and a new run; in Python alone, and seen in a browser.

    python benchmarks/explorers.py [--clips 75 1000] [--words 32] [--preset videolights-b] [--browser]

"""
import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

LIMITS = {"query": 200, "stage": 200, "head": 200, "mask": 500}   # ms, for 75 clips and 32 words


class Made_up:
    "Looks like a Dataset: queries of random features."
    def __init__(self, config, clips, words, count=40):
        self.config, self.clips, self.words = config, clips, words
        self.data = SimpleNamespace(clip_seconds=2., protocol="qvhighlights", max_words=words)
        self.annotations = [dict(qid=q, vid=f"v{q}", query=" ".join(f"word{q}.{k}" for k in range(words)), relevant_windows=[[20., 60.]]) for q in range(count)]

    def __len__(self): return len(self.annotations)

    def __getitem__(self, i):
        rng, inside = np.random.default_rng(i), (np.arange(self.clips) >= 10) & (np.arange(self.clips) < 30)
        return dict(self.annotations[i], video=np.float32(rng.normal(size=(self.clips, self.config.video_dim))), duration=2. * self.clips,
                    text=np.float32(rng.normal(size=(self.words, self.config.text_dim))), saliency=inside * 9., windows=np.array([[20., 60.]]))


def make(preset="videolights-b", clips=75, words=32):
    "An explorer of a model with random weights."
    import torch
    from videolights.config import ModelConfig
    from videolights.explore.widgets import HeatmapExplorer
    from videolights.model.videolights import VideoLights
    torch.manual_seed(2018)
    model = VideoLights(ModelConfig.preset(preset)).eval()
    return HeatmapExplorer(model, Made_up(model.config, clips, words))


def best(act, values):
    "Shortest time of an act over several values, ms."
    times = []
    for value in values:
        start = time.perf_counter()
        act(value)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:])


def python_side(preset, clips, words):
    "Time until the messages to the page are made."
    e = make(preset, clips, words)
    found = {"query": best(lambda i: setattr(e.panel.picker.list, "index", i), range(1, 9)),
             "stage": best(lambda s: setattr(e.stage, "value", s), ["projection", "refinement", "t2v", "encoder", "fusion"]),
             "to all stages and back": best(lambda _: (setattr(e.stage, "value", "all stages"), setattr(e.stage, "value", "fusion")), range(4))}
    e.stage.value = "fusion"
    found["mask"] = best(lambda k: setattr(e.chips, "keep", [j != k for j in range(words)]), range(6))
    e.kind.value, e.layer.value = "attention", "fusion 1"
    found["head"] = best(lambda h: setattr(e.head, "value", h), range(6))
    e.layer.value = "encoder 1"
    found["clips × clips"] = best(lambda h: setattr(e.head, "value", h), range(6))
    return found


WATCH = """([selector, value]) => new Promise(done => {
  const picture = () => document.querySelector('.js-plotly-plot .heatmaplayer image')?.getAttribute('href'), before = picture(), from = performance.now();
  const control = document.querySelector(selector) ?? [...document.querySelectorAll('label')].find(l => l.textContent === selector).parentElement.querySelector('select');
  if (control.tagName === 'BUTTON') control.click();
  else { control.selectedIndex = value; control.dispatchEvent(new Event('change', {bubbles: true})); }
  const look = () => picture() !== before ? done(performance.now() - from) : setTimeout(look, 2);
  look();
})"""


def browser_side(preset, clips, words):
    "Time from a change of a control until the picture in the page is another."
    from playwright.sync_api import sync_playwright
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        source = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom explorers import make\nmake({preset!r}, {clips}, {words})"
        cell = dict(cell_type="code", id="one", metadata={}, execution_count=None, outputs=[], source=source)
        Path(folder, "page.ipynb").write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=dict(name="python3", display_name="Python 3")), nbformat=4,
                                                              nbformat_minor=5)))
        server = subprocess.Popen([sys.executable, "-m", "voila", "page.ipynb", f"--port={port}", "--no-browser"], cwd=folder, stderr=subprocess.DEVNULL)
        try:
            with sync_playwright() as p:
                page = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]).new_page(viewport=dict(width=1400, height=900))
                for _ in range(100):
                    try: page.goto(f"http://127.0.0.1:{port}/", timeout=120_000); break
                    except Exception: time.sleep(.5)
                page.wait_for_selector(".js-plotly-plot .heatmaplayer image", timeout=180_000)
                page.wait_for_timeout(3000)
                seen = lambda selector, values: min([page.evaluate(WATCH, [selector.format(v + 1), v]) for v in values][1:])
                return {"query": seen(".vl-picker select[size]", range(1, 7)), "stage": seen("Stage", [0, 1, 2, 4, 3]), "mask": seen(".vl-words button:nth-child({})", range(4))}
        finally: server.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[75, 1000])
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--preset", default="videolights-b", help="model with random weights (default videolights-b)")
    parser.add_argument("--browser", action="store_true", help="also in a page, with voila and Chromium")
    args = parser.parse_args()
    print(f"{args.preset}, {args.words} words; shortest of several, ms; the limit is for 75 clips")
    for side in [python_side, browser_side][:1 + args.browser]:
        for clips in args.clips:
            found = side(args.preset, clips, args.words)
            said = [f"{name} {ms:.0f}" + (f" ({ms / LIMITS[name]:.2f} of the limit)" if name in LIMITS else "") for name, ms in found.items()]
            print(f"{side.__name__.replace('_', ' '):13} {clips:5} clips: {', '.join(said)}", flush=True)


if __name__ == "__main__": main()
