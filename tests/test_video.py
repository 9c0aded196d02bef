"Decoding real and broken videos with the compiled package."
import os
import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from videolights.config import InputError
from videolights.features.protocol import encode_file, encode_timed, get_encoder
from videolights.features.video import MAX_PIXELS, is_container, probe, read_clips, read_views, thumbnails, write_video

av = pytest.importorskip("av")
# file, length in seconds, upright height and width, frames per second: as their headers tell
REAL = [("charades_3MSZA.mp4", 31.0, (270, 480), 30.0), ("charades_Y1HGC.mp4", 30.7, (270, 480), 14.99),
        ("qvh_HY7EC5zXoEE_60.0_210.0.mp4", 150.0, (256, 256), 2.0), ("anet_v_GGSY1Qvo990.mp4", 18.04, (240, 320), 19.62)]


def ramp(seconds, fps, h=48, w=64):
    "Frames whose brightness tells their time: 4 levels a second."
    return [np.full((h, w, 3), 20 + 4 * i / fps, np.uint8) for i in range(round(seconds * fps))]


@pytest.mark.parametrize("name, seconds, size, fps", REAL)
def test_real_video(realdata, name, seconds, size, fps):
    path = realdata / "videos" / name
    info = probe(path)
    assert abs(info.duration_s - seconds) < 0.1 and (info.height, info.width) == size and abs(info.fps - fps) < 0.01
    lengths = [len(list(read_clips(path, clip_seconds, 2, (18, 32)))) for clip_seconds in (1, 2)]
    assert lengths == [int(seconds + 0.5), int(seconds / 2 + 0.5)]
    times = [seconds / 3, 0.0]
    looks = thumbnails(path, times, width=64)
    assert [look.shape for look in looks] == [(round(size[0] * 64 / size[1]), 64, 3)] * 2
    opening = next(read_clips(path, 0.2, 1, looks[1].shape[:2]))[0]
    assert np.abs(opening.astype(int) - looks[1]).mean() < 6                                    # both show the first moments


def test_thumbnails_agree_with_sequential_decoding(realdata):
    path = realdata / "videos" / "qvh_HY7EC5zXoEE_60.0_210.0.mp4"                               # 2 frames a second
    pictures = np.concatenate(list(read_clips(path, 2, 4, (96, 96))))                           # instants .25, .75, ...: each frame once
    for i, look in zip((3, 100, 250, 299), thumbnails(path, [1.5, 50.0, 125.0, 149.5], width=96)):
        assert np.array_equal(look, pictures[i])


def test_builtin_features_of_a_real_video(realdata):
    features = encode_file(get_encoder("builtin"), realdata / "videos" / "qvh_HY7EC5zXoEE_60.0_210.0.mp4", 2)
    assert features.shape == (75, 96) and np.isfinite(features).all() and features.std(0).max() > 0.05


def grey(h, w, level): return av.VideoFrame.from_ndarray(np.full((h, w, 3), level, np.uint8), format="rgb24")


def irregular(path, durations):
    "A video whose frames stay for the given numbers of milliseconds."
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, pts in enumerate(np.cumsum([0, *durations])):
            frame = grey(48, 64, 20 + 20 * i)
            frame.pts, frame.time_base = int(pts), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_variable_frame_rate(tmp_path):
    irregular(tmp_path / "vfr.mp4", [100, 100, 2800, 100, 900])                                 # frames begin at 0, .1, .2, 3, 3.1, 4 s
    levels = [clip.mean((1, 2, 3)) for clip in read_clips(tmp_path / "vfr.mp4", 1, 2)]          # instants .25, .75, 1.25 ... 3.75
    seen = np.round((np.concatenate(levels)[:8] - 20) / 20)
    assert seen.tolist() == [2, 2, 2, 2, 2, 2, 4, 4] and len(levels) == 4
    assert np.round((thumbnails(tmp_path / "vfr.mp4", [2.9])[0].mean() - 20) / 20) == 3


