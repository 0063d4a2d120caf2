"""Distances of pictures and of sets of pictures, by what networks see of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PRINCIPAL_COMPONENTS = 64  # of the features, in the Frechet distance


def frechet(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], components: int | None = PRINCIPAL_COMPONENTS
) -> float:
    """Frechet distance of two sets of features (n, d), (m, d), as those of normal distributions.

    Args:
        components: look at so many leading principal components of `a`; None: at all of the features, as the
            FID (Heusel et al. 2017, arXiv 1706.08500) does.
    """
    a, b = np.float64(a), np.float64(b)
    if components is not None:
        _, _, basis = np.linalg.svd(a - a.mean(0), full_matrices=False)
        a, b = a @ basis[:components].T, b @ basis[:components].T
    # Of covariances R^T R and S^T S the trace of the root of their product is the nuclear norm of R S^T.
    r, s = (np.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r") for x in (a, b))
    cross = np.linalg.svd(r @ s.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (r**2).sum() + (s**2).sum() - 2 * cross)


def perceptual_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared distance of feature maps with unit channels, averaged over pixels and layers, (b,).

    After Zhang et al. 2018, without their learnt weights; see `IdentityNetwork.features`.
    """
    distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(features, wanted, strict=True)]
    return torch.stack(distances).mean(0)
