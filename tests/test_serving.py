"""Serving: a real server on a free port, and clients that mean well, or not.

Every refusal is a JSON object with one line, says nothing of the machine, leaves no file behind, and the service answers the next request.
"""
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CHROMIUM, CHROMIUM_FLAGS, ROOT, needs_chromium

uvicorn, _ = pytest.importorskip("uvicorn"), pytest.importorskip("fastapi")

from videolights.deploy.runtime import Runtime
from videolights.deploy.access import Access, bind
from videolights.deploy.serving import Limits, TimedProtocol, _Body, create_app, http_server, serve
from videolights.features.video import write_video

BUNDLE = ROOT / "exported" / "toyworld"
QUERIES = ["a red circle", "a square grows", "été"]


@pytest.fixture(scope="module")
def runtime(): return Runtime.load(BUNDLE, providers="cpu", threads=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    "A folder that may be read, and beside it one that may not."
    folder = tmp_path_factory.mktemp("disk") / "videos"
    (folder / "sub dir").mkdir(parents=True)
    for i, name in enumerate(("a.mp4", "sub dir/été b.mp4", "../secret.mp4", "long.mp4")):
        frames = np.random.default_rng(i).integers(0, 255, (220 if name == "long.mp4" else 40, 6, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        write_video(folder / name, frames, 10)
    (folder.parent / "videos2").mkdir(); (folder.parent / "videos2" / "a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "link.mp4").symlink_to("a.mp4"); (folder / "out.mp4").symlink_to("../secret.mp4"); (folder / "up").symlink_to("..")
    (folder / "loop.mp4").symlink_to("loop.mp4"); (folder / "zero.mp4").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{folder.parent}/secret.mp4\n#EXT-X-ENDLIST\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile ../secret.mp4\n")
    (folder / "half.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    (folder / "empty.mp4").write_bytes(b"")
    return folder


class Client:
    "A running server, and the ways to ask it."
    def __init__(self, app):
        self.listening, self.server = bind("127.0.0.1", 0), http_server(app, "critical")
        self.address = self.listening.getsockname()
        self.thread = threading.Thread(target=self.server.run, kwargs=dict(sockets=[self.listening]), daemon=True)
        self.thread.start()
        while not self.server.started: time.sleep(.01)

    def close(self): self.server.should_exit = True; self.thread.join(); self.listening.close()

    def ask(self, method, path, body=None, headers=(), **options):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, dict(headers), **options)
            answer = connection.getresponse()
            body = answer.read()
            data = json.loads(body) if answer.headers.get_content_subtype() == "json" else body
            return SimpleNamespace(status=answer.status, headers=answer.headers, data=data)
        finally: connection.close()

    def post(self, path, value):
        return self.ask("POST", path, value if isinstance(value, bytes) else json.dumps(value).encode(), {"Content-Type": "application/json"})

    def by_path(self, path, *queries): return self.post("/predict/path", dict(path=str(path), queries=queries or QUERIES))

    def upload(self, data, *queries, **fields): return self.ask("POST", "/predict", *form(data, *queries, **fields))

    def head(self, request_line, *headers):
        "A request of these headers alone; its whole answer."
        with socket.create_connection(self.address, timeout=30) as line:
            line.sendall("\r\n".join([f"{request_line} HTTP/1.1", *headers, "Connection: close", "", ""]).encode())
            return b"".join(iter(lambda: line.recv(65536), b""))

    def raw(self, *parts):
        "Send bytes as they are, the parts one by one until the server has had enough; its whole answer."
        with socket.create_connection(self.address, timeout=30) as line:
            try:
                for part in parts: line.sendall(part)
            except (BrokenPipeError, ConnectionResetError): pass
            answer = b""
            while data := line.recv(65536): answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return SimpleNamespace(status=int(head.split()[1]), data=json.loads(body))


def form(data, *queries, name="clip.mp4", **fields):
    "A multipart form and its header."
    part = lambda head, body: b'--line\r\nContent-Disposition: form-data; ' + head.encode() + b"\r\n\r\n" + body + b"\r\n"
    parts = [part(f'name="file"; filename="{name}"', data)] if data is not None else []
    parts += [part('name="query"', query.encode()) for query in queries] + [part(f'name="{key}"', value.encode()) for key, value in fields.items()]
    return b"".join(parts) + b"--line--\r\n", {"Content-Type": "multipart/form-data; boundary=line"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    "Where temporary files go."
    folder, before = tmp_path_factory.mktemp("scratch"), tempfile.tempdir
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


LIMITS = Limits(max_mb=2, max_video_s=20, max_queries=4, max_chars=100, timeout_s=20, workers=2, waiting=64)


@pytest.fixture(scope="module")
def client(runtime, videos, scratch):
    client = Client(create_app(runtime, videos, LIMITS))
    yield client
    client.close()


@pytest.fixture
def refused(client, scratch, videos):
    "Holds an answer against what every refusal must be."
    def check(answer, status, says=""):
        assert answer.status == status and list(answer.data) == ["error"], (answer.status, answer.data)
        line = answer.data["error"]
        assert says in line and "\n" not in line and "Traceback" not in line and str(scratch) not in line and str(videos.parent) not in line, line
        assert client.ask("GET", "/health").data["status"] == "ok"
        assert list(scratch.iterdir()) == []
    return check


def plain(runtime, path, queries): return [p.to_dict() for p in runtime.predict_video(path, list(queries))]


def rows_of(answer): return [{k: v for k, v in row.items() if k not in ("top_clips", "vid")} for row in answer.data["predictions"]]


def without_vid(rows): return [{k: v for k, v in row.items() if k != "vid"} for row in rows]


# well-meant ----------------------------------------------------------------------------------------------------------------------

def test_answers_are_the_plain_ones(client, runtime, videos, scratch):
    for name in ("a.mp4", "sub dir/été b.mp4", "link.mp4", "sub dir/../a.mp4"):
        expected = without_vid(plain(runtime, videos / name, QUERIES))
        by_path, upload = client.by_path(name), client.upload((videos / name).read_bytes(), *QUERIES)
        assert by_path.status == upload.status == 200
        assert rows_of(by_path) == rows_of(upload) == expected
        assert by_path.data["video"] == name
        assert upload.data["video"] == "clip.mp4"
        assert upload.data["predictions"][0]["vid"] == "clip"
        assert by_path.data["duration_s"] == 4.0
        assert by_path.data["clip_seconds"] == 2
    assert list(scratch.iterdir()) == []


def test_facts(client, runtime):
    health = client.ask("GET", "/health").data
    assert health["status"] == "ok"
    assert health["model"] == "toyworld"
    assert health["providers"] == ["CPUExecutionProvider"]
    assert health["uptime_s"] >= 0
    assert client.ask("GET", "/contract").data == json.loads(json.dumps(runtime.contract))
    paths = client.ask("GET", "/openapi.json").data["paths"]
    assert set(paths) == {"/predict", "/predict/path", "/health", "/contract", "/videos/{path}"}
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]


def test_fifty_clients_at_once(client, runtime, videos, scratch):
    data = {name: (videos / name).read_bytes() for name in ("a.mp4", "sub dir/été b.mp4")}
    asked = [(sorted(data)[i % 2], [QUERIES[i % 3], f"a circle number {i}"]) for i in range(50)]
    def ask(i):
        name, queries = asked[i]
        return client.by_path(name, *queries) if i % 4 < 2 else client.upload(data[name], *queries)
    with ThreadPoolExecutor(50) as pool: answers = list(pool.map(ask, range(50)))
    assert [answer.status for answer in answers] == [200] * 50
    for answer, (name, queries) in zip(answers, asked): assert rows_of(answer) == without_vid(plain(runtime, videos / name, queries))
    assert list(scratch.iterdir()) == []


# paths ---------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path, status", [
    ("../secret.mp4", 403), ("sub dir/../../secret.mp4", 403), ("./../secret.mp4", 403), ("out.mp4", 403), ("up/secret.mp4", 403), ("../videos2/a.mp4", 403),
    ("/etc/passwd", 403), ("{folder}/a.mp4", 403), ("{folder}/../secret.mp4", 403), ("../nowhere.mp4", 403), ("zero.mp4", 403), ("..", 403),
    ("..%2fsecret.mp4", 404), ("%2e%2e/secret.mp4", 404), ("..%252fsecret.mp4", 404), ("..\\secret.mp4", 404), ("file:///etc/passwd", 404), ("~/a.mp4", 404),
    ("a.mp4\0", 404), ("\0../secret.mp4", 404), ("a.mp4\0.txt", 404), ("x" * 5000, 404), ("a/" * 3000, 404), ("loop.mp4", 404), ("pipe.mp4", 404), ("sub dir", 404),
    (".", 404), ("", 404), ("a.mp4/", 200), ("a.mp4/x", 404), ("nowhere.mp4", 404), ("A\u202egpm.4pm", 404)])
def test_no_path_escapes(path, status, client, refused, videos):
    answer = client.by_path(path.format(folder=videos))
    if status == 200: assert answer.status == 200
    else: refused(answer, status, "outside the folder" if status == 403 else "no such video file")


def test_a_path_that_is_no_text(client, refused): refused(client.post("/predict/path", b'{"path": "\\ud800.mp4", "queries": ["a"]}'), 404)


def test_encoded_urls_lead_nowhere(client, refused):
    for url in ("/predict/path/..%2f..%2fetc/passwd", "/..%2f..%2fetc%2fpasswd", "/predict/%2e%2e/health%00", "/docs/..%5c..%5c"):
        refused(client.ask("GET", url), 404)


def test_without_a_folder_no_path_is_read(runtime, videos):
    client = Client(create_app(runtime))
    answer = client.by_path("a.mp4")
    client.close()
    assert answer.status == 403
    assert "--folder" in answer.data["error"]


# what is no video ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, status", [("list.mp4", 415), ("concat.mp4", 415), ("empty.mp4", 415), ("half.mp4", 422), ("long.mp4", 413)])
def test_no_video(name, status, client, refused, videos):
    refused(client.by_path(name), status, name)
    refused(client.upload((videos / name).read_bytes(), "a star", name=name), status, name)


def test_a_header_that_tells_less_is_found_out(runtime, videos, monkeypatch):
    monkeypatch.setattr("videolights.deploy.serving.probe", lambda path: SimpleNamespace(duration_s=1))
    client = Client(create_app(runtime, videos, Limits(max_video_s=2)))
    answer = client.by_path("a.mp4")
    client.close()
    assert (answer.status, "is longer than 2 s" in answer.data["error"]) == (422, True), answer.data


def test_containers_without_pictures(client, refused, videos):
    data = (videos / "a.mp4").read_bytes()
    for bad in (data[:100] + bytes(3000), b"\x1a\x45\xdf\xa3" + b"noise" * 500, b"\x00\x00\x01\xba" + os.urandom(5000), b"RIFF\0\0\0\0AVI " + bytes(900)):
        refused(client.upload(bad, "a star"), 422, "clip.mp4")
    refused(client.upload(os.urandom(5000).replace(b"G", b"g"), "a star", name="../../etc/passwd\u202e"), 415)


# forms and fields ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, status, says", [
    (b"", 422, ""), (b"not JSON", 422, "JSON"), (b'{"path": "a.mp4"', 422, "JSON"), ([], 422, ""), (3, 422, ""), (None, 422, ""), ({}, 422, "path"),
    ({"path": "a.mp4"}, 422, "queries"), ({"path": 3, "queries": ["a"]}, 422, "path"), ({"path": ["a.mp4"], "queries": ["a"]}, 422, "path"),
    ({"path": "a.mp4", "queries": "a star"}, 422, "queries"), ({"path": "a.mp4", "queries": [3]}, 422, "queries"),
    ({"path": "a.mp4", "queries": [None]}, 422, "queries"),
    ({"path": "a.mp4", "queries": []}, 422, "query: none"), ({"path": "a.mp4", "queries": ["a", " "]}, 422, "query: is empty"),
    ({"path": "a.mp4", "queries": ["?!"]}, 422, "no words"), ({"path": "a.mp4", "queries": ["a"] * 5}, 422, "up to 4"),
    ({"path": "a.mp4", "queries": ["a" * 101]}, 422, "101 characters"), ({"path": "a.mp4", "queries": ["a"], "top": 5}, 422, "top"),
    ({"path": "a.mp4", "queries": ["a"], "bundle": "/etc"}, 422, "bundle"), (b'{"path": "a.mp4", "queries": ["\\ud800"]}', 422, ""),
    (b'{"path": "a.mp4", "queries": ["a"], "path\\ud800\\n": 1}', 422, ""), (b"[" * 50_000, 400, ""),
    (b'{"path": "' + b"x" * 70_000 + b'"}', 413, ""), (b"\xff\xfe", 400, "")])
