"The page of `videolights serve` in a real browser: from an upload to a moment that plays."
import re
import threading
import time

import pytest
from conftest import CHROMIUM, CHROMIUM_FLAGS, ROOT, needs_chromium

pytest.importorskip("fastapi")
pytest.importorskip("av")
playwright = pytest.importorskip("playwright.sync_api")

from videolights.data.toyworld import FPS, render, script_of
from videolights.deploy.access import Access, bind
from videolights.deploy.runtime import Runtime
from videolights.deploy.serving import Limits, create_app, http_server
from videolights.features.video import write_video

WAIT = 120_000   # ms
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    "A folder with a toy video, a file that no browser plays, and one that is no video."
    folder = tmp_path_factory.mktemp("films")
    frames = list(render(script_of("val", 0, 2018)[1]))
    write_video(folder / "toy.mp4", iter(frames), FPS)
    (folder / "foreign.avi").write_bytes(write_video(folder / "more" / "x.mp4", iter(frames[:FPS * 20]), FPS).read_bytes())
    (folder.parent / "text.mp4").write_text("Dear editor")
    return folder


@pytest.fixture(scope="module")
def home(videos):
    runtime = Runtime.load(ROOT / "exported" / "toyworld", providers="cpu", threads=1)
    listening = bind("127.0.0.1", 0)
    server = http_server(create_app(runtime, videos, Limits(), Access(token="secret")), "error")
    threading.Thread(target=server.run, kwargs=dict(sockets=[listening]), daemon=True).start()
    while not server.started: time.sleep(.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, home):
    "The page, opened with its token; scripts that fail or are refused, and addresses of other places, are faults."
    context = browser.new_context(viewport=dict(width=1100, height=1200))
    opened, faults = context.new_page(), []
    opened.set_default_timeout(WAIT)
    opened.on("pageerror", lambda e: faults.append(str(e)))
    opened.on("console", lambda m: faults.append(m.text) if "Content Security" in m.text else None)
    opened.on("request", lambda r: faults.append(r.url) if not r.url.startswith((home, "blob:", "data:")) else None)
    opened.goto(f"{home}?token=secret")
    opened.locator("#about", has_text="minutes").wait_for()
    yield opened
    context.close()
    assert not faults


def ask(page, *queries, file=None):
    if file: page.set_input_files("#file", file)
    page.locator("#queries").fill("\n".join(queries))
    page.get_by_role("button", name="Ask").click()


def test_from_an_upload_to_a_moment_that_plays(page, videos):
    ask(page, "a red ring", "a purple dinosaur", file=videos / "toy.mp4")
    page.locator("#found article").nth(1).wait_for()
    assert page.locator("#found h2").all_text_contents() == ["“a red ring”", "“a purple dinosaur”"]
    assert "dinosaur" in page.locator(".warning").text_content()                            # a word that nobody taught it
    moment = page.locator(".moment").first
    start, end = map(float, re.search(r": ([\d.]+) s to ([\d.]+) s", moment.get_attribute("aria-label")).groups())
    moment.press("Enter")                                                                   # by keyboard, as by a click
    page.wait_for_function("([start, end]) => { const t = document.getElementById('video').currentTime; return t > start && t <= end + 1 }", arg=[start, end])
    page.locator("h1").click()
    page.keyboard.press("n")
    page.locator("#status", has_text="Moment 1 of").wait_for()
    page.locator(".field").first.hover()
    page.locator(".pointed", has_text=" to ").first.wait_for()
    with page.expect_download() as saved: page.get_by_role("link", name="Save as CSV").click()
    assert saved.value.path().read_text().startswith("video,query,rank,start_s,end_s,confidence\ntoy.mp4,a red ring,1,")


def test_a_view_of_the_folder_can_be_linked_to(page, browser, home, videos):
    page.locator("#path").select_option("toy.mp4")
    ask(page, "a red ring")
    page.locator("#found .moment").first.wait_for()
    other = page.context.new_page()                                                         # a second client
    other.set_default_timeout(WAIT)
    other.goto(page.url)
    other.locator("#found h2", has_text="a red ring").wait_for()
    assert other.locator(".moment").first.get_attribute("aria-label") == page.locator(".moment").first.get_attribute("aria-label")


def test_what_goes_wrong_is_said(page, videos):
    ask(page, "a red ring", file=videos.parent / "text.mp4")
    page.locator("#status.bad", has_text="text.mp4: is no video file").wait_for()
    page.route("**/predict?*", lambda route: None)                                          # an upload that does not end
    ask(page, "a red ring", file=videos / "toy.mp4")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#status", has_text="Cancelled").wait_for()
    page.unroute("**/predict?*")
    ask(page, "a red ring", file=videos / "toy.mp4")                                        # and it goes on
    page.locator("#found .moment").first.wait_for()


def test_a_file_that_browsers_cannot_play_shows_frames(page, videos):
    page.route("**/videos/**", lambda route: route.fulfill(status=200, content_type="video/x-msvideo", body=b"RIFF"))
    page.locator("#path").select_option("foreign.avi")
    ask(page, "a red ring")
    page.locator("#frames img").first.wait_for()
    assert page.locator("#frames img").count() == 10
    assert page.locator("#video").is_hidden()


@pytest.mark.parametrize("path, status", [("videos/text.txt", 404), ("videos/../text.mp4", 404), ("videos/..%2ftext.mp4", 403), ("page/ask.html", 404), ("page/ask.js", 200), ("videos/toy.mp4", 200)])
def test_only_videos_of_the_folder_are_given(page, home, path, status):
    assert page.request.get(home + path).status == status
