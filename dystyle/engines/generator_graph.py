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

FEATURE_BLOCKS = 4  # those up to the features at 64 px
BLOCKS = {1024: 7, 256: 5, 128: 4}


def default_generator_graph(
    name: str, tuned: Mapping[str, np.ndarray] | None = None, adjustable: bool = False
) -> ModelProto:
    """The default generator's graph "generator_SIZE", or one of its halves, "features" and "decoder_SIZE".

    Args:
        tuned: replace weights of it, by name. adjustable: see `build_generator_graph`.
    """
    tensors = load("mobile_stylegan")[0]
    tensors |= {f"previews.{key}": value for key, value in load("preview_heads")[0].items()}
    tensors = {key: np.asarray(value, np.float32) for key, value in (tensors | dict(tuned or {})).items()}
    return build_generator_graph(tensors, name, adjustable)


def build_generator_graph(
    tensors: Mapping[str, np.ndarray], name: str, adjustable: bool = False
) -> ModelProto:
    """The whole generator's graph, or one of its halves.

    Args:
        tensors: `MobileStyleGAN`'s state, float32; for a preview size with its head.
        name: "generator_SIZE" with SIZE 1024, 256 or 128; "features" or "decoder_SIZE".
        adjustable: whether the `ADJUSTABLE` tensors are inputs, by their names, instead of constants; those
            of layers that this graph does without, and of preview heads, are not.

    Returns:
        A model with input `input` (b, 18, 512), of a decoder `input` (b, 512, 64, 64) and `codes`; and output
        `output0`: (b, size, size, 3) uint8 RGB, or features (b, 512, 64, 64) float32.
    """
    return _Generator(tensors, name, adjustable).build()


