"""Losses on readings, identity and codes (DyStyle, section 3.3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.knowledge.readings import LOGIT_SCALE, common_scale

# Probabilities of exactly 0 or 1 would ask for infinite logits.
MARGIN = 0.02
# A change of a probability that hardly counts.
LITTLE = 0.1
# Cosine of the identity embeddings that a change over half of an attribute's range may cost.
TOLERANCE = {"yaw": 0.3, "pitch": 0.2, "age": 0.15, "gender": 0.2}


def attribute_loss(scores: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Distance of readings from target values, (b,) per target attribute.

    Numeric: Huber on the common scale, squared within a fortieth of the range and linear beyond, so that
    the last degrees pull as hard as the first and one failed sample does not rule the step. Gender is a
    probability: a difference of its logits counts as far as the probabilities differ, so that a face that
    reads 0.999 is left alone when 1 is asked for. Binary: cross-entropy of scaled logits.

    Args:
        scores: as from `FaceReader`. targets: values in the attribute's unit, (b,).
    """
    losses = {}
    for name, target in targets.items():
        score = scores[name]
        if ATTRIBUTES[name].kind == "binary":
            losses[name] = F.binary_cross_entropy_with_logits(score / LOGIT_SCALE, target, reduction="none")
            continue
        wanted = torch.logit(target.clamp(MARGIN, 1 - MARGIN)) if name == "gender" else target
        difference = common_scale(name, score) - common_scale(name, wanted)
        losses[name] = F.huber_loss(difference, torch.zeros_like(difference), delta=0.05, reduction="none")
        losses[name] = losses[name] * 30
        if name == "gender":
            miss = (score.detach().sigmoid() - target).abs()
            losses[name] = losses[name] * miss / (miss + MARGIN)
    return losses


def preservation_loss(
    scores: Mapping[str, Tensor], before: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Tensor:
    """Mean change of the readings that were not asked for, nor go with what is taken away; 0 without any.

    Huber, linear beyond a fortieth of the range. Probabilities: of a quarter of the logits, which count as
    far as the probabilities differ, so that a face that reads 0.001 may as well read 0.01.

    Args:
        scores, before: (b,) by attribute, as from `FaceReader`.
        targets: values in the attribute's unit, (b,).
    """
    changes = [next(iter(scores.values())).new_zeros(0)]
    for name in [name for name in scores if name not in targets]:
        if ATTRIBUTES[name].kind == "binary" or name == "gender":
            difference = (scores[name] - before[name]) / LOGIT_SCALE
            moved = (scores[name].detach().sigmoid() - before[name].sigmoid()).abs()
            share = moved / (moved + LITTLE)
        else:
            difference, share = common_scale(name, scores[name]) - common_scale(name, before[name]), 1
        change = share * F.huber_loss(difference, torch.zeros_like(difference), delta=0.05, reduction="none")
        for other, target in targets.items():
            if name in ATTRIBUTES[other].carries:
                change = change[target >= 0.5]
        changes.append(change * 30)
    joined = torch.cat(changes)
    return joined.mean() if len(joined) else joined.sum()


def carried_loss(scores: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy towards 0 of what an attribute carries along when it is taken away (target < 0.5)."""
    losses = [next(iter(scores.values())).new_zeros(1)]
    for name, target in targets.items():
        for carried in ATTRIBUTES[name].carries:
            if carried in scores and carried not in targets:
                loss = attribute_loss(scores, {carried: torch.zeros_like(target)})[carried]
                losses.append(loss * (target < 0.5))
    return torch.cat(losses).mean()


def identity_tolerance(targets: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
    """How much of the cosine an edit may cost, (b,): turning, ageing and gender change every embedding.

    Proportional to the change of the numeric attributes on their common scale; an identity loss without it
    works against the edit.
    """
    tolerance = torch.zeros_like(next(iter(before.values())))
    for name, share in TOLERANCE.items():
        if name in targets:
            row = ATTRIBUTES[name]
            current = before[name].sigmoid() if name == "gender" else before[name].clamp(row.low, row.high)
            tolerance = tolerance + share * (row.normalise(targets[name]) - row.normalise(current)).abs()
    return tolerance


def identity_loss(embedding: Tensor, before: Tensor, tolerance: Tensor) -> Tensor:
    """1 - cosine of unit embeddings (b, d) where it exceeds the tolerance (b,), (b,)."""
    return (1 - (embedding * before).sum(1) - tolerance).clamp(min=0)


def perceptual_loss(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared distance of feature maps with unit channels, averaged over pixels and layers, (b,).

    After Zhang et al. 2018, without their learnt weights; see `IdentityNetwork.features`.
    """
    distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(features, wanted, strict=True)]
    return torch.stack(distances).mean(0)


def backgrounds(images: Tensor) -> Tensor:
    """The picture beside the head: two strips, 32 px high, of pictures (b, 3, s, s): (b, 3, 24, 8).

    The outer eighths in the upper three quarters; hair and shoulders are mostly elsewhere in an aligned
    face.
    """
    small = F.interpolate(images, (32, 32), mode="area")[:, :, :24]
    return torch.cat((small[..., :4], small[..., -4:]), 3)


def background_loss(images: Tensor, before: Tensor) -> Tensor:
    """Mean absolute change beside the head, (b,); see `backgrounds`."""
    return (backgrounds(images) - before).abs().mean((1, 2, 3))


def norm_loss(edited: Tensor, codes: Tensor, std_w: Tensor) -> Tensor:
    """Sum over rows of the mean squared change of the code, in units of W's deviation, (b,)."""
    return ((edited - codes) / std_w).square().mean(2).sum(1)
