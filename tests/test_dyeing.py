"""Hair in another colour: the photo's own, dyed."""

import dataclasses

import cv2
import numpy as np
import pytest

from dystyle.compositing import Flow
from dystyle.dyeing import Colours, colours, dyed, find_hair, new_colours, shifted
from dystyle.faces import InvertedFace
from dystyle.places import Moved

HAIR = np.s_[40:200, 400:620]  # of the astronaut


@pytest.fixture(scope="module")
def face(editor, astronaut):
    return editor.invert(astronaut)


def shown(editor, face, size=None, **edit: float) -> np.ndarray:
    return editor.synthesize(editor.edit(face.code, edit), size, face=face)


def lightness(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def strands(picture: np.ndarray) -> np.ndarray:
    """What is finer than 4 px in the hair."""
    light = lightness(picture)[HAIR]
    return (light - cv2.GaussianBlur(light, (0, 0), 4)).ravel()


def test_colours_go_over_by_mean_and_deviation_and_the_rest_keeps_its_bits():
    """Reinhard et al. 2001, in CIELAB."""
    rng = np.random.default_rng(0)
    picture = np.full((512, 512, 3), (90, 140, 200), np.uint8)
    brown = np.float32((120, 80, 50)) * (1 + 0.25 * rng.standard_normal((200, 512, 1)).clip(-2, 2))
    picture[:200] = brown.clip(0, 255)
    hair = np.zeros((256, 256), np.float32)
    hair[:100] = 1
    own, wanted = colours(picture, hair), Colours(np.float32((30, 2, -3)), np.float32((6, 1, 1)))
    result = dyed(picture, hair, own, wanted)
    assert np.array_equal(result[220:], picture[220:])
    now = colours(result, hair)
    assert now.mean == pytest.approx(wanted.mean, abs=1.5)
    # Lightness by its own deviation; tints are never spread farther than they were.
    assert now.deviation[0] == pytest.approx(max(6.0, 0.4 * own.deviation[0]), rel=0.15)
    before, after = (lightness(x)[:180].ravel() for x in (picture, result))
    assert np.corrcoef(before, after)[0, 1] > 0.98
    assert np.abs(dyed(picture, hair, own, own).astype(int) - picture).max() <= 1
    assert np.array_equal(dyed(picture, np.zeros_like(hair), own, wanted), picture)
    assert colours(picture, np.zeros_like(hair)) is None


def test_as_much_is_taken_over_as_the_generator_changes_clearly():
    white, brown, grey, black = (
        Colours(np.float32(mean), np.float32((10, 3, 3)))
        for mean in ((85, 1, 3), (45, 8, 14), (40, 2, 2), (15, 2, 1))
    )
    assert new_colours(white, brown, brown).mean == pytest.approx(white.mean)  # nothing changes
    half = new_colours(white, brown, Colours(brown.mean - (6, 0, 0), brown.deviation)).mean[0]
    assert brown.mean[0] < half < white.mean[0]
    dark = new_colours(white, white, grey)  # lightness farther than in the code
    assert dark.mean == pytest.approx((17.5, 2, 2)) and dark.deviation[0] < grey.deviation[0]
    assert new_colours(brown, brown, black).mean[0] == 8  # there is an end to it
    blue = Colours(np.float32((15, 0, -6)), black.deviation)
    assert new_colours(brown, brown, blue).mean[2] == pytest.approx(0)
    assert new_colours(black, black, brown).mean[0] == pytest.approx(60)


def test_hair_goes_as_far_as_that_of_its_code():
    red, brown, grey = (
        Colours(np.float32(mean), np.float32(deviation))
        for mean, deviation in (
            ((40, 25, 30), (10, 4, 4)),
            ((30, 8, 14), (10, 3, 3)),
            ((60, 2, 4), (12, 1, 1)),
        )
    )
    whole, half, none = (shifted(red, brown, grey, share) for share in (1, 0.5, 0))
    assert whole.mean == pytest.approx((70, 19, 20)) and half.mean == pytest.approx((55, 22, 25))
    assert whole.deviation == pytest.approx((12, 1.6, 1.6)) and none.mean == pytest.approx(red.mean)
    assert shifted(grey, brown, grey, 1).mean[0] == pytest.approx(88)  # there is an end to it
    picture, hair = np.full((512, 512, 3), (90, 40, 30), np.uint8), np.ones((256, 256), np.float32)
    picture[::3] = (160, 90, 60)
    own = colours(picture, hair)
    assert np.abs(dyed(picture, hair, own, shifted(own, brown, grey, 0)).astype(int) - picture).max() <= 1


def test_a_forehead_in_shadow_is_no_hair_and_a_fringe_is():
    """Where features, which know it to a place or two, have hair, colours tell what is skin."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((1024, 1024, 1)).clip(-2, 2)
    portrait = np.full((1024, 1024, 3), (60, 90, 140), np.uint8)
    grey = np.float32((150, 150, 155)) * (1 + 0.25 * noise)
    skin = np.float32((190, 125, 80)) * (1 + 0.02 * noise)
    portrait[80:, 160:864] = grey[80:, 160:864].clip(0, 255)
    portrait[260:, 300:724] = skin[260:, 300:724].clip(0, 255)
    portrait[260:360, 300:724] = (0.65 * skin[260:360, 300:724]).clip(0, 255)  # in the hair's shadow
    smooth = np.float32((150, 150, 155)) * (1 + 0.02 * noise)
    portrait[260:340, 300:420] = smooth[260:340, 300:420].clip(
        0, 255
    )  # a fringe over it, told by colour alone
    person, face, around, likely = (np.zeros((256, 256), np.float32) for _ in range(4))
    person[20:, 40:216] = face[110:200, 80:176] = around[56:210, 66:190] = 1
    likely[20:, 40:216] = 1
    likely[86:, 75:181] = 0
    small = cv2.resize(likely, (64, 64), interpolation=cv2.INTER_AREA)
    hair = find_hair(portrait, person, small, face, around)
    assert hair[30:60, 60:200].min() > 0.9 and hair[66:82, 78:102].mean() > 0.8
    assert hair[68:84, 112:176].mean() < 0.1 and hair[100:200, 84:172].max() < 0.05


def test_hair_is_found_to_its_edges(editor, face):
    hair = editor._hair(face)
    assert hair.shape == (256, 256) and hair[20:45, 100:150].min() > 0.9  # the top of her head
    assert hair[60:110, 30:42].mean() > 0.8 and hair[60:110, 218:228].mean() > 0.8  # beside the ears
    assert not hair[100:200, 90:160].any() and not hair[:60, :15].any() and not hair[:60, -10:].any()
    assert not hair[225:, 80:180].any()  # nor the suit
    bald = np.zeros((64, 64), np.float32)
    assert not find_hair(
        face.portrait, editor._person(face), bald, *[bald.repeat(4, 0).repeat(4, 1)] * 2
    ).any()


def test_bald_skin_where_the_features_have_hair_is_none():
    """A code may have hair where the photo has none: smooth, and of the face's colours."""
    rng = np.random.default_rng(1)
    portrait = np.full((1024, 1024, 3), (60, 90, 140), np.uint8)
    skin = np.float32((210, 160, 140)) + 2 * rng.standard_normal((1024, 1024, 1))
    cv2.circle(head := np.zeros((1024, 1024), np.uint8), (512, 500), 380, 1, -1)
    portrait[head > 0] = skin[head > 0].clip(0, 255)
    sides = (head > 0) & (np.abs(np.arange(1024) - 512) > 220)[None] & (np.arange(1024) < 620)[:, None]
    dark = np.float32((60, 45, 35)) * (1 + 0.5 * rng.standard_normal((1024, 1024, 1)).clip(-1, 1))
    portrait[sides] = dark[sides].clip(0, 255)
    portrait[860:] = dark[860:].clip(0, 255)  # a jacket that looks the same
    person, face, likely = (np.zeros((256, 256), np.float32) for _ in range(3))
    person[head[::4, ::4] > 0] = 1
    person[215:] = 1
    face[110:200, 80:176] = 1
    likely[(person > 0) & (np.arange(256) < 80)[:, None]] = 1
    likely[sides[::4, ::4]] = 1
    hair = find_hair(portrait, person, cv2.resize(likely, (64, 64), interpolation=cv2.INTER_AREA), face, face)
    assert hair[sides[::4, ::4]].mean() > 0.8 and hair[40:85, 100:156].mean() < 0.05
    assert not hair[215:].any()


def test_grey_sides_before_a_grey_ground_are_hair():
    """Dark on top, and beside it as the wall: by colours alone they are a part of that."""
    rng = np.random.default_rng(2)
    rough = 1 + 0.15 * rng.standard_normal((1024, 1024, 1)).clip(-2, 2)
    portrait = (np.float32((150, 150, 152)) * rough).clip(0, 255).astype(np.uint8)
    person, face, likely = (np.zeros((256, 256), np.float32) for _ in range(3))
    person[20:, 40:216] = face[110:200, 80:176] = likely[20:84, 40:216] = 1
    likely[84:140, 40:64] = 0.7  # nothing that is sure
    portrait[80:336, 160:864] = (np.float32((40, 35, 30)) * rough[80:336, 160:864]).clip(0, 255)
    portrait[336:, 260:764] = (210, 160, 140)
    hair = find_hair(portrait, person, cv2.resize(likely, (64, 64), interpolation=cv2.INTER_AREA), face, face)
    assert hair[30:80, 60:200].min() > 0.9 and hair[92:132, 46:60].mean() > 0.9
    assert not hair[110:200, 80:176].any() and not hair[:, :36].any()


@pytest.mark.parametrize("size", [1024, 256])
def test_black_hair_is_the_photos_own_hair_dyed(editor, face, size):
    before = cv2.resize(face.portrait, (size, size), interpolation=cv2.INTER_AREA)
    after = shown(editor, face, size, black_hair=1.0)
    assert editor.measure(after)["black_hair"] > 0.5 > 0.1 > editor.measure(before)["black_hair"]
    hair = cv2.resize(cv2.dilate(editor._hair(face), np.ones((31, 31))), (size, size)) > 0
    assert (
        np.array_equal(after[~hair], before[~hair]) and not hair[size // 2 :, size * 3 // 8 : size // 2].any()
    )
    if size == 1024:
        assert np.corrcoef(strands(before), strands(after))[0, 1] > 0.9
        assert lightness(after)[HAIR].mean() < 0.5 * lightness(before)[HAIR].mean()
        assert editor.distance(after, face.portrait) < 0.15
        undone = shown(editor, face, black_hair=editor.measure(face.portrait)["black_hair"])
        assert lightness(undone)[HAIR].mean() > 0.8 * lightness(before)[HAIR].mean()


def test_dyed_hair_comes_into_the_photo(editor, face, astronaut):
    """And an edit that asks for nothing still gives the photo back afterwards."""
    black = shown(editor, face, black_hair=1.0)
    pasted = editor.paste(black, face, astronaut)
    own = editor.invert(pasted).portrait
    assert lightness(own)[HAIR].mean() < 0.5 * lightness(face.portrait)[HAIR].mean()
    rows, columns = np.rint(face.landmarks[4]).astype(int)[::-1]  # the tip of the nose
    nose = np.s_[rows - 10 : rows + 10, columns - 10 : columns + 10]
    assert np.abs(pasted[nose].astype(int) - astronaut[nose]).max() <= 1
    assert np.array_equal(editor.paste(editor.synthesize(face.code, face=face), face, astronaut), astronaut)


def test_dyed_hair_goes_with_other_edits(editor, face):
    """Beside the hair all is as without the dye; one after the other does the same."""
    wanted, beside = {"smile": 0.0, "eyeglasses": 1.0}, np.s_[500:700, 380:640]
    plain, both = shown(editor, face, **wanted), shown(editor, face, black_hair=1.0, **wanted)
    assert np.abs(plain[beside].astype(int) - both[beside]).mean() < 1.5
    assert lightness(both)[HAIR].mean() < 0.5 * lightness(plain)[HAIR].mean()
    steps = editor.edit(editor.edit(face.code, {"black_hair": 1.0}), wanted)
    assert np.abs(editor.synthesize(steps, face=face).astype(int) - both).mean() < 2
    turned = shown(editor, face, black_hair=1.0, yaw=20)
    read = editor.measure(turned)
    assert read["black_hair"] > 0.6 and read["yaw"] > 15
    assert lightness(turned)[HAIR].mean() < 0.5 * lightness(shown(editor, face, yaw=20))[HAIR].mean()


def test_where_hair_is_goes_with_the_head():
    """What has moved, and what the generator has drawn anew."""
    photo, anew = np.zeros((256, 256), np.float32), np.zeros((256, 256), np.float32)
    photo[:, 100:120], anew[:, 180:190], anew[:, 20:30] = 1, 1, 1
    flow = np.zeros((2, 32, 32), np.float32)
    flow[0] = -32 / 128  # in half pictures: all comes from 32 px to the left
    changed = np.zeros((256, 256), np.float32)
    changed[:, 170:] = 1
    hair = Moved(Flow(flow), changed, anew).carry(photo, anew=True)[128]
    assert hair[134:150].min() > 0.99 and hair[181:189].min() > 0.99
    assert not hair[60:128].any() and not hair[10:40].any()  # no longer, and the photo's own


def test_what_else_a_face_and_a_picture_have_stays(editor, face, tmp_path):
    after = shown(editor, face, 256, black_hair=1.0)
    face.save(tmp_path / "her.safetensors")
    assert np.array_equal(
        shown(editor, InvertedFace.load(tmp_path / "her.safetensors"), 256, black_hair=1.0), after
    )
    top = np.zeros((256, 256), bool)
    top[:40] = True
    kept = shown(editor, face.protect(top), 256, black_hair=1.0)
    usual = editor.synthesize(face.code, 256, face=face)
    assert np.array_equal(kept[:30], cv2.resize(face.portrait, (256, 256), interpolation=cv2.INTER_AREA)[:30])
    assert lightness(kept)[45:60, 100:150].mean() < 0.6 * lightness(usual)[45:60, 100:150].mean()
    code = editor.edit(face.code, {"black_hair": 1.0})
    quiet = editor.synthesize(code, 256, face=face, noise=dict.fromkeys(editor.noise_layers, 0.0))
    assert lightness(quiet)[20:50, 100:150].mean() < 0.5 * lightness(usual)[20:50, 100:150].mean()
    bald = dataclasses.replace(face)
    bald.kept["hair"] = np.zeros((256, 256), np.float32)
    assert editor.measure(shown(editor, bald, 256, black_hair=1.0))["black_hair"] > 0.8  # of the code
