"The benchmarks run and print what they claim to: operations, ideal time, ratio."
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize("script", ["inference", "train_step"])
def test_speed_benchmarks_run(script):
    words = ["--preset", "toyworld", "--clips", "75", "--words", "9", "--batch", "8", "--seconds", "0.01", "--precision", "fp32", "--set", "kernel=1"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *words], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split()
    assert row[:2] == ["fp32", "8"] and all(float(x.rstrip("%")) > 0 for x in row[2:5])      # operations, time and ideal time are there
