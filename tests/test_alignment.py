"""Photos in, FFHQ portraits out, and back into the photo."""

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from dystyle.alignment import MOUTH_CORNERS, FaceAligner, crop, paste
from dystyle.errors import InputError
from dystyle.knowledge.networks import load_network

ASTRONAUT = data.astronaut()
FULL = np.float32([[0, 0], [0, 1], [1, 1], [1, 0]])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)))


def square(x: float, y: float, side: float, degrees: float) -> np.ndarray:
    """A quad with this centre, rolled clockwise."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.float32((FULL - 0.5) @ turn * side + (x, y))


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    def on_arrays(network):
        def run(pixels):
            with torch.no_grad():
                output = network(torch.from_numpy(pixels))
            return tuple(o.numpy() for o in output) if isinstance(output, tuple) else output.numpy()

        return run

    return FaceAligner(on_arrays(load_network("blazeface")), on_arrays(load_network("facemesh")))


@pytest.fixture(scope="module")
def reference(aligner):
    return aligner.align(ASTRONAUT)


# ---------------------------------------------------------------------------------------- crop and paste


def test_crop_corners_and_identity():
    np.testing.assert_array_equal(crop(ASTRONAUT, FULL * 512, 512), ASTRONAUT)
    for turn in range(4):  # the first corner of the quad becomes the portrait's top left
        np.testing.assert_array_equal(
            crop(ASTRONAUT, np.roll(FULL * 512, turn, axis=0), 512), np.rot90(ASTRONAUT, turn)
        )
    np.testing.assert_array_equal(crop(ASTRONAUT, FULL * 100 + (30, 40), 100), ASTRONAUT[40:140, 30:130])


def test_crop_is_antialiased():
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    assert crop(noise, square(512, 512, 700, 30), 100).std() < noise.std() / 5


def test_crop_outside_the_photo_is_smooth():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    portrait = crop(noise, FULL * 400 - (200, 0), 400)
    assert portrait[150:250, 250:350].std() > 60
    assert portrait[:, :50].std() < 10
    np.testing.assert_array_equal(portrait[:300, 200:], noise[:, :200])
    with pytest.raises(InputError, match="outside the photo"):
        crop(noise, FULL * 100 + 400)


@pytest.mark.parametrize(
    "quad", [square(224, 130, 220, 20), square(200, 60, 180, -35), square(400, 400, 600, 5)]
)
def test_paste_changes_only_the_inside_of_the_quad(quad):
    portrait = crop(ASTRONAUT, quad)
    original = ASTRONAUT.copy()
    inside = cv2.fillConvexPoly(np.zeros((512, 512), np.uint8), np.rint(quad).astype(np.int32), 1)
    outside = cv2.dilate(inside, np.ones((3, 3))) == 0
    same = paste(portrait, quad, original)
    assert psnr(same[inside > 0], ASTRONAUT[inside > 0]) > 40
    for edited in (255 - portrait, crop(255 - ASTRONAUT, quad, 256)):
        result = paste(edited, quad, original)
        np.testing.assert_array_equal(result[outside], ASTRONAUT[outside])
        assert (result != ASTRONAUT).any()
    np.testing.assert_array_equal(original, ASTRONAUT)


def test_paste_leaves_no_seam():
    grey = np.full((600, 600, 3), 128, np.uint8)
    result = paste(np.full((1024, 1024, 3), 228, np.uint8), square(300, 300, 400, 25), grey).astype(int)
    assert (result[250:350, 250:350] == 228).all()
    assert max(np.abs(np.diff(result, axis=axis)).max() for axis in (0, 1)) <= 5


def test_paste_into_a_large_photo_does_not_depend_on_where_the_face_is():
    photo = np.tile(ASTRONAUT, (4, 4, 1))
    quad = square(1024, 1150, 1400, 10)
    high = paste(255 - ASTRONAUT, quad, photo)
    low = paste(255 - ASTRONAUT, quad + np.float32([0, 300]), np.roll(photo, 300, axis=0))
    assert np.abs(np.roll(low, -300, axis=0)[:1700].astype(int) - high[:1700]).max() <= 1


def test_what_is_pasted_is_mixed_with_the_photo_only_where_the_portrait_cuts_it_off():
    """Hair that has moved near the portrait's edge shows once, not twice; what goes on beyond it fades."""
    photo, quad = np.full((600, 600, 3), 100, np.uint8), square(300, 300, 256, 0)
    portrait, changed = np.full((256, 256, 3), 100, np.uint8), np.zeros((256, 256), np.float32)
    inside, across = np.s_[100:150, 10:60], np.s_[60:200, 200:]
    for place, value in ((inside, 200), (across, 30)):
        portrait[place], changed[place] = value, 1
    result = paste(portrait, quad, photo, changed)[172:428, 172:428]
    assert np.array_equal(result[105:145, 15:55], portrait[105:145, 15:55])
    rim = result[100:160, :, 0].mean(0)
    assert (
        (np.diff(rim[215:]) >= -0.5).all() and rim[205] < 35 and rim[-2] > 95 and np.diff(rim[215:]).max() < 8
    )