def test_wrong_fields(value, status, says, client, refused):
    answer = client.post("/predict/path", value)
    if status == 400: status = answer.status if answer.status in (400, 422) else 400
    refused(answer, status, says)


def test_wrong_forms(client, refused, videos):
    data = (videos / "a.mp4").read_bytes()
    refused(client.upload(None, "a star"), 422, "file: is missing")
    refused(client.upload(data), 422, "query: none")
    refused(client.upload(data, "a star", ""), 422, "query: is empty")
    refused(client.upload(data, *["a star"] * 5), 422, "up to 4")
    refused(client.upload(data, "x" * 101), 422, "101 characters")
    refused(client.upload(data, "x" * 5000), 400)
    refused(client.upload(data, "a star", top="5"), 422, "top: no such field")
    refused(client.upload(None, "a star", file="a text"), 422, "file: is missing")
    refused(client.upload(data, *["a"] * 100), 400)
    body, headers = form(data, "a star")
    refused(client.ask("POST", "/predict", body.replace(b'name="file"', b'name="query"; filename="q"', 1), headers), 422)
    refused(client.ask("POST", "/predict", body[:200] + b"\r\n" + body, headers), 400)                            # two files
    refused(client.ask("POST", "/predict", body[:-30], headers), 422, "query")                                    # ends in the middle
    refused(client.ask("POST", "/predict", body, {"Content-Type": "multipart/form-data"}), 400)
    refused(client.ask("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=other"}), 400)
    refused(client.ask("POST", "/predict", data, {"Content-Type": "video/mp4"}), 415)
    refused(client.ask("POST", "/predict"), 415)
    refused(client.post("/predict", {"path": "a.mp4", "queries": ["a star"]}), 415)
    for method, path, status in (("GET", "/predict", 405), ("DELETE", "/predict/path", 405), ("POST", "/health", 405),
                                 ("POST", "/", 405), ("GET", "/page/..%2fdocs.html", 404), ("GET", "/videos/a.txt", 404), ("POST", "/predict/", 404)):
        refused(client.ask(method, path), status)


