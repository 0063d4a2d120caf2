"""StyleFlow (Abdal et al. 2021, arXiv 2008.02401): a continuous normalizing flow of W given attributes.

Integrated from t = 1 to 0 under the attributes a face has, the flow takes its code to a normal variable; from
there back under other attributes, to the edited code. Other attributes are held because they are given, too.

What the mapping network gives is bent by its last leaky ReLU. Without that bend codes are nearly normal (the
space P of Zhu et al. 2020, arXiv 2012.09036), which is where the flow starts from.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint
from tqdm import trange

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.editors.base import StrengthEditor
from dystyle.editors.search import Read
from dystyle.errors import InputError
from dystyle.weights import load, save

FARTHEST = 3.0  # a condition may be changed at most so far, on the common scale of [-1, 1]
SOLVER_STEPS = 2  # of the fixed-step solver
PICTURE_ROWS = 16  # rows of W+ that reach the picture
BEND = 5.0  # reciprocal of the slope that the mapping network's leaky ReLUs have below 0
LAYERS = 4  # hidden ones
MOMENTUM = 0.05  # of moving norms


def unbend(w: np.ndarray) -> np.ndarray:
    """W -> P: the inverse of the mapping network's last leaky ReLU, but for a factor."""
    return np.where(w < 0, np.float32(BEND) * w, w)


def bend(p: np.ndarray) -> np.ndarray:
    """P -> W."""
    return np.where(p < 0, p / np.float32(BEND), p)


class GatedLayer(nn.Module):
    """(W x + b) * sigmoid(gate(t, a)) + shift(t, a): how the flow sees time and attributes."""

    def __init__(self, n_in: int, n_out: int, conditions: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)
        self.gate = nn.Linear(conditions + 1, n_out)
        self.shift = nn.Linear(conditions + 1, n_out, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.layer(x) * self.gate(condition).sigmoid() + self.shift(condition)


class MovingNorm(nn.Module):
    """Batch normalization by moving statistics, which is invertible, as in PointFlow (Yang et al. 2019, arXiv
    1906.12320): x -> (x - mean) / deviation * exp(gain) + bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (b, dim) -> (b, dim); while training the statistics follow x."""
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), MOMENTUM)
                self.deviation.lerp_(x.std(0), MOMENTUM)
        return (x - self.mean) / self.deviation * self.gain.exp() + self.bias

    def inverse(self, y: Tensor) -> Tensor:
        return (y - self.bias) * (-self.gain).exp() * self.deviation + self.mean

    def log_volume(self) -> Tensor:
        """log |det| of the map, a scalar."""
        return (self.gain - self.deviation.log()).sum()


