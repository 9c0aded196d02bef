"""The house's own figures: `make house`.

Cells, lines and tokens per folder, lines that are too long, names that nothing shows, names defined twice, what the command line costs to start.
"""
import ast
import io
import json
import re
import statistics
import subprocess
import sys
import time
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAPER = ("model", "losses")      # the rooms that are the paper
WIDTH = 120                      # characters of a line
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


def notebooks():
    "Numbered notebooks in their order."
    return sorted((p for p in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in p.parts), key=lambda p: p.name)


def folder(path):
    "Which folder of `nbs` a notebook is in."
    return path.parent.name if path.parent != ROOT / "nbs" else "cli"


def code_cells(path):
    "(exported, source without directives) of each code cell."
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.search(r"^#\|\s*(default_exp|hide_input)", source): continue
        lines = source.splitlines()
        yield any(re.match(r"#\|\s*export", line) for line in lines), "\n".join(line for line in lines if not line.startswith("#|"))


def docstrings(tree):
    "Where docstrings begin: (line, column)."
    homes = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    first = (n.body[0] for n in ast.walk(tree) if isinstance(n, homes) and n.body)
    return {(e.lineno, e.col_offset) for e in first if isinstance(e, ast.Expr) and isinstance(e.value, ast.Constant) and isinstance(e.value.value, str)}


def tokens(source):
    "Python's tokens, without comments, docstrings and layout."
    skip = docstrings(ast.parse(source))
    return sum(t.type not in SKIPPED and t.start not in skip for t in tokenize.generate_tokens(io.StringIO(source).readline))


def code_lines(source):
    "Lines that hold code: neither blank, comment nor docstring."
    skip = docstrings(ast.parse(source))
    found = set()
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type not in SKIPPED and t.start not in skip: found.update(range(t.start[0], t.end[0] + 1))
    return len(found)


def defined(source):
    "Names that a cell defines at its top level."
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): yield node.name
        elif isinstance(node, ast.Assign): yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name): yield node.target.id


def words(source):
    "Identifiers that a cell uses, those inside strings too (templates, commands)."
    return set(re.findall(r"\w+", source))


def module_of(path):
    "The module that a notebook writes."
    name = re.search(r"#\| default_exp (\S+?)[\\\"\n]", path.read_text())[1]
    return (ROOT / "videolights").joinpath(*name.split(".")).with_suffix(".py").read_text()


def survey(path):
    "Figures of one notebook: its cells, and tokens and lines of the module it writes."
    cells, module = list(code_cells(path)), module_of(path)
    exported = [source for out, source in cells if out and source.strip()]
    shown = set().union(set(), *(words(source) for out, source in cells if not out))
    names = [name for source in exported for name in defined(source) if not name.startswith("_")]
    return dict(
        name=str(path.relative_to(ROOT / "nbs")), folder=folder(path), tokens=tokens(module), lines=code_lines(module),
        cells=[len(source.strip().splitlines()) for source in exported],
        wide=[line for source in exported for line in source.splitlines() if len(line) > WIDTH],
        names=names, unseen=[name for name in names if name not in shown],
        chained=sum(isinstance(n, ast.Assert) and isinstance(n.test, ast.BoolOp) and isinstance(n.test.op, ast.And)
                    for out, source in cells if not out for n in ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "pass", source, flags=re.M)))),
        shapeless=[n.name for source in exported for c in ast.walk(ast.parse(source)) if isinstance(c, ast.ClassDef)
                   for n in c.body if isinstance(n, ast.FunctionDef) and n.name == "forward" and not says_shapes(source, n)])


SHAPE = re.compile(r"\((\.\.\.|[A-Za-z]\w*)?(, *[^(),]+)*\)|\b[A-Za-z]×")


def says_shapes(source, function):
    "Whether comments of a function's signature, or its docstring, give a shape such as (B, L, d)."
    head = source.splitlines()[function.lineno - 1:function.body[0].lineno]
    return bool(SHAPE.search(" ".join([*(line.partition("#")[2] for line in head), ast.get_docstring(function) or ""])))


def twice(surveys):
    "Public names defined in two modules or more."
    homes = defaultdict(set)
    for s in surveys:
        for name in s["names"]: homes[name].add(s["name"])
    return {name: sorted(where) for name, where in homes.items() if len(where) > 1}


def by_hand():
    "Tokens of the modules that no notebook writes."
    return sum(tokens(p.read_text()) for p in (ROOT / "videolights").rglob("__*__.py"))


def static():
    "Lines of scripts, styles and templates."
    return {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sorted((ROOT / "videolights").glob("**/static/**/*")) if p.is_file()}


def quantile(values, share): return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0


def start_seconds(*command):
    "Best of five starts."
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        took.append(time.perf_counter() - began)
    return min(took)


def figures():
    "All figures of the house."
    surveys = [survey(path) for path in notebooks()]
    cells = [n for s in surveys for n in s["cells"]]
    total, paper = (sum(s["tokens"] for s in group) for group in (surveys, [s for s in surveys if s["folder"] in PAPER]))
    total += by_hand()
    return dict(surveys=surveys, tokens=total, paper=paper, median=statistics.median(cells), p90=quantile(cells, 0.9), longest=max(cells),
                wide=sum(len(s["wide"]) for s in surveys), unseen=sum(len(s["unseen"]) for s in surveys), names=sum(len(s["names"]) for s in surveys),
                chained=sum(s["chained"] for s in surveys), shapeless=sum(len(s["shapeless"]) for s in surveys), twice=twice(surveys))


def row(title, group):
    cells = [n for s in group for n in s["cells"]]
    count = lambda key: sum(len(s[key]) for s in group)
    return (f"{title:34} {len(group):4} {sum(s['tokens'] for s in group):7} {sum(s['lines'] for s in group):6}   {statistics.median(cells):4.0f} {quantile(cells, .9):4} {max(cells):4}"
            f" {count('wide'):6} {count('unseen'):4}/{count('names'):<4} {sum(s['chained'] for s in group):5} {count('shapeless'):5}")


def main():
    f, every, said = figures(), "--all" in sys.argv, [a for a in sys.argv[1:] if not a.startswith("-")]
    print(f"{'':34} {'nbs':>4} {'tokens':>7} {'lines':>6}   {'med':>4} {'p90':>4} {'max':>4} {'wide':>6} {'unseen':>9} {'chain':>5} {'shape':>5}")
    for name in dict.fromkeys(s["folder"] for s in f["surveys"]):
        group = [s for s in f["surveys"] if s["folder"] == name]
        print(row(name, group))
        if every or name in said:
            for s in group:
                print(row("  " + s["name"], [s]))
                if s["unseen"]: print("      unseen:", ", ".join(s["unseen"]))
    print(row("all", f["surveys"]))
    print(f"the paper's rooms: {100 * f['paper'] / f['tokens']:.1f} % of {f['tokens']} tokens")
    print(f"scripts, styles and templates: {sum(static().values())} lines in {len(static())} files")
    print(f"names defined in two modules or more: {len(f['twice'])}" + "".join(f"\n  {n}: {', '.join(w)}" for n, w in f["twice"].items() if every))
    print(f"videolights --help: {1000 * start_seconds(sys.executable, '-m', 'videolights', '--help'):.0f} ms (best of five)")


if __name__ == "__main__": main()