# too much ------------------------------------------------------------------------------------------------------------------------

def test_a_huge_upload_is_cut_off(client, refused, scratch):
    body, _ = form(bytes(5_000_000), "a star")
    refused(client.upload(bytes(5_000_000), "a star"), 413, "larger than 2 MB")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=line\r\n"
    refused(client.raw(head + b"Content-Length: 99999999999\r\n\r\n", body[:5000]), 413)                            # told in advance: nothing of it is read
    sent = []
    def endless():
        yield head + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n" + body[:65536] + b"\r\n"
        for _ in range(40_000):
            sent.append(1)
            yield b"10000\r\n" + bytes(65536) + b"\r\n"
    refused(raw_stream(client, endless()), 413, "larger than 2 MB")                   # not told: cut off where it passes the limit
    assert len(sent) < 40_000
    refused(client.ask("POST", "/predict/path", iter([b" " * 50_000] * 10), {"Content-Type": "application/json"}, encode_chunked=True), 413)


def raw_stream(client, parts):
    "Send parts while listening; the answer as soon as it is there."
    with socket.create_connection(client.address, timeout=30) as line:
        answer = []
        def listen():
            while not answer or b"}" not in answer[-1]: answer.append(line.recv(65536))
        ear = threading.Thread(target=listen); ear.start()
        for part in parts:
            if not ear.is_alive(): break
            try: line.sendall(part)
            except OSError: break
        ear.join()
    head, _, body = b"".join(answer).partition(b"\r\n\r\n")
    return SimpleNamespace(status=int(head.split()[1]), data=json.loads(body))


