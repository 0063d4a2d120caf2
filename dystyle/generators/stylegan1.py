"""The first StyleGAN (Karras et al. 2019, arXiv 1812.04948): synthesis by adaptive instance normalisation.

Mapping, W+ rows and the way to call it are StyleGAN2's. Every size has a picture of its own instead of adding
to the one below: generator and discriminator grow from small pictures to large ones, and a new size fades in
(Karras et al. 2018, arXiv 1710.10196, section 2 and figure 2).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.generators.stylegan2 import DIM, Conv, Discriminator, Linear, Noise, StyleGAN2, channel_table
from dystyle.ops import bias_act, filter2d, setup_filter


class StyledLayer(nn.Module):
    """Noise, bias, leaky ReLU, and the style as mean and deviation of every channel (equation 1)."""

    def __init__(self, channels: int, size: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = Linear(DIM, 2 * channels)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, style: Tensor, noise: Noise) -> Tensor:
        """(b, c, s, s) and (b, 2c), scales less one and then shifts -> (b, c, s, s)."""
        if noise != "none":
            random = noise == "random"
            grain = torch.randn_like(x[:, :1]) if random else self.noise.to(x.dtype)
            x = x + grain * self.noise_strength[:, None, None].to(x.dtype)
        x = bias_act(x, self.bias, act="lrelu", gain=1, clamp=self.clamp)
        scale, shift = style.to(x.dtype)[:, :, None, None].chunk(2, 1)
        return instance_norm(x) * (scale + 1) + shift


def instance_norm(x: Tensor) -> Tensor:
    """(b, c, s, s) with mean 0 and mean square 1 in every channel. PyTorch's own does not go to ONNX."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = y - y.mean((2, 3), keepdim=True)
    return (y * (y.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()).to(x.dtype)


class SynthesisBlock(nn.Module):
    """One size: the constant, or doubling, convolution and blur; a second convolution; its picture."""

    def __init__(self, channels_in: int | None, channels: int, size: int, clamp: float | None) -> None:
        super().__init__()
        self.size, self.layers = size, {"layer0": 0, "layer1": 1}
        if channels_in is None:
            self.const = nn.Parameter(torch.ones(1, channels, 4, 4))
        else:
            self.conv0 = Conv(channels_in, channels, 3, act=None)
        self.conv1 = Conv(channels, channels, 3, act=None)
        self.layer0, self.layer1 = (StyledLayer(channels, size, clamp) for _ in range(2))
        self.to_rgb = Conv(channels, 3, 1, act="linear")
        self.register_buffer("blur", setup_filter((1, 2, 1)), persistent=False)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        styles: Mapping[str, Tensor],
        noise: Noise,
        form: str,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """As StyleGAN2's block; the picture below and the form of modulation do not matter here."""
        if x is None:
            x = self.const.expand(styles["layer0"].shape[0], -1, -1, -1).to(dtype)
        else:
            x = self.conv0(F.interpolate(x.to(dtype), scale_factor=2.0))
            x = filter2d(x, self.blur)
        x = self.layer0(x, styles["layer0"], noise)
        x = self.layer1(self.conv1(x), styles["layer1"], noise)
        image = self.to_rgb(x)
        return x, image.to(torch.promote_types(image.dtype, torch.float32))


class StyleGAN1(StyleGAN2):
    """The generator; arguments and attributes as for `StyleGAN2`, S space by "b64.layer0", "b64.layer1"."""

    block = SynthesisBlock

    def forward(
        self,
        codes: Tensor | Mapping[str, Tensor],
        size: int | None = None,
        noise: Noise = "fixed",
        alpha: float = 1.0,
    ) -> Tensor:
        """As for `StyleGAN2`; a size that fades in is mixed with the picture of half of it.

        Args:
            alpha: 0..1, how far it has faded in. Of 4 px there is no half: they are there from the start.
        """
        _, image, below = self._synthesize(codes, size, noise)
        return image if alpha == 1 or below is None else fade(below, image, alpha)


class DiscriminatorBlock(nn.Module):
    """Two convolutions, of which the second one halves, (b, c_in, s, s) -> (b, c_out, s / 2, s / 2)."""

    def __init__(self, channels_in: int, channels_out: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.conv0 = Conv(channels_in, channels_in, 3, clamp=clamp)
        self.conv1 = Conv(channels_in, channels_out, 3, act=None)
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("blur", setup_filter((1, 2, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.conv1(filter2d(self.conv0(x), self.blur)), 2)
        return bias_act(x, self.bias, act="lrelu", clamp=self.clamp)


class StyleGAN1Discriminator(Discriminator):
    """The discriminator, of pictures of 8 px to `size`; arguments and attributes as for `Discriminator`."""

    block = DiscriminatorBlock

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
        super().__init__(size, channel_base, channel_max, c_dim, mapping_layers, clamp, group)
        channels = channel_table(size, channel_base, channel_max)
        self.from_rgb = nn.ModuleDict({f"b{s}": Conv(3, c, 1, clamp=clamp) for s, c in channels.items()})

    def forward(self, images: Tensor, c: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        """(b, 3, s, s) images of a size up to `size`, and (b, c_dim) labels -> (b, 1).

        Args:
            alpha: 0..1, how far the block of this size has faded in; the rest is what the block behind it
                sees of the halved pictures itself.

        Raises:
            InputError: images of another size, or missing labels.
        """
        size, sizes = images.shape[-1], list(self.blocks)
        if images.ndim != 4 or images.shape[1:] != (3, size, size) or f"b{size}" not in sizes:
            raise InputError(
                f"Images have the shape (b, 3, s, s), s from 8 to {self.size}, not {tuple(images.shape)}."
            )
        first = sizes.index(f"b{size}")
        x = self.from_rgb[f"b{size}"](self._cast(images, first))
        for index, name in enumerate(sizes[first:], first):
            x = self.blocks[name](self._cast(x, index))
            if index == first and alpha != 1:
                halved = self._cast(F.avg_pool2d(images, 2), first)
                x = self.from_rgb[f"b{size // 2}"](halved).lerp(x, alpha)
        return self._logits(x, c)


def fade(below: Tensor, picture: Tensor, alpha: float) -> Tensor:
    """Of pictures (b, 3, s, s) alpha, 0..1, and the rest of those of half the size, enlarged."""
    return F.interpolate(below, scale_factor=2.0).lerp(picture, alpha)