def test_paste_off_the_photo_changes_nothing():
    np.testing.assert_array_equal(paste(ASTRONAUT, FULL * 100 + 600, ASTRONAUT), ASTRONAUT)


# ------------------------------------------------------------------------------------------------- faces


def test_portrait_is_upright_with_the_eyes_where_ffhq_has_them(aligner, reference):
    face, portrait = reference
    assert portrait.shape == (1024, 1024, 3) and portrait.dtype == np.uint8
    assert face.landmarks.shape == (468, 2) and face.quad.shape == (4, 2) and face.score > 0.7
    assert (face.box[:2] < face.landmarks.min(axis=0) + 1).all() and face.box[2] < 300
    again, _ = aligner.align(portrait)
    np.testing.assert_allclose(again.quad / 1024, FULL, atol=0.015)
    left, right = again.landmarks[[33, 133]].mean(axis=0), again.landmarks[[362, 263]].mean(axis=0)
    mouth = again.landmarks[list(MOUTH_CORNERS)].mean(axis=0)
    assert abs(left[1] - right[1]) < 20 and left[0] < 450 < 570 < right[0]
    assert 420 < left[1] < 520 and 680 < mouth[1] < 780


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [
        (0, 1.7, (0, 0)),
        (20, 1, (60, 30)),
        (-40, 0.8, (0, 40)),
        (90, 1, (0, 0)),
        (180, 1, (0, 0)),
        (-135, 1.3, (0, 0)),
    ],
)
def test_moving_the_photo_moves_the_quad_with_it(aligner, reference, degrees, scale, shift):
    centre = np.array([450.0, 450.0])
    move = cv2.getRotationMatrix2D((224, 130), -degrees, scale)
    move[:, 2] += centre - (224, 130) + shift
    photo = cv2.warpAffine(ASTRONAUT, move, (900, 900), flags=cv2.INTER_AREA, borderValue=(120, 120, 120))
    face, portrait = aligner.align(photo)
    expected = reference[0].quad @ move[:, :2].T + move[:, 2]
    side = np.linalg.norm(expected[3] - expected[0])
    assert np.linalg.norm(face.quad - expected, axis=1).max() < 0.03 * side
    small = [
        cv2.resize(p[100:900, 200:800], (60, 80), interpolation=cv2.INTER_AREA)
        for p in (portrait, reference[1])
    ]
    assert psnr(*small) > 24


def test_mirrored_photo_gives_the_mirrored_portrait(aligner, reference):
    face, _ = aligner.align(ASTRONAUT[:, ::-1])
    expected = (reference[0].quad * (-1, 1) + (512, 0))[[3, 2, 1, 0]]
    assert np.linalg.norm(face.quad - expected, axis=1).max() < 0.03 * 176


