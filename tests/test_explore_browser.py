"The explorers in a real browser: the page that `videolights explore` serves, and a notebook in JupyterLab."
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import CHROMIUM, CHROMIUM_FLAGS, needs_chromium

pytest.importorskip("torch")
pytest.importorskip("voila")
pytest.importorskip("av")
playwright = pytest.importorskip("playwright.sync_api")

from videolights.config import DataConfig, ModelConfig
from videolights.data.toyworld import make_toyworld
from videolights.model.videolights import VideoLights
from videolights.training.checkpoints import save_checkpoint

WAIT = 120_000   # ms; a machine under load takes its time
MAP = ".js-plotly-plot .heatmaplayer image"
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Two toy videos, and a small untrained model."
    import torch
    folder = tmp_path_factory.mktemp("explore")
    toy = make_toyworld(folder / "toy", train_videos=1, val_videos=2, progress=False)
    data = DataConfig.load(toy)
    torch.manual_seed(2018)
    model = VideoLights(ModelConfig(video_dim=data.video_dim, text_dim=data.text_dim, dim=32, heads=4, feedforward=64, encoder_layers=1, decoder_layers=1))
    save_checkpoint(folder / "run/best", model, data.contract())
    (folder / "run/log.csv").write_text("epoch,lr,loss_total,R1@0.5,MR-long-mAP\n1,1e-4,9,,\n2,1e-4,7,50,\n")
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def served(command, port, folder):
    "Start a server and wait until it answers."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(folder / "config"), "IPYTHONDIR": str(folder / "ipython")}
    log = open(folder / f"server{port}.log", "w")
    server, end = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT), time.time() + WAIT / 1000
    while time.time() < end and server.poll() is None:
        try: urllib.request.urlopen(f"http://127.0.0.1:{port}/static/favicon.ico", timeout=2); return server
        except urllib.error.HTTPError: return server
        except OSError: time.sleep(.3)
    server.kill()
    pytest.fail(f"the server did not answer: {(folder / f'server{port}.log').read_text()[-2000:]}")


def stop(server):
    server.terminate()
    try: server.wait(15)
    except subprocess.TimeoutExpired: server.kill()


class Seen:
    "What the page shows, and waiting for it to change."
    def __init__(self, page): self.page = page

    def title(self): return self.page.locator(".vl-title").first.text_content()
    def picture(self): return self.page.locator(MAP).first.get_attribute("href")
    def clip(self): return self.page.locator(".widget-slider .widget-readout").first.text_content()
    def seconds(self): return self.page.evaluate("document.querySelector('.vl-player video').currentTime")
    def labels(self): return self.page.locator(".js-plotly-plot .yaxislayer-above text, .js-plotly-plot .yaxislayer-below text").all_inner_texts()

    def changes(self, what, act):
        "Do something, and wait until what is seen is another."
        before = what()
        act()
        return self.becomes(what, lambda now: now != before)

    def becomes(self, what, right):
        end = time.time() + WAIT / 1000
        while not right(now := what()):
            assert time.time() < end, f"still {str(now)[:200]}"
            self.page.wait_for_timeout(50)
        return now


def explored(world, *options):
    "The explorers' page as it is served: (process, address of the server, token)."
    port = free_port()
    command = [sys.executable, "-m", "videolights", "explore", "run", "toy/toyworld.yaml", "--port", str(port), "--no-browser", *options]
    server = served(command, port, world)
    return server, f"http://127.0.0.1:{port}", re.search(r"\?token=(\S+)", (world / f"server{port}.log").read_text())[1]


