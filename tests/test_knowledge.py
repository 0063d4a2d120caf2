"""The knowledge networks against what the published ones answered in TensorFlow.js (tests/data)."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from dystyle.errors import InputError
from dystyle.knowledge.graph import load_graph
from dystyle.knowledge.networks import AGE_GENDER_MEAN, load_network
from dystyle.weights import resolve

NAMES = ("blazeface", "facemesh", "iris", "emotion", "faceres", "age_gender", "selfie")
REFERENCE = np.load(Path(__file__).parent / "data" / "knowledge_reference.npz")


def pictures(name: str) -> torch.Tensor:
    """The two recorded pictures as the network's input."""
    low, high = REFERENCE[f"{name}.range"]
    x = low + REFERENCE[f"{name}.pictures"] / np.float32(255) * (high - low)
    if name == "age_gender":
        x = (x - np.float32(AGE_GENDER_MEAN)) / 255
    return torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)


def outputs(network: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    result = network(x)
    return list(result) if isinstance(result, tuple) else [result]


def tolerance(name: str) -> float:
    """Selfie's steep sigmoid makes more of rounding errors."""
    return 3e-5 if name == "selfie" else 5e-6


def assert_close(actual, expected, tolerance: float) -> None:
    """The largest difference stays below `tolerance` times the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_published_network(name):
    for i, output in enumerate(outputs(load_network(name), pictures(name))):
        rows = output.flatten(1) if output.ndim > 1 else output[:, None]
        step = 7 if (name, i) in {("blazeface", 1), ("selfie", 0)} else 1
        assert_close(rows[:, ::step], REFERENCE[f"{name}.{i}"], tolerance(name))


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_is_treated_alone(name):
    network, x = load_network(name), pictures(name)
    for both, first, second in zip(
        outputs(network, x), *(outputs(network, row[None]) for row in x), strict=True
    ):
        assert_close(both, torch.cat([first, second]), tolerance(name))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_predicts_what_a_small_step_does(name):
    network = load_network(name).double()
    assert not any(tensor.requires_grad for tensor in network.state_dict().values())
    x = pictures(name)[:1].double().requires_grad_()

    def score(x: torch.Tensor) -> torch.Tensor:
        return sum(output.square().mean() for output in outputs(network, x))

    (gradient,) = torch.autograd.grad(score(x), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    step = 1e-7 * x.abs().max() * gradient / gradient.abs().max()
    with torch.no_grad():
        change = score(x + step) - score(x - step)
    assert change.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=1e-3)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.filterwarnings("ignore")
def test_exports_to_onnx_for_any_batch(tmp_path, dynamo):
    network, x, path = load_network("age_gender"), pictures("age_gender"), tmp_path / "network.onnx"
    axes = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
        if dynamo
        else {"dynamic_axes": {"x": {0: "batch"}}}
    )
    torch.onnx.export(network, (x,), path, input_names=["x"], dynamo=dynamo, **axes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    three = torch.cat([x, x[:1]])
    for actual, expected in zip(session.run(None, {"x": three.numpy()}), network(three), strict=True):
        assert_close(actual, expected, tolerance=5e-6)


def test_damaged_file_is_refused_in_one_sentence(tmp_path):
    content = resolve("knowledge/emotion").read_bytes()
    files = {"cut": content[:-1000], "empty": b"", "garbled header": content[:100] + b"\xff" + content[101:]}
    for name, damaged in files.items():
        (tmp_path / name).write_bytes(damaged)
    save_file({"weight": torch.zeros(1)}, tmp_path / "another network")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=r"^[^\n]*is not a readable network file[^\n]*\.$"):
            load_graph(path)


def test_bundle_is_small_and_its_cards_are_current():
    files = [resolve(f"knowledge/{name}") for name in NAMES]
    assert sum(file.stat().st_size for file in files) < 15e6
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text()
