"The steps of the Dockerfile, where no Docker is: what it copies is there, and its commands start a service that is found healthy without a token."
import json
import re
import shlex
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

pytest.importorskip("fastapi")
pytest.importorskip("av")

TEXT = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())


def lines(word): return re.findall(rf"^{word} (.+)$", TEXT, re.M)


def test_what_is_copied_is_there_and_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = [name for line in lines("COPY") if not line.startswith("--from") for name in line.split()[:-1]]
    assert {"pyproject.toml", "videolights"} <= set(wanted)
    for name in wanted:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    assert lines("USER") == ["videolights"]                     # not root
    extras = re.search(r"ARG EXTRAS=(\S+)", TEXT)[1].split(",")
    assert all(re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M) for extra in extras)


def test_it_serves_and_is_healthy(tmp_path):
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    here = lambda words: [w.replace("/app/bin/python", sys.executable).replace("/bundle", str(ROOT / "exported/toyworld")).replace("8000", str(port)) for w in words]
    entry, asked = json.loads(lines("ENTRYPOINT")[0]), json.loads(lines("CMD")[-1])
    assert entry == ["/app/bin/videolights", "serve"]
    server = subprocess.Popen([sys.executable, "-m", "videolights", "serve", *here(asked)], env={"VIDEOLIGHTS_TOKEN": "secret", "PATH": "", "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    try:
        check = here(json.loads(re.search(r"CMD (\[.*\])", lines("HEALTHCHECK")[0])[1]))
        end = time.time() + 60
        while (code := subprocess.run(check, capture_output=True).returncode) and time.time() < end and server.poll() is None: time.sleep(.3)
        assert code == 0, shlex.join(check)
    finally:
        server.terminate()
        server.wait(20)
