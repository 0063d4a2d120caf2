"""DyStyle (Li et al. 2021, arXiv 2109.10737): an editor whose structure follows the attributes edited.

For every W+ row, each active attribute has its own expert, which turns the row and the attribute's
target value into a proxy code. Attention lets the proxy codes see one another, their sum fuses them, and
the fused code transforms the row affinely. Experts of other attributes are never run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.structure import ANGLES, DIM, EMBEDDED, SLOPE, Structure
from dystyle.errors import InputError
from dystyle.weights import load, save


def embed(value: Tensor) -> Tensor:
    """Normalised target values (b,) in [-1, 1] -> (b, 7): the value, sines and cosines."""
    angles = value[:, None] * torch.tensor(ANGLES, device=value.device)
    return torch.cat((value[:, None], angles.sin(), angles.cos()), 1)


class RowLinear(nn.Module):
    """A fully connected layer of its own for every W+ row: (rows, b, n_in) -> (rows, b, n_out)."""

    def __init__(self, rows: int, n_in: int, n_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, n_in, n_out) * gain * n_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(rows, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Expert(nn.Module):
    """One attribute's experts, one per row: (W_l, target value) -> proxy code P_l (section 3.2)."""

    def __init__(self, rows: int, hidden: int) -> None:
        super().__init__()
        self.input = RowLinear(rows, DIM + EMBEDDED, hidden, gain=2**0.5)
        self.output = RowLinear(rows, hidden, hidden, gain=2**0.5)

    def forward(self, x: Tensor, value: Tensor) -> Tensor:
        """Normalised rows (rows, b, 512) and target values (b,) in [-1, 1] -> (rows, b, hidden)."""
        x = torch.cat((x, embed(value).expand(len(x), -1, -1)), 2)
        return F.leaky_relu(self.output(F.leaky_relu(self.input(x), SLOPE)), SLOPE)


class ProxyAttention(nn.Module):
    """p_i = sum_j V_j softmax_j(Q_i . K_j / sqrt(d)) over the active proxy codes, of width d.

    They add up to the fused code.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        rows, hidden = structure.rows, structure.hidden
        self.query, self.key, self.value = (RowLinear(rows, hidden, hidden) for _ in range(3))
        self.scale = structure.attention_scale

    def forward(self, proxies: list[Tensor]) -> Tensor:
        """n proxy codes (rows, b, hidden) -> fused code (rows, b, hidden). For n = 1 it is V."""
        values = torch.stack([self.value(p) for p in proxies], 2)
        weights = self.weights(proxies)
        return (weights @ values).sum(2)

    def weights(self, proxies: list[Tensor]) -> Tensor:
        """Attention of each active expert (first n) to each (second n): (rows, b, n, n)."""
        queries, keys = (torch.stack([layer(p) for p in proxies], 2) for layer in (self.query, self.key))
        return (queries @ keys.transpose(2, 3) * self.scale).softmax(3)


class DyStyle(nn.Module):
    """The editor.

    Args:
        names: attributes it has experts for.
        rows: W+ rows 0 .. rows - 1 are edited; later ones (fine colour and texture) pass unchanged.
        hidden: width of the proxy codes.
        mean_w, std_w: (512,) statistics of W; experts see and transform rows in these units.
    """

    def __init__(
        self,
        names: Iterable[str],
        rows: int,
        hidden: int,
        mean_w: Tensor | None = None,
        std_w: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(name for name in ATTRIBUTES if name in set(names))
        self.rows, self.hidden = rows, hidden
        self.structure = Structure(self.names, rows, hidden)
        self.register_buffer("mean_w", torch.zeros(DIM) if mean_w is None else mean_w.clone())
        self.register_buffer("std_w", torch.ones(DIM) if std_w is None else std_w.clone())
        self.experts = nn.ModuleDict({name: Expert(rows, hidden) for name in self.names})
        self.attention = ProxyAttention(self.structure)
        self.scale, self.shift = (RowLinear(rows, hidden, DIM, gain=0) for _ in range(2))

    def normalise(self, codes: Tensor) -> Tensor:
        """The edited rows of codes (b, 18, 512) in units of W's deviation: (rows, b, 512)."""
        return ((codes[:, : self.rows] - self.mean_w) / self.std_w).transpose(0, 1)

    def proxies(self, codes: Tensor, configuration: Mapping[str, Tensor]) -> list[Tensor]:
        """Proxy codes of the active experts, in the table's order; see `forward` for the arguments."""
        x = self.normalise(codes)
        return [
            self.experts[name](x, ATTRIBUTES[name].normalise(configuration[name]))
            for name in self.names
            if name in configuration
        ]

    def forward(self, codes: Tensor, configuration: Mapping[str, Tensor]) -> Tensor:
        """Edit codes (b, 18, 512).

        Args:
            configuration: target values (b,) in the attribute's unit, by name; only these experts run.

        Returns:
            (b, 18, 512); for an empty configuration `codes` itself.
        """
        if unknown := [name for name in configuration if name not in self.experts]:
            raise InputError(f"This editor has no expert for '{unknown[0]}'; it has {', '.join(self.names)}.")
        if not configuration:
            return codes
        x = self.normalise(codes)
        fused = self.attention(self.proxies(codes, configuration))
        x = x + x * self.scale(fused) + self.shift(fused)
        edited = x.transpose(0, 1) * self.std_w + self.mean_w
        return torch.cat((edited, codes[:, self.rows :]), 1)

    def save(self, path, **metadata: str) -> None:
        """Write float16 weights with what `load` needs as metadata."""
        tensors = {key: value.detach().cpu().numpy() for key, value in self.state_dict().items()}
        tensors = {key: value.astype(np.float16) for key, value in tensors.items()} | {
            key: tensors[key] for key in ("mean_w", "std_w")
        }
        save(path, tensors, format="dystyle", structure=self.structure.to_json(), **metadata)

    @classmethod
    def load(cls, name_or_path: str) -> "DyStyle":
        """Read an editor written by `save`, frozen.

        Raises:
            InputError: the file is missing, damaged, of another version, or not an editor.
        """
        tensors, metadata = load(name_or_path)
        model = cls(**asdict(Structure.read(metadata, name_or_path)))
        state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
        if state.keys() != model.state_dict().keys():
            wrong = sorted(state.keys() ^ model.state_dict().keys())[0]
            raise InputError(f"The editor '{name_or_path}' does not fit its structure: wrong key '{wrong}'.")
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)
