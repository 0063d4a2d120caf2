"""Hair in another colour: the photo's own hair, dyed, so that every strand stays.

A generator draws hair anew when its colour changes. Its colours alone are taken over, by their mean and
deviation in CIELAB (Reinhard et al. 2001, "Color transfer between images").
"""

from typing import NamedTuple

import cv2
import numpy as np

from dystyle.compositing import COARSE, disc, ramp

SURE = 0.9  # of a person, and of what looks like hair, from which on it is
ROUNDS = 3  # of GrabCut
# Sides in px of 256 of what is all hair where it looks like it, and of what has some of it not far away.
CORE, FARTHEST = 5, 31
STRANDS, EVEN = 3, 3e-4  # px of 256 around a place, and the variance of lightness (of 1) that is no structure
# Deviations of tint, and of lightness downwards, within which all is skin; the least share of hair unlike it.
ALIKE, DARKER, SKINNY = 1.7, 2.5, 0.15
INSIDE = 11  # px of 256 square around a place that is hair, so that its colours are hair's alone
FINE, ROUGHER = 2, 1.2  # px of 512 that strands are finer than; times as rough as skin is no skin
# Of the matte, px of 256: disks that hair is eroded by to be hair for sure, and dilated by to where some
# may be, beside and before a face; deviations of Gaussians that colours are averaged by.
SURELY, BEYOND, BEFORE, AVERAGED = 11, 9, 21, (8, 20, 48)
LIGHTLY = np.float32((0.6, 1, 1))  # what lightness counts for beside tints
APART = (4.0, 12.0)  # by how much hair and what is beside it differ at least to be told apart, and for sure
MIXED = (0.25, 0.75)  # share of hair's colour up to which a place is none, and from which it is hair
STRANDED = (2.0, 3.5)  # times as rough as skin, what may be strands before a face, and what are
# Deviations from hair's colours from and up to which a place may be none of it; the least deviations.
UNLIKE = (2.5, 3.5), np.float32((8, 4, 4))
FOUND = 0.5  # share of what looks like hair that is found, at least
LEAST = 0.004  # share of a picture that hair has at least
CLEAR = 12.0  # of CIELAB: colours that change by so much do so clearly
FARTHER, DARKEST, LIGHTEST = 1.5, 8.0, 88.0  # times as far as in a code, lightness changes; its ends
# Times as far apart as they were, lightness and tints become at least and at most.
LEAST_SPREAD, MOST_SPREAD, LEAST_TINT = 0.4, np.float32((1.6, 1, 1)), 0.3


class Colours(NamedTuple):
    """Of hair, in CIELAB: (3,) float32 each."""

    mean: np.ndarray
    deviation: np.ndarray


def colours(picture: np.ndarray, hair: np.ndarray) -> Colours | None:
    """Those of the hair in a picture (s, s, 3) uint8 RGB; None if there is next to none.

    Args:
        hair: (t, t) float32 from 0 to 1, where it is.
    """
    hair = cv2.resize(hair, (COARSE, COARSE), interpolation=cv2.INTER_LINEAR)
    if hair.mean() < LEAST:
        return None
    inside = cv2.erode(hair, np.ones((INSIDE, INSIDE)))
    if inside.sum() > 0.2 * hair.sum():
        hair = inside
    lab, hair = _lab(cv2.resize(picture, hair.shape, interpolation=cv2.INTER_AREA)), hair[..., None]
    mean = (lab * hair).sum((0, 1)) / hair.sum()
    return Colours(mean, np.sqrt((np.square(lab - mean) * hair).sum((0, 1)) / hair.sum()))


