"""The first StyleGAN (Karras et al. 2019, arXiv 1812.04948): synthesis by adaptive instance normalisation.

Mapping, W+ rows and the way to call it are StyleGAN2's. Every size has a picture of its own instead of adding
to the one below, as its progressive training left it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.generators.stylegan2 import DIM, Conv, Linear, Noise, StyleGAN2
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
        return F.instance_norm(x, eps=1e-8) * (scale + 1) + shift


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