class Slow:
    "A runtime that answers when it is allowed to."
    def __init__(self, runtime):
        self.runtime, self.contract, self.providers, self.go, self.begun = runtime, runtime.contract, runtime.providers, threading.Event(), []

    def predict_video(self, path, queries, max_seconds):
        self.begun.append(queries)
        if "slow" in queries: assert self.go.wait(20)
        if "broken" in queries: raise ZeroDivisionError(f"secret of {path}")
        return self.runtime.predict_video(path, queries, max_seconds)


@pytest.fixture
def slow(runtime, videos, scratch):
    "A server with one worker, one place in its queue and three seconds."
    waits = Slow(runtime)
    client = Client(create_app(waits, videos, Limits(max_mb=2, timeout_s=3, workers=1, waiting=1)))
    yield client, waits
    waits.go.set()
    client.close()


def test_what_takes_too_long(slow, videos):
    client, waits = slow
    answer = client.upload((videos / "a.mp4").read_bytes(), "slow")
    assert answer.status == 504
    assert "3 seconds" in answer.data["error"]
    assert client.by_path("a.mp4", "waits").status == 504                                         # the worker is not free yet: this one never begins
    assert client.ask("GET", "/health").status == 200
    waits.go.set()
    assert client.by_path("a.mp4", "a star").status == 200
    assert ["waits"] not in waits.begun
    body, headers = form((videos / "a.mp4").read_bytes(), "a star")
    head = "".join(["POST /predict HTTP/1.1\r\nHost: localhost\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), f"Content-Length: {len(body)}\r\n\r\n"]).encode()
    assert client.raw(head, body[:1000]).status == 504                   # an upload that stalls
    assert client.by_path("a.mp4", "a star").status == 200


def test_a_full_queue(slow):
    client, waits = slow
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.by_path("a.mp4", "slow"), range(8)))
    found = sorted(answer.status for answer in answers)
    assert found == [503] * 6 + [504] * 2
    assert all(a.headers["Retry-After"] and "try again" in a.data["error"] for a in answers if a.status == 503)
    waits.go.set()
    assert client.by_path("a.mp4", "a star").status == 200