class Flow(nn.Module):
    """x <- dx/dt = f(x, t, attributes) between two moving norms -> normal variable.

    Args:
        dim: of x; conditions: number of attributes; hidden: width of each of `LAYERS` layers.
    """

    def __init__(self, dim: int, conditions: int, hidden: int = 512) -> None:
        super().__init__()
        self.dim, self.conditions, self.hidden = dim, conditions, hidden
        sizes = (dim, *[hidden] * LAYERS, dim)
        self.layers = nn.ModuleList(
            GatedLayer(a, b, conditions) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.outer, self.inner = MovingNorm(dim), MovingNorm(dim)
        for parameter in self.layers[-1].parameters():  # at first nothing flows
            nn.init.zeros_(parameter)

    def velocity(self, t: Tensor, x: Tensor, conditions: Tensor) -> Tensor:
        """x (b, dim), conditions (b, n) -> (b, dim)."""
        condition = torch.cat((conditions, t.expand(len(x), 1)), 1)
        for layer in self.layers[:-1]:
            x = layer(x, condition).tanh()
        return self.layers[-1](x, condition)

    def _carry(self, x: Tensor, conditions: Tensor, start: float, end: float) -> Tensor:
        times = torch.linspace(start, end, SOLVER_STEPS + 1)
        return odeint(lambda t, y: self.velocity(t, y, conditions), x, times, method="rk4")[-1]

    def to_normal(self, x: Tensor, conditions: Tensor) -> Tensor:
        """x (b, dim) under conditions (b, n) -> the normal variable z (b, dim)."""
        return self.inner(self._carry(self.outer(x), conditions, 1.0, 0.0))

    def from_normal(self, z: Tensor, conditions: Tensor) -> Tensor:
        """The inverse of `to_normal`."""
        return self.outer.inverse(self._carry(self.inner.inverse(z), conditions, 0.0, 1.0))

    def log_density(self, x: Tensor, conditions: Tensor, noise: Tensor | None = None) -> Tensor:
        """log p(x | attributes), (b,): d log p / dt = -tr(df/dx) (equation 4 there).

        Args:
            noise: (b, dim) random signs for Hutchinson's estimate of the trace; None computes it exactly.
        """

        def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                y = state[0] if state[0].requires_grad else state[0].detach().requires_grad_(True)
                speed = self.velocity(t, y, conditions)
                if noise is None:
                    columns = range(self.dim)
                    trace = sum(
                        torch.autograd.grad(speed[:, i].sum(), y, create_graph=True)[0][:, i] for i in columns
                    )
                else:
                    product = torch.autograd.grad((speed * noise).sum(), y, create_graph=True)[0]
                    trace = (product * noise).sum(1)
            return speed, trace

        times = torch.linspace(1.0, 0.0, SOLVER_STEPS + 1)
        y, change = (s[-1] for s in odeint(rate, (self.outer(x), torch.zeros(len(x))), times, method="rk4"))
        normal = -0.5 * (self.inner(y).square().sum(1) + self.dim * np.log(2 * np.pi))
        return normal + change + self.outer.log_volume() + self.inner.log_volume()

    def fit(
        self, x: Tensor, conditions: Tensor, steps: int, batch: int, rate: float, exact: bool = False
    ) -> list[float]:
        """Maximise the likelihood of x (n, dim) given conditions (n, k); returns the losses per dimension."""
        optimiser = torch.optim.Adam(self.parameters(), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        random, losses = torch.Generator().manual_seed(0), []
        for _ in trange(steps, desc="flow", mininterval=10, disable=None):
            chosen = torch.randint(len(x), (batch,), generator=random)
            signs = torch.randint(0, 2, (batch, self.dim), generator=random) * 2.0 - 1
            density = self.log_density(x[chosen], conditions[chosen], None if exact else signs)
            loss = -density.mean() / self.dim
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        return losses


class StyleFlowEditor(StrengthEditor):
    """Edits every row of a code by the flow, as a code of its own.

    A strength is the change of the attribute's condition, on the common scale. Every row sees the changed
    conditions of those attributes only that may change it, and of their companions. What the flow does not
    know of a row stays.

    Args:
        basis: (k, 512) unit principal components of P, `deviations` (k,), `mean` (512,): the flow's space.
        bands: (n, 2) int, the first row that each attribute changes and the row after the last; None: all
            that reach the picture.
        slopes: change of each attribute's level per change of its condition, (n,); None: 1.
    """

    farthest = FARTHEST

    def __init__(
        self,
        names: Sequence[str],
        flow: Flow,
        mean: np.ndarray,
        basis: np.ndarray,
        deviations: np.ndarray,
        bands: np.ndarray | None = None,
        slopes: np.ndarray | None = None,
    ) -> None:
        self.names, self.flow = tuple(names), flow.eval().requires_grad_(False)
        self.mean, self.basis, self.deviations = mean, basis, deviations
        self.bands = np.tile((0, PICTURE_ROWS), (len(self.names), 1)) if bands is None else bands
        self.slopes = np.ones(len(self.names)) if slopes is None else slopes

    def encode(self, w: np.ndarray) -> Tensor:
        """W codes (n, 512) -> the flow's coordinates (n, k)."""
        return torch.from_numpy(np.float32((unbend(w) - self.mean) @ self.basis.T / self.deviations))

    def _change(self, w: np.ndarray, change: Tensor) -> np.ndarray:
        """W codes (n, 512) whose coordinates are changed by (n, k)."""
        return bend(unbend(w) + (change.numpy() * self.deviations) @ self.basis)

    def _levels(self, values: Mapping[str, float]) -> Tensor:
        """The flow's attributes on the common scale, (1, n)."""
        return torch.tensor([[float(ATTRIBUTES[name].value_to_level(values[name])) for name in self.names]])

    def _companions(self, name: str, asked: Sequence[str]) -> list[str]:
        """What goes along with an attribute, since it hardly comes alone, unless it is asked for itself."""
        return [other for other in ATTRIBUTES[name].companions if other in self.names and other not in asked]

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        values = read(code)
        known = self._levels(values)
        rows = np.array(code[:PICTURE_ROWS], np.float32)
        z = self.flow.to_normal(self.encode(rows), known.expand(PICTURE_ROWS, -1))
        start = self.flow.from_normal(z, known.expand(PICTURE_ROWS, -1))
        columns = [self.names.index(name) for name in names]
        first, last = self.bands[columns].T
        numbers = np.arange(PICTURE_ROWS)[:, None]
        reached = (first <= numbers) & (numbers < last)  # (rows, n)

        along = np.eye(len(self.names), dtype=np.float32)[columns]  # (n, all)
        for name, row in zip(names, along, strict=True):
            row[[self.names.index(other) for other in self._companions(name, names)]] = 1

        def move(strengths: np.ndarray) -> np.ndarray:
            wanted = known + torch.from_numpy(np.float32(strengths * reached) @ along)
            moved = np.array(code, np.float32)
            moved[:PICTURE_ROWS] = self._change(rows, self.flow.from_normal(z, wanted) - start)
            return moved

        return move

    def sample(self, seed: int, values: Mapping[str, float]) -> np.ndarray:
        """The code (18, 512) of a random person with these attribute values; all of `names` are needed.

        Raises:
            InputError: a value is missing.
        """
        if missing := [name for name in self.names if name not in values]:
            raise InputError(f"Give a value for '{missing[0]}', too: the flow takes all attributes.")
        wanted = self._levels(values)
        z = torch.randn(1, self.flow.dim, generator=torch.Generator().manual_seed(seed))
        w = self._change(bend(self.mean[None]), self.flow.from_normal(z, wanted))
        return np.repeat(np.float32(w), 18, axis=0)

    def save(self, path: Path) -> None:
        """Write float16 weights."""
        tensors = {f"flow.{key}": value.numpy() for key, value in self.flow.state_dict().items()}
        tensors |= {"mean": self.mean, "basis": self.basis, "deviations": self.deviations}
        tensors["slopes"] = self.slopes
        tensors = {key: value.astype(np.float16) for key, value in tensors.items()}
        tensors["bands"] = self.bands.astype(np.int32)
        save(path, tensors, format="styleflow", names=" ".join(self.names), hidden=str(self.flow.hidden))

    @classmethod
    def load(cls, name_or_path: str) -> "StyleFlowEditor":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "styleflow":
            raise InputError(f"'{name_or_path}' does not hold a StyleFlow.")
        names = [name for name in metadata["names"].split() if name in ATTRIBUTES]
        bands = tensors.pop("bands")
        arrays = {key: np.float32(value) for key, value in tensors.items()}
        mean, basis, deviations, slopes = (
            arrays.pop(key) for key in ("mean", "basis", "deviations", "slopes")
        )
        flow = Flow(len(basis), len(names), int(metadata["hidden"]))
        try:
            flow.load_state_dict({k.removeprefix("flow."): torch.from_numpy(v) for k, v in arrays.items()})
        except RuntimeError as error:
            raise InputError(f"The flow '{name_or_path}' is of another version; train it anew.") from error
        return cls(names, flow, mean, basis, deviations, bands, slopes)

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "StyleFlowEditor":
        return cls.load(weights)
