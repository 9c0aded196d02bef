"Heat maps, figures, explorers and reports: see what a model sees."

from functools import cache
from pathlib import Path

STATIC = Path(__file__).with_name("static")   # scripts, styles and templates


@cache
def _templates():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    html = lambda name: name.endswith(".html")
    return Environment(loader=FileSystemLoader(STATIC), autoescape=html, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)


def render(
    name,       # template in `static/`; one that ends in .html escapes what it shows
    **context,  # what it shows
):              # text
    "Fill a template."
    return _templates().get_template(name).render(context)
