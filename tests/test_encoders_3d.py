"SlowFast, I3D and BLIP-2: architecture against the published one, weights by name, bad files, real videos."
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from videolights.config import InputError
from videolights.encoders.i3d import I3D, I3DEncoder
from videolights.encoders.networks import read_weights
from videolights.features.protocol import encode_file, get_encoder
from videolights.encoders.slowfast import SlowFast, SlowFastEncoder, load_slowfast, pyslowfast_name


def norm(name, channels): return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def published_slowfast():
    "Names and shapes of PyTorchVideo's slowfast_r50, written down from the published table of layers, not from our network."
    found = {}
    for pathway, (out, frames) in enumerate([(64, 1), (8, 5)]):
        found |= {f"blocks.0.multipathway_blocks.{pathway}.conv.weight": (out, 3, frames, 7, 7)} | norm(f"blocks.0.multipathway_blocks.{pathway}.norm", out)
    for stage, fast in enumerate([8, 32, 64, 128]):
        name = f"blocks.{stage}.multipathway_fusion"
        found |= {f"{name}.conv_fast_to_slow.weight": (2 * fast, fast, 7, 1, 1)} | norm(f"{name}.norm", 2 * fast)
    tables = [([80, 256, 512, 1024], [64, 128, 256, 512], [256, 512, 1024, 2048], [1, 1, 3, 3]), ([8, 32, 64, 128], [8, 16, 32, 64], [32, 64, 128, 256], [3, 3, 3, 3])]
    for pathway, table in enumerate(tables):
        for stage, (inputs, inner, out, frames, depth) in enumerate(zip(*table, [3, 4, 6, 3]), 1):
            if pathway == 0 and stage > 1: inputs += [0, 64, 128, 256][stage - 1]                       # what the fast pathway hands over
            for block in range(depth):
                name, into = f"blocks.{stage}.multipathway_blocks.{pathway}.res_blocks.{block}", out if block else inputs
                if not block: found |= {f"{name}.branch1_conv.weight": (out, into, 1, 1, 1)} | norm(f"{name}.branch1_norm", out)
                shapes = dict(a=(inner, into, frames, 1, 1), b=(inner, inner, 1, 3, 3), c=(out, inner, 1, 1, 1))
                for letter, shape in shapes.items(): found |= {f"{name}.branch2.conv_{letter}.weight": shape} | norm(f"{name}.branch2.norm_{letter}", shape[0])
    return found | {"blocks.6.proj.weight": (400, 2304), "blocks.6.proj.bias": (400,)}


def test_slowfast_is_the_published_network():
    with torch.device("meta"): network = SlowFast(classes=400)
    ours = {name: tuple(v.shape) for name, v in network.state_dict().items() if "tracked" not in name}
    assert {pyslowfast_name(name): shape for name, shape in published_slowfast().items()} == ours
    assert sum(p.numel() for p in network.parameters()) == 34_566_488


def test_slowfast_at_full_size():
    network = SlowFast().eval()
    with torch.inference_mode(): rows = network(torch.randn(1, 3, 32, 64, 64))
    assert rows.shape == (1, 2304)
    assert rows.isfinite().all()
    assert (rows >= 0).all()    # averages of what a ReLU let through


def test_what_each_pathway_sees():
    "A change in a frame that the slow pathway skips reaches the fast one alone, and through it the slow one's fused channels."
    network, seen = SlowFast(8, (1, 1, 1, 1)).eval(), []
    network.s1.register_forward_pre_hook(lambda module, pathways: seen.append(pathways))
    x = torch.arange(32.)[None, None, :, None, None].expand(1, 3, 32, 16, 16)
    with torch.inference_mode(): network(x)
    slow, fast = (pathway[0, 0, :, 0, 0].tolist() for pathway in seen[0])
    assert slow == [0, 4, 8, 13, 17, 22, 26, 31]
    assert fast == list(range(32))


def published_i3d():
    "Names and shapes of pytorch-i3d's rgb_imagenet.pt, from the published table of layers."
    def unit(name, inputs, out, kernel): return {f"{name}.conv3d.weight": (out, inputs, *(kernel,) * 3)} | norm(f"{name}.bn", out)
    found = unit("Conv3d_1a_7x7", 3, 64, 7) | unit("Conv3d_2b_1x1", 64, 64, 1) | unit("Conv3d_2c_3x3", 64, 192, 3)
    table = """3b 192 64 96 128 16 32 32|3c 256 128 128 192 32 96 64|4b 480 192 96 208 16 48 64|4c 512 160 112 224 24 64 64|4d 512 128 128 256 24 64 64
               |4e 512 112 144 288 32 64 64|4f 528 256 160 320 32 128 128|5b 832 256 160 320 32 128 128|5c 832 384 192 384 48 128 128"""
    for row in table.split("|"):
        name, *numbers = row.split()
        inputs, b0, b1a, b1b, b2a, b2b, b3b = map(int, numbers)
        for part, into, out, kernel in [("b0", inputs, b0, 1), ("b1a", inputs, b1a, 1), ("b1b", b1a, b1b, 3), ("b2a", inputs, b2a, 1), ("b2b", b2a, b2b, 3), ("b3b", inputs, b3b, 1)]:
            found |= unit(f"Mixed_{name}.{part}", into, out, kernel)
    return found | {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}


