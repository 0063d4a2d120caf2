"""The attribute table: all that the project knows about an attribute, whoever asks.

A *configuration* is a mapping from attribute names to target values that holds only the attributes to
be edited. Adding an attribute takes a row here, its predictor in `dystyle.knowledge.readings` and a
training run (docs/adding-an-attribute.md).

What is read of a face comes as one of three numbers, and a row turns one into another:

- *score*: what a predictor gives; the value itself, or the logit of a probability
- *value*: what users and configurations speak of, in the attribute's unit and within its range
- *level*: the common scale of [-1, 1], on which attributes can be compared
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dystyle.errors import InputError

Group = Literal["Pose", "Age", "Expression", "Looks", "More"]
"""The groups of the page, in its order."""

LOGIT_SCALE = 4.0  # logits are divided by it on the common scale, so that they do not saturate
LEAST_PROBABILITY = 1e-5  # probabilities of 0 and 1 would have infinite logits

# Hulls of face mesh points.
MOUTH = (61, 291, 0, 17, 13, 14, 37, 267, 84, 314)
UPPER_LIP = (2, 98, 327, 61, 291, 0)
JAW = (61, 291, 152, 148, 377, 172, 397, 17)
EYES = (33, 133, 159, 145, 263, 362, 386, 374)
AROUND_THE_EYES = (*EYES, 70, 300, 117, 346, 168)
LIPS = (61, 291, 0, 17, 37, 267, 39, 269, 40, 270, 185, 409, 146, 375, 91, 321, 181, 405, 84, 314)
LEFT_BROW = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)
RIGHT_BROW = (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
NOSE = (168, 6, 195, 4, 2, 98, 327, 48, 278)
BELOW_THE_BROWS = (70, 105, 107, 336, 334, 300, 116, 345, 123, 352, 172, 397, 148, 152, 377)
CHEEKS = (50, 280, 205, 425)  # their middles, and those beside the mouth
EARS = (127, 234, 93, 132, 58, 356, 454, 323, 361, 288)  # the edges of the face beside them
# Parts of a face that edits may leave alone: the hulls that make them, the margin around them, in sides of
# the portrait, and how softly they end, in px of 256.
PARTS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[float, float]]] = {
    "eyes": ((EYES[:4], EYES[4:]), (0.006, 2)),
    "brows": ((LEFT_BROW, RIGHT_BROW), (0.01, 4)),
    "nose": ((NOSE,), (0.01, 4)),
    "mouth": ((LIPS,), (0.012, 3)),
    "face": ((BELOW_THE_BROWS,), (0.0, 6)),
    "glasses": ((AROUND_THE_EYES,), (0.03, 4)),
}


@dataclass(frozen=True)
class Attribute:
    """One row of the table. Numbers are in `unit` where nothing else is said; functions take floats, arrays
    and tensors.

    Attributes:
        name: in configurations and files. label: on the page.
        kind: "numeric" ones have targets anywhere in their range, "binary" ones mostly at its ends.
        low, high: range of values, both included; a probability's is 0 to 1.
        scale: "linear", or "probability" where scores are logits.
        trained, evaluated: ranges from which numeric targets are drawn, where faces can follow; all of the
            range where nothing is said. Beyond what is evaluated, DyStyle goes on in a straight line.
        tolerance: a numeric edit that comes so near to its target is right; a tenth of the range where
            nothing is said.
        error_bounds: mean absolute errors that the project allows itself, alone and among three attributes.
        identity_cost: cosine of identity embeddings that a change over half of the range may cost.
        changes_person: whether recognition may well take the edited face for somebody else.
        mirror_sign: -1 where a mirrored face reads the opposite.
        carries: binary attributes that go along when this one is taken away (a target below 0.5), because
            faces do so: who stops smiling closes the mouth.
        companions: attributes that hardly come or go without this one; a second look lets them.
        trust: share of what its reading says to be amiss that a second look corrects: the rest is the
            reader's own mistake.
        benchmarked: whether `python -m dystyle.evaluate editing` edits and reads it unless told otherwise.
        group: where it stands on the page.
        region: face mesh points whose hull holds what it changes; none if that is all of the face.
        leaves: of `PARTS`, what it leaves as it is, but for moving it.
        hides: of these parts, what may lie behind it, and is not the photo's any more when it is taken away.
        turns: axis around which it turns the head as a whole and changes nothing of it, clockwise as seen
            along the axis: to the right, down, and away from the camera; none if it does something else.
        dyes: "only" if it is hair's colour and nothing else, so that a photo's own hair is dyed; "too" if it
            changes that beside other things, which leave a photo's hair as it is; "no" otherwise.
        colours: whether it may change the complexion where it is, as stubble does, and lids.
        photo_gain: how many times as far a photo's code goes, downwards and upwards, since what is carried of
            the photo beside the code holds the edit back; of what turns the head, how many times as far it is
            turned.
        most_gain: of a number, downwards and upwards: the most of what is found for a face instead.
        gives_way: share of what is carried of the photo that gives way to a usual edit, downwards and
            upwards: wrinkles, or a mouth of another shape, are in it. gives_way_in: where, of `PARTS`; none:
            in all of the face.

    Raises:
        ValueError: a probability with another range than 0 to 1, or a binary attribute that is none.
    """

    name: str
    kind: Literal["numeric", "binary"]
    low: float
    high: float
    unit: str
    label: str
    scale: Literal["linear", "probability"] = "probability"
    trained: tuple[float, ...] = ()
    evaluated: tuple[float, ...] = ()
    tolerance: float = math.nan
    error_bounds: tuple[float, float] | None = None
    identity_cost: float = 0.0
    changes_person: bool = False
    mirror_sign: Literal[1, -1] = 1
    carries: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    trust: float = 1.0
    benchmarked: bool = True
    group: Group = "More"
    region: tuple[int, ...] = ()
    leaves: frozenset[str] = frozenset({"eyes"})
    hides: frozenset[str] = frozenset()
    turns: tuple[float, float, float] | None = None
    dyes: Literal["no", "too", "only"] = "no"
    colours: bool = False
    photo_gain: tuple[float, float] = (1.0, 1.0)
    most_gain: tuple[float, float] = (3.2, 3.2)
    gives_way: tuple[float, float] = (0.0, 0.0)
    gives_way_in: str = ""

    def __post_init__(self) -> None:
        if self.scale == "probability" and (self.low, self.high) != (0, 1):
            raise ValueError(f"{self.name}: a probability runs from 0 to 1; other numbers are linear.")
        if self.kind == "binary" and self.scale != "probability":
            raise ValueError(f"{self.name}: a binary attribute is read as a probability.")
        whole = (self.low, self.high)
        object.__setattr__(self, "trained", self.trained or whole)
        object.__setattr__(self, "evaluated", self.evaluated or whole)
        if math.isnan(self.tolerance):
            object.__setattr__(self, "tolerance", 0.1 * self.width)

    @property
    def width(self) -> float:
        """Length of the range."""
        return self.high - self.low

    @property
    def step(self) -> float:
        """The least change that means anything to a person: a whole unit, a hundredth of a probability."""
        return 0.01 if self.scale == "probability" else 1

    def normalise(self, value):
        """Map [low, high] linearly to [-1, 1]."""
        return (2 * value - self.low - self.high) / self.width

    def denormalise(self, value):
        """Inverse of `normalise`."""
        return (value * self.width + self.low + self.high) / 2

    def clamp(self, value):
        """The nearest value within the range."""
        return value.clamp(self.low, self.high) if _is_tensor(value) else np.clip(value, self.low, self.high)

    def score_to_value(self, score):
        """A logit's probability; any other number is kept within the range."""
        if self.scale == "linear":
            return self.clamp(score)
        return score.sigmoid() if _is_tensor(score) else 1 / (1 + np.exp(-score))

    def value_to_score(self, value, margin: float = LEAST_PROBABILITY):
        """Inverse of `score_to_value`; probabilities within `margin` of 0 and 1 count as that."""
        if self.scale == "linear":
            return value
        if _is_tensor(value):
            return value.clamp(margin, 1 - margin).logit()
        value = np.clip(value, margin, 1 - margin)
        return np.log(value / (1 - value))

    def score_to_level(self, score):
        """A score on the common scale: the range is mapped to [-1, 1], logits are softly bounded to it."""
        if self.scale == "linear":
            return self.normalise(score)
        scaled = score / LOGIT_SCALE
        return scaled.tanh() if _is_tensor(score) else np.tanh(scaled)

    def value_to_level(self, value):
        """A value on the common scale."""
        return self.score_to_level(self.value_to_score(value))


