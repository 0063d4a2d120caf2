"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): generator with skip images, residual discriminator.

Weights are drawn from a unit normal distribution and scaled when they are used (equalised learning rate,
Karras et al. 2018, arXiv 1710.10196, section 4.1). Everything can be differentiated twice.
"""

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.generators import STYLEGAN2_SIZES as SIZES
from dystyle.ops import bias_act, conv2d_resample, modulated_conv2d, setup_filter, upsample2d
from dystyle.ops.bias_act import ACTIVATIONS

DIM = 512
LARGEST = 1024
FILTER = (1, 3, 3, 1)
MAPPING_LR = 0.01
Noise = Literal["fixed", "random", "none"]


def normalize(x: Tensor) -> Tensor:
    """(b, n) with a mean square of 1 in every row."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def channel_table(size: int, base: int, most: int) -> dict[int, int]:
    """Feature maps by size from 4 px to `size`; config-f is base 32768 and most 512.

    Raises:
        InputError: a size that is no power of two from 4 to 1024.
    """
    if size not in SIZES:
        raise InputError(f"StyleGAN2 gives images of {', '.join(map(str, SIZES))} px, not {size}.")
    return {s: min(base // s, most) for s in SIZES if s <= size}


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate, (b, n) -> (b, m).

    Args:
        bias: the bias at the start.
        lr: factor of the learning rate.
    """

    def __init__(self, n: int, m: int, act: str = "linear", bias: float = 0.0, lr: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(m, n) / lr)
        self.bias = nn.Parameter(torch.full((m,), bias / lr))
        self.act, self.lr, self.scale = act, lr, lr * n**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(F.linear(x, self.weight * self.scale), self.bias * self.lr, act=self.act)


class MappingNetwork(nn.Module):
    """Z and perhaps class labels -> W.

    Args:
        z_dim: 0 for a network of labels alone, as the discriminator has.
        c_dim: how many classes; 0 for none.
    """

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.c_dim = c_dim
        if c_dim:
            self.embed = Linear(c_dim, w_dim)
        first = z_dim + (w_dim if c_dim else 0)
        self.layers = nn.ModuleList(
            Linear(w_dim if i else first, w_dim, "lrelu", lr=MAPPING_LR) for i in range(layers)
        )

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        """(b, z_dim) normal samples and (b, c_dim) labels, one-hot or mixed -> (b, w_dim).

        Raises:
            InputError: labels are missing, or have another shape.
        """
        parts = [] if z is None else [normalize(z)]
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise InputError(f"This network has {self.c_dim} classes: give labels (b, {self.c_dim}).")
            parts.append(normalize(self.embed(c.to(self.embed.weight.dtype))))
        x = torch.cat(parts, 1)
        for layer in self.layers:
            x = layer(x)
        return x


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU (figure 2d)."""

    def __init__(self, channels_in: int, channels_out: int, size: int, up: int, clamp: float | None) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = Linear(DIM, channels_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.register_buffer("filter", setup_filter(FILTER), persistent=False)

    def forward(self, x: Tensor, style: Tensor, noise: Noise, form: str) -> Tensor:
        """(b, c_in, s / up, s / up) activations and (b, c_in) styles -> (b, c_out, s, s)."""
        grain = {"fixed": self.noise, "random": None, "none": None}[noise]
        if noise == "random":
            grain = torch.randn(len(x), 1, *self.noise.shape[2:], device=x.device)
        if grain is not None:
            grain = grain * self.noise_strength
        resample = {"up": self.up, "padding": 1, "resample_filter": self.filter}
        x = modulated_conv2d(x, self.weight, style, grain, **resample, form=form)
        return bias_act(x, self.bias, act="lrelu", clamp=self.clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation."""

    def __init__(self, channels: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp, self.scale = clamp, channels**-0.5
        self.affine = Linear(DIM, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor, form: str) -> Tensor:
        """(b, c, s, s) activations and (b, c) styles -> (b, 3, s, s)."""
        x = modulated_conv2d(x, self.weight, style * self.scale, demodulate=False, form=form)
        return bias_act(x, self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """One size: the constant, or a convolution that doubles; a second one; its part of the picture.

    Attributes:
        layers: the layers that have a style, and their row of W+ counted from the block's own.
    """

    def __init__(self, channels_in: int | None, channels: int, size: int, clamp: float | None) -> None:
        super().__init__()
        self.size, self.layers = size, {"conv1": 0, "to_rgb": 1}
        if channels_in is None:
            self.const = nn.Parameter(torch.randn(1, channels, 4, 4))
        else:
            self.layers = {"conv0": -1, **self.layers}
            self.conv0 = StyledConv(channels_in, channels, size, 2, clamp)
        self.conv1 = StyledConv(channels, channels, size, 1, clamp)
        self.to_rgb = ToRGB(channels, clamp)
        self.register_buffer("filter", setup_filter(FILTER), persistent=False)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        styles: Mapping[str, Tensor],
        noise: Noise,
        form: str,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Activations and picture of the size below (None for the first block), styles by layer -> of this.

        Activations (b, c, s, s) are of `dtype`, pictures (b, 3, s, s) at least float32.
        """
        if x is None:
            x = self.const.expand(styles["conv1"].shape[0], -1, -1, -1).to(dtype)
        else:
            x = self.conv0(x.to(dtype), styles["conv0"], noise, form)
        x = self.conv1(x, styles["conv1"], noise, form)
        own = self.to_rgb(x, styles["to_rgb"], form)
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        return x, own if image is None else upsample2d(image, self.filter) + own


class StyleGAN2(nn.Module):
    """The generator: a mapping network, and a synthesis network that adds up pictures of growing size.

    W+ rows: the block of 4 << i px takes row 2i - 1 for conv0, 2i for conv1 and 2i + 1 for its picture.
    S space (Wu et al. 2021, arXiv 2011.12799) is the styles of all layers, by names such as "b64.conv0",
    "b64.conv1", "b64.to_rgb".

    Args:
        size: of the pictures, a power of two from 4 to 1024.
        channel_base, channel_max: see `channel_table`.
        c_dim: how many classes; 0 for none.
        mapping_layers: depth of the mapping network.
        clamp: limit of every layer's magnitude, for float16 (Karras et al. 2020, arXiv 2006.06676: 256).

    Attributes:
        sizes: what `forward` can give.
        mean_w, std_w: (512,) statistics of W; `measure_w` fills them.
        form: how convolutions are modulated, see `modulated_conv2d`.
        half: so many blocks, from the largest down, compute in float16 on GPUs.
        tunable: names of the weights that pivotal tuning may change.
    """

    block: type[nn.Module] = SynthesisBlock
    tunable = re.compile(r"blocks\.b(32|64|128|256)\.conv[01]\.weight")

    def __init__(
        self,
        size: int = 1024,
        channel_base: int = 32768,
        channel_max: int = 512,
        c_dim: int = 0,
        mapping_layers: int = 8,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        channels = channel_table(size, channel_base, channel_max)
        self.structure = {
            "size": size,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "c_dim": c_dim,
            "mapping_layers": mapping_layers,
            "clamp": clamp,
        }
        self.size, self.sizes, self.c_dim = size, tuple(channels), c_dim
        self.form, self.half = "activations", 0
        self.mapping = MappingNetwork(DIM, c_dim, DIM, mapping_layers)
        self.blocks = nn.ModuleDict(
            {f"b{s}": self.block(channels.get(s // 2), c, s, clamp) for s, c in channels.items()}
        )
        self.register_buffer("mean_w", torch.zeros(DIM))
        self.register_buffer("std_w", torch.ones(DIM))

    def rows(self, size: int | None = None) -> int:
        """How many rows of W+ a picture of this size (None: the full one) is made from."""
        return 2 * (size or self.size).bit_length() - 4

    def map(self, z: np.ndarray | Tensor, c: np.ndarray | Tensor | None = None) -> np.ndarray | Tensor:
        """Z (b, 512) and labels (b, c_dim) -> W (b, 512): of arrays an array, of tensors with gradients."""
        if isinstance(z, Tensor):
            return self.mapping(z, c)
        device = self.mean_w.device
        with torch.no_grad():
            labels = None if c is None else torch.from_numpy(c).to(device)
            return self.mapping(torch.from_numpy(z).to(device), labels).cpu().numpy()

    @torch.no_grad()
    def measure_w(self, samples: int = 8192, seed: int = 0) -> None:
        """Set `mean_w` and `std_w` from random codes, over all classes alike."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(samples, DIM, generator=random).to(self.mean_w)
        c = torch.eye(self.c_dim).to(z).repeat(-(-samples // self.c_dim), 1)[:samples] if self.c_dim else None
        w = self.mapping(z, c)
        self.mean_w.copy_(w.mean(0))
        self.std_w.copy_(w.std(0))

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Pull codes towards the mean; psi 1 keeps them, 0 gives the mean.

        Args:
            w: W or W+, (..., 512).
            cutoff: truncate only so many of the first rows of W (b, 512) or W+ (b, rows, 512); the result is
                W+.
        """
        if cutoff is None:
            return self.mean_w.lerp(w, psi)
        return self.mix(self.truncate(w, psi), w, cutoff)

    def mix(self, first: Tensor, second: Tensor, row: int | Tensor) -> Tensor:
        """Style mixing: W+ (b, rows, 512) of the first codes before `row` and of the second from there on.

        Args:
            first, second: W (b, 512) or W+ (b, rows, 512).
            row: one, or (b,) for each pair its own.
        """
        first, second = self._w_plus(first), self._w_plus(second)
        row = torch.as_tensor(row, device=first.device).view(-1, 1, 1)
        return torch.where(torch.arange(self.rows(), device=first.device)[:, None] < row, first, second)

    def styles(self, codes: Tensor, size: int | None = None) -> dict[str, Tensor]:
        """S: the styles (b, channels) of every layer up to `size`, by name, for W or W+ codes."""
        w_plus, styles = self._w_plus(codes, size), {}
        for index, block in enumerate(self._upto(size)):
            for layer, offset in block.layers.items():
                affine = getattr(block, layer).affine
                styles[f"b{block.size}.{layer}"] = affine(w_plus[:, 2 * index + offset])
        return styles

    def features(
        self, codes: Tensor | Mapping[str, Tensor], size: int | None = None, noise: Noise = "fixed"
    ) -> Tensor:
        """Activations (b, c, size, size); arguments as for `forward`."""
        return self._synthesize(codes, size, noise)[0]

    def forward(
        self, codes: Tensor | Mapping[str, Tensor], size: int | None = None, noise: Noise = "fixed"
    ) -> Tensor:
        """Images (b, 3, size, size) RGB, about [-1, 1].

        Args:
            codes: W (b, 512), W+ (b, at least `rows(size)`, 512), or S as of `styles`.
            size: one of `sizes`; below the full one, the sum of the pictures up to there. None: the full one.
            noise: "fixed" images, "random" ones, or "none".

        Raises:
            InputError: another size or noise, codes of another shape, or a style that is missing.
        """
        return self._synthesize(codes, size, noise)[1]

    def _synthesize(self, codes, size: int | None, noise: Noise) -> tuple[Tensor, Tensor, Tensor | None]:
        """Activations, the picture, and that of half the size, which 4 px have not."""
        if noise not in ("fixed", "random", "none"):
            raise InputError(f"noise = {noise!r} is unknown; choose from fixed, random, none.")
        blocks = self._upto(size)
        styles = codes if isinstance(codes, Mapping) else self.styles(codes, size)
        x = image = below = None
        for block in blocks:
            half = block.size > self.size >> self.half and self.mean_w.is_cuda
            dtype = torch.float16 if half else self.mean_w.dtype
            below = image
            x, image = block(x, below, _of_block(block, styles), noise, self.form, dtype)
        return x, image, below

    def _upto(self, size: int | None) -> list[SynthesisBlock]:
        size = size or self.size
        if size not in self.sizes:
            raise InputError(
                f"The generator gives images of {', '.join(map(str, self.sizes))} px, not {size}."
            )
        return [block for block in self.blocks.values() if block.size <= size]

    def _w_plus(self, codes: Tensor, size: int | None = None) -> Tensor:
        rows = self.rows(size)
        if codes.ndim == 2 and codes.shape[1] == DIM:
            return codes[:, None].expand(-1, rows, -1)
        if codes.ndim != 3 or codes.shape[2] != DIM or codes.shape[1] < rows:
            raise InputError(
                f"Codes have the shape (b, {DIM}) or (b, {rows}, {DIM}), not {tuple(codes.shape)}."
            )
        return codes[:, :rows]


def _of_block(block: nn.Module, styles: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's part of S, by layer."""
    for layer in block.layers:
        style, wanted = styles.get(f"b{block.size}.{layer}"), len(getattr(block, layer).affine.bias)
        if style is None or style.ndim != 2 or style.shape[1] != wanted:
            raise InputError(f"The style 'b{block.size}.{layer}' is missing or not (b, {wanted}).")
    return {layer: styles[f"b{block.size}.{layer}"] for layer in block.layers}


class Conv(nn.Module):
    """Convolution with equalised learning rate, bias and activation, (b, c_in, s, s) -> (b, c_out, s', s').

    Args:
        down: 2 to halve the size.
        act: "lrelu", or None for neither bias nor activation.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        down: int = 1,
        act: str | None = "lrelu",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.down, self.padding, self.act, self.clamp = down, kernel // 2, act or "linear", clamp
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if act else None
        self.scale = (channels_in * kernel**2) ** -0.5
        self.register_buffer("filter", setup_filter(FILTER), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = (self.weight * self.scale).to(x.dtype)
        x = conv2d_resample(x, weight, self.filter, down=self.down, padding=self.padding)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, act=self.act, gain=ACTIVATIONS[self.act].gain * gain, clamp=clamp)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, (b, c_in, s, s) -> (b, c_out, s / 2, s / 2) (figure 7c)."""

    def __init__(self, channels_in: int, channels_out: int, clamp: float | None) -> None:
        super().__init__()
        self.conv0 = Conv(channels_in, channels_in, 3, clamp=clamp)
        self.conv1 = Conv(channels_in, channels_out, 3, down=2, clamp=clamp)
        self.skip = Conv(channels_in, channels_out, 1, down=2, act=None)

    def forward(self, x: Tensor) -> Tensor:
        # Half the variance from either side.
        return self.skip(x, gain=0.5**0.5) + self.conv1(self.conv0(x), gain=0.5**0.5)


def minibatch_deviation(x: Tensor, group: int | None) -> Tensor:
    """Append one channel: how much features differ within a group (Karras et al. 2018, section 3).

    Groups are strided: of 8 pictures in groups of 4, 0, 2, 4, 6 form one. They are smaller in a batch that
    the group's size does not divide, and the whole batch if it is None.
    """
    n = len(x)
    size = next((g for g in range(min(group or n, n), 0, -1) if n % g == 0), 1)
    y = x.unflatten(0, (size, n // size))
    y = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean((1, 2, 3), keepdim=True)
    return torch.cat((x, y.repeat(size, 1, *x.shape[2:])), 1)


class Discriminator(nn.Module):
    """Images -> logits, high for real ones. With classes, the projection of Miyato & Koyama (2018).

    Args:
        size, channel_base, channel_max, c_dim, clamp: as for `StyleGAN2`.
        mapping_layers: depth of the network of labels.
        group: see `minibatch_deviation`.

    Attributes:
        half: so many blocks, from the largest down, compute in float16 on GPUs.
    """

    block: type[nn.Module] = ResidualBlock

    def __init__(
        self,
        size: int = 1024,
        channel_base: int = 32768,
        channel_max: int = 512,
        c_dim: int = 0,
        mapping_layers: int = 8,
        clamp: float | None = None,
        group: int | None = 4,
    ) -> None:
        super().__init__()
        channels = channel_table(size, channel_base, channel_max)
        self.structure = {
            "size": size,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "c_dim": c_dim,
            "mapping_layers": mapping_layers,
            "clamp": clamp,
            "group": group,
        }
        self.size, self.c_dim, self.group, self.half = size, c_dim, group, 0
        self.from_rgb = Conv(3, channels[size], 1, clamp=clamp)
        self.blocks = nn.ModuleDict(
            {f"b{s}": self.block(c, channels[s // 2], clamp) for s, c in reversed(channels.items()) if s > 4}
        )
        last = channels[4]
        self.conv = Conv(last + 1, last, 3, clamp=clamp)
        self.fc = Linear(last * 16, last, "lrelu")
        self.out = Linear(last, last if c_dim else 1)
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, last, mapping_layers)

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        """(b, 3, size, size) images and (b, c_dim) labels -> (b, 1).

        Raises:
            InputError: images of another size, or missing labels.
        """
        if images.shape[1:] != (3, self.size, self.size):
            raise InputError(
                f"Images have the shape (b, 3, {self.size}, {self.size}), not {tuple(images.shape)}."
            )
        x = self.from_rgb(self._cast(images, 0))
        for index, block in enumerate(self.blocks.values()):
            x = block(self._cast(x, index))
        return self._logits(x, c)

    def _logits(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Activations (b, channels, 4, 4) -> (b, 1)."""
        x = self.conv(minibatch_deviation(x.to(self.fc.weight.dtype), self.group))
        x = self.out(self.fc(x.flatten(1)))
        if self.c_dim:
            x = (x * self.mapping(None, c)).sum(1, keepdim=True) * x.shape[1] ** -0.5
        return x

    def _cast(self, x: Tensor, index: int) -> Tensor:
        """To the type that the block of this index computes in."""
        return x.to(torch.float16 if index < self.half and x.is_cuda else self.fc.weight.dtype)
