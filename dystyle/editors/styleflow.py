"""StyleFlow (Abdal et al. 2021, arXiv 2008.02401): a continuous normalizing flow of W given attributes.

Integrated from t = 1 to 0 under the attributes a face has, the flow takes its code to a normal variable; from
there back under other attributes, to the edited code. Other attributes are held because they are given, too.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from dystyle.attributes import ATTRIBUTES
from dystyle.backend import Backend
from dystyle.editors.base import StrengthEditor
from dystyle.editors.search import Read
from dystyle.errors import InputError
from dystyle.weights import load, save

FARTHEST = 3.0  # a condition may be changed at most so far, on the common scale of [-1, 1]
SOLVER_STEPS = 6  # of the fixed-step solver
PICTURE_ROWS = 16  # rows of W+ that reach the picture


class GatedLayer(nn.Module):
    """(W x + b) * sigmoid(gate(t, a)) + shift(t, a): how the flow sees time and attributes."""

    def __init__(self, n_in: int, n_out: int, conditions: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)
        self.gate = nn.Linear(conditions + 1, n_out)
        self.shift = nn.Linear(conditions + 1, n_out, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.layer(x) * self.gate(condition).sigmoid() + self.shift(condition)


class Flow(nn.Module):
    """dx/dt = f(x, t, attributes), with the change of log density.

    Args:
        dim: of x; conditions: number of attributes; hidden: width.
    """

    def __init__(self, dim: int, conditions: int, hidden: int = 256) -> None:
        super().__init__()
        self.dim, self.conditions, self.hidden = dim, conditions, hidden
        sizes = (dim, hidden, dim)
        self.layers = nn.ModuleList(
            GatedLayer(a, b, conditions) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def velocity(self, t: Tensor, x: Tensor, conditions: Tensor) -> Tensor:
        """x (b, dim), conditions (b, n) -> (b, dim)."""
        condition = torch.cat((conditions, t.expand(len(x), 1)), 1)
        for layer in self.layers[:-1]:
            x = layer(x, condition).tanh()
        return self.layers[-1](x, condition)

    def transport(self, x: Tensor, conditions: Tensor, start: float, end: float) -> Tensor:
        """x (b, dim) carried from time `start` to `end`; 1 is where codes live, 0 the normal variable."""
        times = torch.linspace(start, end, SOLVER_STEPS + 1)
        return odeint(lambda t, y: self.velocity(t, y, conditions), x, times, method="rk4")[-1]

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
        z, change = (s[-1] for s in odeint(rate, (x, torch.zeros(len(x))), times, method="rk4"))
        normal = -0.5 * (z.square().sum(1) + self.dim * np.log(2 * np.pi))
        return normal + change

    def fit(
        self, x: Tensor, conditions: Tensor, steps: int, batch: int, rate: float, exact: bool = False
    ) -> list[float]:
        """Maximise the likelihood of x (n, dim) given conditions (n, k); returns the losses per dimension."""
        optimiser = torch.optim.Adam(self.parameters(), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        random, losses = torch.Generator().manual_seed(0), []
        for _ in range(steps):
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
    """Edits the mean row of a code by the flow and adds the change to the rows of the attributes.

    A strength is the change of the attribute's condition, on the common scale. Every row sees the changed
    conditions of those attributes only that may change it.

    Args:
        basis: (k, 512) unit principal components of W, `deviations` (k,), `mean` (512,): the flow's space.
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
        return torch.from_numpy(np.float32((w - self.mean) @ self.basis.T / self.deviations))

    def decode(self, x: Tensor) -> np.ndarray:
        """Coordinates (n, k) -> W codes (n, 512)."""
        return (x.numpy() * self.deviations) @ self.basis + self.mean

    def _levels(self, values: Mapping[str, float]) -> Tensor:
        """The flow's attributes on the common scale, (1, n)."""
        return torch.tensor([[float(ATTRIBUTES[name].value_to_level(values[name])) for name in self.names]])

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        values = read(code)
        known = self._levels(values)
        x = self.encode(code[None, :PICTURE_ROWS].mean(1))
        z = self.flow.transport(x, known, 1.0, 0.0)
        start = self.flow.transport(z, known, 0.0, 1.0)
        columns = [self.names.index(name) for name in names]
        first, last = self.bands[columns].T
        rows = np.arange(PICTURE_ROWS)[:, None]
        reached = (first <= rows) & (rows < last)  # (rows, n)

        def move(strengths: np.ndarray) -> np.ndarray:
            wanted = known.repeat(PICTURE_ROWS, 1)
            wanted[:, columns] += torch.from_numpy(np.float32(strengths * reached))
            latents = z.expand(PICTURE_ROWS, -1)
            change = self.decode(self.flow.transport(latents, wanted, 0.0, 1.0)) - self.decode(start)
            moved = np.array(code, np.float32)
            moved[:PICTURE_ROWS] += change
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
        w = self.decode(self.flow.transport(z, wanted, 0.0, 1.0))
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
        flow.load_state_dict({k.removeprefix("flow."): torch.from_numpy(v) for k, v in arrays.items()})
        return cls(names, flow, mean, basis, deviations, bands, slopes)

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "StyleFlowEditor":
        return cls.load(weights)