def test_page(world, browser):
    server, home, token = explored(world)
    try:
        page = browser.new_page(viewport=dict(width=1400, height=1000), color_scheme="dark")
        page.set_default_timeout(WAIT)
        asked = []
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.goto(f"{home}/?token={token}")
        page.wait_for_url(f"{home}/?theme=dark")                                                      # the token is a cookie now, the look the browser's
        seen = Seen(page)
        page.wait_for_selector(MAP)
        queries = page.locator(".vl-picker select").last
        first = seen.picture()
        title = seen.changes(seen.title, lambda: queries.select_option(index=2))                      # another query
        seen.becomes(seen.picture, lambda now: now != first)                                          # drawn before the next choice
        assert " ".join(queries.locator("option").nth(2).text_content().split()[1:]) in title
        seen.changes(seen.picture, lambda: page.get_by_label("Stage").select_option("projection"))    # another stage
        word = page.locator(".vl-words button").nth(1)
        seen.changes(seen.picture, word.click)                                                        # a word less
        assert word.get_attribute("aria-pressed") == "false" and page.locator(".js-plotly-plot .ytick text [style*=line-through]").count()
        field = page.locator(".js-plotly-plot .nsewdrag").first
        box = field.bounding_box()
        seen.changes(seen.clip, lambda: field.click(position=dict(x=box["width"] * .7, y=box["height"] / 2)))   # a click into the map
        clip = int(seen.clip())
        seen.becomes(seen.seconds, lambda now: clip <= now / 2 < clip + 1)                            # and the video is there
        page.get_by_label("Ask").fill("!!!"); page.keyboard.press("Enter")                            # no query at all
        page.locator(".vl-error", has_text="holds no words").wait_for()
        seen.changes(seen.picture, lambda: page.get_by_label("Stage").select_option("fusion"))        # and the controls still answer
        page.get_by_role("button", name="Figure 1").click()                                           # a figure of the paper, its stages explained
        page.locator(".annotation-text", has_text="refinement").first.hover()
        page.locator(".hoverlayer", has_text="III-B").first.wait_for()
        page.get_by_label("Ask").fill("a blue square"); page.keyboard.press("Enter")                  # a new query
        seen.becomes(seen.title, lambda now: "a blue square" in now)
        page.get_by_role("button", name="Figure 6").click()
        page.wait_for_selector(".js-plotly-plot .bars path")
        page.get_by_role("tab", name="Moments").click()
        page.locator(".vl-title:visible", has_text="a blue square").wait_for()                        # there, too, with what was answered
        page.locator(".js-plotly-plot .bars path:visible").first.wait_for()
        page.get_by_role("tab", name="Training").click()
        page.locator(".annotation-text", has_text="R1@0.5").first.wait_for()
        assert not page.locator("text=MR-long-mAP").count() and not page.locator("text=no value").count()
        if folder := os.environ.get("VIDEOLIGHTS_SCREENSHOTS"): page.screenshot(path=f"{folder}/page.png")
        page.close()
        assert not [url for url in asked if not url.startswith((home, "data:", "blob:"))]             # nothing from elsewhere
    finally: stop(server)


def kernels(server): return len(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())


def wait_until(right):
    end = time.time() + WAIT / 1000
    while not right():
        assert time.time() < end
        time.sleep(.2)


