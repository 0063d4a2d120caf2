"""The encoders of pSp and encoder4editing, for the checkpoints that their authors published.

pSp (Richardson et al. 2021, "Encoding in Style") reads a pyramid of features with one small network for
every row of W+. encoder4editing (Tov et al. 2021, "Designing an Encoder for StyleGAN Image Manipulation")
is the same network with another meaning: the first row is a W code and the others are offsets from it.
Modules bear the checkpoints' names.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.torch_files import is_named, misfit, read_torch, unwrapped
from dystyle.weights import resolve

ROWS, DIM, SIZE = 18, 512, 256
WHAT = "pSp or encoder4editing"
# What a checkpoint's `opts` call the network.
KINDS = {"Encoder4Editing": "e4e", "GradualStyleEncoder": "psp"}


class ChannelAttention(nn.Module):
    """Squeeze and excitation: every channel times a gate that all of them decide."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Bottleneck(nn.Module):
    """A residual unit of IR-SE50, (b, c_in, s, s) -> (b, c_out, s / stride, s / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if channels_in == channels_out
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            ChannelAttention(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class EqualLinear(nn.Module):
    """A linear layer whose weight is scaled when it is used, as StyleGAN2 does."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(dim, dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight.shape[1] ** -0.5, self.bias)


class StyleBlock(nn.Module):
    """Features (b, 512, spatial, spatial) -> one row of W+ (b, 512); pSp's "map2style"."""

    def __init__(self, spatial: int) -> None:
        super().__init__()
        halvings = spatial.bit_length() - 1
        layers = [layer for _ in range(halvings) for layer in (nn.Conv2d(DIM, DIM, 3, 2, 1), nn.LeakyReLU())]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class PspEncoder(nn.Module):
    """Portrait (b, 3, 256, 256) RGB in [-1, 1] -> W+ (b, 18, 512). 267 M parameters.

    Args:
        kind: "e4e" or "psp".

    Attributes:
        latent_avg: (18, 512), added to the result; zero unless a checkpoint brings one.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        units, channels = [], 64
        for depth, count in ((64, 3), (128, 4), (256, 14), (512, 3)):
            for index in range(count):
                units.append(Bottleneck(channels, depth, 1 if index else 2))
                channels = depth
        self.body = nn.Sequential(*units)
        self.styles = nn.ModuleList(StyleBlock(16 if i < 3 else 32 if i < 7 else 64) for i in range(ROWS))
        self.latlayer1, self.latlayer2 = nn.Conv2d(256, DIM, 1), nn.Conv2d(128, DIM, 1)
        self.register_buffer("latent_avg", torch.zeros(ROWS, DIM), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, size=(SIZE, SIZE), mode="area")
        fine = self.body[:7](self.input_layer(images))
        middle = self.body[7:21](fine)
        coarse = self.body[21:](middle)
        middle = _double(coarse) + self.latlayer1(middle)
        fine = _double(middle) + self.latlayer2(fine)
        levels = [coarse] * 3 + [middle] * 4 + [fine] * 11
        rows = torch.stack([style(x) for style, x in zip(self.styles, levels, strict=True)], 1)
        if self.kind == "e4e":  # Tov et al. 2021: w, w + d_1, ..., w + d_17
            rows = torch.cat((rows[:, :1], rows[:, :1] + rows[:, 1:]), 1)
        return rows + self.latent_avg

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> "PspEncoder":
        """Read the encoder of a published checkpoint, frozen; "e4e" is fetched from the Hugging Face hub.

        A checkpoint is a dictionary with `state_dict`, of which everything under `encoder.` has to fit and
        the rest is not read, `opts`, whose `encoder_type` chooses the kind ("Encoder4Editing" or
        "GradualStyleEncoder": nothing else tells the two apart), and perhaps `latent_avg`. Nothing but
        tensors, plain values and `argparse.Namespace` is unpickled. Float32 weights stay mapped from the
        file, so that they need memory only while they are used.

        Raises:
            InputError: the file is missing, damaged, or no such checkpoint.
        """
        path = resolve(name_or_path)
        checkpoint = _read(path)
        with torch.device("meta"):
            model = cls(_kind(path, checkpoint))
        wanted = {f"encoder.{key}": value for key, value in model.state_dict().items()}
        state = {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("encoder.")}
        if wrong := misfit(state, wanted):
            raise InputError(f"The encoder in '{path}' does not fit the {model.kind} network: {wrong}.")
        state = {key.removeprefix("encoder."): value.to(wanted[key].dtype) for key, value in state.items()}
        model.load_state_dict(state, assign=True)
        model.latent_avg = _latent_avg(path, checkpoint)
        return model.eval().requires_grad_(False)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _read(path: Path) -> dict:
    """The checkpoint's dictionary, with a `state_dict` of named entries in it."""
    checkpoint = read_torch(path, WHAT)
    if not is_named(checkpoint.get("state_dict")):
        raise InputError(f"'{path}' is damaged or not a checkpoint of {WHAT}: it has no `state_dict`.")
    return checkpoint | {"state_dict": unwrapped(checkpoint["state_dict"])}


def _kind(path: Path, checkpoint: Mapping) -> str:
    opts = checkpoint.get("opts")
    opts = vars(opts) if isinstance(opts, argparse.Namespace) else opts
    encoder_type = opts.get("encoder_type") if isinstance(opts, dict) else None
    if str(encoder_type) not in KINDS:
        raise InputError(
            f"'{path}' does not say which network it holds: encoder_type in its opts has to be "
            f"{' or '.join(KINDS)}, not {encoder_type}."
        )
    return KINDS[encoder_type]


def _latent_avg(path: Path, checkpoint: Mapping) -> Tensor:
    """(18, 512); zero when the checkpoint was trained without."""
    average = checkpoint.get("latent_avg")
    if average is None:
        return torch.zeros(ROWS, DIM)
    if not isinstance(average, Tensor) or average.shape not in ((DIM,), (1, DIM), (ROWS, DIM)):
        raise InputError(f"'latent_avg' in '{path}' has to be a tensor of the shape (18, 512) or (512,).")
    return average.float().expand(ROWS, DIM).clone()
