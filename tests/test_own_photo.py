"""The person's own photo comes back, and stays theirs through edits."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from dystyle.alignment import changes, composite, paste
from dystyle.encoders.carrier import Carrier, warp
from dystyle.engines.graphs import generator


@pytest.fixture(scope="module")
def face(editor, astronaut):
    return editor.invert(astronaut)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float32) - cv2.resize(b, a.shape[:2], interpolation=cv2.INTER_AREA)).mean(2)


@pytest.mark.parametrize("size", [1024, 256])
def test_the_residual_brings_the_photo_back(editor, face, size):
    alone = difference(editor.synthesize(face.code, size), face.portrait)
    restored = difference(editor.synthesize(face.code, size, face=face), face.portrait)
    assert restored.mean() < 0.6 * alone.mean()


@pytest.mark.parametrize("size", [1024, 256])
def test_an_edit_changes_what_it_should_and_leaves_the_photos_own_pixels(editor, face, size):
    before = editor.measure(face.portrait)["smile"]
    edited = editor.synthesize(editor.edit(face.code, {"smile": 0.0}), size, face=face)
    changed = difference(edited, face.portrait)
    top, mouth = slice(0, size // 8), slice(size * 5 // 8, size * 13 // 16)
    assert np.median(changed[top]) < 0.5 and changed[mouth, size * 3 // 8 : size * 5 // 8].mean() > 4
    assert editor.measure(edited)["smile"] < before - 0.3


def test_tuned_and_foreign_faces_have_no_residual(editor, face):
    plain = dataclasses.replace(face, residual=None)
    assert np.array_equal(editor.synthesize(face.code, face=plain), editor.synthesize(face.code))


def test_what_has_not_changed_is_pasted_bit_for_bit(editor, face, astronaut):
    assert np.array_equal(editor.paste(face.portrait, face, astronaut), astronaut)
    dotted = face.portrait.copy()
    dotted[500:524, 500:524] = 255 - dotted[500:524, 500:524]
    pasted = editor.paste(dotted, face, astronaut)
    where = np.argwhere((pasted != astronaut).any(2)).mean(0)
    assert np.allclose(where[::-1], face.quad.mean(0), atol=0.03 * np.ptp(face.quad))
    assert 0 < (pasted != astronaut).any(2).mean() < 0.05


def test_changes_are_soft_and_small_ones_do_not_count():
    before = np.full((1024, 1024, 3), 100, np.uint8)
    edited = before + np.uint8(2)
    edited[400:600, 400:600] += 50
    mask = changes(edited, before, 3, 12)
    assert mask[125, 125] == pytest.approx(1) and mask[20, 20] == 0 and 0 < mask[97].max() < 1
    mixed = composite(edited, before, mask)
    assert mixed[500, 500, 0] == 152 and mixed[50, 50, 0] == 100
    quad = np.float32([[0, 0], [0, 1024], [1024, 1024], [1024, 0]])
    assert np.array_equal(paste(edited, quad, before, np.zeros((256, 256), np.float32)), before)


def test_a_flow_says_where_each_place_comes_from():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 32, 40] = 1  # to the right of the middle
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0] = 2 * 8 / 64  # every place takes what is 8 px to its right
    assert warp(x, flow)[0, 0, 32, 32] == pytest.approx(1, abs=1e-4)
    assert torch.equal(warp(x, 0 * flow), x)


def test_without_an_edit_the_carrier_keeps_the_residual():
    carrier, codes = Carrier.load("carrier"), torch.randn(1, 1, 512).expand(1, 18, 512) * 0.3
    features = generator().features(generator().mean_w + codes * generator().std_w, 64)
    residual = torch.randn_like(features)
    assert torch.allclose(carrier(residual, features, features), residual, atol=1e-5)
    assert not torch.allclose(carrier(residual, features, features + 1), residual, atol=1e-2)
