"""Checkpoints of e4e and pSp: every weight used, the result worked out a second time, bad files refused.

The full-size network with random weights stands for the real ones; most are stored in half precision to
spare the disk.
"""

import argparse
import shutil
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dystyle import FaceEditor, InputError
from dystyle.encoders.fast import FastEncoder
from dystyle.encoders.psp import PspEncoder
from dystyle.engines.cache import engine_file
from dystyle.engines.graphs import TorchBackend, module
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.weights import BUNDLED

TYPES = {"e4e": "Encoder4Editing", "psp": "GradualStyleEncoder"}
# Width and stride of the 24 units of IR-SE50.
UNITS = [(depth, 1 if i else 2) for depth, n in ((64, 3), (128, 4), (256, 14), (512, 3)) for i in range(n)]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every key of a published encoder with its shape."""
    shapes = {}

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"encoder.{name}.{part}"] = (channels,)
        shapes[f"encoder.{name}.num_batches_tracked"] = ()

    shapes["encoder.input_layer.0.weight"] = (64, 3, 3, 3)
    norm("input_layer.1", 64)
    shapes["encoder.input_layer.2.weight"] = (64,)
    width = 64
    for index, (depth, _) in enumerate(UNITS):
        unit = f"body.{index}"
        if depth != width:
            shapes[f"encoder.{unit}.shortcut_layer.0.weight"] = (depth, width, 1, 1)
            norm(f"{unit}.shortcut_layer.1", depth)
        norm(f"{unit}.res_layer.0", width)
        shapes[f"encoder.{unit}.res_layer.1.weight"] = (depth, width, 3, 3)
        shapes[f"encoder.{unit}.res_layer.2.weight"] = (depth,)
        shapes[f"encoder.{unit}.res_layer.3.weight"] = (depth, depth, 3, 3)
        norm(f"{unit}.res_layer.4", depth)
        shapes[f"encoder.{unit}.res_layer.5.fc1.weight"] = (depth // 16, depth, 1, 1)
        shapes[f"encoder.{unit}.res_layer.5.fc2.weight"] = (depth, depth // 16, 1, 1)
        width = depth
    for row in range(18):
        for layer in range(4 if row < 3 else 5 if row < 7 else 6):
            shapes[f"encoder.styles.{row}.convs.{2 * layer}.weight"] = (512, 512, 3, 3)
            shapes[f"encoder.styles.{row}.convs.{2 * layer}.bias"] = (512,)
        shapes[f"encoder.styles.{row}.linear.weight"] = (512, 512)
        shapes[f"encoder.styles.{row}.linear.bias"] = (512,)
    for name, channels in (("latlayer1", 256), ("latlayer2", 128)):
        shapes[f"encoder.{name}.weight"], shapes[f"encoder.{name}.bias"] = (512, channels, 1, 1), (512,)
    return shapes


def random_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight that neither silences nor blows up what passes through."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if key.endswith("linear.weight"):
        return torch.randn(shape)
    if len(shape) > 1:
        weight = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
        return weight.half() if "convs" in key else weight
    if key.endswith("running_var"):
        return torch.rand(shape) + 0.5
    is_scale = key.endswith("weight")
    return torch.randn(shape) * 0.1 + (0.5 if is_scale else 0)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {key: random_weight(key, shape) for key, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def latent_avg():
    return torch.randn(18, 512, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def checkpoints(state, latent_avg, tmp_path_factory):
    """A full-size file of each kind: options as dictionary and as namespace, average of 18 rows and of 1."""
    folder = tmp_path_factory.mktemp("checkpoints")
    weights = OrderedDict(state, **{"decoder.style.1.weight": torch.randn(512, 512)})
    weights._metadata = OrderedDict({"": {"version": 1}})  # as Module.state_dict() leaves it
    opts = {"encoder_type": TYPES["e4e"], "stylegan_size": 1024, "lr": 1e-4, "start_from_latent_avg": True}
    average = {"e4e": latent_avg, "psp": latent_avg[0].clone()}
    files = {kind: folder / f"{kind}_ffhq_encode.pt" for kind in TYPES}
    torch.save({"state_dict": weights, "latent_avg": average["e4e"], "opts": opts}, files["e4e"])
    opts = argparse.Namespace(**{**opts, "encoder_type": TYPES["psp"]})
    torch.save({"state_dict": weights, "latent_avg": average["psp"], "opts": opts}, files["psp"])
    yield files
    shutil.rmtree(folder)  # a gigabyte, which pytest would keep for days
    module.cache_clear()


@pytest.fixture(scope="module")
def portrait():
    return np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def rows(state, portrait):
    """What the 18 style networks say about the portrait, (18, 512), from the weights by the papers' rules."""

    def get(name):
        return state[f"encoder.{name}"].float()

    def norm(x, name):
        mean, deviation = get(f"{name}.running_mean"), (get(f"{name}.running_var") + 1e-5).sqrt()
        scale = get(f"{name}.weight") / deviation
        return x * scale[:, None, None] + (get(f"{name}.bias") - mean * scale)[:, None, None]

    def prelu(x, name):
        return torch.where(x > 0, x, x * get(f"{name}.weight")[:, None, None])

    x = torch.from_numpy(portrait).permute(0, 3, 1, 2) / 127.5 - 1
    x = prelu(norm(F.conv2d(x, get("input_layer.0.weight"), padding=1), "input_layer.1"), "input_layer.2")
    taps = []
    for index, (depth, stride) in enumerate(UNITS):
        name = f"body.{index}"
        short = x[:, :, ::stride, ::stride]
        if x.shape[1] != depth:
            weight = get(f"{name}.shortcut_layer.0.weight")
            short = norm(F.conv2d(short, weight), f"{name}.shortcut_layer.1")
        x = F.conv2d(norm(x, f"{name}.res_layer.0"), get(f"{name}.res_layer.1.weight"), padding=1)
        x = prelu(x, f"{name}.res_layer.2")
        x = F.conv2d(x, get(f"{name}.res_layer.3.weight"), stride=stride, padding=1)
        x = norm(x, f"{name}.res_layer.4")
        inner = torch.relu(get(f"{name}.res_layer.5.fc1.weight")[:, :, 0, 0] @ x.mean((2, 3))[0])
        gate = torch.sigmoid(get(f"{name}.res_layer.5.fc2.weight")[:, :, 0, 0] @ inner)
        x = x * gate[:, None, None] + short
        taps += [x] if index in (6, 20, 23) else []
    c1, c2, c3 = taps

    def merge(coarse, fine, name):
        size = fine.shape[2:]
        up = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
        return up + F.conv2d(fine, get(f"{name}.weight"), get(f"{name}.bias"))

    p2 = merge(c3, c2, "latlayer1")
    p1 = merge(p2, c1, "latlayer2")
    said = []
    for row in range(18):
        x, layer = c3 if row < 3 else p2 if row < 7 else p1, 0
        while x.shape[-1] > 1:
            name = f"styles.{row}.convs.{layer}"
            x = F.conv2d(x, get(f"{name}.weight"), get(f"{name}.bias"), stride=2, padding=1)
            x, layer = torch.where(x > 0, x, x * 0.01), layer + 2
        weight, bias = get(f"styles.{row}.linear.weight"), get(f"styles.{row}.linear.bias")
        said.append(weight / 512**0.5 @ x[0, :, 0, 0] + bias)
    return torch.stack(said).numpy()


