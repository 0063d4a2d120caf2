"""The structure of translators, and attributes as they are told. Needs no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.translators import FAMILIES
from dystyle.weights import read_structure

FORMAT = "translator"


@dataclass(frozen=True)
class Structure:
    """What tells networks apart but for their weights.

    Attributes:
        family: a key of `FAMILIES`.
        names: the attributes it changes, in the table's order.
        size: px of its pictures, a multiple of 2^depth.
        width: channels of the first layer; every further one has twice as many.
        depth: how often the encoder halves the picture.
        residual: the network predicts what is added to the picture; False: the picture itself, as the papers'
            do.
    """

    family: str
    names: tuple[str, ...]
    size: int = 128
    width: int = 16
    depth: int = 5
    residual: bool = True

    def __post_init__(self) -> None:
        if self.size % 2**self.depth or self.size < 2 ** (self.depth + 1):
            raise InputError(
                f"A network that halves pictures {self.depth} times takes a multiple of {2**self.depth} px "
                f"from {2 ** (self.depth + 1)} on, not {self.size}."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels behind each layer of the encoder."""
        return tuple(self.width << layer for layer in range(self.depth))

    def to_json(self) -> str:
        """As it stands in the metadata of a weight file."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, metadata: Mapping[str, str], file: object) -> "Structure":
        """From the metadata of the weight file `file`.

        Raises:
            InputError: it is no translator's, or one's of another version.
        """
        if metadata.get("format") != FORMAT:
            raise InputError(f"'{file}' does not hold a translator.")
        structure = read_structure(file, metadata)
        known = {field.name for field in fields(cls)}
        if structure.keys() != known or structure["family"] not in FAMILIES:
            raise InputError(f"The translator '{file}' is of another version; train it anew.")
        return cls(**structure | {"names": tuple(structure["names"])})


def scaled(values: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Values in the attributes' units as translators are told them: their ranges are -0.5 to +0.5, (n,)."""
    rows = [ATTRIBUTES[name] for name in names]
    return np.float32([row.normalise(row.clamp(values[row.name])) / 2 for row in rows])
