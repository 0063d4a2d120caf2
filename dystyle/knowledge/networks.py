"""The pretrained networks that read attributes and identity off a face; all differentiable in the image.

Inputs are float32 RGB (b, 3, side, side), outputs float32:

- `blazeface`: side 256, -1..1 -> scores (b, 896), logits; boxes (b, 896, 16): centre x, centre y, width,
  height and six points x, y, in pixels of the input relative to the anchors. The anchors are the centres of
  the cells: of a 16 x 16 grid, in reading order, twice each, then of an 8 x 8 grid, six times each.
- `facemesh`: side 192, 0..1 -> points (b, 468, 3): x, y in pixels of the input, and depth.
- `iris`: side 64, 0..1, one eye -> points (b, 76, 3) in pixels of the input: 71 of the eye's contours, then
  5 of the iris.
- `emotion`: grey (b, 1, 64, 64), -1..1 -> logits (b, 7) in the order of `EMOTIONS`.
- `faceres`: side 224, 0..255 -> identity embedding (b, 1024).
- `age_gender`: side 112, (0..255 minus `AGE_GENDER_MEAN`) / 255 -> age in years (b,); logits (b, 2): male,
  female.
- `selfie`: side 256, 0..1 -> how much of each place is a person, (b, 1, 256, 256) in 0..1.

Origins and licences: the cards in `weights/knowledge`.
"""

from dystyle.knowledge.graph import Graph, load_graph
from dystyle.weights import resolve

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
AGE_GENDER_MEAN = (122.782, 117.001, 104.298)


def load_network(name: str, folder: str = "knowledge") -> Graph:
    """Load one of the networks above, frozen, on the CPU.

    Args:
        folder: "judges" for those that `dystyle.metrics.independent_judges` reads.

    Raises:
        InputError: the weights are missing or damaged.
    """
    return load_graph(resolve(f"{folder}/{name}"))