def test_the_unforeseen_stays_inside(slow, videos, scratch):
    client, _ = slow
    for answer in (client.by_path("a.mp4", "broken"), client.upload((videos / "a.mp4").read_bytes(), "broken")):
        assert answer.status == 500
        assert list(answer.data) == ["error"]
        assert "secret" not in json.dumps(answer.data)
        assert "Zero" not in json.dumps(answer.data)
    assert client.by_path("a.mp4", "a star").status == 200
    assert list(scratch.iterdir()) == []


# who may ask ---------------------------------------------------------------------------------------------------------------------

FOREIGN = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1:1", "0.0.0.0:{port}", "a@127.0.0.1:{port}", ""]


@pytest.mark.parametrize("request_line", ["GET /health", "GET /docs", "GET /openapi.json", "POST /predict", "POST /predict/path", "OPTIONS /predict", "HEAD /contract", "GET /nothing"])
def test_foreign_names_and_pages_get_nothing(request_line, client):
    port = client.address[1]
    own, home = f"Host: 127.0.0.1:{port}", f"http://127.0.0.1:{port}"
    refused = [(421, [f"Host: {host.format(port=port)}"]) for host in FOREIGN]
    refused += [(403, [own, f"Origin: {origin}"]) for origin in ("null", "http://evil.example", f"https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1")]
    refused += [(403, [own, "Sec-Fetch-Site: cross-site"]), (403, [own, f"Origin: {home}", "Origin: http://evil.example"]), (400, [own, own]), (400, [])]
    for status, headers in refused:
        answer = client.head(request_line, *headers)
        assert int(answer.split()[1]) == status, (headers, answer)
        assert b"access-control" not in answer.lower()
        if not request_line.startswith("HEAD"): assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]
    assert client.head(request_line.replace(" ", f" {home}"), own).split()[1] == b"421"              # as to a proxy
    for headers in ([own], [own, f"Origin: {home}", "Sec-Fetch-Site: same-origin"], ["Host: localhost"], [f"Host: [::1]:{port}"]):
        assert int(client.head(request_line, *headers).split()[1]) not in (400, 403, 421)