ATTACK = """async home => {
    const read = (path, options) => fetch(home + path, {credentials: "include", ...options}).then(r => r.text()).catch(() => "");
    const frame = document.createElement("iframe"); frame.src = home + "/"; document.body.append(frame);
    const image = new Image(); image.src = home + "/";
    const socket = await new Promise(done => { const ws = new WebSocket(home.replace("http", "ws") + "/api/kernels/KERNEL/channels");
        ws.onopen = () => done("open"); ws.onerror = () => done(""); });
    return [socket, await read("/"), await read("/api/kernels/KERNEL"), await read("/api/kernels/KERNEL", {method: "DELETE"}),
            await read("/voila/api/shutdown/KERNEL", {method: "POST", mode: "no-cors"})]; }"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes as Linux shows them")
def test_the_page_is_for_who_has_its_token(world, browser):
    "Names, origins and tokens at every address; as many kernels as told, each of which ends with its page."
    server, home, token = explored(world, "--pages", "1")
    try:
        def status(path, **headers):
            try: return urllib.request.urlopen(urllib.request.Request(home + path, headers=headers), timeout=30).status
            except urllib.error.HTTPError as e: return e.code
        cookie = dict(Cookie=f"videolights-{home.rpartition(':')[2]}={token}")
        for path in ("/", "/api/kernels", "/voila/static/voila.js", "/voila/files/explore.ipynb", "/voila/api/themes/", "/login", "/?token=wrong", "/nothing"):
            assert status(path) == 401
            assert status(path, Host="evil.example", **cookie) == 421
            assert status(path, Origin="http://evil.example", **cookie) == 403
        assert kernels(server) == 0                                                                   # none of these started one
        context = browser.new_context()
        page = context.new_page()
        found = []
        page.on("websocket", lambda socket: found.append(socket.url))
        page.set_default_timeout(WAIT)
        page.goto(f"{home}/?token={token}")
        page.wait_for_selector(MAP)
        assert kernels(server) == 1
        assert status("/", **cookie) == 503                                                           # one page more than told
        other = context.new_page()                                                                    # a page of another port: it has the cookie, too
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as foreign:
            threading.Thread(target=foreign.serve_forever, daemon=True).start()
            other.goto(f"http://127.0.0.1:{foreign.server_port}/")
            kernel = re.search(r"kernels/([\w-]+)/", found[0])[1]
            assert other.evaluate(ATTACK.replace("KERNEL", kernel), home) == [""] * 5
            foreign.shutdown()
        other.close()
        assert kernels(server) == 1
        page.close()
        wait_until(lambda: kernels(server) == 0)
        page = context.new_page()                                                                     # there is a place again
        page.goto(home, timeout=WAIT)
        page.wait_for_selector(MAP, timeout=WAIT)
        page.goto("about:blank")
        wait_until(lambda: kernels(server) == 0)
        context.close()
    finally: stop(server)


def test_notebook_with_the_keyboard_alone(world, browser):
    source = "from videolights.explore.page import explorer_page\nexplorer_page(['run'], 'toy/toyworld.yaml')"
    cell = dict(cell_type="code", id="one", metadata={}, execution_count=None, outputs=[], source=source)
    kernel = dict(name="python3", display_name="Python 3", language="python")
    (world / "app.ipynb").write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    port = free_port()
    options = [f"--port={port}", "--ip=127.0.0.1", "--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={world}"]
    server = served([sys.executable, "-m", "jupyterlab", *options], port, world)
    try:
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(WAIT)
        page.goto(f"http://127.0.0.1:{port}/lab/tree/app.ipynb?reset")
        seen, press = Seen(page), page.keyboard.press
        page.locator("#jp-main-statusbar", has_text="Idle").wait_for()
        page.locator(".jp-CodeCell .cm-content").first.focus(); press("Shift+Enter")
        page.wait_for_selector(MAP)
        page.locator(".vl-picker input").first.focus()
        press("Tab"); press("Tab")                                                                    # over the order to the list
        seen.changes(seen.title, lambda: press("ArrowDown"))
        page.locator(".widget-slider .noUi-handle").first.focus()
        seen.changes(seen.clip, lambda: press("ArrowRight"))
        seen.becomes(seen.seconds, lambda now: 2 <= now < 4)
        page.get_by_label("Stage").focus()
        seen.changes(seen.picture, lambda: press("ArrowUp"))
        for _ in range(40):                                                                           # on with Tab until a word has the focus
            press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-pressed') !== null && !!document.activeElement.closest('.vl-words')"): break
        seen.changes(seen.picture, lambda: press("Space"))
        assert page.locator(".vl-words button[aria-pressed=false]").count() == 1
        if folder := os.environ.get("VIDEOLIGHTS_SCREENSHOTS"): page.screenshot(path=f"{folder}/lab.png")
        page.close()
    finally: stop(server)
