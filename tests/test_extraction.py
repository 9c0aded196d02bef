"From a folder of videos, good and bad, to a data set that trains."
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import yaml

av = pytest.importorskip("av")

from videolights.cli import main
from videolights.config import DataConfig, InputError
from videolights.encoders.extraction import extract, open_encoders, video_file
from videolights.data.store import check
from videolights.features.protocol import ENCODERS, encode_file, get_encoder
from videolights.files import locked, read_array, read_jsonl, write_jsonl
from videolights.features.video import write_video


def run(*words): return main([str(w) for w in words])


def features(out): return {p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*.npz"))}


def moving(seconds, fps=8, h=32, w=40):
    for i in range(round(seconds * fps)): yield (np.add.outer(np.arange(h) * 2, np.arange(w) + 3 * i)[..., None] * [1, 2, 3] % 251).astype(np.uint8)


class Cheap:
    "Mean colours and lengths of words."
    name, video_dim, text_dim, frames_per_clip, frame_size = "cheap", 3, 1, 2, (8, 8)
    def encode_video(self, clips): return np.stack([clip.mean((0, 1, 2)) for clip in clips]).astype(np.float32)
    def encode_text(self, queries): return [np.array([[len(w)] for w in q.split()], np.float32) for q in queries]


GOOD = {"good.mp4": 5, "two words.mp4": 4, "größe 测试 🐕.mp4": 3, "sub/nested.mov": 2.1, "still.mp4": .125}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    "Good videos under awkward names, and files that are none."
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "sub").mkdir()
    for name, seconds in GOOD.items(): write_video(folder / name, moving(seconds), 8)
    (folder / "half.mp4").write_bytes((folder / "good.mp4").read_bytes()[:1500])
    noise = bytearray((folder / "good.mp4").read_bytes()); noise[100:-900] = np.random.default_rng(0).bytes(len(noise) - 1000)
    (folder / "corrupt.mp4").write_bytes(noise)
    (folder / "zero.mp4").touch()
    (folder / "notes.mkv").write_text("not a video\n" * 100)
    (folder / "notes.txt").write_text("not a video\n" * 100); (folder / "good.json").write_text("{}")      # passed over, by their endings
    shutil.copy(folder / "good.mp4", folder / "sub" / "good.mp4")
    (folder / ".hidden.mp4").touch()
    with av.open(str(folder / "empty.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8); stream.height, stream.width, stream.pix_fmt = 32, 40, "yuv420p"
        container.start_encoding()                                                                 # a picture track without a picture
    with av.open(str(folder / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono"); frame.sample_rate = 44100
        container.mux(audio.encode(frame)); container.mux(audio.encode(None))
    return folder


BAD = {"half.mp4": "cannot be decoded", "corrupt.mp4": "cannot be decoded", "zero.mp4": "cannot be decoded", "empty.mp4": "no moving pictures", "notes.mkv": "cannot be decoded",
       "good.mp4": "shares its name with good.mp4", "sound.mp4": "no moving pictures"}


def three_hours(path):
    "A frame in ten seconds; each minute is a level brighter."
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(1, 10)); stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for i in range(3 * 360): container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), 20 + i // 6, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def queries(path, vids):
    write_jsonl(path, [dict(qid=f"{path.stem}_{i}", query=f"a thing moves {i}", vid=vid, duration=max(round(seconds), 2), relevant_windows=[[0, 2]])
                       for i, (vid, seconds) in enumerate(vids.items())])
    return path


@pytest.fixture
def annotations(tmp_path):
    vids = {name.split("/")[-1].rsplit(".", 1)[0]: seconds for name, seconds in GOOD.items()}
    return queries(tmp_path / "my_train.jsonl", vids | {"half": 5}), queries(tmp_path / "my_val.jsonl", vids)


def test_every_kind_of_file_by_the_command(zoo, annotations, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ENCODERS, "builtin", f"{__name__}:Cheap")                                 # three hours would take the real one long
    folder, out = shutil.copytree(zoo, tmp_path / "folder"), tmp_path / "out"
    three_hours(folder / "three hours.mp4")
    words = ("extract", folder, "--sources", "builtin", "--out", out, "--annotations", *annotations, "--workers", 3, "--batch", 4)
    assert run(*words) == 1
    said = capsys.readouterr().out
    assert "done:     6 videos" in said
    assert "failed:   7 files" in said
    assert "left out: 1 queries of train" in said
    failures = {row["video"].rsplit("/", 1)[1]: row["reason"] for row in read_jsonl(out / "failures.jsonl")}
    assert failures.keys() == BAD.keys() and all(BAD[name] in reason and "\n" not in reason for name, reason in failures.items()), failures
    rows = {p.stem: len(read_array(p, "features")) for p in (out / "builtin_features").iterdir()}
    assert rows == {"good": 3, "two words": 2, "größe 测试 🐕": 2, "nested": 1, "still": 1, "three hours": 5400}
    minutes = read_array(video_file(out, "builtin", "three hours"), "features")[:, 0] - (20 + np.arange(5400) // 30)
    assert np.abs(minutes).max() < 5
    data = DataConfig.load(out / "dataset.yaml")
    assert run("data", "check", out / "dataset.yaml") == 0
    assert set(data.splits) == {"train", "val"}
    assert data.encoder == "builtin"
    before = features(out)
    assert run(*words) == 1
    assert "done:     0 videos, 0 queries; 6 videos were there already" in capsys.readouterr().out
    assert features(out) == before


def test_what_was_extracted_packs_and_trains(zoo, annotations, tmp_path):
    out, good = tmp_path / "out", tmp_path / "good"
    good.mkdir()
    for name in GOOD: os.symlink(zoo / name, good / name.split("/")[-1])
    assert run("extract", good, "--sources", "builtin", "--out", out, "--annotations", *annotations, "--pack") == 0
    assert not (out / "failures.jsonl").read_text()
    model = dict(dim=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, slots=3, align_dim=8)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dict(data="out/dataset.yaml", model=model, train=dict(epochs=1, batch_size=3))))   # two steps
    assert run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run") == 0
    assert run("evaluate", tmp_path / "run") == 0


def test_frames_at_the_start_of_a_clip_reach_the_bundle(zoo, root, tmp_path):
    from videolights.features.builtin import BuiltinEncoder
    out, good = tmp_path / "out", zoo / "good.mp4"
    assert run("extract", good, "--sources", "builtin", "--out", out, "--at", 0) == 0
    data, stored = DataConfig.load(out / "dataset.yaml"), read_array(video_file(out, "builtin", "good")).astype(np.float32)
    assert data.contract()["at"] == 0
    assert np.array_equal(stored, encode_file(BuiltinEncoder(), good, 2, at=0))
    assert run("extract", good, "--sources", "builtin", "--out", out) == 2
    assert run("extract", good, "--sources", "builtin", "--out", out, "--at", 1) == 2
    pytest.importorskip("onnxruntime")
    from videolights.deploy.runtime import Runtime
    runtime, given = Runtime.load(root / "exported" / "toyworld", "cpu"), []
    answer = runtime.predict_batch
    runtime.predict_batch = lambda videos, *args, **options: given.append(videos[0]) or answer(videos, *args, **options)
    for at in (0, .5): runtime.contract = {**runtime.contract, "at": at}; runtime.predict_video(good, "a thing moves")
    starts, middles = (runtime.prepare_video({"builtin": encode_file(BuiltinEncoder(), good, 2, at)}) for at in (0, .5))
    assert np.array_equal(given[0], starts)
    assert np.array_equal(given[1], middles)
    assert not np.allclose(starts, middles)


def test_weights_go_to_the_encoder_they_are_named_for(root, tmp_path, capsys):
    pytest.importorskip("torch"), pytest.importorskip("transformers"), pytest.importorskip("onnxruntime")
    from videolights.encoders.clip import random_clip
    from videolights.deploy.runtime import Runtime
    place = str(random_clip(tmp_path / "clip"))
    both = get_encoder("builtin+clip", {"clip": place})
    assert [e.name for e in both.encoders] == ["builtin", "clip"]
    assert both.video_dim == 96 + 16
    session = Runtime.load(root / "exported" / "toyworld", "cpu").session
    runtime = Runtime(session, dict(encoder="clip", video_dim=16, text_dim=24), tmp_path, weights={"clip": place})
    assert runtime.encoder.name == "clip"
    assert runtime.encoder.text_dim == 24
    bundle, video = root / "exported" / "toyworld", tmp_path / "a.mp4"
    write_video(video, moving(3), 8)
    for weights, says in (("clip=x", "weights are given for 'clip', which is not among the encoders builtin"), ("clip", "expected source=place"), ("builtin=x", "has no weights")):
        assert run("predict", bundle, video, "a thing moves", "--weights", weights) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and says in error[0], error


def test_killed_in_the_middle_and_resumed(tmp_path):
    for i in range(6): write_video(tmp_path / f"videos/{i}.mp4", moving(12 + 4 * i), 8)
    words = lambda out: [sys.executable, "-m", "videolights", "extract", str(tmp_path / "videos"), "--sources", "builtin", "--out", str(out), "--workers", "2"]
    assert subprocess.run(words(tmp_path / "whole"), capture_output=True).returncode == 0
    process, deadline = subprocess.Popen(words(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), time.time() + 60
    while not features(tmp_path / "killed") and process.poll() is None and time.time() < deadline: time.sleep(.01)
    process.send_signal(signal.SIGKILL); process.wait()
    assert 0 < len(features(tmp_path / "killed")) < 6, "killed too late to show anything"
    assert run("extract", tmp_path / "videos", "--sources", "builtin", "--out", tmp_path / "killed") == 0
    assert features(tmp_path / "killed") == features(tmp_path / "whole")


def video(path, seed):
    "A video of a size that its content does not tell."
    write_video(path, np.random.default_rng(seed).integers(0, 255, (24, 32, 40, 3)).astype(np.uint8), 8)
    return path


def replaced(path, out): video(path, 1)
def same_size_and_time(path, out):
    size, seen = path.stat().st_size, path.stat()
    path.write_bytes(video(path.with_name("other.mp4"), 1).read_bytes().ljust(size, b"\0")[:size]); path.with_name("other.mp4").unlink()
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
def emptied(path, out): video_file(out, "cheap", "a").write_bytes(b"")
def cut(path, out): file = video_file(out, "cheap", "a"); file.write_bytes(file.read_bytes()[:-30])
def overwritten(path, out): np.savez(video_file(out, "cheap", "a"), features=np.zeros((2, 3)))
def lost(path, out): video_file(out, "cheap", "a").unlink()


@pytest.mark.parametrize("harm", [replaced, same_size_and_time, emptied, cut, overwritten, lost])
def test_features_are_of_the_video_that_is_there(tmp_path, harm):
    path, out, get = video(tmp_path / "videos" / "a.mp4", 0), tmp_path / "out", lambda: extract(tmp_path / "videos", {"cheap": Cheap()}, tmp_path / "out", progress=False)[0]
    video(tmp_path / "videos" / "b.mp4", 2)
    assert sorted(get().done) == ["a", "b"]
    os.utime(path)                                                                                # touched, not changed
    assert get().skipped == 2
    harm(path, out)
    try: expected = encode_file(Cheap(), path, 2)
    except InputError: assert "a" in get().failed
    else:
        assert get().done == ["a"]
        np.testing.assert_allclose(read_array(video_file(out, "cheap", "a")), expected, rtol=1e-3)
    assert get().skipped >= 1


def test_a_source_added_later_does_not_hide_a_replaced_video(tmp_path):
    path, out = video(tmp_path / "videos" / "a.mp4", 0), tmp_path / "out"
    get = lambda *names: extract(tmp_path / "videos", {name: Cheap() for name in names}, out, progress=False)[0]
    get("one"); replaced(path, out); get("two")
    assert get("one", "two").done == ["a"]
    assert np.array_equal(read_array(video_file(out, "one", "a")), read_array(video_file(out, "two", "a")))
    assert get("one", "two").skipped == 1


def test_a_replaced_video_that_cannot_be_read_leaves_the_data_set(tmp_path):
    path, out, rows = video(tmp_path / "videos" / "a.mp4", 0), tmp_path / "out", queries(tmp_path / "train.jsonl", {"a": 3})
    get = lambda: extract(tmp_path / "videos", {"cheap": Cheap()}, out, annotations=[rows], progress=False)
    assert get()[2] == {"train": 0}
    path.write_bytes(path.read_bytes()[:900])
    assert get()[2] == {"train": 1}


def test_texts_are_whole(tmp_path):
    from videolights.encoders.extraction import extract_texts, text_file
    again = lambda: extract_texts([dict(qid=1, query="a dog")], {"cheap": Cheap()}, tmp_path)
    assert (again(), again()) == (1, 0)
    file = text_file(tmp_path, "cheap", 1)
    for harm in (lambda data: b"", lambda data: data[:-30], lambda data: data.replace(b"d\0\0\0o\0\0\0g", b"c\0\0\0o\0\0\0w")):
        file.write_bytes(harm(file.read_bytes()))
        assert (again(), again()) == (1, 0)


def test_features_without_marks_are_taken_on_trust_once_and_said(tmp_path, capsys):
    path, out = video(tmp_path / "videos" / "a.mp4", 0), tmp_path / "out"
    video(tmp_path / "videos" / "b.mp4", 2)
    get = lambda: extract(tmp_path / "videos", {"cheap": Cheap()}, out, progress=False)[0]
    get(); shutil.rmtree(out / "marks"); video_file(out, "cheap", "b").write_bytes(b"")
    capsys.readouterr()
    assert get().done == ["b"]
    assert capsys.readouterr().err.count("taken on trust") == 1
    replaced(path, out)
    assert get().done == ["a"]
    assert not capsys.readouterr().err


def test_one_run_in_a_folder(tmp_path, capsys):
    video(tmp_path / "videos" / "a.mp4", 0)
    words = "extract", tmp_path / "videos", "--sources", "builtin", "--out", tmp_path / "out"
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"): assert run(*words) == 2
    assert f"in use by another process (pid {os.getpid()}" in capsys.readouterr().err
    assert run(*words) == 0
    assert not list(tmp_path.rglob("*.holder"))


def test_several_encoders_share_a_decode(zoo, annotations, tmp_path):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from videolights.encoders.blip2 import random_blip2
    from videolights.encoders.clip import random_clip
    from videolights.encoders.slowfast import SlowFast, SlowFastEncoder
    torch.manual_seed(0)
    encoders = {"slowfast": SlowFastEncoder(SlowFast(8, (1, 1, 1, 1)), frames=8, size=32, device="cpu"),
                **open_encoders(["clip", "blip2"], dict(clip=str(random_clip(tmp_path / "clip")), blip2=str(random_blip2(tmp_path / "blip2"))), "cpu")}
    done, data, left = extract(zoo, encoders, tmp_path / "out", annotations=annotations, batch=5, workers=2, progress=False)
    config = DataConfig.load(data)
    assert len(done.done) == 5
    assert check(config, progress=False) == []
    assert left == {"train": 1, "val": 0}
    assert [s.name for s in config.sources] == ["slowfast", "clip", "blip2", "clip_text", "blip2_text"]
    assert config.encoder == "slowfast+clip+blip2"
    for name, encoder in encoders.items():
        for vid in ("good", "still"):
            np.testing.assert_allclose(read_array(video_file(tmp_path / "out", name, vid)).astype(np.float32), encode_file(encoder, zoo / f"{vid}.mp4", 2), atol=2e-3)
    before = features(tmp_path / "out")
    for name, vid in [("blip2", "good"), ("slowfast", "nested")]: video_file(tmp_path / "out", name, vid).unlink()          # one source of one video each
    again, *_ = extract(zoo, encoders, tmp_path / "out", annotations=annotations, batch=5, workers=1, progress=False)
    assert set(again.done) == {"good", "nested"}
    assert again.skipped == 3
    assert features(tmp_path / "out") == before


def test_real_videos_from_file_to_data_set(realdata, tmp_path):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from videolights.encoders.blip2 import random_blip2
    from videolights.encoders.clip import random_clip
    from videolights.encoders.slowfast import SlowFast, SlowFastEncoder
    torch.manual_seed(0)
    (tmp_path / "videos").mkdir()
    for path in (realdata / "videos").glob("*.mp4"): os.symlink(path, tmp_path / "videos" / f"{path.stem.removeprefix('qvh_')}.mp4")
    encoders = {"slowfast": SlowFastEncoder(SlowFast(8, (1, 1, 1, 1)), frames=8, size=32, device="cpu"),
                **open_encoders(["clip", "blip2"], dict(clip=str(random_clip(tmp_path / "clip")), blip2=str(random_blip2(tmp_path / "blip2"))), "cpu")}
    queries, = (realdata / "videos").glob("qvh_*_queries.jsonl")
    done, data, left = extract(tmp_path / "videos", encoders, tmp_path / "out", annotations=[queries], protocol="qvhighlights", progress=False)
    assert len(done.done) == 4
    assert not done.failed
    assert not any(left.values())
    assert check(DataConfig.load(data), progress=False) == []
    stored = read_array(next((realdata / "qvhighlights/release_layout/slowfast_video_features").glob("*.npz")), "features")
    for name in encoders: assert len(read_array(video_file(tmp_path / "out", name, "HY7EC5zXoEE_60.0_210.0"))) == len(stored) == 75      # as many clips as the public pack has


class Fragile(Cheap):
    "Fails on bright clips, and gives no number for dark ones."
    def encode_video(self, clips):
        rows = super().encode_video(clips)
        if rows.max() > 200: raise RuntimeError("out of memory")
        return np.where(rows < 5, np.nan, rows)


def test_a_video_that_an_encoder_cannot_take_fails_alone(tmp_path):
    for name, level in dict(bright=240, dark=0, fine=100, other=120).items():
        write_video(tmp_path / f"videos/{name}.mp4", [np.full((16, 16, 3), level, np.uint8)] * 24, 4)
    done, *_ = extract(tmp_path / "videos", {"fragile": Fragile()}, tmp_path / "out", batch=8, progress=False)
    assert sorted(done.done) == ["fine", "other"]
    assert done.failed == {"bright": "out of memory", "dark": "its features are not finite in half precision"}
    assert sorted(p.stem for p in (tmp_path / "out/fragile_features").iterdir()) == ["fine", "other"]


def test_a_full_disk_stops_the_run(tmp_path, monkeypatch):
    write_video(tmp_path / "videos/a.mp4", moving(2), 8)
    def full(*args, **kwargs): raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="cannot be written"): extract(tmp_path / "videos", {"cheap": Cheap()}, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").rglob("*.npz*"))


def test_bad_input_is_one_line(zoo, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_WEIGHTS", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "slash.jsonl").write_text('{"qid": "../1", "query": "a dog", "vid": "good"}\n')
    out = ("--out", tmp_path / "out")
    cases = [((tmp_path / "nowhere", "--sources", "builtin", *out), "no such folder of videos"), ((tmp_path / "empty", "--sources", "builtin", *out), "holds no videos"),
             ((zoo, "--sources", "bultin", *out), "no encoder is called 'bultin'"), ((zoo, "--sources", ",", *out), "names no encoder"),
             ((zoo, "--sources", "builtin,builtin", *out), "is there twice"), ((zoo, "--sources", "builtin", "--clip-seconds", 0, *out), "at least 0.04"),
             ((zoo, "--sources", "builtin", "--weights", "clip", *out), "expected source=place"), ((zoo, "--sources", "builtin", "--weights", "clip=x", *out), "is not among the sources"),
             ((zoo, "--sources", "builtin", "--annotations", tmp_path / "slash.jsonl", *out), "slash"), ((zoo, "--sources", "builtin", "--pack", *out), "--annotations"),
             ((zoo, "--sources", "slowfast", "--device", "cpu", *out), "get SLOWFAST_8x8_R50.pkl"), ((zoo, "--sources", "slowfast", "--device", "tpu", *out), "choose cpu or auto")]
    for words, says in cases:
        assert run("extract", *words) == 2, words
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and says in error[0], (words, error)
    assert not list((tmp_path / "out").glob("*_features"))