def test_the_token(runtime, videos):
    client = Client(create_app(runtime, videos, LIMITS, Access(("films.example",), "secret")))
    ask = lambda path, **headers: client.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert ask("/health").data == {"status": "ok"}
    assert client.by_path("a.mp4").status == 401
    for path in ("/contract", "/docs", "/docs/static/docs.js", "/openapi.json", "/nothing", "/contract?token=secre", "/contract?token="):
        assert ask(path).status == 401
        assert ask(path, Authorization="Bearer wrong").status == 401
    assert ask("/health", Authorization="Bearer secret").data["model"] == "toyworld"
    answer = ask("/contract?token=secret", Host="films.example")
    assert answer.status == 200
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["Set-Cookie"].split("; "))
    assert ask("/contract", Cookie=answer.headers["Set-Cookie"].split(";")[0]).status == 200
    assert client.post("/predict/path?token=secret", dict(path="a.mp4", queries=QUERIES)).status == 401
    client.close()


def test_the_documentation_needs_nobody_else(client):
    for path in ("/docs", "/docs/static/docs.js", "/docs/static/docs.css"):
        with urllib.request.urlopen(f"http://127.0.0.1:{client.address[1]}{path}") as answer: text, headers = answer.read().decode(), answer.headers
        assert "//" not in re.sub(r"^//.*$", "", text, flags=re.M)                                    # no address but its own
        assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"], headers["Referrer-Policy"]) == ("nosniff", "DENY", "no-referrer")
    assert client.ask("GET", "/redoc").status == 404


@needs_chromium
def test_pages_in_a_browser(client, videos):
    "The documentation works without a network, and a page on another origin gets nothing."
    playwright = pytest.importorskip("playwright.sync_api")
    home, asked = f"http://127.0.0.1:{client.address[1]}", []
    foreign = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (http.server.BaseHTTPRequestHandler,), dict(
        do_GET=lambda self: (self.send_response(200), self.end_headers()), log_message=lambda *args: None)))
    threading.Thread(target=foreign.serve_forever, daemon=True).start()
    rule = f"--host-resolver-rules=MAP evil.example 127.0.0.1:{foreign.server_port}, MAP rebound.example 127.0.0.1:{client.address[1]}"
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=[*CHROMIUM_FLAGS, rule])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{home}/docs")
        page.get_by_role("heading", name="POST /predict/path").wait_for()
        page.locator("[name=file]").set_input_files(videos / "a.mp4")
        page.locator("[name=query]").fill("a red circle")
        page.get_by_role("button", name="Ask").click()
        page.locator("#answer", has_text="saliency").wait_for()
        assert not errors
        assert all(url.startswith((home, "data:")) for url in asked)
        for url in ("http://evil.example/", f"http://127.0.0.1:{foreign.server_port}/"):
            page.goto(url)
            got = page.evaluate("""async home => {
                const read = (path, options) => fetch(home + path, options).then(r => r.text()).catch(() => "");
                const form = () => { const data = new FormData(); data.append("query", "a"); return data; };
                return [await read("/contract"), await read("/health", {headers: {Authorization: "Bearer x"}}), await read("/predict", {method: "POST", body: form()}),
                        await read("/contract", {mode: "no-cors"}), await new Promise(done => { const script = document.createElement("script");
                        script.onload = () => done("loaded"); script.onerror = () => done(""); script.src = home + "/docs/static/docs.js"; document.head.append(script); })]; }""", home)
            assert got == [""] * 5
            page.set_content(f"<form method=post action={home}/predict/path enctype=text/plain><input name=x></form>")
            with page.expect_navigation() as sent: page.evaluate("document.forms[0].submit()")
            assert sent.value.status == 403
        assert page.goto("http://rebound.example/contract").status == 421                              # a name that leads here
        browser.close()
    foreign.shutdown()


# slow clients --------------------------------------------------------------------------------------------------------------------

def test_slow_headers_keep_nobody_out(client, monkeypatch):
    monkeypatch.setattr(TimedProtocol, "HEADER_S", 3)
    lines = [socket.create_connection(client.address, timeout=30) for _ in range(300)]
    for line in lines: line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    assert client.by_path("a.mp4").status == 200
    assert len(client.server.server_state.connections) <= TimedProtocol.AWAITED + 2
    assert 408 in {end_of(line) for line in lines} <= {None, 408, 503}                                 # all are ended


def end_of(line):
    "The status that a connection ends with, or None where it is just closed."
    with line:
        try: head, _, body = b"".join(iter(lambda: line.recv(65536), b"")).partition(b"\r\n\r\n")
        except ConnectionResetError: return None
    if head: return int(head.split()[1]) if json.loads(body) else None


