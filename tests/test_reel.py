"Reels, edit lists and tables: every frame, sound and timecode is the one that the windows ask for."
import csv
import io
import re
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT

from videolights.cli import main
from videolights.config import InputError
from videolights.deploy.reel import Cut, best_cuts, exact_rate, merge_windows, render_reel, timecode, to_csv, to_edl
from videolights.features.video import probe, read_clips, write_video

av = pytest.importorskip("av")


def ramp(seconds, fps=10, h=48, w=64):
    "Frames whose brightness tells their number: 2 levels each."
    return [np.full((h, w, 3), 20 + 2 * i, np.uint8) for i in range(round(seconds * fps))]


def levels(path):
    "Brightness of each frame of a video."
    with av.open(str(path)) as container: return np.array([frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)])


def frames_of(path): return np.round((levels(path) - 20) / 2).astype(int)                      # numbers of the ramp's frames


def render(*args, **options): return render_reel(*args, progress=False, **options)


# the reel -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("windows", [[[2, 4, .9]], [[0, 10, .1]], [[3, 5, .5], [4, 6.3, .9], [8, 8.4, .2]], [[9, 30, .3], [.04, .11, .4]],
                                     [[5.26, 7.33, .3], [1.01, 1.02, .9]]])
@pytest.mark.parametrize("order", ["time", "confidence"])
def test_the_reel_shows_the_merged_windows(windows, order, tmp_path):
    video = write_video(tmp_path / "ramp.mp4", ramp(10), 10)
    pieces, found = render(video, windows, tmp_path / "reel.mp4", order=order), frames_of(tmp_path / "reel.mp4")
    merged = merge_windows([[start, min(end, 10), c] for start, end, c in windows])
    assert np.allclose(np.sort(pieces[:, 0]), merged[:, 0])
    assert (np.diff(pieces[:, 0 if order == "time" else 2]) * (1 if order == "time" else -1) >= 0).all()
    assert abs(len(found) - 10 * (pieces[:, 1] - pieces[:, 0]).sum()) <= len(pieces)           # a frame of each piece, at most
    assert abs(probe(tmp_path / "reel.mp4").duration_s - len(found) / 10) < .01
    expected = np.concatenate([start * 10 + np.arange(max(round((end - start) * 10), 1)) for start, end, _ in pieces])
    assert np.abs(found - expected).max() <= 1


def test_a_video_that_lies_on_its_side(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8); picture[:24, :32] = 250                          # bright at the top left
    raw = bytearray(write_video(tmp_path / "lying.mp4", [picture] * 8, 8).read_bytes())
    matrix = raw.index(b"tkhd") + 4 + 40
    for turn, corner in (([0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30], (slice(0, 32), slice(24, 48))),       # a quarter turn clockwise: top right
                         ([0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 64 << 16, 1 << 30], (slice(32, 64), slice(0, 24)))):     # counter-clockwise: bottom left
        raw[matrix:matrix + 36] = np.array(turn, ">i4").tobytes()
        (tmp_path / "upright.mp4").write_bytes(raw)
        render(tmp_path / "upright.mp4", [[0, 1, .9]], tmp_path / "reel.mp4")
        source, clip = next(read_clips(tmp_path / "upright.mp4", 1, 1))[0], next(read_clips(tmp_path / "reel.mp4", 1, 1))[0]
        assert clip.shape == source.shape == (64, 48, 3)
        assert np.abs(clip.astype(int) - source).mean() < 3
        assert clip[corner].mean() > 200


def made(path, seconds=8, fps=25, rate=44100, sound=True, pixels="yuv420p", size=(64, 48)):
    "A video that is bright, and hums, in every second second."
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=fps)
        picture.width, picture.height, picture.pix_fmt = *size, pixels
        hum = container.add_stream("aac", rate=rate, layout="stereo") if sound else None
        for i in range(seconds * fps):
            shown = np.full((size[1], size[0], 3), [230, 200, 40] if i // fps % 2 else [20, 40, 60], np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(picture.encode(None))
        time = np.arange(seconds * rate) / rate
        wave = (.5 * np.sin(2 * np.pi * 440 * time) * (time.astype(int) % 2)).astype(np.float32)[None].repeat(2, 0)
        for i in range(0, wave.shape[1] if sound else 0, 1024):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, i:i + 1024]), format="fltp", layout="stereo")
            block.sample_rate, block.pts, block.time_base = rate, i, Fraction(1, rate)
            container.mux(hum.encode(block))
        if sound: container.mux(hum.encode(None))
    return path


