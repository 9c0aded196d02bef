"""The documentation site, from the notebooks as they are saved: `make site` writes it to `_docs`, and it works without a network.

Folders become chapters, exported functions get a table of their parameters (read from the comments beside them), formulas become MathML.
"""
import base64
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import yaml
import ziamath
from fastcore.docments import docments
from latex2mathml.converter import convert

HERE = Path(__file__).resolve().parent
NBS = HERE.parent
ROOT = NBS.parent
PAGES = ROOT / "_proc" / "docs"                                     # Markdown, read by MkDocs
TEXTS = ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")    # pages that are no notebooks
LONGEST = 14                                                        # lines of source shown open; longer cells unfold
SHELF = ("index", "core", "features", "data", "model", "losses", "evaluation", "training", "deploy", "explore", "encoders", "cli", "tutorials")


def page_of(path):
    "Where a notebook's page goes: nbs/model/22_refinement.ipynb -> model/refinement.md."
    path = path.relative_to(NBS)
    return path.with_name(re.sub(r"^\d+_", "", path.stem) + ".md")


def notebooks(): return sorted((p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts), key=lambda p: p.name)


# Formulas

FORMULA = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<line>[^${`](?:[^$`\n]|\n(?!\n))*?)\$(?![\w$])", re.S)


def with_formulas(text, shelf):
    "Text whose formulas wait on `shelf` as MathML, so that Markdown cannot read their underscores."
    def put(found):
        latex = found["block"] or found["line"]
        if latex is None: return found[0]                            # code stays as it is
        shelf.append(convert(latex.strip(), display="block" if found["block"] else "inline"))
        return f"mathml{len(shelf) - 1}lmhtam"
    return FORMULA.sub(put, text)


# Links

def with_links(text, source):
    "Links between notebooks and files of the repository as links between pages."
    def follow(found):
        target, _, anchor = found[1].partition("#")
        if re.match(r"\w+:", target) or not target: return found[0]
        path = (source.parent / target).resolve()
        if path.suffix == ".ipynb": to = page_of(path)
        elif path.is_relative_to(ROOT) and str(path.relative_to(ROOT)) in TEXTS: to = Path(text_page(path.relative_to(ROOT)))
        elif path.is_relative_to(NBS / "images"): to = path.relative_to(NBS)
        elif path == ROOT / "LICENSE": to = Path("LICENSE.txt")
        else: raise SystemExit(f"{source}: link to {target}, which has no page")
        home = page_of(source) if source.suffix == ".ipynb" else Path(text_page(source.relative_to(ROOT)))
        return f"]({os.path.relpath(to, home.parent)}{'#' + anchor if anchor else ''})"
    return re.sub(r"\]\(([^)\s]+)\)", follow, text)


def text_page(path): return "recipes.md" if str(path).startswith("recipes") else Path(path).name.lower()


# API tables

def annotation(value):
    "A type as a reader would write it."
    if value is inspect.Parameter.empty: return ""
    return f"`{value if isinstance(value, str) else getattr(value, '__name__', str(value)) if '[' not in str(value) else str(value)}`".replace("typing.", "")


def rows(function):
    "Parameters of a function: (name, type, default, meaning), the result last."
    empty = inspect.Parameter.empty
    for name, facts in docments(function, full=True, returns=True).items():
        if name == "self" or (name == "return" and facts["anno"] in (empty, None) and not facts["docment"]): continue
        default = "" if facts.get("default", empty) is empty or name == "return" else f"`{facts['default']!r}`"
        yield "*returns*" if name == "return" else f"`{name}`", annotation(facts["anno"]), default, " ".join((facts["docment"] or "").split())


