"""MobileStyleGAN (Belousov 2021, arXiv 2104.04767): a distilled StyleGAN2 for FFHQ, in PyTorch.

The synthesis network works on wavelet coefficients: each block doubles the resolution by an inverse
Haar transform and refines it with two depthwise separable modulated convolutions. The modulation scales
activations, so every operation is a plain one and a batch may hold any mix of codes.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError

ROWS, DIM = 18, 512
CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64)
SIZES = (128, 256, 1024)
# Picture size -> W+ rows it is made from; the preview heads know later rows, too, but for what they decode.
PICTURE_ROWS = {128: 9, 256: 11, 1024: 16}


def inverse_haar(x: Tensor) -> Tensor:
    """Inverse 2-D Haar transform, (b, 4c, h, w) -> (b, c, 2h, 2w).

    The first c channels are LL; then LH, HL, HH follow interleaved per channel.
    """
    channels = x.shape[1] // 4
    low, high = x[:, :channels], x[:, channels:].unflatten(1, (channels, 3))
    lh, hl, hh = high.unbind(2)
    top, bottom = (low + lh, hl + hh), (low - lh, hl - hh)
    quarters = torch.stack(
        (top[0] + top[1], top[0] - top[1], bottom[0] + bottom[1], bottom[0] - bottom[1]), 2
    )
    return F.pixel_shuffle(quarters.flatten(1, 2) / 2, 2)


class MappingNetwork(nn.Module):
    """Z -> W: pixel norm and eight fully connected layers with leaky ReLU (StyleGAN2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(8))

    def forward(self, z: Tensor) -> Tensor:
        """(b, 512) normal samples -> (b, 512) W codes."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * 2**0.5
        return x


class ModulatedConv(nn.Module):
    """Style-modulated 3x3 convolution with noise, bias and leaky ReLU; full, or depthwise then pointwise."""

    def __init__(self, channels_in: int, channels_out: int, size: int, separable: bool = True) -> None:
        super().__init__()
        self.modulation = nn.Linear(DIM, channels_in)
        self.scale = (9 * channels_in) ** -0.5
        if separable:
            self.depthwise = nn.Parameter(torch.zeros(channels_in, 1, 3, 3))
        kernel = 1 if separable else 3
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("noise", torch.zeros(1, 1, size, size))
        self.separable = separable

    def forward(self, x: Tensor, w: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """(b, c_in, s, s) activations and (b, 512) codes -> (b, c_out, s, s); `corner` as in `detail`."""
        x = x * (self.modulation(w) * self.scale)[:, :, None, None]
        if self.separable:
            x = F.conv2d(x, self.depthwise, padding=1, groups=x.shape[1])
        x = F.conv2d(x, self.weight, self.bias, padding=0 if self.separable else 1)
        noise = self.noise.to(x.dtype)  # under autocast all activations stay as small as the convolution's
        if x.shape[-1] < noise.shape[-1]:
            (top, left), side = corner, x.shape[-1]
            noise = noise[:, :, top : top + side, left : left + side]
        return F.leaky_relu(x + noise, 0.2, inplace=True)  # the gradient then needs one tensor less


class Block(nn.Module):
    """Style-scaled inverse Haar transform, then two separable modulated convolutions."""

    def __init__(self, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__()
        self.up = nn.Linear(DIM, channels_in)
        self.conv1 = ModulatedConv(channels_in // 4, channels_out, size)
        self.conv2 = ModulatedConv(channels_out, channels_out, size)

    def forward(self, x: Tensor, w1: Tensor, w2: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """(b, c_in, s/2, s/2) and two rows of W+ -> (b, c_out, s, s)."""
        x = inverse_haar(x * self.up(w1)[:, :, None, None])
        return self.conv2(self.conv1(x, w1, corner), w2, corner)


class ImageHead(nn.Module):
    """Modulated 1x1 convolution to wavelet coefficients of RGB, and a last inverse Haar transform."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(DIM, channels)
        self.weight = nn.Parameter(torch.zeros(12, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(12))
        self.scale = channels**-0.5

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(b, c, s, s) features and (b, 512) codes -> (b, 3, 2s, 2s) RGB."""
        x = x * (self.modulation(w) * self.scale)[:, :, None, None]
        return inverse_haar(F.conv2d(x, self.weight, self.bias))


class PreviewHead(nn.Module):
    """Image at an intermediate size from intermediate features, fitted to the full output.

    The full network decides much of colour and background in rows the features have not seen. The head
    therefore reads all later rows, and scales its channels by what they say, as the layers it stands for do.
    """

    def __init__(self, channels: int, first_row: int, hidden: int = 128, rank: int = 96) -> None:
        super().__init__()
        self.first_row = first_row
        self.styles = nn.Linear((16 - first_row) * DIM, rank)
        self.scales = nn.ModuleList(nn.Linear(rank, width) for width in (channels, hidden, hidden))
        for layer in self.scales:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.ones_(layer.bias)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.expand = nn.Conv2d(hidden, 12, 1)

    def forward(self, x: Tensor, w_plus: Tensor) -> Tensor:
        """(b, c, s, s) features and (b, 18, 512) codes -> (b, 3, 2s, 2s) RGB."""
        styles = self.styles(w_plus[:, self.first_row : 16].flatten(1))
        first, second, third = (scale(styles)[:, :, None, None] for scale in self.scales)
        x = F.leaky_relu(self.reduce(x * first), 0.2) * second
        x = x + F.leaky_relu(self.mix(F.leaky_relu(self.spread(x), 0.2)), 0.2) * third
        return inverse_haar(self.expand(x))


class MobileStyleGAN(nn.Module):
    """FFHQ generator at 1024 px with previews at 128 and 256 px.

    W+ rows follow StyleGAN2's layers: row 0 feeds the first convolution, block i takes rows 2i+1 and
    2i+2, the image head row 15. Rows 16 and 17 have no counterpart and are ignored.

    Attributes:
        sizes: what `forward` can give.
        mean_w, std_w: (512,) statistics of W over Z.
        tunable: names of the weights that pivotal tuning may change: the pointwise kernels at 32 to 256 px,
            0.8 of 8 million weights.
    """

    sizes = SIZES
    tunable = re.compile(r"blocks\.[2-5]\.conv[12]\.weight")

    def __init__(self) -> None:
        super().__init__()
        self.mapping = MappingNetwork()
        self.register_buffer("mean_w", torch.zeros(DIM))
        self.register_buffer("std_w", torch.ones(DIM))
        self.const = nn.Parameter(torch.zeros(1, CHANNELS[0], 4, 4))
        self.conv1 = ModulatedConv(CHANNELS[0], CHANNELS[0], 4, separable=False)
        self.blocks = nn.ModuleList(Block(CHANNELS[i], CHANNELS[i + 1], 8 << i) for i in range(7))
        self.blocks[6].to_img = ImageHead(CHANNELS[7])
        self.previews = nn.ModuleDict(
            {"128": PreviewHead(CHANNELS[4], first_row=9), "256": PreviewHead(CHANNELS[5], first_row=11)}
        )

    @classmethod
    def from_files(cls, weights: Path, previews: Path | None) -> "MobileStyleGAN":
        """Load converted weights and the fitted preview heads (None: heads stay untrained).

        Raises:
            InputError: when a file does not fit this network.
        """
        from dystyle.weights import load

        model = cls().eval().requires_grad_(False)
        state = dict(load(str(weights))[0])
        if previews is not None:
            state |= {f"previews.{key}": value for key, value in load(str(previews))[0].items()}
        missing, unexpected = model.load_state_dict(
            {key: torch.from_numpy(value).float() for key, value in state.items()}, strict=False
        )
        wrong = unexpected + [key for key in missing if previews is not None or "previews" not in key]
        if wrong:
            raise InputError(f"The generator's weights {weights} do not fit: first wrong key '{wrong[0]}'.")
        return model

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """Truncation: pull W codes (..., 512) towards the mean; psi 1 keeps them, 0 gives the mean."""
        return self.mean_w + psi * (w - self.mean_w)

    def rows(self, size: int = 1024) -> int:
        """How many rows of W+ a picture of this size is made from."""
        return PICTURE_ROWS[size]

    @torch.no_grad()
    def map(self, z: np.ndarray) -> np.ndarray:
        """The mapping network on arrays: Z (n, 512) float32 -> W (n, 512)."""
        return self.mapping(torch.from_numpy(z)).numpy()

    def features(self, w_plus: Tensor, size: int) -> Tensor:
        """Activations at `size` px (4, 8, .. 512) for codes (b, 18, 512)."""
        x = self.conv1(self.const, w_plus[:, 0])
        for index, block in enumerate(self.blocks):
            if 8 << index > size:
                break
            x = block(x, w_plus[:, 2 * index + 1], w_plus[:, 2 * index + 2])
        return x

    def detail(self, features: Tensor, w_plus: Tensor, top: int, left: int, side: int) -> Tensor:
        """A square part of the 1024 px picture, (b, 3, 16 * side, 16 * side), from its 64 px features.

        Much cheaper than the whole where rows 9 to 15 are fitted. Its outermost pixels lack their
        neighbours.

        Args:
            features: (b, 512, 64, 64). top, left, side: the part, in pixels of the features.
        """
        x = features[:, :, top : top + side, left : left + side]
        for index in range(4, 7):
            corner = (top << index - 3, left << index - 3)
            x = self.blocks[index](x, w_plus[:, 2 * index + 1], w_plus[:, 2 * index + 2], corner)
        return self.blocks[6].to_img(x, w_plus[:, 15])

    def forward(self, codes: Tensor, size: int = 1024) -> Tensor:
        """Images for W (b, 512) or W+ (b, 18, 512) codes: (b, 3, size, size) RGB, about [-1, 1].

        `size` is 1024 (the full network) or 128 or 256 (preview heads on 64 and 128 px features).
        """
        if size not in SIZES:
            raise InputError(f"The generator gives images of {', '.join(map(str, SIZES))} px, not {size}.")
        w_plus = codes[:, None].expand(-1, ROWS, -1) if codes.ndim == 2 else codes
        return self.decode(self.features(w_plus, 64), w_plus, size)

    def decode(self, features: Tensor, w_plus: Tensor, size: int = 1024) -> Tensor:
        """Pictures (b, 3, size, size) of activations at 64 px, (b, 512, 64, 64), and codes (b, 18, 512)."""
        x = features
        for index in range(4, 7):
            if 8 << index > size // 2:
                break
            x = self.blocks[index](x, w_plus[:, 2 * index + 1], w_plus[:, 2 * index + 2])
        return (
            self.blocks[6].to_img(x, w_plus[:, 15]) if size == 1024 else self.previews[str(size)](x, w_plus)
        )
