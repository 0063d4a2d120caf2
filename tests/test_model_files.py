"""Hostile and damaged model files: one sentence each, before anything large takes memory."""

import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import stylegan2_formats as formats
import torch
from safetensors.torch import save_file

from dystyle import FaceEditor, weights
from dystyle.encoders.fast import FastEncoder
from dystyle.errors import InputError
from dystyle.generators.checkpoints import read_discriminator, read_generator, save
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.torch_files import read_torch

STRUCTURE = {"size": 16, "channel_base": 128, "channel_max": 16, "c_dim": 0, "mapping_layers": 2}


def own_file(path, structure: object = None, drop: str = "", **metadata: str) -> None:
    """A small StyleGAN2 as we write it, with another structure or without one tensor."""
    network = StyleGAN2(16, 128, 16, mapping_layers=2)
    tensors = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items() if key != drop}
    structure = STRUCTURE | structure if isinstance(structure, dict) else structure
    structure = structure if isinstance(structure, str) else json.dumps(structure)
    weights.save(path, tensors, **{"format": "stylegan2", "structure": structure, **metadata})


@pytest.fixture
def little_memory():
    """No more than 2 GB on top of what the process has: an allocation beyond that is a MemoryError."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


OWN = {
    "no structure": ("", "damaged"),
    "no object": ("[3]", "damaged"),
    "no JSON": ("{", "damaged"),
    "deep JSON": ("[" * 100_000, "damaged"),
    "huge channels": ({"channel_base": 1 << 40, "channel_max": 1 << 30}, "fit|damaged"),
    "channels beyond all numbers": ({"channel_base": 1 << 80, "channel_max": 1 << 70}, "damaged"),
    "a billion layers": ({"mapping_layers": 1_000_000_000}, "damaged|lacks"),
    "3,000 layers": ({"mapping_layers": 3_000}, "damaged|lacks"),
    "another size": ({"size": 1 << 20}, "not 1048576|damaged"),
    "a text for a size": ({"size": "16"}, "not 16|damaged"),
    "a text for a limit": ({"clamp": "16"}, "damaged"),
    "unknown parts": ({"depth": 3}, "damaged"),
    "many classes": ({"c_dim": 1 << 40}, "fit|classes|damaged"),
}


@pytest.mark.parametrize(("structure", "message"), OWN.values(), ids=OWN)
def test_own_files_whose_structure_lies_are_refused(tmp_path, little_memory, structure, message):
    path = tmp_path / "a.safetensors"
    own_file(path, structure)
    with pytest.raises(InputError, match=message) as caught:
        read_generator(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if not (isinstance(structure, dict) and structure.keys() & {"channel_base", "clamp", "depth"}):
        with pytest.raises(InputError, match=message):  # what editing reads first, without torch
            FaceEditor.from_pretrained(generator=path)


@pytest.mark.parametrize("key", ["mean_w", "mapping.layers.1.bias", "mapping.layers.0.weight"])
def test_a_generator_without_the_wanted_tensors_is_refused_by_name(tmp_path, key):
    path = tmp_path / "a.safetensors"
    own_file(path, {}, drop=key)
    for read in (read_generator, lambda path: FaceEditor.from_pretrained(generator=path)):
        with pytest.raises(InputError, match=f"'{key}'"):
            read(path)
    weights.save(path, {"x": np.zeros(3, np.float32)}, format="stylegan2", structure=json.dumps(STRUCTURE))
    with pytest.raises(InputError, match="'mean_w'"):
        FaceEditor.from_pretrained(generator=path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_types_that_numpy_lacks_are_named(tmp_path, kind):
    save_file({"x": torch.zeros(3), "y": torch.zeros(3).to(kind)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="holds 'y' in (BF16|F8_E4M3)"):
        weights.load(tmp_path / "a.safetensors")


def header(entries: object, length: int | None = None, behind: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + behind


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "longer than the file": header({"x": TENSOR}, 1 << 40),
    "numbers that are not there": header({"x": TENSOR | {"shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "a shape beyond all numbers": header({"x": TENSOR | {"shape": [1 << 62, 1 << 62]}}, behind=bytes(8)),
    "another shape": header({"x": TENSOR | {"shape": [3]}}, behind=bytes(8)),
    "the same numbers twice": header({"x": TENSOR, "y": TENSOR}, behind=bytes(8)),
    "deep": header(b'{"x":' + b"[" * 100_000),
    "unknown type": header({"x": TENSOR | {"dtype": "F31"}}, behind=bytes(8)),
}


@pytest.mark.parametrize("blob", HEADERS.values(), ids=HEADERS)
def test_headers_that_lie_are_refused(tmp_path, little_memory, blob):
    (tmp_path / "a.safetensors").write_bytes(blob)
    with pytest.raises(InputError, match="damaged or not in safetensors format"):
        weights.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "structure",
    [
        "",
        "{}",
        "[",
        '{"channels": [1]}',
        '{"channels": [1000000000, 9]}',
        '{"size": "x"}',
        '{"depth": 1}',
    ],
)
def test_encoders_whose_structure_lies_are_refused(tmp_path, little_memory, structure):
    path = tmp_path / "a.safetensors"
    FastEncoder((8, 8)).save(path)
    weights.save(path, weights.load(path)[0], format="fast_encoder", structure=structure)
    with pytest.raises(InputError, match="damaged|does not fit"):
        FastEncoder.load(path)


# ---------------------------------------------------------------------------------- foreign checkpoints


def shared_layers() -> dict[str, torch.Tensor]:
    """A generator of 400 mapping layers, which are all the same numbers."""
    state = formats.rosinality_state(16, 128, 16, 2)
    weight, bias = torch.zeros(512, 512), torch.zeros(512)
    for i in range(1, 401):
        state |= {f"style.{i}.weight": weight, f"style.{i}.bias": bias}
    return state


def one_number() -> dict[str, torch.Tensor]:
    """Every tensor is one number again and again."""
    state = formats.rosinality_state(16, 128, 16, 2)
    return {key: torch.zeros(1).expand(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("state", [shared_layers, one_number])
def test_checkpoints_that_expand_are_refused(tmp_path, state, zipped):
    path = tmp_path / "a.pt"
    torch.save({"g_ema": state()}, path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(InputError, match="larger than its file"):
        read_generator(path)


def test_packed_checkpoints_are_refused(tmp_path, little_memory):
    plain, packed = io.BytesIO(), tmp_path / "packed.pt"
    torch.save({"g_ema": {"x": torch.zeros(1000, 1000)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.namelist():
            target.writestr(part, source.read(part))
    assert packed.stat().st_size < 20_000
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        read_torch(packed, "StyleGAN2")


@pytest.mark.parametrize("pattern", ["to_rgbs.{}.bias", "style.{}.weight"])
def test_numbers_in_keys_have_a_limit(tmp_path, pattern):
    state = formats.rosinality_state(16, 128, 16, 2)
    for number in (*range(3, 40), "9" * 5_000):
        state[pattern.format(number)] = torch.zeros(1, 3, 1, 1)
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="does not fit|holds no StyleGAN2 that fits"):
        read_generator(tmp_path / "a.pt")


def test_a_discriminator_of_another_rank_is_refused(tmp_path):
    torch.save({"d": {"b4.conv.weight": torch.zeros(())}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="'b4.conv.weight' is missing or has another shape"):
        read_discriminator(tmp_path / "a.pt")


# Python fills memory up to an object's number: run apart, where that ends nobody else.
READ = """
import resource, sys
from pathlib import Path
from dystyle.errors import InputError
from dystyle.generators.nvidia_pickle import read_pickle
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), -1))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    try:
        print(read_pickle(Path(path)))
    except InputError as error:
        print(type(error.__cause__).__name__, error)
