"""What the translators' networks share: what they are called with, and their files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dystyle.errors import InputError
from dystyle.translators import FAMILIES
from dystyle.translators.structure import FORMAT, Structure
from dystyle.weights import load, save

SLOPE = 0.2  # of the leaky ReLUs


class Network(nn.Module):
    """A translator: pictures and attributes to pictures. Families differ in `decode`."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, pictures: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Pictures (b, 3, s, s) in [-1, 1], with attributes changed from `source` to `target`: likewise.

        Args:
            source, target: (b, n) from -0.5 to 0.5, in the order of the structure's names. STGAN is told
                their difference, the others the target alone.
        """
        told = target - source if FAMILIES[self.structure.family].given == "difference" else target
        decoded = self.decode(pictures, told)
        return pictures + decoded if self.structure.residual else decoded.tanh()

    def decode(self, pictures: Tensor, attributes: Tensor) -> Tensor:
        """(b, 3, s, s) of pictures and what is told, (b, n)."""
        raise NotImplementedError  # each family has its own

    def save(self, path: Path, **metadata: str) -> None:
        """Write float16 weights with what `load_network` needs as metadata."""
        tensors = {
            name: tensor.cpu().numpy().astype(np.float16 if tensor.ndim > 1 else np.float32)
            for name, tensor in self.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        save(path, tensors, format=FORMAT, structure=self.structure.to_json(), **metadata)


def build(structure: Structure) -> Network:
    """A fresh network of this structure."""
    return FAMILIES[structure.family].network()(structure)


def load_network(name_or_path: str) -> Network:
    """Read a translator's file, frozen.

    Raises:
        InputError: the file is missing, damaged, or not a translator's.
    """
    tensors, metadata = load(name_or_path)
    model = build(Structure.read(metadata, name_or_path))
    state = {name: torch.from_numpy(value).float() for name, value in tensors.items()}
    _fit(model, state, name_or_path)
    return model.eval().requires_grad_(False)


def _fit(model: Network, state: Mapping[str, Tensor], file: str) -> None:
    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise InputError(f"The translator '{file}' does not fit its structure: wrong tensor '{wrong[0]}'.")
    model.load_state_dict(state, strict=False)


def down(channels_in: int, channels_out: int) -> nn.Sequential:
    """A layer of the encoder: half the size."""
    conv = nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.LeakyReLU(SLOPE))


def up(channels_in: int, channels_out: int) -> nn.Sequential:
    """A layer of the decoder: twice the size."""
    conv = nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


def spread(attributes: Tensor, maps: Tensor) -> Tensor:
    """Maps (b, c, h, w) with attributes (b, n) as n further constant ones: (b, c + n, h, w)."""
    planes = attributes[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    return torch.cat((maps, planes), 1)