def test_i3d_is_the_published_network():
    with torch.device("meta"): network = I3D(classes=400)
    assert {name: tuple(v.shape) for name, v in network.state_dict().items() if "tracked" not in name} == published_i3d()


def filled(network):
    "A network whose every number is another one, so that two swapped tensors are noticed."
    torch.manual_seed(1)
    for value in network.state_dict().values():
        if value.dtype.is_floating_point: value.copy_(torch.rand_like(value) * .2 + .1)
    return network.eval()


SMALL = dict(width=8, depths=(1, 2, 1, 1))


def test_slowfast_weights_by_pytorchvideo_names(tmp_path):
    network = filled(SlowFast(**SMALL, classes=3))
    names = {pyslowfast_name(name): name for name in published_slowfast()}
    torch.save({"model_state": {names[n]: v for n, v in network.state_dict().items() if n in names}}, tmp_path / "SLOWFAST_8x8_R50.pyth")
    x = torch.randn(2, 3, 8, 16, 16)
    with torch.inference_mode(): assert torch.equal(load_slowfast(tmp_path / "SLOWFAST_8x8_R50.pyth", SlowFast(**SMALL))(x), network(x))


def test_rows_depend_on_their_clip_alone():
    clips = np.random.default_rng(0).integers(0, 256, (7, 16, 64, 64, 3)).astype(np.uint8)
    for encoder in (SlowFastEncoder(filled(SlowFast(**SMALL)), frames=16, size=64, device="cpu"), I3DEncoder(filled(I3D(share=1 / 32)), frames=16, size=64, device="cpu")):
        rows = encoder.encode_video(iter(clips))
        assert rows.dtype == np.float32
        assert rows.shape == (7, encoder.video_dim)
        for size in (1, 3): encoder.batch = size; np.testing.assert_allclose(encoder.encode_video(clips), rows, rtol=1e-4)
        np.testing.assert_allclose(encoder.encode_video(clips[[5, 5, 2]]), rows[[5, 5, 2]], rtol=1e-4)


class Trap:
    def __reduce__(self): return (open, ("/nonexistent/opened", "w"))


def test_bad_weights_are_one_line(tmp_path):
    good = {name: v for name, v in SlowFast(**SMALL).state_dict().items()}
    torch.save(good, tmp_path / "good.pyth")
    torch.save({"model_state": Trap()}, tmp_path / "trap.pyth")
    torch.save(Trap(), tmp_path / "old_trap.pyth", _use_new_zipfile_serialization=False)
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Trap()}}, 2))
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": np.array([{}], object)}}, 2))
    (tmp_path / "no_blobs.pkl").write_bytes(pickle.dumps({"cfg": 1}, 2))
    (tmp_path / "cut.pyth").write_bytes((tmp_path / "good.pyth").read_bytes()[:9999])
    (tmp_path / "empty.pyth").touch()
    (tmp_path / "page.pyth").write_text("<html>404</html>")
    torch.save(good | {"s1.pathway0_stem.conv.weight": torch.zeros(9, 3, 1, 7, 7)}, tmp_path / "wide.pyth")
    torch.save({n: v for n, v in good.items() if "s4" not in n}, tmp_path / "short.pyth")
    for path in sorted(tmp_path.iterdir()):
        if path.name == "good.pyth": continue
        with pytest.raises(InputError) as error: load_slowfast(path, SlowFast(**SMALL))
        assert str(path) in str(error.value) and "\n" not in str(error.value) and "weights_only" not in str(error.value), path
    with pytest.raises(InputError, match="refused, it wants to build"): read_weights(tmp_path / "trap.pkl")
    load_slowfast(tmp_path / "good.pyth", SlowFast(**SMALL))


@pytest.mark.parametrize("name, cure", [("slowfast", "get SLOWFAST_8x8_R50.pkl"), ("i3d_rgb", "get rgb_imagenet.pt")])
def test_missing_weights_say_what_to_get(name, cure, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOLIGHTS_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}.*{cure}.*put it into {tmp_path}"): get_encoder(name, device="cpu")
    with pytest.raises(InputError, match=f"elsewhere: no such file; {cure}"): get_encoder(name, device="cpu", weights=tmp_path / "elsewhere")


def test_blip2_without_some_weights_is_refused(tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file
    from videolights.encoders.blip2 import Blip2Encoder, random_blip2
    folder = random_blip2(tmp_path / "blip2")
    assert Blip2Encoder.from_pretrained(folder, device="cpu").encode_text(["A dog!"])[0].shape == (4, 24)
    state = load_file(folder / "model.safetensors")
    save_file({n: v for n, v in state.items() if "qformer.encoder.layer.1" not in n}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="weights are missing, such as qformer"): Blip2Encoder.from_pretrained(folder, device="cpu")


def test_real_video_has_the_rows_of_the_packs(realdata):
    stored = np.load(next((realdata / "qvhighlights/release_layout/slowfast_video_features").glob("*.npz")))["features"]
    assert len(stored) == 75
    assert stored.shape[1] == 2304
    assert (stored >= 0).all()    # what a ReLU lets through, as with ours
    encoder = SlowFastEncoder(SlowFast(8, (1, 1, 1, 1)), size=32, device="cpu", batch=16)
    rows = encode_file(encoder, realdata / "videos/qvh_HY7EC5zXoEE_60.0_210.0.mp4", 2)
    assert len(rows) == len(stored)
    assert (rows >= 0).all()