def test_e4e_adds_offsets_to_the_first_row(checkpoints, state, rows, latent_avg, portrait):
    encoder = PspEncoder.load(checkpoints["e4e"])
    loaded = encoder.state_dict()
    assert {f"encoder.{key}" for key in loaded} == state.keys()
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.values())
    assert all(torch.equal(value, state[f"encoder.{key}"].to(value.dtype)) for key, value in loaded.items())
    assert sum(p.numel() for p in encoder.parameters()) > 267e6
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    images = torch.from_numpy(portrait).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        code = encoder(images)[0].numpy()
    expected = np.concatenate((rows[:1], rows[:1] + rows[1:])) + latent_avg.numpy()
    assert rows.std() > 0.1 and np.abs(rows[1:] - rows[:1]).mean() > 0.1  # no row is another one's
    np.testing.assert_allclose(code, expected, rtol=1e-4, atol=1e-4)


def test_psp_reads_every_row(checkpoints, rows, latent_avg, portrait):
    """Through the reference backend, from uint8."""
    code = TorchBackend().run(f"encoder:{checkpoints['psp']}", portrait)[0]
    assert code.shape == (1, 18, 512) and code.dtype == np.float32
    np.testing.assert_allclose(code[0], rows + latent_avg[0].numpy(), rtol=1e-4, atol=1e-4)


def hollow(shape: tuple[int, ...], key: str = "") -> torch.Tensor:
    """A weight of any shape that takes four bytes in a file."""
    return torch.zeros((), dtype=torch.int64 if "num_batches" in key else torch.float32).expand(shape)


@pytest.fixture
def write(tmp_path):
    """Write a checkpoint of the right structure after a function has changed it."""

    def call(change) -> str:
        weights = {key: hollow(shape, key) for key, shape in published_shapes().items()}
        checkpoint = {"state_dict": weights, "opts": {"encoder_type": TYPES["e4e"]}}
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "changed.pt")
        return str(tmp_path / "changed.pt")

    return call


def test_a_checkpoint_without_an_average_adds_none(write):
    assert not PspEncoder.load(write(lambda c: None)).latent_avg.any()


def test_names_of_a_training_on_several_devices_are_read(write):
    def wrap(checkpoint) -> None:
        checkpoint["state_dict"] = {f"module.{key}": w for key, w in checkpoint["state_dict"].items()}

    assert PspEncoder.load(write(wrap)).kind == "e4e"