@pytest.mark.parametrize("name, rate", [("v.mp4", 44100), ("v.mkv", 44100), ("v.mov", 8000), ("v.ts", 48000)])
def test_picture_and_sound_stay_together(name, rate, tmp_path):
    windows = [[1.4, 3.6, .9], [5.5, 6.5, .5], [7.1, 7.3, .4]]
    render(made(tmp_path / name, rate=rate), windows, tmp_path / "reel.mp4")
    with av.open(str(tmp_path / "reel.mp4")) as container:
        blocks = list(container.decode(audio=0))
        sound, hertz = np.concatenate([b.to_ndarray()[0] for b in blocks]), blocks[0].sample_rate
    bright = levels(tmp_path / "reel.mp4") > 120
    hums = np.array([np.abs(sound[round(i / 25 * hertz):round((i + 1) / 25 * hertz)]).mean() > .1 for i in range(len(bright))])
    seconds = np.concatenate([start + (np.arange(round((end - start) * 25)) + .5) / 25 for start, end, _ in windows])
    assert len(bright) == 85
    assert abs(len(sound) / hertz - 85 / 25) < .03
    assert (bright == (seconds.astype(int) % 2 == 1)).all()
    assert (hums != bright).sum() <= 3  # a frame at each change
    inside = sound[round(.8 * hertz):round(1.5 * hertz)]                                        # 2.2 to 2.9 s are silent, 1.4 to 2 s hum
    assert np.abs(inside).max() < .02
    tone = sound[round(.1 * hertz):round(.5 * hertz)]
    assert np.abs(np.diff(tone)).max() < 1.1 * np.pi * 440 / hertz                              # no clicks: never steeper than the tone itself


@pytest.mark.parametrize("pixels, size", [("yuv420p", (50, 38)), ("yuvj420p", (64, 48)), ("yuv444p", (35, 51)), ("yuv420p10le", (64, 48))])
def test_colours_and_sizes(pixels, size, tmp_path):
    try: video = made(tmp_path / "v.mkv", seconds=2, sound=False, pixels=pixels, size=size)
    except (av.FFmpegError, ValueError): pytest.skip(f"this build of PyAV does not write {pixels}")
    render(video, [[0, 2, .9]], tmp_path / "reel.mp4")
    before, after = (np.concatenate(list(read_clips(p, .5, 1, (20, 30)))).astype(int) for p in (video, tmp_path / "reel.mp4"))
    assert np.abs(before - after).mean() < 2
    assert abs(probe(tmp_path / "reel.mp4").width - size[0]) <= 1
    with av.open(str(tmp_path / "reel.mp4")) as container: assert not container.streams.audio


