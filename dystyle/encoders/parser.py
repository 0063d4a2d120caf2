"""The parser: what is where in a picture, read off the generator's features.

Activations of things of one kind lie close together (Collins et al. 2020, "Editing in Style"): clusters of
them, found by k-means and named by hand, are a face parser that nobody had to draw labels for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.encoders import CHANNELS, KINDS
from dystyle.encoders.stored import Stored

SHARPNESS = 20.0  # of the softmax over the cosines with the clusters' centres


class FeatureParser(Stored, nn.Module):
    """Features -> how much of each place is what kind of thing.

    Args:
        names: of which of `KINDS` each cluster is.
        mean, scale: (512,) of the features; clusters are directions from there, in units of the scale.
        centres: (clusters, 512), of length 1.
    """

    format = "feature_parser"

    def __init__(
        self,
        names: list[str],
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        centres: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.structure = {"names": list(names)}
        self.register_buffer("mean", torch.zeros(CHANNELS) if mean is None else mean)
        self.register_buffer("scale", torch.ones(CHANNELS) if scale is None else scale)
        self.register_buffer("centres", torch.zeros(len(names), CHANNELS) if centres is None else centres)
        kinds = torch.tensor([KINDS.index(name) for name in names])
        self.register_buffer("members", F.one_hot(kinds, len(KINDS)).T.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(b, 512, h, w) -> shares (b, len(KINDS), h, w), which add up to 1."""
        directions = (features - self.mean[:, None, None]) / self.scale[:, None, None]
        cosines = F.conv2d(F.normalize(directions, dim=1), self.centres[:, :, None, None])
        return F.conv2d((SHARPNESS * cosines).softmax(1), self.members[:, :, None, None])
