"""The structure of DyStyle editors, shared by PyTorch's network and the assembled engines. Needs no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from dystyle.errors import InputError

DIM = 512  # of a row of W+
SLOPE = 0.2  # of the leaky ReLUs
# A target value v in [-1, 1] is shown to an expert as v, sin(a v) and cos(a v) for these a.
ANGLES = tuple(math.pi / 2 * 2**k for k in range(3))
EMBEDDED = 1 + 2 * len(ANGLES)


@dataclass(frozen=True)
class Structure:
    """What tells editors apart but for their weights.

    Attributes:
        names: attributes that there are experts for, in the table's order.
        rows: W+ rows 0 .. rows - 1 are edited; later ones (fine colour and texture) pass unchanged.
        hidden: width of the proxy codes.
    """

    names: tuple[str, ...]
    rows: int
    hidden: int

    @property
    def attention_scale(self) -> float:
        """1 / sqrt(d) with which the attention's products are scaled (Vaswani et al. 2017, equation 1)."""
        return self.hidden**-0.5

    def to_json(self) -> str:
        """As it stands in the metadata of a weight file."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, metadata: Mapping[str, str], file: object) -> "Structure":
        """From the metadata of the weight file `file`.

        Raises:
            InputError: it is no editor's, or one's of another version.
        """
        if metadata.get("format") != "dystyle":
            raise InputError(f"'{file}' does not hold a DyStyle editor.")
        structure = json.loads(metadata["structure"])
        if unknown := structure.keys() - {field.name for field in fields(cls)}:
            raise InputError(
                f"The editor '{file}' is of another version, whose '{min(unknown)}' this one lacks."
            )
        return cls(**structure | {"names": tuple(structure["names"])})