def find_hair(
    portrait: np.ndarray, person: np.ndarray, likely: np.ndarray, face: np.ndarray, around: np.ndarray
) -> np.ndarray:
    """Where a portrait shows hair: (256, 256) float32 from 0 to 1; nowhere if next to none of it is found.

    Args:
        portrait: (s, s, 3) uint8 RGB, s 512 or more. person: (256, 256) from 0 to 1, who it shows.
        likely: (64, 64) from 0 to 1, where the features look like hair, a place or two off.
        face: (256, 256) from 0 to 1, where there is none of it. around: likewise, all of the face and its
            surroundings, where foreheads, ears and fringes are told apart by their colours.
    """
    likely = cv2.resize(likely, (COARSE, COARSE), interpolation=cv2.INTER_LINEAR) * (person > 0.5)
    core = cv2.erode((likely > SURE).astype(np.uint8), np.ones((CORE, CORE), np.uint8)) > 0
    rough = _roughness(portrait, face)
    skin = _like_skin(portrait, rough, face)
    portrait = cv2.resize(portrait, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    if (core & ~skin).sum() > SKINNY * core.sum():  # or hair is as smooth and of one colour with skin
        core = core & (cv2.dilate(skin.astype(np.uint8), np.ones((CORE, CORE))) == 0)
    else:
        skin[:] = False
    kinds = np.where((likely > 0.5) & ~skin, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    kinds[core] = cv2.GC_FGD
    near = cv2.dilate((likely > 0.5).astype(np.uint8), np.ones((FARTHEST, FARTHEST), np.uint8)) > 0
    kinds[(person < 1 - SURE) | (face > 0.5) | ~near] = cv2.GC_BGD
    if not core.any():
        return np.zeros((COARSE, COARSE), np.float32)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(portrait, kinds, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    # Grey sides are taken for a grey ground: what looks like hair, and is no skin, is hair in any case.
    sides = (likely > 0.5) & ~skin & (face <= 0.5)
    hair = ((kinds == cv2.GC_FGD) | (kinds == cv2.GC_PR_FGD) | sides).astype(np.float32) * person
    if hair.sum() <= FOUND * (likely > 0.5).sum():
        return np.zeros_like(hair)
    return _matte(portrait, rough, hair, face, around) * person


def _matte(
    portrait: np.ndarray, rough: np.ndarray, hair: np.ndarray, face: np.ndarray, around: np.ndarray
) -> np.ndarray:
    """How much of each place is hair, (256, 256) float32 from 0 to 1, by its colour between that of the hair
    nearby and that of what is none.

    Args:
        portrait: (256, 256, 3) uint8 RGB. rough: see `_roughness`. hair: (256, 256), to a dozen px.
        face, around: as in `find_hair`.
    """
    lab, whole = _lab(portrait) * LIGHTLY, (hair > 0.5).astype(np.uint8)
    near = around > 0.5
    sure = (cv2.erode(whole, disc(SURELY)) > 0) & ~near
    bare = (face > 0.5) | (cv2.dilate(whole, disc(BEYOND)) == 0) & ~near
    if not sure.any() or not bare.any():
        return hair
    own, other = (_averaged(lab, x.astype(np.float32)) for x in (sure, bare))
    axis = own - other
    square = np.square(axis).sum(2)
    share = ((lab - other) * axis).sum(2) / np.maximum(square, 1)
    told = ramp(np.sqrt(square), *APART)
    alpha = ramp(share, *MIXED) * told + cv2.GaussianBlur(hair, (0, 0), 1.5) * (1 - told)
    # Light on strands has the colours of skin.
    alpha = np.maximum(alpha, ramp(rough, *STRANDED) * cv2.erode(hair, disc(7)))
    reach = np.where(near, cv2.dilate(whole, disc(BEFORE)), cv2.dilate(whole, disc(BEYOND)))
    alpha = np.where(sure, 1, alpha) * cv2.GaussianBlur(reach.astype(np.float32), (0, 0), 1.5) * (face <= 0.5)
    usual, spread = lab[sure].mean(0), np.maximum(lab[sure].std(0), UNLIKE[1])
    away = np.sqrt(np.square((lab - usual) / spread).mean(2))
    return (alpha * (1 - ramp(away, *UNLIKE[0]))).astype(np.float32)


def _averaged(lab: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) averaged over what is nearby of some places, (h, w), or farther off if nothing is."""
    found = np.zeros_like(lab)
    for deviation in sorted(AVERAGED, reverse=True):
        weight = cv2.GaussianBlur(where, (0, 0), deviation)[..., None]
        mean = cv2.GaussianBlur(lab * where[..., None], (0, 0), deviation) / np.maximum(weight, 1e-6)
        found += (mean - found) * (1 if deviation == max(AVERAGED) else np.minimum(weight / 0.05, 1))
    return found


def _roughness(portrait: np.ndarray, face: np.ndarray) -> np.ndarray:
    """How rough a portrait (s, s, 3) is, (256, 256) float32, in shares of how rough most of a face, likewise,
    is; 0 if there is none."""
    size = (2 * COARSE, 2 * COARSE)
    light = cv2.cvtColor(cv2.resize(portrait, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    strands = cv2.absdiff(light, cv2.GaussianBlur(light, (0, 0), FINE)).astype(np.float32)
    rough = cv2.resize(cv2.GaussianBlur(strands, (0, 0), 2 * FINE), face.shape, interpolation=cv2.INTER_AREA)
    known = rough[face > SURE]
    return rough / max(np.median(known), 1e-3) if len(known) else np.zeros_like(rough)


def _like_skin(portrait: np.ndarray, rough: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Where a portrait (s, s, 3) is as smooth, see `_roughness`, and of such colours as most of a face: bool
    (256, 256)."""
    if not (face > SURE).any():
        return np.zeros(face.shape, bool)
    small = cv2.resize(portrait, face.shape, interpolation=cv2.INTER_AREA)
    lab = cv2.GaussianBlur(_lab(small), (0, 0), 1.5)
    known = lab[face > SURE]
    middle = np.median(known, 0)
    spread = 1.4826 * np.median(np.abs(known - middle), 0) + 1
    lightness, tint = np.split((lab - middle) / spread, (1,), 2)
    return (rough < ROUGHER) & (np.square(tint).mean(2) < ALIKE**2) & (lightness[..., 0] > -DARKER)


def dyed(picture: np.ndarray, hair: np.ndarray, own: Colours, new: Colours) -> np.ndarray:
    """A picture (s, s, 3) uint8 RGB with hair in other colours; the same bits elsewhere.

    Args:
        hair: (256, 256) float32 from 0 to 1, where it is, to a few px; the picture's edges refine it.
        own, new: the colours that it has and gets.
    """
    alpha = _strands(picture, hair)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return picture
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    alpha, lab = alpha[box], _lab(np.ascontiguousarray(picture[box]))
    lab -= own.mean
    spread = np.clip(new.deviation / np.maximum(own.deviation, 1e-3), LEAST_SPREAD, MOST_SPREAD)
    spread[1:] *= np.clip(new.mean[0] / own.mean[0], LEAST_TINT, 1)  # what is dark has less of a tint
    lab *= spread
    lab += new.mean
    recoloured = np.rint(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255).clip(0, 255).astype(np.uint8)
    result = picture.copy()
    result[box] = cv2.blendLinear(recoloured, result[box], alpha, 1 - alpha)
    return result


def new_colours(own: Colours, before: Colours, after: Colours) -> Colours:
    """What a photo's hair gets where a generator changes that of its code: as much as that changes clearly.

    Lightness goes farther, as white hair becomes no more than grey in codes, and nobody's is blue.
    """
    share = np.clip(np.linalg.norm(after.mean - before.mean) / CLEAR, 0, 1)
    light = max(before.mean[0] + FARTHER * (after.mean[0] - before.mean[0]), DARKEST)
    mean = np.float32((light, after.mean[1], max(after.mean[2], 0)))
    deviation = after.deviation * np.clip(light / after.mean[0], LEAST_SPREAD, 1)
    return Colours(*(a + share * (b - a) for a, b in zip(own, (mean, deviation), strict=True)))


def shifted(own: Colours, before: Colours, after: Colours, share: float) -> Colours:
    """What a photo's hair gets where an edit changes that of its code beside other things: as much of the
    way from what it has as the code's goes from `before` to `after`, by a `share` of it."""
    mean = own.mean + np.float32(share) * (after.mean - before.mean)
    mean[0], mean[2] = np.clip(mean[0], DARKEST, LIGHTEST), max(mean[2], 0)
    spread = np.clip(after.deviation / np.maximum(before.deviation, 1e-3), LEAST_SPREAD, MOST_SPREAD)
    return Colours(mean, own.deviation * np.float32(1 + share * (spread - 1)))


def _strands(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask (256, 256) along a picture's edges, (s, s): a guided filter (He et al. 2013), its coefficients
    found at 256 px."""
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    small = cv2.resize(light, mask.shape, interpolation=cv2.INTER_AREA)
    size = (2 * STRANDS + 1, 2 * STRANDS + 1)
    means = [cv2.blur(x, size) for x in (small, mask, small * small, small * mask)]
    slope = (means[3] - means[0] * means[1]) / (means[2] - means[0] ** 2 + EVEN)
    offset = means[1] - slope * means[0]
    slope, offset = (cv2.resize(cv2.blur(x, size), light.shape) for x in (slope, offset))
    near = cv2.resize(cv2.dilate(mask, np.ones(size, np.uint8)), light.shape)
    inside = cv2.resize(cv2.erode(mask, np.ones((5, 5))), light.shape)
    return np.maximum(np.clip((slope * light + offset - 0.05) / 0.9, 0, 1) * (near > 0), inside)


def _lab(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
