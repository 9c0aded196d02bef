"""Annotations, feature folders, the check and the packed store: on real files where they are at hand, on small broken ones everywhere."""
import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from conftest import ROOT

from videolights.cli import main
from videolights.config import DataConfig, InputError, Source
from videolights.data import store as features
from videolights.data.annotations import clips_inside, read_annotations, saliency_labels, with_duration, write_annotations
from videolights.data.store import Dataset, FeatureStore, FolderFeatures, check, cut_notes, open_features, pack
from videolights.files import locked, overwriting


# --- real files ---------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def charades(root, realdata, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_REALDATA", str(realdata)); monkeypatch.setenv("VIDEOLIGHTS_STORE", str(tmp_path / "stores"))
    return DataConfig.load(root / "recipes/data/charades_clip.yaml")


def test_charades_clip_checks_clean(charades):
    assert check(charades, progress=False) == []
    assert (charades.video_dim, charades.text_dim) == (512, 812)


def test_store_equals_folders_on_real_files(charades, tmp_path):
    rows = read_annotations(charades.path(charades.splits["val"]), "charades", 1)[:60]
    write_annotations(tmp_path / "val.jsonl", rows)
    data = replace(charades, splits={"val": str(tmp_path / "val.jsonl")})
    assert isinstance(open_features(data), FolderFeatures)
    assert pack(data, progress=False) == tmp_path / "stores/charades_clip"
    packed, folders = Dataset(data, "val"), Dataset(data, "val", FolderFeatures(data))
    assert isinstance(packed.features, FeatureStore) and len(packed) == 60
    for a, b in zip(packed, folders):
        assert a["video"].dtype == a["text"].dtype == np.float32
        assert np.abs(a["video"] - b["video"]).max() < 1e-3 and np.abs(a["text"] - b["text"]).max() < 1e-3
        assert (a["saliency"] == b["saliency"]).all() and a["saliency"].max() == 1 and len(a["saliency"]) == len(a["video"])
        assert packed.features.video_length(a["vid"]) == len(b["video"])
    glove, nouns = (np.linalg.norm(packed[0]["text"][:, columns], axis=1) for columns in (slice(300), slice(300, None)))
    assert np.allclose(glove, 1, atol=1e-2) and np.all((nouns < 1e-6) | (abs(nouns - 1) < 1e-2))   # no noun, no length
    again = pickle.loads(pickle.dumps(packed))   # as a worker process gets it
    assert (again[3]["video"] == packed[3]["video"]).all()