def described(name, thing, shelf):
    "A public function or class: heading, summary, table."
    doc = with_formulas(inspect.getdoc(thing) or "", shelf)
    kind = "class" if inspect.isclass(thing) else "function"
    said = ['<div class="api" markdown="1">', f"#### `{name}` {{ #{name} data-kind={kind} }}", doc, ""]
    target = thing.forward if hasattr(thing, "forward") and inspect.isfunction(thing.forward) and thing.forward.__module__ == thing.__module__ else thing
    try: table = list(rows(target))
    except (TypeError, ValueError, KeyError, OSError, SyntaxError): table = []
    if any(any(cells[1:]) for cells in table):
        if target is not thing: said.append("`forward`:\n")
        cell = lambda text: re.sub(r"^`(.*)`$", lambda code: f"<code>{escape(code[1])}</code>", text).replace("|", "&#124;")
        said += ["| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *("| " + " | ".join(map(cell, cells)) + " |" for cells in table)]
    return "\n".join([*said, "", "</div>", ""])


def public_names(source):
    "Functions and classes that a cell defines for others."
    return re.findall(r"^(?:async )?(?:def|class) ([A-Za-z]\w*)", source, re.M)


# Cells

def fenced(text, language="text"):
    marks = "`" * max(3, max((len(m) for m in re.findall(r"`+", text)), default=0) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}\n"


def folded(title, body): return f'??? quote "{title}"\n\n' + "\n".join("    " + line for line in body.splitlines()) + "\n"


def outputs(cell, stem, number):
    "What a cell printed and drew."
    for i, out in enumerate(cell.get("outputs", [])):
        if out["output_type"] == "stream": yield '<div class="out" markdown="1">\n\n' + fenced("".join(out["text"])) + "\n</div>"
        data = out.get("data", {})
        if "image/png" in data:
            picture = PAGES / "pictures" / f"{stem}_{number}_{i}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(base64.b64decode("".join(data["image/png"])))
            yield f"![what the cell above draws]({{pictures}}/{picture.name})"
        elif "image/svg+xml" in data: yield "".join(data["image/svg+xml"])
        elif "text/markdown" in data: yield "".join(data["text/markdown"])
        elif "text/html" in data and "<script" not in "".join(data["text/html"]): yield f'<div class="out">{"".join(data["text/html"])}</div>'
        elif "text/plain" in data: yield '<div class="out" markdown="1">\n\n' + fenced("".join(data["text/plain"])) + "\n</div>"


def page(path, shelf):
    "A notebook as Markdown."
    cells, parts, module = json.loads(path.read_text())["cells"], [], None
    stem, up = path.stem, os.path.relpath("pictures", page_of(path).parent)
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": parts.append(with_formulas(with_links(source, path), shelf)); continue
        if cell["cell_type"] != "code" or re.search(r"^#\|\s*hide\b", source, re.M): continue
        if found := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M):
            module = importlib.import_module(f"videolights.{found[1]}"); continue
        exported = re.search(r"^#\|\s*export", source, re.M)
        code = "\n".join(line for line in source.splitlines() if not line.startswith("#|")).strip()
        if not code: continue
        if exported and module: parts += [described(name, getattr(module, name), shelf) for name in public_names(code)]
        imports = all(re.match(r"(import|from|#|\)|\s|$)", line) for line in code.splitlines())
        block = fenced(code, "python")
        parts.append(folded("imports", block) if imports else folded("source", block) if exported and code.count("\n") >= LONGEST else block)
        parts += [shown.replace("{pictures}", up) for shown in outputs(cell, stem, number)]
    text = "\n\n".join(parts)
    return re.sub(r"^> (.*)$", r'<p class="summary" markdown="1">\1</p>', text, count=1, flags=re.M)


def architecture():
    "The figure of the front page as part of it, its boxes linking to pages."
    svg = (NBS / "images" / "architecture.svg").read_text()
    site = lambda found: f'href="{page_of((NBS / "images" / found[1]).resolve()).with_suffix(".html")}"'
    return re.sub(r'href="([^"]+\.ipynb)"', site, svg).replace("<svg ", '<svg class="architecture" ', 1)


def write_pages():
    "All pages; the chapters as MkDocs' navigation, and the formulas' shelf."
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    shelf, chapters = [], {}
    for path in notebooks():
        target = PAGES / page_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = page(path, shelf)
        if path == NBS / "index.ipynb": text = re.sub(r"!\[[^\]]*\]\(images/architecture\.svg\)", lambda _: architecture().replace("\n", ""), text)
        target.write_text(text)
        chapter = path.parent.name if path.parent != NBS else "index" if path.stem == "index" else "cli"
        chapters.setdefault(chapter, []).append(str(page_of(path)))
    for text in TEXTS: (PAGES / text_page(text)).write_text(with_formulas(with_links((ROOT / text).read_text(), ROOT / text), shelf))
    shutil.copytree(NBS / "images", PAGES / "images", dirs_exist_ok=True)
    shutil.copy(ROOT / "LICENSE", PAGES / "LICENSE.txt")
    shutil.copytree(HERE / "theme", PAGES / "theme", dirs_exist_ok=True)
    shutil.copy(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf", PAGES / "theme")      # not every machine has a font for formulas
    (PAGES.parent / "formulas.json").write_text(json.dumps(shelf))
    titled = {"index": "Start", "cli": "Command line"}
    named = lambda name: titled.get(name, name.capitalize())
    return [{named(c): chapters[c][0] if len(chapters[c]) == 1 else chapters[c]} for c in SHELF if c in chapters] + [
        {"Project": [text_page(t) for t in TEXTS]}]


def main(site=ROOT / "_docs"):
    config = yaml.safe_load((HERE / "mkdocs.yml").read_text())
    config |= dict(nav=write_pages(), docs_dir=str(PAGES), site_dir=str(Path(site).resolve()), hooks=[str(HERE / "formulas.py")])
    place = PAGES.parent / "mkdocs.yml"
    place.write_text(yaml.safe_dump(config, sort_keys=False))
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", place], check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    print(f"site: {Path(site, 'index.html')}")


if __name__ == "__main__": main(*sys.argv[1:])