def lossless(path, starts, last, offset=0, h=6, w=10):
    "A video without loss whose frame i begins at starts[i] ms (plus an offset for all) and is of level 3 i; `last` ms is how long the last one stays."
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = w, h, "gray", Fraction(1, 1000)
        for i, (start, end) in enumerate(zip(starts, [*starts[1:], starts[-1] + last])):
            frame = av.VideoFrame.from_ndarray(np.full((h, w), 3 * i, np.uint8), format="gray")
            frame.pts, frame.time_base = int(start + offset), Fraction(1, 1000)
            for packet in stream.encode(frame): packet.duration = int(end - start); container.mux(packet)
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("seed", range(12))
def test_any_frame_times_any_clip_length(tmp_path, seed):
    "Each picture is the last frame that has begun at its instant, whatever the frame rate, the clip's length and the frames per clip."
    rng = np.random.default_rng(seed)
    gaps = rng.choice([[20, 40], [1, 900], [33, 34], [300, 2500]][seed % 4], 70) if seed % 3 else rng.integers(1, 600, 70)
    starts, tau, count, offset = np.cumsum([0, *gaps[:-1]]), float(rng.choice([.3, .5, 1, 1.7, 2, 5])), int(rng.integers(1, 9)), int(rng.choice([0, 0, 777]))
    at = [.5, 0, .9][seed % 5 % 3]
    path = lossless(tmp_path / "v.mkv", starts, gaps[-1], offset)
    clips, end = list(read_clips(path, tau, count, at=at)), (starts[-1] + gaps[-1]) / 1000
    levels = np.concatenate([clip[:, 0, 0, 0] for clip in clips]) / 3
    instants = (np.arange(len(levels)) + at) * tau / count
    assert abs(len(clips) - max(np.floor(end / tau + .5), 1)) <= (abs(end / tau % 1 - .5) < .05 / tau + 1e-3)       # the last frame's stay is rounded by the format
    near = np.abs(starts[:, None] / 1000 - instants).min(0) < 2e-3                                                  # a frame begins just there: either one will do
    shown = np.searchsorted(starts / 1000, instants, side="right") - 1
    assert (near | (np.round(levels) == shown) | (instants > end - .05)).all()


def test_views_are_separate_reads(tmp_path):
    starts = np.cumsum([0, *np.random.default_rng(1).integers(5, 700, 40)])
    path, views = lossless(tmp_path / "v.mkv", starts, 100, h=31, w=45), [(1, None), (32, 16), (4, (12, 20)), (3, 16)]
    for n, (together, *alone) in enumerate(zip(read_views(path, 1.3, views), *(read_clips(path, 1.3, *view) for view in views), strict=True), 1):
        assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
        assert [clip.shape for clip in together] == [(1, 31, 45, 3), (32, 16, 16, 3), (4, 12, 20, 3), (3, 16, 16, 3)]       # odd sizes stay odd
    assert n == int((starts[-1] + 100) / 1300 + .5)


def test_centre_square_keeps_the_proportions(tmp_path):
    picture = np.zeros((60, 120, 3), np.uint8); picture[20:40, 50:70] = 250                     # a square in the middle
    for name, frame in dict(wide=picture, tall=np.rot90(picture)).items():
        square = next(read_clips(write_video(tmp_path / f"{name}.mp4", [frame] * 8, 8), 1, 1, 30))[0, ..., 0] > 125
        assert square.shape == (30, 30) and square[11:19, 11:19].all() and abs(square.sum() - 100) <= 40
        large = next(read_clips(tmp_path / f"{name}.mp4", 1, 1, 90))[0]
        assert large.shape == (90, 90, 3) and large[45, 45].min() > 200                         # small videos are enlarged


