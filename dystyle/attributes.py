"""The attribute table: every attribute the project knows, with its kind, unit and range.

A *configuration* is a mapping from attribute names to target values that holds only the attributes to
be edited. Adding an attribute takes a row here, a reading in `dystyle.knowledge.readings` and a
training run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dystyle.errors import InputError


@dataclass(frozen=True)
class Attribute:
    """One row of the table. Values run from `low` to `high`, both included, in `unit`.

    `carries` names binary attributes that go along when this one is taken away (a target below 0.5), because
    faces do so: who stops smiling closes the mouth.
    """

    name: str
    kind: Literal["numeric", "binary"]
    low: float
    high: float
    unit: str
    label: str
    carries: tuple[str, ...] = ()

    def normalise(self, value):
        """Map [low, high] linearly to [-1, 1]; works on floats, arrays and tensors."""
        return (2 * value - self.low - self.high) / (self.high - self.low)

    def denormalise(self, value):
        """Inverse of `normalise`."""
        return (value * (self.high - self.low) + self.low + self.high) / 2


ATTRIBUTES: dict[str, Attribute] = {
    row.name: row
    for row in (
        Attribute("yaw", "numeric", -40, 40, "degrees", "Head yaw"),
        Attribute("pitch", "numeric", -25, 25, "degrees", "Head pitch"),
        Attribute("age", "numeric", 5, 80, "years", "Age"),
        Attribute("gender", "numeric", 0, 1, "", "Gender"),
        Attribute("smile", "binary", 0, 1, "", "Smile", carries=("mouth_open",)),
        Attribute("mouth_open", "binary", 0, 1, "", "Open mouth"),
        Attribute("eyes_closed", "binary", 0, 1, "", "Closed eyes"),
        Attribute("eyeglasses", "binary", 0, 1, "", "Eyeglasses"),
        Attribute("black_hair", "binary", 0, 1, "", "Black hair"),
        Attribute("mustache", "binary", 0, 1, "", "Moustache"),
        Attribute("beard", "binary", 0, 1, "", "Beard"),
    )
}


def validate_configuration(
    configuration: Mapping[str, object], supported: Mapping[str, Attribute] | None = None
) -> dict[str, float]:
    """Check a configuration and return it as floats, in the table's order.

    Args:
        configuration: attribute name -> target value in the attribute's unit; may be empty.
        supported: the attributes an editor can change; all of the table by default.

    Raises:
        InputError: for an unknown or unsupported attribute, a value that is not a finite number, or
            one outside the attribute's range.
    """
    supported = ATTRIBUTES if supported is None else supported
    for name, value in configuration.items():
        if name not in ATTRIBUTES:
            raise InputError(f"There is no attribute '{name}'; choose from {', '.join(supported)}.")
        if name not in supported:
            raise InputError(f"The editor has not learnt '{name}' yet; choose from {', '.join(supported)}.")
        row = ATTRIBUTES[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"'{value}' is not a value for {name}; give a number from {row.low:g} to {row.high:g}."
            )
        if not row.low <= number <= row.high:
            raise InputError(
                f"{name} = {number:g} is out of range; give a number from {row.low:g} to {row.high:g}."
            )
    return {name: float(configuration[name]) for name in ATTRIBUTES if name in configuration}
