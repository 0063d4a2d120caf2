"""Losses on readings, identity and codes (DyStyle, section 3.3)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES, LOGIT_SCALE

# Probabilities of exactly 0 or 1 would ask for infinite logits.
MARGIN = 0.02
# A change of a probability that hardly counts.
LITTLE = 0.1
# Brings Huber losses to the size of cross-entropies.
HUBER_WEIGHT = 30


def _huber(difference: Tensor) -> Tensor:
    """Of a difference of levels, (b,): squared within a fortieth of the range, linear beyond."""
    return F.huber_loss(difference, torch.zeros_like(difference), delta=0.05, reduction="none")


def attribute_loss(scores: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Distance of readings from target values, (b,) per target attribute.

    Numeric: Huber on the common scale, squared within a fortieth of the range and linear beyond, so that
    the last degrees pull as hard as the first and one failed sample does not rule the step. Of a probability
    a difference of the logits counts as far as the probabilities differ, so that a face that reads 0.999 is
    left alone when 1 is asked for. Binary: cross-entropy of scaled logits.

    Args:
        scores: as from `FaceReader`. targets: values in the attribute's unit, (b,).
    """
    losses = {}
    for name, target in targets.items():
        row, score = ATTRIBUTES[name], scores[name]
        if row.kind == "binary":
            losses[name] = F.binary_cross_entropy_with_logits(score / LOGIT_SCALE, target, reduction="none")
            continue
        wanted = row.value_to_score(target, MARGIN)
        difference = row.score_to_level(score) - row.score_to_level(wanted)
        losses[name] = HUBER_WEIGHT * _huber(difference)
        if row.scale == "probability":
            miss = (row.score_to_value(score.detach()) - target).abs()
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
        row, share = ATTRIBUTES[name], 1
        if row.scale == "probability":
            difference = (scores[name] - before[name]) / LOGIT_SCALE
            moved = (row.score_to_value(scores[name].detach()) - row.score_to_value(before[name])).abs()
            share = moved / (moved + LITTLE)
        else:
            difference = row.score_to_level(scores[name]) - row.score_to_level(before[name])
        change = share * _huber(difference)
        for other, target in targets.items():
            if name in ATTRIBUTES[other].carries:
                change = change[target >= 0.5]
        changes.append(HUBER_WEIGHT * change)
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

    Each attribute's `identity_cost`, in proportion to the change of its value; an identity loss without it
    works against the edit.
    """
    tolerance = torch.zeros_like(next(iter(before.values())))
    for name, row in ATTRIBUTES.items():
        if name in targets and row.identity_cost:
            current = row.score_to_value(before[name])
            change = (row.normalise(targets[name]) - row.normalise(current)).abs()
            tolerance = tolerance + row.identity_cost * change
    return tolerance


def identity_loss(embedding: Tensor, before: Tensor, tolerance: Tensor) -> Tensor:
    """1 - cosine of unit embeddings (b, d) where it exceeds the tolerance (b,), (b,)."""
    return (1 - (embedding * before).sum(1) - tolerance).clamp(min=0)


def backgrounds(images: Tensor) -> Tensor:
    """The picture beside the head: two strips, 32 px high, of pictures (b, 3, s, s): (b, 3, 24, 8).

    The outer eighths in the upper three quarters; hair and shoulders are mostly elsewhere in an aligned
    face.
    """
    small = F.interpolate(images, (32, 32), mode="area")[:, :, :24]
    return torch.cat((small[..., :4], small[..., -4:]), 3)


def background_loss(after: Tensor, before: Tensor) -> Tensor:
    """Mean absolute change of `backgrounds` (b, 3, 24, 8), (b,)."""
    return (after - before).abs().mean((1, 2, 3))


def norm_loss(edited: Tensor, codes: Tensor, std_w: Tensor) -> Tensor:
    """Sum over rows of the mean squared change of the code, in units of W's deviation, (b,)."""
    return ((edited - codes) / std_w).square().mean(2).sum(1)