def test_a_size_that_changes_on_the_way(tmp_path):
    for name, (h, w) in dict(a=(48, 64), b=(64, 48)).items():
        with av.open(str(tmp_path / f"{name}.h264"), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
            for _ in range(10): container.mux(stream.encode(grey(h, w, 100)))
            container.mux(stream.encode(None))
    (tmp_path / "both.h264").write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    assert {clip.shape for clip in read_clips(tmp_path / "both.h264", .5, 2)} == {(2, 48, 64, 3)}


def test_no_clip_is_lost_between_frame_rates(tmp_path):
    for fps in (1, 3, 25):
        write_video(tmp_path / "v.mp4", ramp(7, fps), fps)
        levels = np.concatenate([clip.mean((1, 2, 3)) for clip in read_clips(tmp_path / "v.mp4", 1, 1)])
        assert len(levels) == 7 and np.abs(levels - 22 - 4 * np.arange(7)).max() < 5            # clip l is seen at l + 1/2


def test_rotated_video_comes_upright(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8); picture[:24, :32] = 250                          # bright at the top left
    raw = bytearray(write_video(tmp_path / "lying.mp4", [picture] * 8, 8).read_bytes())
    matrix = raw.index(b"tkhd") + 4 + 40
    clockwise = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30], ">i4")        # shown a quarter turn clockwise
    raw[matrix:matrix + 36] = clockwise.tobytes()
    (tmp_path / "upright.mp4").write_bytes(raw)
    info, clip = probe(tmp_path / "upright.mp4"), next(read_clips(tmp_path / "upright.mp4", 1, 2))
    assert (info.height, info.width) == (64, 48) and clip.shape == (2, 64, 48, 3)
    assert clip[0, :32, 24:].mean() > 200 and clip[0, 32:].mean() < 30                          # now at the top right
    assert next(read_clips(tmp_path / "upright.mp4", 1, 2, (32, 24))).shape == (2, 32, 24, 3)
    assert thumbnails(tmp_path / "upright.mp4", [0.5], width=24)[0].shape == (32, 24, 3)


def sound(path, pictures=()):
    "A file with a sound track and one small and one larger picture stream, or none."
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        videos = [container.add_stream("mpeg4", rate=10) for _ in pictures]
        for stream, (h, w) in zip(videos, pictures): stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
        for _ in range(20):
            for stream, (h, w) in zip(videos, pictures): container.mux(stream.encode(grey(h, w, h)))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono"); frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        for stream in (audio, *videos): container.mux(stream.encode(None))


def test_largest_of_several_streams(tmp_path):
    sound(tmp_path / "many.mp4", [(32, 48), (64, 96)])
    assert next(read_clips(tmp_path / "many.mp4", 2)).shape == (4, 64, 96, 3)


