"""Distances of pictures and of sets of pictures, by what networks see of them."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

PRINCIPAL_COMPONENTS = 64  # of the embeddings, in the Frechet distance


def frechet(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Frechet distance of two sets of embeddings, in their leading principal components."""
    a, b = np.float64(a), np.float64(b)
    _, _, basis = np.linalg.svd(a - a.mean(0), full_matrices=False)
    a, b = a @ basis[:PRINCIPAL_COMPONENTS].T, b @ basis[:PRINCIPAL_COMPONENTS].T
    spread = [np.cov(x.T) for x in (a, b)]
    cross = sqrtm(spread[0] @ spread[1])
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spread[0] + spread[1] - 2 * cross.real))


def perceptual_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared distance of feature maps with unit channels, averaged over pixels and layers, (b,).

    After Zhang et al. 2018, without their learnt weights; see `IdentityNetwork.features`.
    """
    distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(features, wanted, strict=True)]
    return torch.stack(distances).mean(0)
