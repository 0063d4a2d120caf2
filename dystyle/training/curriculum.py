"""What training asks the editor for: random configurations, from easy to hard (section 3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dystyle.attributes import ATTRIBUTES

# Share of numeric targets that are the face's own value: an edit to what is there already changes nothing.
STAY = 0.1
# The curriculum moves on when a window of steps brought the loss down by less than this share.
WINDOW, SETTLED = 50, 0.03


def draw_targets(name: str, batch: int) -> Tensor:
    """Uniform random targets (b,) of an attribute in its unit; two of three binary ones are at an end."""
    row, uniform = ATTRIBUTES[name], torch.rand(batch)
    if row.kind == "binary":
        return torch.where(torch.rand(batch) < 2 / 3, uniform.round(), uniform)
    low, high = row.trained
    return low + uniform * (high - low)


def choose(names: tuple[str, ...], count: int, one_of: tuple[str, ...] = ()) -> list[str]:
    """`count` random attributes, the first of them of `one_of`, if any."""
    order = [names[i] for i in torch.randperm(len(names)).tolist()]
    if one_of:
        order = [name for name in order if name in one_of][:1] + order
    return list(dict.fromkeys(order))[:count]


def sample_configuration(
    names: tuple[str, ...], count: int, current: Mapping[str, Tensor], one_of: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """A uniform random configuration of `count` attributes (see `choose`) with uniform targets, (b,) each.

    A few numeric ones stay where they are.

    Args:
        current: the faces' scores, (b,) by name.
    """
    configuration = {}
    for name in choose(names, count, one_of):
        row, batch = ATTRIBUTES[name], len(current[name])
        targets = configuration[name] = draw_targets(name, batch)
        if row.kind == "binary":
            continue
        stay = row.score_to_value(current[name])
        configuration[name] = torch.where(torch.rand(batch) < STAY, stay, targets)
    return configuration


@dataclass
class Curriculum:
    """From easy to hard (section 3.4): how many attributes a configuration may hold.

    One at first; one more whenever the loss has settled, and at the latest as a straight line to `most`
    over the first `steps` steps asks for.
    """

    most: int
    steps: float
    reached: int = 1
    losses: list[float] = field(default_factory=list)

    def level(self, step: int) -> int:
        """The most attributes at this step."""
        due = 1 + int((self.most - 1) * step / self.steps) if self.steps else self.most
        return min(self.most, max(self.reached, due))

    def update(self, step: int, loss: float) -> None:
        """Take in the mean loss of an attribute in this step."""
        self.losses.append(loss)
        if len(self.losses) < 2 * WINDOW:
            return
        before, now = sum(self.losses[:WINDOW]), sum(self.losses[WINDOW:])
        self.losses = self.losses[WINDOW:]
        if now > (1 - SETTLED) * before:
            self.reached = self.level(step) + 1
            self.losses = []  # harder configurations have another loss