def test_the_layout_that_users_download(realdata, tmp_path):
    folder = realdata / "qvhighlights"
    rows = [r for r in read_annotations(folder / "annotations/highlight_train_release.jsonl", "qvhighlights", 2) if r["qid"] == 5263]
    write_annotations(tmp_path / "train.jsonl", rows)
    sources = [Source("slowfast", "video", 2304, "slowfast_video_features"), Source("clip", "video", 512, "clip_video_features"),
               Source("clip_text", "text", 512, "clip_text_features")]
    data = DataConfig("sample", "qvhighlights", 2, {"train": str(tmp_path / "train.jsonl")}, sources, root=str(folder / "release_layout"),
                      store=str(tmp_path / "store"))
    assert check(data, progress=False) == []
    item = Dataset(data, "train")[0]
    assert item["video"].shape == (75, 2816) and item["text"].shape == (13, 512) and item["saliency"].shape == (75,)
    raw = np.load(folder / "release_layout/clip_video_features" / f"{item['vid']}.npz")["features"].astype(np.float32)
    assert np.allclose(item["video"][:, 2304:], raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    pack(data, progress=False)
    assert np.abs(Dataset(data, "train")[0]["video"] - item["video"]).max() < 1e-3


def test_labels_of_qvhighlights(realdata):
    for row in read_annotations(realdata / "qvhighlights/annotations/highlight_val_release.jsonl", "qvhighlights", 2):
        clips = int(row["duration"] // 2)
        labels, inside = saliency_labels(row, clips, 2, "qvhighlights"), clips_inside(row["relevant_windows"], clips, 2)
        assert labels.sum() == np.sum(row["saliency_scores"]) and labels.max() <= 12 and not labels[~inside].any()
        assert inside.nonzero()[0].tolist() == row["relevant_clip_ids"]     # windows and clip ids say the same


def test_labels_of_tvsum(realdata):
    rows = [r for split in ("train", "val") for r in read_annotations(realdata / f"tvsum/tvsum_{split}_release.jsonl", "tvsum", 2)]
    assert len(rows) == 50
    for row in rows:
        clips = len(row["label"])
        labels = saliency_labels(row, clips, 2, "tvsum")
        assert row["duration"] == 2 * clips and 0 <= labels.min() and labels.max() <= 12
        assert np.allclose(labels, [sum(r - 1 for r in clip) / 80 * 12 for clip in row["label"]])


def test_charades_text_lines_are_the_published_ground_truth(realdata):
    rows = read_annotations(realdata / "charades_sta/charades_sta_test.txt", "charades")
    with open(realdata / "charades_sta/moment_detr.test.gt.jsonl") as f: truth = [json.loads(line) for line in f]
    assert [with_duration(r, t["duration"]) for r, t in zip(rows, truth, strict=True)] == truth
    with gzip.open(realdata / "charades_sta/moment_detr.test.jsonl.gz", "rt") as f: predicted = {json.loads(line)["qid"] for line in f}
    assert predicted == {r["qid"] for r in rows}


def test_recipes_name_known_contracts(root, monkeypatch):
    for name in ("VIDEOLIGHTS_DATA", "VIDEOLIGHTS_REALDATA"): monkeypatch.setenv(name, "/data")
    widths = {p.stem: (d.video_dim, d.text_dim) for p in (root / "recipes/data").glob("*.yaml") for d in [DataConfig.load(p)]}
    assert widths.items() >= dict(qvhighlights=(2816, 512), qvhighlights_b=(3584, 1280), charades_sta=(2816, 512), tvsum=(2048, 512),
                                  charades_clip=(512, 812), laboratory=(128, 128)).items()


# --- small files --------------------------------------------------------------------------------------------------------------------------

SOURCES = [Source("slowfast", "video", 6, "slowfast"), Source("clip", "video", 4, "clip"), Source("words", "text", 5, "words")]


@pytest.fixture
def small(tmp_path):
    "Four videos of 20 clips, 2 s each, one query each; the second source is a clip longer."
    rng = np.random.default_rng(0)
    rows = [dict(qid=i, query="a dog runs", vid=f"v{i}", duration=40, relevant_windows=[[4, 10]]) for i in range(4)]
    for folder in ("slowfast", "clip", "words"): (tmp_path / folder).mkdir()
    for i in range(4):
        np.savez(tmp_path / f"slowfast/v{i}.npz", features=rng.normal(size=(20, 6)).astype(np.float16))
        np.savez(tmp_path / f"clip/v{i}.npz", features=rng.normal(size=(21, 4)))
        np.savez_compressed(tmp_path / f"words/qid{i}.npz", last_hidden_state=rng.normal(size=(3, 5)), pooler_output=np.zeros(5))
    write_annotations(tmp_path / "train.jsonl", rows)
    return DataConfig("small", "custom", 2, {"train": "train.jsonl"}, SOURCES, root=str(tmp_path))


def rewrite(data, **change):
    rows = read_annotations(data.path("train.jsonl"))
    rows[0] = {**rows[0], **change}
    write_annotations(data.path("train.jsonl"), rows)


FAULTS = {
    "missing": (lambda d: d.path("clip/v1.npz").unlink(), "clip: no such file (1: v1.npz)"),
    "width": (lambda d: np.savez(d.path("clip/v1.npz"), features=np.ones((20, 7))),
              "clip: has 7 columns, the contract says 4 (clip) (1: v1.npz)"),
    "nan": (lambda d: np.savez(d.path("words/qid2.npz"), last_hidden_state=np.full((3, 5), np.nan)),
            "words: holds NaN or infinite values (1: qid2.npz)"),
    "empty": (lambda d: np.savez(d.path("slowfast/v0.npz"), features=np.zeros((0, 6))), "slowfast: is empty, not one clip (1: v0.npz)"),
    "flat": (lambda d: np.savez(d.path("words/qid0.npz"), last_hidden_state=np.ones(5)), "words: has shape (5,)"),
    "text array": (lambda d: np.savez(d.path("words/qid0.npz"), last_hidden_state=np.array([["a"]])), "words: holds <U1 values"),
    "unreadable": (lambda d: d.path("clip/v3.npz").write_bytes(b"PK\x03\x04 cut"), "clip: cannot be read as an array (1: v3.npz)"),
    "key": (lambda d: np.savez(d.path("clip/v3.npz"), video=np.ones((20, 4)), other=np.ones(2)), "clip: has no array 'features'"),
    "lengths": (lambda d: np.savez(d.path("clip/v1.npz"), features=np.ones((23, 4))),
                "slowfast, clip: lengths of the video sources differ by more than 2"),
    "duration": (lambda d: rewrite(d, duration=47), "slowfast: number of clips is off by more than 2"),
    "window": (lambda d: rewrite(d, relevant_windows=[[4, 43]]),
               "train.jsonl: window outside the video (1: qid 0, window [4, 43] of 40 s)"),
    "qid": (lambda d: rewrite(d, qid=1), "train.jsonl: duplicate qid (1: qid 1)"),
    "query": (lambda d: d.path("train.jsonl").write_text(d.path("train.jsonl").read_text().replace("a dog runs", " ", 1)),
              "train.jsonl: empty query (1: qid 0)"),
    "annotations": (lambda d: d.path("train.jsonl").write_text('{"qid": 1'), "train.jsonl: line 1 is not valid JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_the_fault(small, fault):
    assert check(small, progress=False) == []
    spoil, message = FAULTS[fault]
    try: spoil(small)
    except InputError: raise AssertionError("the fault itself could not be written")
    problems = [str(p) for p in check(small, progress=False)]
    assert any(p.startswith(message) for p in problems), problems
    assert all("\n" not in p and "; " in p for p in problems)   # one line each, with a cure


def test_within_tolerance_is_no_fault(small):
    np.savez(small.path("clip/v1.npz"), features=np.ones((22, 4)))
    rewrite(small, relevant_windows=[[4, 41.9]], duration=40.0)
    assert check(small, progress=False) == []


def test_text_lines_without_durations(small):
    small.path("train.txt").write_text("v0 4 41##a dog runs\nv1 0.5 8##a dog sits\n")
    for i in range(2): os.symlink(small.path(f"words/qid{i}.npz"), small.path(f"words/qidtrain_{i}.npz"))
    data = replace(small, splits={"train": "train.txt"}, protocol="charades")
    assert check(data, progress=False) == []
    item = Dataset(data, "train")[0]
    assert item["duration"] == 40 and item["windows"].tolist() == [[4, 40]]
    data.path("train.txt").write_text("v0 50 60##a dog runs\n")
    assert [str(p) for p in check(data, progress=False)] == [
        "annotations: window outside the video (1: qid train_0, window [50.0, 60.0] of 40 s); correct it or the duration"]


def test_equal_faults_are_one_line(small):
    rows = [dict(qid=i, query="waves", vid=f"lake{i}", duration=40) for i in range(300)]
    write_annotations(small.path("train.jsonl"), rows)
    lines = [str(p) for p in check(small, progress=False)]
    assert len(lines) == 3 and lines[0].startswith("slowfast: no such file (300: lake0.npz, lake1.npz, lake2.npz, ...)")


def test_pack_stops_at_a_bad_file_and_keeps_the_earlier_store(small):
    store = pack(small, progress=False)
    before = {f.name: f.read_bytes() for f in store.iterdir()}
    np.savez(small.path("clip/v3.npz"), features=np.full((20, 4), np.inf))
    with pytest.raises(InputError, match="v3.npz: holds NaN or infinite values"): pack(small, progress=False)
    assert {f.name: f.read_bytes() for f in store.iterdir()} == before and not list(store.parent.glob(".store*"))


def test_a_stop_while_packing_keeps_the_earlier_store(small, monkeypatch):
    store = pack(small, progress=False)
    before = {f.name: f.read_bytes() for f in store.iterdir()}
    def stop(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr(features, "write_json", stop)
    with pytest.raises(KeyboardInterrupt): pack(small, progress=False)
    assert {f.name: f.read_bytes() for f in store.iterdir()} == before and not list(store.parent.glob(".store*"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
def test_a_full_disk_keeps_the_earlier_store(small):
    store = pack(small, progress=False)
    before = {f.name: f.read_bytes() for f in store.iterdir()}
    code = f"""
import resource, sys
from videolights.config import DataConfig, InputError, Source
from videolights.data.store import pack
data = {small!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try: pack(data, progress=False)
except InputError as e: print(e); sys.exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and "cannot be written" in done.stdout and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert {f.name: f.read_bytes() for f in store.iterdir()} == before and not list(store.parent.glob(".store*"))


def test_a_store_that_does_not_fit_is_refused(small):
    with pytest.raises(InputError, match="no packed store; run `videolights data pack` first"): FeatureStore.open(small)
    store = pack(small, progress=False)
    swapped = replace(small, sources=[SOURCES[1], SOURCES[0], SOURCES[2]])
    for other in (swapped, replace(small, max_words=2), replace(small, sources=[replace(SOURCES[0], normalize=False), *SOURCES[1:]])):
        with pytest.raises(InputError, match="another feature contract"): open_features(other)
        assert any("another feature contract" in str(p) for p in check(other, progress=False))
    index = json.loads((store / "index.json").read_text())
    (store / "index.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(InputError, match="a store of version 99, not 1 or 2; run `videolights data pack` again"): FeatureStore.open(small)
    (store / "index.json").write_text(json.dumps(index)[:100])
    with pytest.raises(InputError, match="index.json: not valid JSON.*data pack` again"): FeatureStore.open(small)
    (store / "index.json").write_text(json.dumps(index))
    clip = (store / "clip.npy").read_bytes()
    (store / "clip.npy").write_bytes(clip[:-8])
    with pytest.raises(InputError, match="clip.npy: holds .* bytes instead of"): FeatureStore.open(small)
    (store / "clip.npy").write_bytes(clip)
    assert FeatureStore.open(small).video("v0").shape == (20, 10)


# --- a store replaces nothing but a store -------------------------------------------------------------------------------------------------

def contents(folder): return {str(f.relative_to(folder)): f.is_file() and f.read_bytes() for f in sorted(folder.rglob("*"))}


def described(data, **change):
    "The YAML file of a data set."
    path = data.path("data.yaml")
    path.write_text(yaml.safe_dump({**asdict(data), "root": ".", **change}))
    return path


PLACES = {
    "the root": ".", "nothing": "", "above it": "..", "around": "clip/..", "absolute": lambda root: str(root), "features": "clip", "with a slash": "words/",
    "annotations": "train.jsonl", "annotations' folder": "labels", "through a link": lambda root: os.symlink(root, root / "link") or "link",
    "a link to features": lambda root: os.symlink(root / "clip", root / "link") or "link", "videos": "videos", "other files": "thesis",
    "another index": "site", "a store and more": "notes"}


@pytest.mark.parametrize("place, overwrite", [(place, False) for place in PLACES] +      # the others are what --overwrite is for
                         [(place, True) for place in PLACES if place not in ("videos", "other files", "a store and more")])
def test_a_place_that_is_no_store_is_kept(small, place, overwrite, capsys):
    pack(replace(small, store="notes"), progress=False)
    for name, text in {"labels/train.jsonl": small.path("train.jsonl").read_text(), "videos/v0.mp4": "film", "thesis/a.tex": "years of work",
                       "site/index.json": '{"pages": []}', "notes/why.txt": "a thought"}.items():
        small.path(name).parent.mkdir(exist_ok=True); small.path(name).write_text(text)
    store = PLACES[place](small.path()) if callable(PLACES[place]) else PLACES[place]
    yaml_file = described(small, store=store, splits={"train": "labels/train.jsonl" if "folder" in place else "train.jsonl"})
    before = contents(small.path())
    with overwriting() if overwrite else nullcontext(): assert main(["data", "pack", str(yaml_file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("videolights: error: ") and said.count("\n") == 1 and "unexpected" not in said and "; " in said
    assert contents(small.path()) == before


@pytest.mark.parametrize("prepare", [lambda place: None, lambda place: place.mkdir(), lambda place: os.symlink(place.parent / "real", place)])
def test_a_place_that_is_new_empty_or_a_store_is_taken(small, prepare):
    (small.path("real")).mkdir(); prepare(small.path("store"))
    for _ in range(2): pack(small, progress=False)
    assert isinstance(open_features(small), FeatureStore)
    assert small.path("store").is_symlink() == (small.path("real/index.json").exists())


# --- a store knows what it was packed from -----------------------------------------------------------------------------------------------

def save(data, name, rows=20, dim=4): np.savez(data.path(name), features=np.random.default_rng(9).normal(size=(rows, dim)))


def replaced_within_size_and_time(data):
    "Other numbers under the same size and time: only a hash can tell."
    path, before = data.path("slowfast/v1.npz"), data.path("slowfast/v1.npz").stat()
    np.savez(path, features=np.ones((20, 6), np.float16))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_bytes(data):
    path = data.path("words/qid2.npz")
    path.write_bytes(path.read_bytes()[:-1] + b"!")


STALE = {
    "another length": (lambda d: save(d, "clip/v2.npz", rows=22), "v2.npz: has changed since .* was packed \\(1 such files\\)"),
    "other numbers": (lambda d: save(d, "clip/v2.npz", rows=21), "v2.npz: has changed"),
    "other bytes": (other_bytes, "qid2.npz: has changed"),
    "emptied": (lambda d: d.path("clip/v1.npz").write_bytes(b""), "v1.npz: has changed"),
    "gone": (lambda d: d.path("words/qid1.npz").unlink(), "qid1.npz: is gone"),
    "all of one source": (lambda d: [save(d, f"clip/v{i}.npz", rows=20) for i in range(4)], "\\(4 such files\\)"),
    "a folder gone": (lambda d: d.path("clip").rename(d.path("old")), "clip: no such folder"),
}


@pytest.mark.parametrize("change", STALE)
def test_changed_features_are_noticed(small, change):
    pack(small, progress=False)
    spoil, says = STALE[change]
    spoil(small)
    with pytest.raises(InputError, match=says) as e: Dataset(small, "train")
    assert "\n" not in str(e.value) and "; " in str(e.value)
    assert any(p.item == "store" for p in check(small, progress=False))
    if change in ("another length", "other numbers"):
        pack(small, progress=False)
        assert Dataset(small, "train")[2]["video"].shape == (20, 10)


def test_what_only_a_hash_can_tell_is_left_to_the_check(small):
    pack(small, progress=False)
    replaced_within_size_and_time(small)
    Dataset(small, "train")
    assert [str(p).partition(" since")[0] for p in check(small, progress=False)] == ["store: has changed"]


@pytest.mark.parametrize("change", [dict(folder="twins"), dict(key="other"), dict(file="twin_{vid}.npz")])
def test_a_source_that_points_elsewhere_is_noticed(small, change):
    "Another folder, another array in the files, other files; and a copied folder is none."
    for name in ("twins", "clip"): small.path(name).mkdir(exist_ok=True)
    for i in range(4):
        for name in (f"clip/v{i}", f"twins/v{i}", f"clip/twin_v{i}"):
            np.savez(small.path(f"{name}.npz"), features=np.full((20, 4), float("twin" in name)), other=np.full((20, 4), 2.))
    pack(small, progress=False)
    moved = replace(small, sources=[SOURCES[0], replace(SOURCES[1], **change), SOURCES[2]])
    with pytest.raises(InputError, match="packed for another feature contract|has changed"): Dataset(moved, "train")
    shutil.rmtree(small.path("twins")); shutil.copytree(small.path("clip"), small.path("twins"), copy_function=shutil.copy)
    if "folder" in change: Dataset(moved, "train")


def test_a_store_that_travels_says_so_once(small, tmp_path, capsys):
    pack(small, progress=False)
    item = Dataset(small, "train")[1]
    there = tmp_path / "there"; there.mkdir()
    for name in ("store", "train.jsonl"): shutil.move(small.path(name), there / name)
    for _ in range(2): again = Dataset(replace(small, root=str(there)), "train")[1]
    assert (again["video"] == item["video"]).all()
    said = capsys.readouterr().err
    assert said.count("read without its folders of features") == said.count("\n") == 1


def test_rows_that_came_later_are_named_when_the_store_is_opened(small):
    pack(small, progress=False)
    rows = read_annotations(small.path("train.jsonl"))
    write_annotations(small.path("train.jsonl"), [*rows, {**rows[0], "qid": 9}])
    with pytest.raises(InputError, match=r"store: holds no text '9' \(1 such rows\); run `videolights data pack`"): Dataset(small, "train")


def test_a_file_replaced_while_it_is_packed_is_an_error(small, monkeypatch):
    read = features.read_source
    def slow(data, source, row):
        x = read(data, source, row)
        if source.name == "clip" and row["vid"] == "v3": save(data, "clip/v0.npz", rows=25)
        return x
    monkeypatch.setattr(features, "read_source", slow)
    with pytest.raises(InputError, match="v0.npz: changed while it was packed"): pack(small, progress=False)
    assert not small.path("store").exists()


def test_a_store_of_the_version_before_says_what_it_cannot_tell(capsys, tmp_path):
    before = shutil.copytree(ROOT / "tests/data/before", tmp_path / "before")
    for _ in range(2): Dataset(DataConfig.load(before / "data.yaml"), "val")
    said = capsys.readouterr().err
    assert said.count("made by the version before") == said.count("\n") == 1


# --- names stay in their folder, and cuts are told ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change", [dict(vid="../clip/v1"), dict(vid="/etc/passwd"), dict(vid="a/../../x"), dict(qid="/../../train"), dict(qid="..", vid="v\0")])
def test_names_that_lead_out_of_the_features(small, change):
    rows = read_annotations(small.path("train.jsonl"))
    write_annotations(small.path("train.jsonl"), [{**rows[0], **change}])
    for door in (lambda: Dataset(small, "train"), lambda: pack(small, progress=False)):
        with pytest.raises(InputError, match="leads out of the folders"): door()
    with pytest.raises(InputError, match="leads out of"): [FolderFeatures(small).video(change.get("vid", "v1")), FolderFeatures(small).text({**rows[0], **change})]
    assert any("leads out of" in str(p) for p in check(small, progress=False))


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_cut_is_said(small, packed, capsys):
    np.savez(small.path("words/qid2.npz"), last_hidden_state=np.ones((7, 5)))
    data = DataConfig.load(described(small, max_words=3, max_clips=19))
    if packed: pack(data, progress=False)
    notes = ["small, train: 1 of 4 queries have more than 3 words and are cut (qid 2)",
             "small, train: 4 of 4 videos have more than 19 clips and are cut (v0, v1, v2, ...)"]
    assert cut_notes(Dataset(data, "train")) == notes
    assert main(["data", "check", str(small.path("data.yaml"))]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")] == [f"note: {note}" for note in notes]
    small.path("recipe.yaml").write_text(json.dumps(dict(data="data.yaml", model=dict(dim=8, heads=2, encoder_layers=1, decoder_layers=1),
                                                         train=dict(epochs=1, batch_size=4, eval_split=""))))
    assert main(["train", str(small.path("recipe.yaml")), "--out", str(small.path("run"))]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "are cut" in line] == notes


def test_reading_is_cut_to_contract(small):
    pack(small, progress=False)
    item = Dataset(replace(small, max_clips=4), "train")[0]
    assert item["video"].shape == (4, 10) and item["saliency"].tolist() == [0, 0, 1, 1] and item["windows"].tolist() == [[4, 8]]
    assert FolderFeatures(replace(small, max_words=2)).text(0).shape == (2, 5)
    with pytest.raises(InputError, match="no split 'val', only train"): Dataset(small, "val")


def test_a_place_in_use_says_by_whom(tmp_path):
    "Another process is refused with a name, and let in when the first one is gone, however it went."
    code = "import sys; from videolights.files import locked\nwith locked(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    def start(): return subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = start()
    assert first.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"is in use by another process \(pid {first.pid} on .*, since .*\); wait or choose"):
        with locked(tmp_path): pass
    first.kill(); first.wait()
    with locked(tmp_path): pass
    second = start()
    assert second.stdout.readline() == "held\n"
    second.communicate("")
    assert second.returncode == 0 and [f.name for f in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("change, message", [
    (dict(query=" "), "qid 0: empty query"), (dict(relevant_windows=[[50, 60]]), "window outside the video"),
    (dict(relevant_windows=[[5, "x"]]), "not a pair of numbers"), (dict(duration=0), "no positive number")])
def test_a_bad_row_is_one_line(small, change, message):
    rewrite(small, **change)
    with pytest.raises(InputError, match=message) as e: Dataset(small, "train")
    assert str(e.value).startswith(str(small.path("train.jsonl"))) and "\n" not in str(e.value)


def test_tvsum_layout(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("video_features", "query_features"): (tmp_path / folder).mkdir()
    for half in ("rgb", "opt"): np.save(tmp_path / f"video_features/-esJ_{half}.npy", rng.normal(size=(12, 8)))
    np.savez(tmp_path / "query_features/-esJ.npz", token=rng.normal(size=(4, 5)))
    row = dict(qid="-esJ", vid="-esJ", query="dogs", duration=11, relevant_windows=None, relevant_clip_ids=None, domain="DS",
               label=rng.integers(1, 6, (11, 20)).tolist())
    write_annotations(tmp_path / "train.jsonl", [row])
    sources = [Source("i3d_rgb", "video", 8, "video_features", file="{vid}_rgb.npy"),
               Source("i3d_opt", "video", 8, "video_features", file="{vid}_opt.npy"),
               Source("clip_text", "text", 5, "query_features", file="{vid}.npz", key="token")]
    data = DataConfig("tv", "tvsum", 2, {"train": "train.jsonl"}, sources, root=str(tmp_path))
    assert check(data, progress=False) == []
    pack(data, progress=False)
    item = Dataset(data, "train")[0]
    assert item["video"].shape == (12, 16) and item["text"].shape == (4, 5) and item["duration"] == 22 and not item["has_windows"]
    assert item["saliency"].shape == (12,) and item["saliency"][11] == item["saliency"][10]
    assert np.abs(item["text"] - FolderFeatures(data).text("-esJ")).max() < 1e-3
