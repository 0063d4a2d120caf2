"""The residual of the features: what of a photo no W+ code holds, predicted in one pass.

A code gives a lookalike. Added to the generator's activations at 64 px, F(w) + D, a residual D brings back
what the code lacks: the person's own eyes, a cap, a flag (StyleFeatureEditor, Bobkov et al. 2024, and
HFGI, Wang et al. 2022, do so on StyleGAN2). This network predicts D from the portrait, the code's preview
and its features.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.encoders import CHANNELS, PHOTO, RENDER, SIZE
from dystyle.encoders.stored import Stored
from dystyle.generators.mobile_stylegan import MobileStyleGAN

LATE = (9, 11, 13, 15)  # rows of W+ that decide how the features are decoded


class Residual(nn.Module):
    """x + two 3x3 convolutions of x, at the same resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.bias)
        with torch.no_grad():
            self.second.weight *= 0.2

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class FeatureEncoder(Stored, nn.Module):
    """Portrait, the code's picture, features and code -> residual of the features.

    A U of two resolutions: 64 px, where the residual is, and 32 px, where most of the work is done.

    Args:
        width: channels at 64 px; twice as many at 32 px.
        inner, outer: residual blocks at 32 px and behind them at 64 px.
        mean_w, std_w: (512,), of W. scale: (512,), the features' standard deviation by channel.
    """

    format = "feature_encoder"

    def __init__(
        self,
        width: int = 128,
        inner: int = 3,
        outer: int = 2,
        mean_w: Tensor | None = None,
        std_w: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.structure = {"width": width, "inner": inner, "outer": outer}
        self.register_buffer("mean_w", torch.zeros(512) if mean_w is None else mean_w.clone())
        self.register_buffer("std_w", torch.ones(512) if std_w is None else std_w.clone())
        self.register_buffer("scale", torch.ones(CHANNELS) if scale is None else scale.clone())
        pixels = 3 * (PHOTO // SIZE) ** 2 + 3 * (RENDER // SIZE) ** 2
        self.look = nn.Conv2d(pixels, width, 3, padding=1)
        self.feel = nn.Conv2d(CHANNELS, width, 1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.inner = nn.Sequential(*(Residual(2 * width) for _ in range(inner)))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.style = nn.Linear(len(LATE) * 512, 2 * width)
        self.outer = nn.Sequential(*(Residual(width) for _ in range(outer)))
        self.out = nn.Conv2d(width, CHANNELS, 1)
        self.gain = nn.Linear(512, CHANNELS)
        with torch.no_grad():
            self.out.weight *= 0.1
            self.style.weight *= 0.1
        nn.init.zeros_(self.out.bias)

    @classmethod
    @torch.no_grad()
    def for_generator(cls, generator: MobileStyleGAN, **structure: int) -> "FeatureEncoder":
        """An untrained network for a generator, on its device: with its statistics and gains.

        The block behind the features multiplies their channels by `up` of the code. A channel that is to
        count little for a code is given little of the residual, too.

        Args:
            structure: width, inner and outer.
        """
        device = generator.mean_w.device
        z = np.random.default_rng(0).standard_normal((24, 512)).astype(np.float32)
        w = generator.truncate(generator.mapping(torch.from_numpy(z).to(device)), 0.7)
        codes = w[:, None].expand(-1, 18, -1)
        features = torch.cat([generator.features(part, SIZE) for part in codes.split(4)])
        network = cls(
            mean_w=generator.mean_w, std_w=generator.std_w, scale=features.std((0, 2, 3)), **structure
        ).to(device)
        up = generator.blocks[SIZE.bit_length() - 3].up
        weight, bias = up.weight * generator.std_w, up.bias + up.weight @ generator.mean_w
        usual = (weight.square().sum(1) + bias.square()).mean().sqrt()  # of a random code's
        network.gain.weight.copy_(weight / usual)
        network.gain.bias.copy_(bias / usual)
        return network

    def forward(self, portraits: Tensor, renders: Tensor, features: Tensor, codes: Tensor) -> Tensor:
        """The residual (b, 512, 64, 64), to be added to the features.

        Args:
            portraits: (b, 3, 512, 512) in [-1, 1]. renders: (b, 3, 256, 256), the preview of `codes`.
            features: (b, 512, 64, 64), the generator's activations for `codes`. codes: (b, 18, 512).
        """
        difference = F.avg_pool2d(portraits, PHOTO // RENDER) - renders
        seen = F.pixel_unshuffle(portraits, PHOTO // SIZE), F.pixel_unshuffle(difference, RENDER // SIZE)
        w = (codes - self.mean_w) / self.std_w
        x = self.look(torch.cat(seen, 1)) + self.feel(features / self.scale[:, None, None])
        deep = self.up(self.inner(self.down(F.silu(x))))
        x = x + F.pixel_shuffle(deep, 2)
        gain, shift = self.style(w[:, LATE].flatten(1))[:, :, None, None].chunk(2, 1)
        x = self.outer(x * (1 + gain) + shift)
        residual = self.out(F.silu(x)) * self.gain(w[:, LATE[0]])[:, :, None, None]
        return residual * self.scale[:, None, None]
