"The documentation site, built and opened in a real browser: no dead link, no raw formula, no missing picture, nothing from the network."
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from conftest import CHROMIUM, CHROMIUM_FLAGS, ROOT, needs_chromium

pytest.importorskip("mkdocs", reason="the site needs MkDocs: pip install 'videolights[dev]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, built anew."
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, ROOT / "nbs" / "site" / "build.py", folder], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def pages(site): return {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


class Links(HTMLParser):
    "Targets and anchors of a page."

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.anchors |= {facts[key] for key in ("id", "name") if facts.get(key)}
        self.targets |= {facts[key] for key in ("href", "src") if facts.get(key)}


def test_every_notebook_has_a_page(pages, site):
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in notebook.parts: continue
        page = notebook.relative_to(ROOT / "nbs").with_name(re.sub(r"^\d+_", "", notebook.stem) + ".html")
        assert site / page in pages, f"{notebook.name} has no page {page}"


def test_no_link_is_dead(pages):
    dead = []
    for path, page in pages.items():
        for target in page.targets:
            place, _, anchor = unquote(target).partition("#")
            if re.match(r"(https?|data|mailto|javascript):", place): continue
            to = (path.parent / place).resolve() if place else path
            to = to / "index.html" if to.is_dir() else to
            if not to.exists() or (anchor and to in pages and anchor not in pages[to].anchors): dead.append(f"{path.name}: {target}")
    assert not dead, "\n".join(sorted(dead)[:20])


def test_figure_links_to_the_paper(pages, site):
    boxes = {f"model/{name}.html" for name in ("projection", "refinement", "fusion", "encoder", "decoder", "feedback")}
    assert boxes <= pages[site / "index.html"].targets


def test_api_tables_come_from_docments(site):
    page = (site / "losses" / "moments.html").read_text()
    table = page[page.index('id="span_losses"'):].partition("</table>")[0]
    for words in ("targets", "(B, M, 2)", "Tensor", "returns"): assert words in table, words


@needs_chromium
def test_pages_in_a_browser(pages, site):
    "All pages offline: formulas drawn, pictures there, no error, no request to the network; and search finds a function."
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    look = """() => ({
        broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
        raw: [...document.querySelectorAll('.md-content p, .md-content li, .md-content td, .md-content h1, .md-content h2, .md-content h3')]
             .map(e => { const c = e.cloneNode(true); c.querySelectorAll('code, pre, math').forEach(x => x.remove()); return c.textContent })
             .filter(t => /\\$[^${]+\\$|\\\\(frac|text|bar|sum|mathcal)|mathml\\d+/.test(t)),
        flat: [...document.querySelectorAll('math')].filter(m => !m.getBoundingClientRect().width && m.checkVisibility()).length })"""
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page, wrong = browser.new_page(), []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:", "about:")) or wrong.append(r.url))
        page.on("requestfailed", lambda r: "ABORTED" in (r.failure or "") or wrong.append(f"{r.url}: {r.failure}"))
        for path in pages:
            page.goto(path.as_uri())
            found = page.evaluate(look)
            wrong += [f"{path.name}: {kind}: {value}" for kind, value in found.items() if value]
        page.goto((site / "index.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("generalized_iou")
        page.wait_for_selector(".md-search-result__link")
        results = page.text_content(".md-search-result__list")
        browser.close()
    assert not wrong, "\n".join(wrong[:20])
    assert "Spans" in results or "spans" in results
