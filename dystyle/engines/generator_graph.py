"""Assemble MobileStyleGAN's ONNX graph from its weights, arranged for speed.

The arithmetic is that of `dystyle.generators.mobile_stylegan`, regrouped where it is linear, so that less
data moves through memory:

- A style factor of a layer's input scales channels, and so does the next layer's; a depthwise kernel and
  the inverse Haar transform (whose four bands of a channel share the factor behind it) let such factors
  pass. One product behind the leaky ReLU is left of up to three.
- Channels are stored band by band (all LL, all LH, ...): permuted kernels cost nothing, while slicing
  interleaved channels did.
- The image heads' inverse Haar transform and the step to 8-bit levels are folded into their kernel, and
  pictures are put together from bytes.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from dystyle.engines.onnx_graph import Graph
from dystyle.weights import load

# Pixels (0, 0), (0, 1), (1, 0), (1, 1) from the bands LL, LH, HL, HH.
HAAR = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)
HALF_RANGE = 127.5
LARGEST_HALF = 65504.0
# Tensors that can be inputs of the graph: noise images and the offsets of styles.
ADJUSTABLE = (".noise", ".modulation.bias", ".up.bias")

WITH_RESIDUAL = "blocks.3.conv2"  # the layer whose output, the features at 64 px, a residual is added to


def default_generator_graph(
    name: str, tuned: Mapping[str, np.ndarray] | None = None, adjustable: bool = False
) -> ModelProto:
    """The default generator's graph "generator_SIZE" or "generator_SIZE_residual".

    Args:
        tuned: replace weights of it, by name. adjustable: see `build_generator_graph`.
    """
    tensors = load("mobile_stylegan")[0]
    tensors |= {f"previews.{key}": value for key, value in load("preview_heads")[0].items()}
    tensors = {key: np.asarray(value, np.float32) for key, value in (tensors | dict(tuned or {})).items()}
    _, size, *residual = name.split("_")
    return build_generator_graph(tensors, int(size), adjustable, bool(residual))


def build_generator_graph(
    tensors: Mapping[str, np.ndarray], size: int, adjustable: bool = False, residual: bool = False
) -> ModelProto:
    """The graph for pictures of one size.

    Args:
        tensors: `MobileStyleGAN`'s state, float32; for a preview size with its head.
        size: 1024, 256 or 128.
        adjustable: whether the `ADJUSTABLE` tensors are inputs, by their names, instead of constants; those
            of layers that this size does without, and of preview heads, are not.
        residual: whether `residual` (b, 512, 64, 64), which is added to the features, is an input.

    Returns:
        A model with input `input` (b, 18, 512) and output `output0` (b, size, size, 3) uint8 RGB.
    """
    return _Generator(tensors, size, adjustable, residual).build()


class _Generator(Graph):
    def __init__(
        self, tensors: Mapping[str, np.ndarray], size: int, adjustable: bool, residual: bool
    ) -> None:
        super().__init__()
        self.tensors, self.size, self.adjustable, self.residual = tensors, size, adjustable, residual
        self.rows: dict[int, str] = {}
        self.inputs: dict[str, list] = {"input": ["batch", 18, 512]}

    def build(self) -> ModelProto:
        blocks = {1024: 7, 256: 5, 128: 4}[self.size]
        factors = self.affine("conv1.modulation", self.row(0), (9 * 512) ** -0.5)
        x = self.node("Mul", self.constant(self.tensors["const"]), self.channels(factors))
        x = self.convolve("conv1", x, self.up(0), bands=True)
        for i in range(blocks):
            conv1, conv2 = (f"blocks.{i}.{layer}" for layer in ("conv1", "conv2"))
            x = self.inverse_haar(x)
            gain = (9 * self.tensors[f"{conv2}.depthwise"].shape[0]) ** -0.5
            x = self.convolve(conv1, x, self.affine(f"{conv2}.modulation", self.row(2 * i + 2), gain))
            if i + 1 < blocks:
                x = self.convolve(conv2, x, self.up(i + 1), bands=True)
        picture = self.full_head(conv2, x) if self.size == 1024 else self.preview_head(conv2, x)
        result = (picture, TensorProto.UINT8, ["batch", self.size, self.size, 3])
        return self.model(f"generator_{self.size}", self.inputs, {"output0": result})

    def given(self, name: str) -> bool:
        """Whether a tensor is an input of the graph; it becomes one by being asked for."""
        if not self.adjustable or name.startswith("previews") or not name.endswith(ADJUSTABLE):
            return False
        self.inputs[name] = list(self.tensors[name].shape)
        return True

    def row(self, index: int) -> str:
        """One row of the codes, (b, 512)."""
        if index not in self.rows:
            self.rows[index] = self.node("Gather", "input", self.constant(index, np.int64), axis=1)
        return self.rows[index]

    def affine(self, name: str, w: str, gain: float = 1.0, order=slice(None)) -> str:
        """Style factors (b, c) of codes (b, 512)."""
        weight, bias = (self.tensors[f"{name}.{part}"][order] * gain for part in ("weight", "bias"))
        offset = self.constant(bias)
        if self.given(f"{name}.bias"):
            ordered = self.constant(np.arange(len(bias))[order], np.int64)
            offset = self.node("Mul", self.node("Gather", f"{name}.bias", ordered), self.constant(gain))
        return self.node("Gemm", w, self.constant(weight), offset, transB=1)

    def up(self, i: int) -> str:
        """Factors (b, c) before block i's inverse Haar transform, times its first layer's, by bands."""
        channels = self.tensors[f"blocks.{i}.conv1.depthwise"].shape[0]
        w = self.row(2 * i + 1)
        # The transform's factor 1/2 is in here, too.
        own = self.affine(f"blocks.{i}.up", w, 0.5, _by_bands(4 * channels))
        first = self.affine(f"blocks.{i}.conv1.modulation", w, (9 * channels) ** -0.5)
        return self.node("Mul", own, self.node("Concat", *[first] * 4, axis=1))

    def channels(self, factors: str) -> str:
        """(b, c) -> (b, c, 1, 1)."""
        return self.node("Unsqueeze", factors, self.constant([2, 3], np.int64))

    def convolve(self, name: str, x: str, following: str, bands: bool = False) -> str:
        """Depthwise and pointwise kernel (or a full one), noise, bias, leaky ReLU, then the next factors.

        Args:
            following: (b, c) factors of what comes next.
            bands: order the channels by bands, for an inverse Haar transform.
        """
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        if bands:
            weight, bias = weight[_by_bands(len(bias))], bias[_by_bands(len(bias))]
        if (kernel := self.tensors.get(f"{name}.depthwise")) is not None:
            x = self.node("Conv", x, self.constant(kernel), group=len(kernel), pads=[1] * 4)
        padding = weight.shape[2] // 2
        x = self.node("Conv", x, self.constant(weight), self.constant(bias), pads=[padding] * 4)
        # No feature gets there. But OpenVINO would add bias (1, c, 1, 1) and noise (1, 1, h, w) up ahead, and
        # then hold a noise image for every channel: half a gigabyte for the full picture.
        x = self.node("Clip", x, self.constant(-LARGEST_HALF), self.constant(LARGEST_HALF))
        noise = f"{name}.noise"
        x = self.node("Add", x, noise if self.given(noise) else self.constant(self.tensors[noise]))
        x = self.node("LeakyRelu", x, alpha=0.2)
        if self.residual and name == WITH_RESIDUAL:
            self.inputs["residual"] = ["batch", *self.tensors[f"{name}.bias"].shape, *2 * (64,)]
            order = _by_bands(len(bias)) if bands else np.arange(len(bias))
            x = self.node("Add", x, self.node("Gather", "residual", self.constant(order, np.int64), axis=1))
        return self.node("Mul", x, self.channels(following))

    def inverse_haar(self, x: str) -> str:
        """(b, 4c, h, w) by bands, halved before -> (b, c, 2h, 2w)."""
        ll, lh, hl, hh = self.node("Split", x, outputs=4, axis=1)
        top, bottom = [(self.node(op, ll, lh), self.node(op, hl, hh)) for op in ("Add", "Sub")]
        pixels = [self.node(op, *pair) for pair in (top, bottom) for op in ("Add", "Sub")]
        return self.node("DepthToSpace", self.node("Concat", *pixels, axis=1), blocksize=2, mode="DCR")

    def full_head(self, name: str, x: str) -> str:
        """The last layer and the head at 1024 px."""
        head = "blocks.6.to_img"
        gain = self.tensors[f"{head}.modulation.weight"].shape[0] ** -0.5
        x = self.convolve(name, x, self.affine(f"{head}.modulation", self.row(15), gain))
        return self.picture(x, head)

    def preview_head(self, name: str, x: str) -> str:
        """The last layer and a fitted head; see `PreviewHead`."""
        head, first = f"previews.{self.size}", {128: 9, 256: 11}[self.size]
        weights = np.exp(self.tensors[f"{head}.row_weights"])
        averages = self.constant(weights / weights.sum(1, keepdims=True))
        averages = self.node("MatMul", averages, self.slice("input", first, 16))
        w1, w2 = (self.node("Gather", averages, self.constant(k, np.int64), axis=1) for k in (0, 1))
        x = self.convolve(name, x, self.affine(f"{head}.modulation1", w1))
        weight, bias = (self.constant(self.tensors[f"{head}.reduce.{part}"]) for part in ("weight", "bias"))
        x = self.node("LeakyRelu", self.node("Conv", x, weight, bias), alpha=0.2)
        x = self.node("Mul", x, self.channels(self.affine(f"{head}.modulation2", w2)))
        weight, bias = (self.tensors[f"{head}.spread.{part}"] for part in ("weight", "bias"))
        inputs = x, self.constant(weight), self.constant(bias)
        spread = self.node("Conv", *inputs, group=len(weight), pads=[1] * 4)
        x = self.node("Add", self.node("LeakyRelu", spread, alpha=0.2), x)
        return self.picture(x, f"{head}.expand")

    def picture(self, x: str, head: str) -> str:
        """Features (b, c, s/2, s/2) through a pointwise kernel to pictures (b, s, s, 3) uint8."""
        kernel = []
        for part in ("weight", "bias"):
            bands = self.tensors[f"{head}.{part}"][_by_bands(12)]
            mixed = np.tensordot(HAAR, bands.reshape(4, 3, -1), 1) / 2 * HALF_RANGE
            kernel.append(self.constant(mixed.reshape(bands.shape)))
        # Added after the kernel, not by its bias, so that a half precision kernel rounds around grey.
        x = self.node("Add", self.node("Conv", x, *kernel), self.constant(HALF_RANGE))
        x = self.node("Round", self.node("Clip", x, self.constant(0), self.constant(255)))
        x = self.node("Cast", x, to=TensorProto.UINT8)
        half = self.size // 2
        x = self.node("Reshape", x, self.constant([-1, 2, 2, 3, half, half], np.int64))
        x = self.node("Transpose", x, perm=[0, 4, 1, 5, 2, 3])
        return self.node("Reshape", x, self.constant([-1, self.size, self.size, 3], np.int64))


def _by_bands(channels: int) -> np.ndarray:
    """Order that turns (LL, then LH, HL, HH interleaved per channel) into LL, LH, HL, HH."""
    quarter = channels // 4
    return np.concatenate((np.arange(quarter), *(quarter + np.arange(quarter) * 3 + k for k in range(3))))