class _Generator(Graph):
    def __init__(self, tensors: Mapping[str, np.ndarray], name: str, adjustable: bool) -> None:
        super().__init__()
        self.tensors, self.name, self.adjustable = tensors, name, adjustable
        self.part, _, size = name.partition("_")
        self.size = int(size or 0)
        self.rows: dict[int, str] = {}
        codes = ["batch", 18, 512]
        self.codes = "codes" if self.part == "decoder" else "input"
        self.inputs: dict[str, list] = {self.codes: codes}
        if self.part == "decoder":
            self.inputs = {"input": ["batch", 512, 64, 64], **self.inputs}

    def build(self) -> ModelProto:
        last = BLOCKS[self.size] if self.size else FEATURE_BLOCKS
        if self.part == "decoder":
            first, x = FEATURE_BLOCKS, "input"
            if first < last:
                x = self.node("Gather", x, self.constant(_by_bands(512), np.int64), axis=1)
        else:
            first, x = 0, self.scaled(self.constant(self.tensors["const"]), self.style("conv1", 0))
            x = self.layer("conv1", x, bands=True)
        for i in range(first, last):
            conv1, conv2 = (f"blocks.{i}.{layer}" for layer in ("conv1", "conv2"))
            x = self.inverse_haar(self.scaled(x, self.up(i)))
            x = self.scaled(self.layer(conv1, x), self.style(conv2, 2 * i + 2))
            x = self.layer(conv2, x, bands=i + 1 < last)
        if not self.size:
            return self.model(
                self.name, self.inputs, {"output0": (x, TensorProto.FLOAT, ["batch", 512, 64, 64])}
            )
        picture = self.full_head(x) if self.size == 1024 else self.preview_head(x)
        result = (picture, TensorProto.UINT8, ["batch", self.size, self.size, 3])
        return self.model(self.name, self.inputs, {"output0": result})

    def given(self, name: str) -> bool:
        """Whether a tensor is an input of the graph; it becomes one by being asked for."""
        if not self.adjustable or name.startswith("previews") or not name.endswith(ADJUSTABLE):
            return False
        self.inputs[name] = list(self.tensors[name].shape)
        return True

    def row(self, index: int) -> str:
        """One row of the codes, (b, 512)."""
        if index not in self.rows:
            self.rows[index] = self.node("Gather", self.codes, self.constant(index, np.int64), axis=1)
        return self.rows[index]

    def affine(self, name: str, w: str, gain: float = 1.0, order=slice(None)) -> str:
        """Style factors (b, c) of codes (b, 512)."""
        weight, bias = (self.tensors[f"{name}.{part}"][order] * gain for part in ("weight", "bias"))
        offset = self.constant(bias)
        if self.given(f"{name}.bias"):
            ordered = self.constant(np.arange(len(bias))[order], np.int64)
            offset = self.node("Mul", self.node("Gather", f"{name}.bias", ordered), self.constant(gain))
        return self.node("Gemm", w, self.constant(weight), offset, transB=1)

    def style(self, layer: str, row: int) -> str:
        """Factors (b, c) before a layer's kernel, by a row of the codes."""
        gain = (9 * len(self.tensors[f"{layer}.modulation.weight"])) ** -0.5
        return self.affine(f"{layer}.modulation", self.row(row), gain)

    def up(self, i: int) -> str:
        """Factors (b, c) before block i's inverse Haar transform, times its first layer's, by bands."""
        channels = self.tensors[f"blocks.{i}.conv1.depthwise"].shape[0]
        w = self.row(2 * i + 1)
        # The transform's factor 1/2 is in here, too.
        own = self.affine(f"blocks.{i}.up", w, 0.5, _by_bands(4 * channels))
        first = self.affine(f"blocks.{i}.conv1.modulation", w, (9 * channels) ** -0.5)
        return self.node("Mul", own, self.node("Concat", *[first] * 4, axis=1))

    def scaled(self, x: str, factors: str) -> str:
        """Activations (b, c, h, w) times factors (b, c)."""
        return self.node("Mul", x, self.node("Unsqueeze", factors, self.constant([2, 3], np.int64)))

    def layer(self, name: str, x: str, bands: bool = False) -> str:
        """Depthwise and pointwise kernel (or a full one), noise, bias, leaky ReLU.

        Args:
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
        return self.node("LeakyRelu", x, alpha=0.2)

    def inverse_haar(self, x: str) -> str:
        """(b, 4c, h, w) by bands, halved before -> (b, c, 2h, 2w)."""
        ll, lh, hl, hh = self.node("Split", x, outputs=4, axis=1)
        top, bottom = [(self.node(op, ll, lh), self.node(op, hl, hh)) for op in ("Add", "Sub")]
        pixels = [self.node(op, *pair) for pair in (top, bottom) for op in ("Add", "Sub")]
        return self.node("DepthToSpace", self.node("Concat", *pixels, axis=1), blocksize=2, mode="DCR")

    def full_head(self, x: str) -> str:
        """The head at 1024 px."""
        head = "blocks.6.to_img"
        gain = self.tensors[f"{head}.modulation.weight"].shape[0] ** -0.5
        x = self.scaled(x, self.affine(f"{head}.modulation", self.row(15), gain))
        return self.picture(x, head)

    def preview_head(self, x: str) -> str:
        """A fitted head; see `PreviewHead`."""
        head, first = f"previews.{self.size}", {128: 9, 256: 11}[self.size]
        rows = self.node("Flatten", self.slice(self.codes, first, 16), axis=1)
        styles = self.affine(f"{head}.styles", rows)

        def scaled(x: str, k: int) -> str:
            return self.scaled(x, self.affine(f"{head}.scales.{k}", styles))

        def convolved(x: str, name: str, **options: object) -> str:
            kernel = (self.constant(self.tensors[f"{head}.{name}.{part}"]) for part in ("weight", "bias"))
            return self.node("LeakyRelu", self.node("Conv", x, *kernel, **options), alpha=0.2)

        x = scaled(convolved(scaled(x, 0), "reduce"), 1)
        hidden = len(self.tensors[f"{head}.reduce.bias"])
        change = convolved(convolved(x, "spread", group=hidden, pads=[1] * 4), "mix")
        return self.picture(self.node("Add", x, scaled(change, 2)), f"{head}.expand")

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
