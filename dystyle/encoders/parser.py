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
COUNTS = (0.2, 0.8)  # shares of a place that are of a kind, from which on it counts, and is nothing else


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
        # Units are put into the weights: on the features they would take as long as the convolution.
        weights = self.centres / self.scale
        products = F.conv2d(features, weights[:, :, None, None], -(weights @ self.mean))
        lengths = ((features - self.mean[:, None, None]) / self.scale[:, None, None]).norm(
            dim=1, keepdim=True
        )
        cosines = products / lengths.clamp(min=1e-12)
        return F.conv2d((SHARPNESS * cosines).softmax(1), self.members[:, :, None, None])

    def parts(self, features: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where features (b, 512, h, w) show neither face nor hair, the ground, which of it are things, and
        where hair is: (b, 1, h, w) each from 0 to 1, soft at their edges; what is a face for sure,
        (b, 1, h, w) likewise, is no ground, whatever it looks like."""
        low, high = COUNTS
        _, hair, things, background = self(features).split(1, 1)
        parts = torch.cat((things + background, things, hair), 1)
        parts = ((parts - low) / (high - low)).clamp(0, 1)
        parts = parts * (1 - torch.cat((faces, faces, torch.zeros_like(faces)), 1))
        ground, things, hair = F.avg_pool2d(parts, 3, 1, 1, count_include_pad=False).split(1, 1)
        return ground, things, hair
