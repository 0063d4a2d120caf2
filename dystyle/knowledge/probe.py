"""The probe: a small network for what no published one reads, such as glasses, hair colour and moustaches."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.errors import InputError
from dystyle.weights import load, save

# Smile and mouth are read by other networks, too: the probe gives them a second opinion.
PROBED = ("eyeglasses", "black_hair", "mustache", "beard", "smile", "mouth_open")


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and channel attention (squeeze and excitation)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_out), nn.BatchNorm2d(channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1)
        self.squeeze = nn.Linear(channels_out, channels_out // 8)
        self.excite = nn.Linear(channels_out // 8, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, s, s) -> (b, c_out, s/2, s/2)."""
        y = F.silu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        gate = self.excite(F.silu(self.squeeze(y.mean((2, 3))))).sigmoid()
        return F.silu(self.skip(F.avg_pool2d(x, 2)) + y * gate[:, :, None, None])


class FaceProbe(nn.Module):
    """FFHQ-aligned faces (b, 3, 128, 128) in [-1, 1] -> logits (b, len(names)).

    Args:
        names: what is read, in order. channels: width of the stages, each of which halves the picture.
    """

    SIZE = 128

    def __init__(
        self, names: tuple[str, ...] = PROBED, channels: tuple[int, ...] = (24, 48, 96, 160, 256)
    ) -> None:
        super().__init__()
        self.names, self.channels = tuple(names), tuple(channels)
        widths = (3, *self.channels)
        self.stages = nn.Sequential(*(Residual(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        self.hidden = nn.Linear(self.channels[-1] * (self.SIZE >> len(self.channels)) ** 2, 256)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(256, len(self.names))

    def features(self, images: Tensor) -> Tensor:
        """Images (b, 3, 128, 128) -> features (b, 256) for the head."""
        x = self.dropout(self.stages(images).flatten(1))
        return self.dropout(F.silu(self.hidden(x)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def save(self, path: Path) -> None:
        """Write float16 weights with what `load` needs as metadata."""
        structure = json.dumps({"names": self.names, "channels": self.channels})
        tensors = {
            key: value.numpy().astype(np.float16) if value.ndim > 1 else value.numpy()
            for key, value in self.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        save(path, tensors, format="probe", structure=structure)

    @classmethod
    def load(cls, name_or_path: str) -> "FaceProbe":
        """Read a probe written by `save`, frozen.

        Raises:
            InputError: the file is missing, damaged, or not a probe.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "probe":
            raise InputError(f"'{name_or_path}' does not hold a face probe.")
        model = cls(**json.loads(metadata["structure"]))
        state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
        wanted = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
        if state.keys() != wanted:
            wrong = sorted(state.keys() ^ wanted)[0]
            raise InputError(f"The probe '{name_or_path}' does not fit its structure: wrong key '{wrong}'.")
        model.load_state_dict(state, strict=False)
        return model.eval().requires_grad_(False)