def broken(folder):
    "Files that are no video, each with its own trouble."
    whole = write_video(folder / "whole.mp4", np.random.default_rng(0).integers(0, 255, (80, 48, 64, 3)).astype(np.uint8), 8).read_bytes()
    with av.open(str(folder / "whole.mp4")) as source, av.open(str(folder / "front.mp4"), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None: packet.stream = stream; target.mux(packet)
    (folder / "front.mp4").write_bytes((folder / "front.mp4").read_bytes()[:len(whole) // 2])     # its index is whole, its pictures are not
    with pytest.raises(InputError, match=r"front.mp4: .*cut short"): list(read_clips(folder / "front.mp4", 2))
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 500)
    (folder / "text.txt").write_text("no video\n" * 500)
    (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    sound(folder / "sound.mp4")
    return ["zero.mp4", "text.mp4", "text.txt", "cut.mp4", "sound.mp4", "missing.mp4", "."]


def test_broken_files_are_named(tmp_path):
    for name in broken(tmp_path):
        for read in (probe, lambda p: list(read_clips(p, 2)), lambda p: thumbnails(p, [0.0])):
            with pytest.raises(InputError) as error: read(tmp_path / name)
            assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value) and ";" in str(error.value)


def test_a_download_that_stopped_is_noticed(realdata, tmp_path):
    for name, *_ in REAL:   # wherever its index lies, half a file is not enough
        data = (realdata / "videos" / name).read_bytes()
        (tmp_path / name).write_bytes(data[:len(data) // 2])
        with pytest.raises(InputError, match="cut short"): list(read_clips(tmp_path / name, 2, 1, (18, 32)))


# name: codecs of picture and sound, the format and its options where the ending does not say them
WRITTEN = {"a.mp4": ("libx264", "aac"), "front.mp4": ("libx264", "aac", None, {"movflags": "faststart"}), "parts.mp4": ("libx264", None, None, {"movflags": "frag_keyframe+empty_moov"}),
           "a.mov": ("mpeg4", "aac"), "a.mkv": ("libx264", "aac"), "live.mkv": ("mpeg4", None, None, {"live": "1"}), "a.webm": ("libvpx", "libopus"), "a.flv": ("flv", "libmp3lame"),
           "b.flv": ("libx264", "aac"), "a.avi": ("mpeg4", "libmp3lame"), "b.avi": ("mjpeg", None), "a.ts": ("libx264", "aac"), "b.ts": ("mpeg2video", None), "a.mpg": ("mpeg2video", "mp2", "vob"),
           "a.ogv": ("libvpx", "libopus", "ogg"), "a.wmv": ("wmv2", "aac", "asf"), "a.gif": ("gif", None, "gif"), "a.ivf": ("libvpx", None, "ivf")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    "Six seconds of noise in every format; the sound of a.mkv and a.mp4 lasts nine."
    def write(name):
        (codec, sound, *rest), path = WRITTEN[name], folder / name
        if path.exists(): return path
        if not {codec, sound or codec} <= av.codecs_available: pytest.skip(f"this build does not write {codec} and {sound}")
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
        with av.open(str(path), "w", format=rest[0] if rest else None, options=dict(rest[1:] and rest[1])) as container:
            stream = container.add_stream(codec, rate=25, options={"preset": "ultrafast"} if codec == "libx264" else {})
            stream.width, stream.height, stream.pix_fmt = 64, 48, dict(gif="rgb8", mjpeg="yuvj420p").get(codec, "yuv420p")
            audio = sound and container.add_stream(sound, rate=48000, layout="mono")
            seconds = 9 if name in ("a.mkv", "a.mp4") else 6
            for i in range(25 * seconds):
                if i < 150: container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(pixels, i, 1), format="rgb24")))
                if not audio: continue
                block = av.AudioFrame.from_ndarray(np.full((1, 1920), i % 7 / 9, np.float32), format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 48000, 1920 * i, Fraction(1, 48000)
                container.mux(audio.encode(block))
            for track in filter(None, (stream, audio)): container.mux(track.encode(None))
        return path
    folder = tmp_path_factory.mktemp("written")
    return write


@pytest.mark.parametrize("name", WRITTEN)
def test_whole_files_are_read_and_cut_ones_refused(written, tmp_path, name):
    path = written(name)
    assert is_container(path)
    assert len(list(read_clips(path, 1, 1, (8, 8)))) == 6
    assert abs(probe(path).duration_s - 6) < .11
    for share in (.1, .3, .5, .6, .75, .9, .96):
        cut = tmp_path / name
        cut.write_bytes(path.read_bytes()[:int(path.stat().st_size * share) // 188 * 188 + 77])
        with pytest.raises(InputError, match=f"{name}: .*(cut short|convert it again)"): print(share, len(list(read_clips(cut, 1, 1, (8, 8)))))


def lie(data, seconds):
    "A file whose header says another length."
    if data[4:8] == b"ftyp":
        at = data.index(b"mdhd") + 20
        return data[:at] + struct.pack(">I", int(seconds * struct.unpack(">I", data[at - 4:at])[0])) + data[at + 4:]
    if data[:4] == b"RIFF":
        at = data.index(b"strh") + 40
        return data[:at] + struct.pack("<I", int(seconds * 25)) + data[at + 4:]
    mark, unit = (b"duration\0", 1) if data[:3] == b"FLV" else (b"\x44\x89\x88", 1000)
    at = data.index(mark) + len(mark)
    return data[:at] + struct.pack(">d", seconds * unit) + data[at + 8:]


@pytest.mark.parametrize("name", ["a.mp4", "front.mp4", "a.mov", "a.mkv", "a.webm", "a.flv", "b.flv", "b.avi"])
def test_what_was_decoded_overrules_the_header(written, tmp_path, name, capsys):
    for seconds in (0, .04, 2, 60, 20000):
        (tmp_path / name).write_bytes(lie(written(name).read_bytes(), seconds))
        assert abs(probe(tmp_path / name).duration_s - 6) < .1
        with pytest.raises(InputError, match="is longer than 3 s"): list(read_clips(tmp_path / name, 1, 1, (8, 8), max_seconds=3))
        try: features, length = encode_timed(get_encoder("builtin"), tmp_path / name, 1)
        except InputError as e: assert seconds > 6 and "cut short" in str(e)
        else: assert len(features) == 6 and abs(length - 6) < .1
        assert not 0 < seconds < 6 or name in ("front.mp4",) or f"{name}: its header says" in capsys.readouterr().err


def test_answers_lie_inside_what_was_decoded(written, root, tmp_path):
    pytest.importorskip("onnxruntime")
    from videolights.deploy.runtime import Runtime
    runtime = Runtime.load(root / "exported" / "toyworld", "cpu")
    for seconds in (0, 2):
        (tmp_path / "a.mkv").write_bytes(lie(written("a.mkv").read_bytes(), seconds))
        answer, = runtime.predict_video(tmp_path / "a.mkv", "a red circle")
        assert abs(answer.duration_s - 6) < .1
        assert (answer.windows[:, 0] < answer.windows[:, 1]).all()
    with pytest.raises(InputError, match="longer than 5 s"): runtime.predict_video(tmp_path / "a.mkv", "a red circle", max_seconds=5)


def shifted(source, target, shift, sound=0):
    "Copy packets, later by some seconds."
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        tracks = {s.index: container.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is None: continue
            later = int((shift + sound * (packet.stream.type == "audio")) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, tracks[packet.stream.index]
            container.mux(packet)
    return target


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv"])
def test_times_that_begin_late_are_no_lie(written, tmp_path, ending, capsys):
    for shift, sound in ((0, 0), (100, 0), (0, 5)):
        path = shifted(written("front.mp4"), tmp_path / f"late.{ending}", shift, sound)
        assert len(list(read_clips(path, 1, 1, (8, 8)))) == 6
        assert abs(probe(path).duration_s - 6) < .11
    assert not capsys.readouterr().err


def test_recordings_begin_anywhere_and_joined_ones_are_not_half_read(written, tmp_path):
    data = written("b.ts").read_bytes()
    (tmp_path / "late.ts").write_bytes(data[188 * 40 + 77:])                                    # in the middle of a packet
    assert 2 < probe(tmp_path / "late.ts").duration_s < 6
    assert list(read_clips(tmp_path / "late.ts", 1, 1, (8, 8)))
    (tmp_path / "joined.ts").write_bytes(data * 2)
    with pytest.raises(InputError, match="jumps back after 6.0 s"): list(read_clips(tmp_path / "joined.ts", 1))


LISTS = {"concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n", "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n",
         "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n", "call.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
         "dash.mp4": '<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><BaseURL>secret.mp4</BaseURL></MPD>', "play.asx": '<asx><entry><ref href="secret.mp4"/></entry></asx>'}


@pytest.mark.parametrize("name", LISTS)
def test_a_text_that_names_other_files_is_no_video(written, tmp_path, name):
    for secret in ("a.mp4", "a.ts"): shutil.copy(written(secret), tmp_path / secret.replace("a", "secret", 1))
    for head in ("", "FLV\1", "GIF89a", "OggS\n"):                                               # dressed up as something else, too
        (tmp_path / name).write_text(head + LISTS[name])
        for read in (probe, lambda p: list(read_clips(p, 2)), lambda p: thumbnails(p, [0.0])):
            with pytest.raises(InputError, match=re.escape(name)): read(tmp_path / name)


@pytest.mark.parametrize("name", ["concat:a.mp4", "pipe:0", "http:a.mp4", "subfile,,start,0,end,9,,:a.mp4", "-", "%03d.mp4", "data:a", "a b\n.mp4"])
def test_names_are_only_names(written, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such video file"): probe(name)
    shutil.copy(written("a.mp4"), tmp_path / name)
    assert abs(probe(name).duration_s - 6) < .1


def plain(path, width, height, frames=20, codec="libx264", format=None):
    "Grey pictures of any size, which compress to nothing."
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=10, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = width, height, "gray" if codec == "ffv1" else "yuv420p", 1
        frame = av.VideoFrame(width, height, stream.pix_fmt)
        for plane in frame.planes: plane.update(bytes(plane.buffer_size))
        for i in range(frames):
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path):
    "The bound leaves room for 8K; a picture that grows on the way is refused, too."
    assert 7680 * 4320 <= MAX_PIXELS < 8000 * 8000
    plain(tmp_path / "huge.mp4", 8000, 8000, 2)
    if not os.path.exists("/proc/self/status"): pytest.skip("nothing tells a process's own peak of memory here")
    code = ("import re, sys; from videolights.features.video import probe, read_clips; from videolights.config import InputError\n"
            "for read in (probe, lambda p: list(read_clips(p, 2, 1, 8))):\n"
            "    try: read(sys.argv[1])\n    except InputError as e: print(e)\n"
            "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])")
    *said, peak_kb = subprocess.run([sys.executable, "-c", code, tmp_path / "huge.mp4"], capture_output=True, text=True, check=True, env=os.environ).stdout.splitlines()
    assert len(said) == 2 and all("huge.mp4: its pictures are 8000 x 8000" in line for line in said)
    assert int(peak_kb) < 200_000                                                               # one such picture is 96 MB, a decoder holds several
    small = plain(tmp_path / "small.h264", 64, 48, format="h264").read_bytes()
    (tmp_path / "grows.h264").write_bytes(small + plain(tmp_path / "huge.h264", 8000, 8000, 2, format="h264").read_bytes())
    with pytest.raises(InputError, match="grows.h264"): list(read_clips(tmp_path / "grows.h264", 1, 1, (8, 8)))
    with pytest.raises(InputError, match="small.h264: its pictures are 64 x 48"): probe(tmp_path / "small.h264", max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("width, height", [(2, 8000), (16384, 2), (2, 2)])
def test_narrow_pictures(tmp_path, width, height):
    path = plain(tmp_path / "narrow.mkv", width, height, codec="ffv1")
    assert next(read_clips(path, 1, 2, (24, 32))).shape == (2, 24, 32, 3)
    for read in (lambda: next(read_clips(path, 1, 1, 224)).shape, lambda: thumbnails(path, [0.0])[0].shape):
        try: assert max(read()) <= 224
        except InputError as e: assert f"narrow.mkv: its pictures, {width} x {height}, are too narrow" in str(e)


def test_memory_is_bounded_by_a_clip(tmp_path):
    write_video(tmp_path / "long.mp4", (np.full((240, 320, 3), i % 200, np.uint8) for i in range(1200)), 10)
    code = ("import resource, sys; from videolights.features.video import read_clips; "
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
            "clips = read_clips(sys.argv[1], 2, 20); next(clips); before = peak(); print(sum(1 for _ in clips), peak() - before)")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "long.mp4"], capture_output=True, text=True, check=True, env=os.environ)
    clips, grown_kb = map(int, done.stdout.split())
    assert clips == 59 and grown_kb < 40_000                                                    # all frames together are 276 MB


@pytest.mark.parametrize("name, gop", [("sparse.ts", 250), ("dense.ts", 30), ("other.m2ts", 50)])
def test_pictures_of_a_broadcast_without_an_index(tmp_path, name, gop):
    "A seek in such a file may come out at a later key frame, or behind the end."
    rng, seconds, fps = np.random.default_rng(0), 16, 25
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "sc_threshold": "0"})
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.gop_size = 96, 128, "yuv420p", gop
        for i in range(seconds * fps):
            noise = np.clip(rng.normal(20 + 12 * i / fps, 15, (96, 128, 1)), 0, 255).astype(np.uint8).repeat(3, 2)       # 12 levels a second
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    times = np.array([12.3, 0, .3, 2.2, 2.45, 5.01, 9.9, 15.2, 15.9, 99])
    looks = thumbnails(tmp_path / name, times, width=128)
    with av.open(str(tmp_path / name)) as container: frames = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    wanted = [min(frames, key=lambda frame: abs(frame[0] - frames[0][0] - t))[1] for t in times]
    assert np.abs([look.mean() for look in looks] - np.array(wanted)).max() < 2.5                                     # within a fifth of a second


def test_without_pyav_the_cure_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r'pip install "videolights\[video\]"'): probe(tmp_path / "x.mp4")


def test_features_do_not_depend_on_the_process(tmp_path):
    code = ("import sys; from videolights.data.toyworld import make_toyworld; from videolights.files import read_array; "
            "folder = make_toyworld(sys.argv[1], train_videos=1, val_videos=1, progress=False).parent; "
            "print(read_array(folder / 'builtin_video/toy_val_0000.npz').tobytes().hex(), (folder / 'annotations/val.jsonl').read_text())")
    run = lambda seed: subprocess.run([sys.executable, "-c", code, tmp_path / seed], capture_output=True, text=True, check=True,
                                      env={**os.environ, "PYTHONHASHSEED": seed}).stdout
    first, second = run("1"), run("2")
    assert first == second and "relevant_windows" in first