def _is_tensor(x) -> bool:
    """Whether x is PyTorch's, which need not be imported to read the table."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


ATTRIBUTES: dict[str, Attribute] = {
    row.name: row
    for row in (
        Attribute(
            "yaw",
            "numeric",
            -40,
            40,
            "degrees",
            "Turn",
            scale="linear",
            trained=(-32, 32),
            evaluated=(-25, 25),
            tolerance=5,
            error_bounds=(3, 4),
            identity_cost=0.3,
            mirror_sign=-1,
            group="Pose",
            leaves=frozenset({"eyes", "mouth"}),
            turns=(0, -1, 0),
            photo_gain=(1.17, 1.17),
            most_gain=(1.5, 1.5),
        ),
        Attribute(
            "pitch",
            "numeric",
            -25,
            25,
            "degrees",
            "Tilt",
            scale="linear",
            trained=(-18, 18),
            evaluated=(-15, 15),
            tolerance=5,
            error_bounds=(3, 4),
            identity_cost=0.2,
            group="Pose",
            leaves=frozenset({"eyes", "mouth"}),
            turns=(-1, 0, 0),
            photo_gain=(1.05, 1.05),
            most_gain=(1.5, 1.5),
        ),
        Attribute(
            "age",
            "numeric",
            5,
            80,
            "years",
            "Age",
            scale="linear",
            trained=(6, 75),
            evaluated=(10, 70),
            tolerance=8,
            error_bounds=(5, 6.5),
            identity_cost=0.15,
            trust=0.5,
            changes_person=True,
            group="Age",
            leaves=frozenset({"eyes", "brows", "nose", "mouth"}),
            dyes="too",
            photo_gain=(1.7, 1.7),
            most_gain=(3.6, 2.3),
            gives_way=(0.65, 0.6),
        ),
        Attribute(
            "gender",
            "numeric",
            0,
            1,
            "",
            "Gender",
            tolerance=0.2,
            identity_cost=0.2,
            changes_person=True,
            group="Looks",
            leaves=frozenset(),
            photo_gain=(1.2, 1.2),
            most_gain=(1.3, 1.3),
            gives_way=(0.6, 0.6),
        ),
        Attribute(
            "smile",
            "binary",
            0,
            1,
            "",
            "Smile",
            carries=("mouth_open",),
            group="Expression",
            region=MOUTH,
            leaves=frozenset({"eyes", "nose"}),
            photo_gain=(1.15, 1.15),
            gives_way=(0.6, 0.6),
            gives_way_in="mouth",
        ),
        Attribute(
            "mouth_open",
            "binary",
            0,
            1,
            "",
            "Open mouth",
            group="Expression",
            region=MOUTH,
            leaves=frozenset({"eyes", "nose"}),
            gives_way=(0.6, 0.6),
            gives_way_in="mouth",
        ),
        Attribute(
            "eyes_closed",
            "binary",
            0,
            1,
            "",
            "Closed eyes",
            group="Expression",
            region=EYES,
            leaves=frozenset({"brows", "mouth"}),
            colours=True,
            photo_gain=(1.4, 1.4),
        ),
        Attribute(
            "eyeglasses",
            "binary",
            0,
            1,
            "",
            "Eyeglasses",
            group="Looks",
            region=AROUND_THE_EYES,
            leaves=frozenset({"eyes", "brows", "mouth"}),
            hides=frozenset({"brows"}),
            photo_gain=(2.0, 1.2),
            gives_way=(1.0, 0.65),
            gives_way_in="glasses",
        ),
        Attribute(
            "black_hair",
            "binary",
            0,
            1,
            "",
            "Black hair",
            group="Looks",
            leaves=frozenset(PARTS),
            dyes="only",
            photo_gain=(1.8, 1.8),
        ),
        Attribute(
            "mustache",
            "binary",
            0,
            1,
            "",
            "Moustache",
            companions=("beard",),
            group="Looks",
            region=UPPER_LIP,
            leaves=frozenset({"eyes", "mouth"}),
            colours=True,
            photo_gain=(1.4, 1.4),
        ),
        Attribute(
            "beard",
            "binary",
            0,
            1,
            "",
            "Beard",
            companions=("mustache",),
            benchmarked=False,
            group="Looks",
            region=JAW,
            leaves=frozenset({"eyes", "mouth"}),
            colours=True,
            photo_gain=(1.8, 1.8),
        ),
    )
}


def validate_configuration(
    configuration: Mapping[str, Any], supported: Mapping[str, Attribute] | None = None
) -> dict[str, float]:
    """Check a configuration and return it as floats, in the table's order.

    Args:
        configuration: attribute name -> target value in the attribute's unit; may be empty.
        supported: the attributes an editor can change; all of the table by default.

    Raises:
        InputError: it is no mapping; an unknown or unsupported attribute; a value that is not a finite number
            (a text is none), or outside the attribute's range.
    """
    supported = ATTRIBUTES if supported is None else supported
    if not isinstance(configuration, Mapping):
        raise InputError("Give attributes by their names with numbers, for example {'age': 60}.")
    for name, value in configuration.items():
        if name not in ATTRIBUTES:
            raise InputError(f"There is no attribute '{str(name)[:40]}'; choose from {', '.join(supported)}.")
        if name not in supported:
            raise InputError(f"The editor has not learnt '{name}' yet; choose from {', '.join(supported)}.")
        row = ATTRIBUTES[name]
        try:
            number = math.nan if isinstance(value, (str, bytes)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"'{str(value)[:40]}' is not a value for {name}; "
                f"give a number from {row.low:g} to {row.high:g}."
            )
        if not row.low <= number <= row.high:
            raise InputError(
                f"{name} = {number:g} is out of range; give a number from {row.low:g} to {row.high:g}."
            )
    return {name: float(configuration[name]) for name in ATTRIBUTES if name in configuration}
