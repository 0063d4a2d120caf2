"""Read MobileStyleGAN's weights out of the OpenVINO IR in the `random-face` wheel.

The IR is an XML graph beside one flat little-endian blob. Most constants keep their PyTorch names. The
pointwise kernels (`Mul_*_copy`, demodulation folded in: it does not depend on the style) and the noise
images (already times their strength) are anonymous and follow the depthwise kernel of their layer in
graph order. Needs NumPy only.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from dystyle.weights import save

_SAMPLES_FOR_MEAN = 65_536


def read_constants(stem: Path) -> list[tuple[str, np.ndarray]]:
    """The float32 constants of `stem`.xml/.bin as (name, array) in graph order."""
    blob = stem.with_suffix(".bin").read_bytes()
    constants = []
    for layer in ElementTree.parse(stem.with_suffix(".xml")).getroot().iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data.get("element_type") != "f32":
            continue
        shape = [int(n) for n in data.get("shape").split(",") if n.strip()]
        flat = np.frombuffer(blob, "<f4", int(data.get("size")) // 4, int(data.get("offset")))
        constants.append((layer.get("name"), flat.reshape(shape)))
    return constants


def synthesis_tensors(constants: list[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Name the synthesis network's constants as `MobileStyleGAN`'s state dict does."""
    tensors: dict[str, np.ndarray] = {}
    layer = "conv1"
    for name, value in constants:
        if name.startswith("m."):
            key = name[2:].replace("layers.", "blocks.")
            key = key.replace("conv.modulation", "modulation").replace("up.modulation", "up")
            key = key.replace("conv.weight_dw", "depthwise").replace("to_img.conv.weight", "to_img.weight")
            key = "const" if key == "input.input" else key
            if key.endswith(("modulation.bias", "up.bias")):
                value = value[0]
            elif key.endswith(".depthwise"):
                value = value.reshape(-1, 1, 3, 3)
                layer = key.removesuffix(".depthwise")
            elif key.endswith("bias"):
                value = value.reshape(-1)
            tensors[key] = value
        elif re.fullmatch(r"Mul_\d+_copy", name):
            tensors[f"{layer}.weight"] = value
        elif value.ndim == 4 and value.shape[:2] == (1, 1) and value.shape[2] == value.shape[3] > 1:
            tensors[f"{layer}.noise"] = value
    return tensors


def mapping_tensors(constants: list[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The eight fully connected layers of the mapping network, in order."""
    tensors = {}
    weights = [value for _, value in constants if value.shape == (512, 512)]
    biases = [value for _, value in constants if value.shape == (512,)]
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        tensors[f"mapping.layers.{index}.weight"], tensors[f"mapping.layers.{index}.bias"] = weight, bias
    return tensors


def _statistics_of_w(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean and per-dimension standard deviation of W over seeded samples of Z."""
    x = np.random.default_rng(0).standard_normal((_SAMPLES_FOR_MEAN, 512), dtype=np.float32)
    x /= np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-8)
    for index in range(8):
        x = x @ tensors[f"mapping.layers.{index}.weight"].T + tensors[f"mapping.layers.{index}.bias"]
        x = np.where(x > 0, x, 0.2 * x) * np.float32(2**0.5)
    return {"mean_w": x.mean(0, dtype=np.float64).astype(np.float32), "std_w": x.std(0)}


def convert_mobile_stylegan(folder: Path, destination: Path) -> None:
    """Convert the wheel's four files to one safetensors file.

    Args:
        folder: holds `MappingNetwork.{xml,bin}` and `SynthesisNetwork.{xml,bin}`.
        destination: the file to write; keys are those of `MobileStyleGAN.state_dict()`.
    """
    tensors = mapping_tensors(read_constants(folder / "MappingNetwork"))
    tensors |= _statistics_of_w(tensors)
    tensors |= synthesis_tensors(read_constants(folder / "SynthesisNetwork"))
    save(destination, tensors, format="mobile_stylegan", source="random-face 2021.7.21.1 (Apache-2.0)")
