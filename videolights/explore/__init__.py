"Heat maps, figures, explorers and reports: see what a model sees."

from pathlib import Path

STATIC = Path(__file__).with_name("static")   # scripts, styles and templates
