"Rows of a long measurement: each is on disk as soon as it is there, and one that cannot be measured says why."
import gc
import time

import torch

from videolights.files import read_json, write_json

COLUMNS = "kind of engine precision batch seed p50_ms p99_ms pairs_per_s of_rate peak_mb".split()


class Skip(Exception):
    "Why a row is not measured here."


def once(make):
    "A thing made when it is first needed; where that fails, it fails again at once."
    kept = {}

    def get(*key):
        if key not in kept:
            try: kept[key] = make(*key), None
            except Exception as e: kept[key] = None, e.with_traceback(None)
        made, error = kept[key]
        if error: raise error
        return made
    return get


class Report:
    "The rows, and the file that holds them."

    def __init__(self, path, about, minutes, resume):
        before = read_json(path) if resume and path.exists() else {}
        kept = before.get("rows", []) if before.get("about") == about else []
        self.before = {str(row["row"]): row for row in kept if not row.keys() & {"skipped", "error"} and row.get("passed", True)}
        self.path, self.about, self.rows, self.end = path, about, [], time.monotonic() + 60 * minutes

    def add(self, measure, needs=0, **row):
        "Measure a row, which needs some seconds as far as is known, or say why not; returns what was found."
        found = self.before.get(str(row)) or {"row": row, **self.measured(measure, needs)}
        self.rows.append(found)
        write_json(self.path, dict(about=self.about, rows=self.rows))
        print(" ".join(str(x) for x in row.values()), "|", ", ".join(f"{k} {v}" for k, v in found.items() if k != "row"), flush=True)
        return found

    def measured(self, measure, needs):
        try:
            if time.monotonic() + needs > self.end: raise Skip("no time was left (--minutes; --resume goes on)")
            gc.collect()                 # what the row before held; inside, since after some errors nothing works on a GPU
            if torch.cuda.is_available(): torch.cuda.empty_cache()
            return measure()
        except Skip as e: return dict(skipped=str(e))
        except Exception as e:
            said = (str(e).strip() or "-").splitlines()[0][:200]
            full = isinstance(e, torch.cuda.OutOfMemoryError) or "Failed to allocate memory" in said      # of torch, of ONNX Runtime
            return dict(skipped="out of memory") if full else dict(error=f"{type(e).__name__}: {said}")

    @property
    def failures(self): return [row for row in self.rows if "error" in row or not row.get("passed", True)]

    def table(self):
        "Markdown: a line per row; what no column holds is in the last one."
        lines = [[*COLUMNS, ""], ["---"] * (len(COLUMNS) + 1)]
        for row in self.rows:
            flat = row["row"] | {k: v for k, v in row.items() if k not in ("row", "p90_ms", "calls")}
            more = ", ".join(f"{k} {v}" for k, v in flat.items() if k not in COLUMNS)
            lines.append([*(str(flat.get(name, "")) for name in COLUMNS), more])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