"""


class Twice:
    """Modules that hold the one below twice: a few kilobytes, 2 ** levels tensors."""

    def __init__(self, levels: int) -> None:
        below = Twice(levels - 1) if levels else None
        state = {"_parameters": {"x": torch.zeros(1)}, "_buffers": {}}
        self.state = state | {"_modules": {"a": below, "b": below} if below else {}}

    def __reduce__(self):
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return function, ({"class_name": "Twice", "state": self.state},)


class Packed:
    """A tensor's numbers in an archive, which could be packed."""

    def __reduce__(self):
        archive = io.BytesIO()
        torch.save(torch.zeros(2).untyped_storage(), archive)
        return torch.storage._load_from_bytes, (archive.getvalue(),)


def test_pickles_that_expand_are_refused(tmp_path):
    with formats.nvidia_modules():
        blobs = [
            pickle.dumps({"G_ema": Twice(30)}, protocol=4),
            pickle.dumps({"G_ema": Packed()}, protocol=4),
        ]
    blobs += [b"\x80\x02}r" + struct.pack("<I", 0x7FFFFFFF) + b".", b"\x80\x02}p2147483647\n."]
    for number, blob in enumerate(blobs):
        assert len(blob) < 100_000
        (tmp_path / f"{number}.pkl").write_bytes(blob)
    command = [sys.executable, "-c", READ, *sorted(map(str, tmp_path.glob("*.pkl")))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=weights.BUNDLED.parent)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(blobs)
    for line in lines:
        assert line.startswith("UnpicklingError") and "is damaged or no pickle" in line


def test_what_is_in_order_is_still_read(tmp_path):
    own_file(tmp_path / "a.safetensors", {})
    assert read_generator(tmp_path / "a.safetensors").size == 16
    save(StyleGAN2(16, 128, 16, mapping_layers=2, clamp=256.0), tmp_path / "b.safetensors")
    assert read_generator(tmp_path / "b.safetensors").structure["clamp"] == 256.0