def test_irregular_frames_become_regular(tmp_path):
    with av.open(str(tmp_path / "vfr.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        for i, ms in enumerate((0, 100, 200, 3000, 3100, 4000)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    render(tmp_path / "vfr.mkv", [[2, 4, .9]], tmp_path / "reel.mp4")
    seen, info = np.round((levels(tmp_path / "reel.mp4") - 20) / 20), probe(tmp_path / "reel.mp4")
    assert abs(info.duration_s - 2) <= 1 / info.fps
    at = lambda seconds: seen[int((seconds - 2) * info.fps)]
    assert (at(2.2), at(2.8), at(3.6), at(3.9)) == (2, 2, 4, 4)


def test_real_videos(realdata, tmp_path):
    for name, fps, sounds in (("charades_Y1HGC.mp4", 14.985, 1), ("qvh_HY7EC5zXoEE_60.0_210.0.mp4", 2, 0)):
        render(realdata / "videos" / name, [[2, 5.3, .9], [10, 12, .5], [11, 14, .3]], tmp_path / "reel.mp4")
        info = probe(tmp_path / "reel.mp4")
        assert abs(info.duration_s - 7.3) <= 2 / fps
        assert abs(info.fps - fps) < .01
        with av.open(str(tmp_path / "reel.mp4")) as container: assert len(container.streams.audio) == sounds


def test_an_earlier_reel_survives(tmp_path):
    video = write_video(tmp_path / "ramp.mp4", ramp(4), 10)
    reel = tmp_path / "reel.mp4"; reel.write_bytes(b"earlier work")
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[:len(video.read_bytes()) // 2])
    for source, windows, out, says in ((video, [], reel, "no window"), (video, [[9, 12, .9]], reel, "no window"), (video, [[2, 2, .9]], reel, "no window"),
                                       (video, [[0, np.nan, .9]], reel, "NaN"), (video, [[0, 1, .9]], video, "the video itself"),
                                       (video, [[0, 1, .9]], tmp_path / "reel.gif", "MP4"), (tmp_path / "half.mp4", [[0, 4, .9]], reel, "half.mp4"),
                                       (tmp_path / "none.mp4", [[0, 4, .9]], reel, "no such video")):
        with pytest.raises(InputError, match=says) as e: render(source, windows, out)
        assert "\n" not in str(e.value)
    assert reel.read_bytes() == b"earlier work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.mp4", "ramp.mp4", "reel.mp4"]


# edit lists and tables ------------------------------------------------------------------------------------------------------------

EVENT = re.compile(r"^(\d{3})  AX       V     C        (\d\d:\d\d:\d\d:\d\d) (\d\d:\d\d:\d\d:\d\d) (\d\d:\d\d:\d\d:\d\d) (\d\d:\d\d:\d\d:\d\d)$")


def frame_number(code, base):
    hours, minutes, seconds, frames = map(int, code.split(":"))
    assert minutes < 60
    assert seconds < 60
    assert frames < base
    return ((hours * 60 + minutes) * 60 + seconds) * base + frames


@pytest.mark.parametrize("fps, rate, base", [
    (25, Fraction(25), 25), ("23.976", Fraction(24000, 1001), 24), (29.97, Fraction(30000, 1001), 30), (59.94, Fraction(60000, 1001), 60)])
def test_timecodes(fps, rate, base):
    assert exact_rate(fps) == rate
    cuts = [Cut("a.mp4", "q", start, start + length, .5, 1) for start, length in ((0, 2), (59.99, .5), (3599.5, 1), (7200, 1801.3), (5, .001))]
    record = 0
    events = [EVENT.match(line) for line in to_edl(cuts, fps).splitlines() if line[:1].isdigit()]
    assert [int(event[1]) for event in events] == [1, 2, 3, 4, 5]
    for cut, event in zip(cuts, events):
        first, last, begins, ends = (frame_number(code, base) for code in event.groups()[1:])
        assert abs(first - cut.start_s * rate) <= .5
        assert abs(last - cut.end_s * rate) <= 1.5
        assert last > first
        assert begins == record
        assert ends - begins == last - first  # the timeline has neither gaps nor overlaps
        record = ends
    assert all(frame_number(timecode(n, rate), base) == n for n in (0, base - 1, base, 60 * base - 1, 100 * 3600 * base // 2))


def test_known_timecodes():
    assert timecode(exact_rate(29.97) * 3600 // 1, exact_rate(29.97)) == "00:59:56:12"         # an hour at 29.97 is 107 892 frames
    assert timecode(exact_rate(23.976) * 10 // 1, exact_rate(23.976)) == "00:00:09:23"         # ten seconds are 239 frames
    assert timecode(90061 * 25 + 7, 25) == "25:01:01:07"


def test_text_stays_on_its_line():
    cut = Cut("été \n2.mp4", 'a "dog",\nruns', 0, 1, .5, 1)
    assert to_edl([cut], 25, "my\ntitle").splitlines()[-2:] == ["* FROM CLIP NAME: été ?2.mp4", '* COMMENT: a "dog",?runs (0.50)']
    row, = csv.DictReader(io.StringIO(to_csv([cut])))
    assert row == dict(video="été ?2.mp4", query='a "dog",?runs', start_s="0", end_s="1", confidence="0.5", rank="1")
    for bad in ("0", "fast", 240):
        with pytest.raises(InputError, match="frame rate"): to_edl([cut], bad)


def test_best_cuts():
    row = dict(video="a.mp4", query="q", pred_relevant_windows=[[0, 1, .2], [2, 3, .9], [4, 4, .95], [5, 6, .5]])
    assert [(c.start_s, c.rank) for c in best_cuts([row], top=2)] == [(2, 1), (5, 2)]
    assert [c.start_s for c in best_cuts([row], min_confidence=.5)] == [2, 5]
    assert best_cuts([row], min_confidence=.96) == []


# the command ----------------------------------------------------------------------------------------------------------------------

def test_the_command(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (90, 6, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    video = write_video(tmp_path / "v.mp4", noise, 10)
    ask = lambda *words: main([str(w) for w in ("predict", ROOT / "exported" / "toyworld", video, "a red circle", "a star", "--top", 2, *words)])
    assert ask("--render", tmp_path / "reel.mp4", "--edl", tmp_path / "v.edl", "--csv", tmp_path / "v.csv", "--out", tmp_path / "v.jsonl", "--fps", "29.97", "--min-confidence", 0) == 0
    assert "reel:" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "v.csv").open()))
    windows = merge_windows([[float(r["start_s"]), float(r["end_s"]), 1] for r in rows])
    assert len(rows) == 4
    assert abs(probe(tmp_path / "reel.mp4").duration_s - (windows[:, 1] - windows[:, 0]).sum()) <= .1 * len(windows)
    assert (tmp_path / "v.edl").read_text().startswith("TITLE: v\nFCM: NON-DROP FRAME\n")
    assert len((tmp_path / "v.jsonl").read_text().splitlines()) == 2
    assert ask("--render", tmp_path / "none.mp4", "--csv", tmp_path / "all.csv") == 2                      # noise: hardly any confidence
    assert "no window has a confidence of 0.2 or more" in capsys.readouterr().err
    assert (tmp_path / "all.csv").read_text() == (tmp_path / "v.csv").read_text()                          # a table keeps every row
    assert ask("--render", tmp_path / "none.mp4", "--min-confidence", 1.1) == 2
    assert "--min-confidence" in capsys.readouterr().err
    assert ask("--edl", tmp_path / "x.edl", "--fps", "fast", "--min-confidence", 0) == 2
    assert "frame rate fast" in capsys.readouterr().err
    assert not (tmp_path / "none.mp4").exists()
    assert not (tmp_path / "x.edl").exists()