BODY, STYLE = "encoder.body.3.res_layer.2.weight", "encoder.styles.17.linear.bias"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["state_dict"].pop(BODY), f"'{BODY}' is missing"),
        (lambda c: [c["state_dict"].pop(key) for key in (STYLE, BODY)], f"'{BODY}' is missing"),
        (
            lambda c: c["state_dict"].update({"encoder.styles.18.linear.bias": hollow((512,))}),
            "'encoder.styles.18.linear.bias' is unknown",
        ),
        (
            lambda c: c["state_dict"].update({STYLE: hollow((511,))}),
            f"'{STYLE}' has the shape (511,), not (512,)",
        ),
        (lambda c: c["state_dict"].update({STYLE: [0.0] * 512}), f"'{STYLE}' is not a tensor"),
        (lambda c: c.update(latent_avg=hollow((18, 511))), "'latent_avg'"),
        (lambda c: c.pop("opts"), "encoder_type in its opts has to be Encoder4Editing or GradualStyle"),
        (lambda c: c["opts"].update(encoder_type="BackboneEncoder"), "not BackboneEncoder"),
        (lambda c: c.pop("state_dict"), "not a checkpoint of pSp or encoder4editing"),
        (lambda c: c.update(state_dict=[1, 2]), "not a checkpoint"),
        (lambda c: c.update(state_dict={1: hollow((2,))}), "not a checkpoint"),
    ],
)
def test_what_does_not_fit_is_named(write, change, sentence):
    with pytest.raises(InputError) as caught:
        PspEncoder.load(write(change))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"Encoder4Editing") + 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        flip_a_bit,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>quota exceeded</html>"),
        lambda path: shutil.copy(BUNDLED / "preview_heads.safetensors", path),
        lambda path: torch.save(torch.zeros(3), path),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_damaged_and_foreign_files_are_refused(write, tmp_path, harm):
    write(lambda c: None)
    harm(tmp_path / "changed.pt")
    with pytest.raises(InputError, match="is damaged or not a checkpoint"):
        PspEncoder.load(tmp_path / "changed.pt")


class Malicious:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, zipped):
    path, trace = tmp_path / "bad.pt", tmp_path / "trace"
    checkpoint = {"state_dict": {}, "opts": argparse.Namespace(x=Malicious(trace))}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="is damaged or not a checkpoint"):
        PspEncoder.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file would have done it
    assert trace.exists()


def test_the_old_format_of_torch_is_read(write, tmp_path):
    path = write(lambda c: c.update(latent_avg=torch.ones(18, 512)))
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert PspEncoder.load(path).latent_avg.all()


def test_another_encoder_gets_an_engine_of_its_own(tmp_path, monkeypatch, portrait):
    """A fast encoder from a file, so that the engine is soon built."""
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path))
    torch.manual_seed(0)
    codes = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "my encoder.safetensors"
        encoder = FastEncoder(channels=(8, 8, 8)).eval()
        encoder.save(path)
        name = f"encoder:{path}"
        assert engine_file(name).name.startswith("encoder_my_encoder-")
        codes.append(OnnxBackend().run(name, portrait)[0])
        np.testing.assert_allclose(codes[-1], TorchBackend().run(name, portrait)[0], atol=2e-3)
    assert codes[0].shape == (1, 18, 512) and not np.allclose(codes[0], codes[1], atol=1e-2)


def test_the_editor_inverts_with_the_chosen_encoder(tmp_path, monkeypatch, astronaut):
    path = tmp_path / "constant.safetensors"
    encoder = FastEncoder(channels=(8,), mean_w=torch.full((512,), 3.0), std_w=torch.zeros(512))
    encoder.save(path)
    monkeypatch.chdir(tmp_path)
    editor = FaceEditor.from_pretrained(backend="torch", encoder="constant.safetensors")
    monkeypatch.chdir("/")
    assert np.all(editor.invert(astronaut).code == 3)


@pytest.mark.parametrize("encoder", ["no_such_encoder", "", "random_face"])
def test_an_unknown_encoder_is_refused_at_once(encoder):
    with pytest.raises(InputError):
        FaceEditor.from_pretrained(encoder=encoder)


def test_the_command_line_takes_an_encoder():
    command = [sys.executable, "-m", "dystyle.edit", "--sample", "1", "--encoder"]
    wrong = subprocess.run([*command, "nowhere.pt"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "nowhere.pt" in wrong.stderr and "Traceback" not in wrong.stderr


def test_no_engine_is_made_from_a_bad_checkpoint(tmp_path, monkeypatch, write):
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path))
    path = write(lambda c: c["state_dict"].pop(BODY))
    with pytest.raises(InputError, match=BODY):
        OnnxBackend().run(f"encoder:{path}", np.zeros((1, 256, 256, 3), np.uint8))
    assert not [*tmp_path.rglob("*.onnx"), *tmp_path.rglob("*.partial")]
