"Puts the formulas of `build.py` back into the pages."
import json
import re
from pathlib import Path


def on_config(config):
    config.extra["formulas"] = json.loads((Path(config.config_file_path).parent / "formulas.json").read_text())


def _filled(html, config): return re.sub(r"mathml(\d+)lmhtam", lambda found: config.extra["formulas"][int(found[1])], html)


def on_page_content(html, page, config, files): return _filled(html, config)
def on_post_page(output, page, config): return _filled(output, config)