def test_several_faces_are_sorted_by_size_and_chosen_by_index(aligner):
    head = ASTRONAUT[:230, 110:340]
    photo = np.full((800, 1400, 3), 140, np.uint8)
    places = {(40, 500): 180, (700, 100): 500, (300, 60): 260}
    for (x, y), side in places.items():
        photo[y : y + side, x : x + side] = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
    faces = aligner.detect(photo)
    assert len(faces) == 3
    for face, (x, y) in zip(faces, [(700, 100), (300, 60), (40, 500)], strict=True):
        side = places[x, y]
        centre = (face.box[:2] + face.box[2:]) / 2
        assert (centre > (x, y)).all() and (centre < (x + side, y + side)).all()
    second, portrait = aligner.align(photo, index=1)
    assert second.index == 1
    np.testing.assert_array_equal(second.quad, faces[1].quad)
    np.testing.assert_array_equal(portrait, crop(photo, second.quad))
    for index in (3, -1):
        with pytest.raises(InputError, match="choose one from 0 to 2"):
            aligner.align(photo, index=index)


def place(photo: np.ndarray, side: int, x: int, y: int) -> None:
    """Put a head into a photo; the box of its face is 0.47 of the side."""
    head = ASTRONAUT[:230, 110:340]
    shrunk = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA if side < 230 else cv2.INTER_CUBIC)
    photo[y : y + side, x : x + side] = shrunk[: len(photo) - y]


def test_small_faces_of_a_large_group_are_found(aligner):
    photo = np.full((1500, 2000, 3), 140, np.uint8)
    for i in range(12):
        place(photo, 130, 90 + 480 * (i % 4), 200 + 400 * (i // 4))
    assert len(aligner.detect(photo)) == 12


@pytest.mark.parametrize("small", [32, 49])
def test_a_small_face_beside_a_large_one_is_found(aligner, small):
    photo = np.full((1100, 1280, 3), 140, np.uint8)
    place(photo, round(522 / 0.47), 5, 5)
    place(photo, round(small / 0.47), 1150, 900)
    faces = aligner.detect(photo)
    heights = [face.box[3] - face.box[1] for face in faces]
    assert len(faces) == 2 and heights[0] > 480 and 0.8 < heights[1] / small < 1.25
    assert all(len(face.others) == 0 for face in faces)  # far from each other


def test_everybody_in_a_crowd_is_reached(aligner):
    photo = np.full((1000, 1250, 3), 140, np.uint8)
    for i in range(40):
        place(photo, 110, 20 + 155 * (i % 8), 20 + 195 * (i // 8))
    faces = aligner.detect(photo)
    assert len(faces) == 40
    assert len({(face.box[0] // 155, face.box[1] // 195) for face in faces}) == 40
    assert [face.index for face in faces] == list(range(40))
    chosen, portrait = aligner.align(photo, faces[39])
    assert chosen is faces[39] and np.array_equal(portrait, crop(photo, faces[39].quad))


def test_a_face_that_fills_the_photo_is_found(aligner, reference):
    x0, y0, x1, y1 = reference[0].box.astype(int)
    face, _ = aligner.align(ASTRONAUT[y0:y1, x0:x1])
    assert np.linalg.norm(face.quad + (x0, y0) - reference[0].quad, axis=1).max() < 0.08 * 176


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "noise", "wall", "smallest"])
def test_photos_without_a_face_are_refused(aligner, name):
    photos = {
        "noise": np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8),
        "wall": np.full((500, 400, 3), 190, np.uint8),
        "smallest": np.zeros((64, 64), np.uint8),
    }
    photo = photos[name] if name in photos else getattr(data, name)()
    assert aligner.detect(photo) == []
    with pytest.raises(InputError, match="No face was found"):
        aligner.align(photo)