@pytest.mark.parametrize("path", ["/predict", "/predict/path", "/nothing", "/health"])
def test_slow_bodies_keep_nobody_out(path, runtime, videos, scratch, monkeypatch):
    monkeypatch.setattr(_Body, "PATIENCE_S", 3)
    client = Client(create_app(runtime, videos, Limits(max_mb=2, timeout_s=30, workers=1, waiting=1)))
    kind = "multipart/form-data; boundary=line" if path == "/predict" else "application/json"
    lines = [socket.create_connection(client.address, timeout=30) for _ in range(100)]
    for line in lines: line.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 9999\r\n\r\n-".encode())
    good = (videos / "a.mp4").read_bytes()
    for _ in range(3):
        for line in lines[::7]:
            try: line.sendall(b"-")                                                                    # a byte now and then buys no time
            except OSError: pass
        assert client.upload(good, "a star").status == 200
        assert client.by_path("a.mp4").status == 200
    assert {end_of(line) for line in lines} <= {None, 400, 404, 405, 408, 503}
    assert client.by_path("a.mp4").status == 200
    client.close()
    assert list(scratch.iterdir()) == []


def test_a_client_that_leaves_costs_nothing(client, capfd):
    for body in (b"", b"--line\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n" + bytes(100_000)):
        with socket.create_connection(client.address) as line:
            line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=line\r\nContent-Length: 999999\r\n\r\n" + body)
    assert client.by_path("a.mp4").status == 200
    assert "Traceback" not in capfd.readouterr().err


# the command ----------------------------------------------------------------------------------------------------------------------

def test_the_command(videos, tmp_path):
    code = f"import sys; from videolights.cli import main; code = main(['serve', {str(BUNDLE)!r}, '--folder', {str(videos)!r}, '--port', '0']); " \
           "assert 'torch' not in sys.modules; sys.exit(code)"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    assert "at http://127.0.0.1:" in line
    port = int(line.split("127.0.0.1:")[1].split()[0])
    ask = SimpleNamespace(address=("127.0.0.1", port))
    answer = Client.by_path(SimpleNamespace(post=lambda *a: Client.post(SimpleNamespace(ask=lambda *b: Client.ask(ask, *b)), *a)), "a.mp4")
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=30)
    assert answer.status == 200 and server.returncode == 0 and err == "", err


@pytest.mark.parametrize("host, given, printed", [("127.0.0.1", "", False), ("localhost", "", False), ("0.0.0.0", "", True), ("0.0.0.0", "mine", False)])
def test_beyond_this_machine_there_is_a_token(host, given, printed, monkeypatch, capsys):
    apps = []
    monkeypatch.setattr("videolights.deploy.serving.http_server", lambda app: apps.append(app) or SimpleNamespace(run=lambda sockets: None))
    monkeypatch.setenv("VIDEOLIGHTS_TOKEN", given)
    serve(BUNDLE, host=host, port=0)
    out = capsys.readouterr().out
    token = next(m.kwargs["access"].token for m in apps[0].user_middleware if "access" in m.kwargs)
    assert bool(token) == (host == "0.0.0.0")
    assert ("?token=" in out) == printed
    assert out.count(token) == 1 if printed else given in ("", token) and "mine" not in out


def test_bad_starts(tmp_path, capsys):
    from videolights.cli import main
    with bind("127.0.0.1", 0) as taken:
        for words, says in ((["--port", taken.getsockname()[1]], "choose another --host or --port"), (["--port", 99999], "--port"), (["--port", "-1"], "--port"), (["--host", ""], "--host"),
                            (["--threads", "100000"], "--threads"), (["--timeout", "1e12"], "--timeout"), (["--max-mb", "1e12"], "--max-mb"),
                            (["--max-seconds-of-video", "inf"], "--max-seconds-of-video"), (["--allow-host", "*"], "--allow-host"),
                            (["--token", "two words"], "--token"),
                            (["--folder", tmp_path / "none"], "no such folder"),
                            (["--timeout", "0"], "--timeout"), (["--max-mb", "nan"], "--max-mb"), (["--threads", "0"], "--threads")):
            assert main([str(w) for w in ("serve", BUNDLE, *words)]) == 2
            err = capsys.readouterr().err
            assert says in err
            assert err.count("\n") == 1
