"""The surface of a head, and how it turns."""

import cv2
import numpy as np
import pytest

from dystyle import relief
from dystyle.attributes import ATTRIBUTES
from dystyle.compositing import Flow
from dystyle.relief import EARS, FACE, relief_of, turned

MIDDLE, RADIUS = np.array([0.5, 0.5]), 0.3


@pytest.fixture(scope="module")
def ball():
    """Half a ball for a face, whose outline is the head's."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.9, 0.9, (468, 2))
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True) / 0.95, 1)
    points[list(EARS)] = (-1, 0), (1, 0)
    eyes, mouth = [(x, -0.2) for x in (-0.3, -0.1, 0.1, 0.3)], [(-0.2, 0.3), (0.2, 0.3)]
    points[list(FACE)] = [*eyes, *mouth, *mouth]
    away = 0.2 - np.sqrt(1 - np.minimum((points**2).sum(1), 1))  # the camera's zero is anywhere
    head = np.zeros((256, 256), np.uint8)
    cv2.circle(head, (128, 128), round(256 * RADIUS), 1, -1)
    points = np.column_stack((MIDDLE + RADIUS * points, RADIUS * away))
    return relief_of(points, head.astype(np.float32))


def where(moved: Flow, place: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Where a mark at a place of the ball, in radii from its middle, is afterwards."""
    x, y = 1024 * (MIDDLE + RADIUS * np.array(place))
    mark = np.zeros((1024, 1024), np.float32)
    cv2.circle(mark, (round(x), round(y)), 12, 1, -1)
    found = moved.move(mark)
    rows, columns = np.mgrid[:1024, :1024]
    centre = np.array([(columns * found).sum(), (rows * found).sum()]) / found.sum()
    return (centre / 1024 - MIDDLE) / RADIUS


@pytest.mark.parametrize(
    "name, degrees, place, seen",
    # On a ball (sin a, 0, cos a) becomes (sin(a + b), 0, cos(a + b)); up is where y is less.
    [
        ("yaw", 20, (0.0, 0.0), (np.sin(np.radians(20)), 0.0)),
        ("yaw", -20, (0.0, 0.0), (-np.sin(np.radians(20)), 0.0)),
        ("yaw", 15, (0.5, 0.0), (np.sin(np.radians(45)), 0.0)),
        ("yaw", 15, (-0.5, 0.0), (-np.sin(np.radians(15)), 0.0)),
        ("pitch", 15, (0.0, 0.5), (0.0, np.sin(np.radians(15)))),
        ("pitch", -10, (0.2, 0.0), (0.2, np.sin(np.radians(10)) * np.sqrt(1 - 0.2**2))),
    ],
)
def test_a_ball_turns_as_a_ball_does(ball, name, degrees, place, seen, monkeypatch):
    monkeypatch.setattr(relief, "BACK", 0.0)
    moved = turned(ball, degrees * np.array(ATTRIBUTES[name].turns))
    assert where(moved, place) == pytest.approx(seen, abs=0.03)


@pytest.mark.parametrize("name", ["yaw", "pitch"])
def test_a_face_stays_about_where_portraits_have_it(ball, name, monkeypatch):
    rotation = 15 * np.array(ATTRIBUTES[name].turns)
    place = ball.face[:2] / (RADIUS * relief.SIZE)
    back = where(turned(ball, rotation), place) - place
    monkeypatch.setattr(relief, "BACK", 0.0)
    forth = where(turned(ball, rotation), place) - place
    assert np.linalg.norm(forth) > 0.15 and np.linalg.norm(back) < 0.4 * np.linalg.norm(forth)


def test_around_a_head_nothing_turns_and_its_outline_hardly(ball, monkeypatch):
    rng = np.random.default_rng(1)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (512, 512, 3), np.uint8), (0, 0), 4)
    assert turned(ball, np.zeros(3)).move(picture) is picture
    moved = turned(ball, np.array([0, 25, 0]))
    same = (moved.move(picture) == picture).all(2)
    assert same[:12].all() and same[-12:].all() and same[:, :12].all() and same[:, -12:].all()
    monkeypatch.setattr(relief, "BACK", 0.0)
    moved = turned(ball, np.array([0, 25, 0]))
    places = np.rint(128 * (MIDDLE + RADIUS * np.array([(-1, 0), (1, 0), (0, -1), (0, 1)]))).astype(int)
    for column, row in places:
        assert np.abs(moved.flow[:, row, column]).max() < 0.35 * np.abs(moved.flow).max()
    columns = np.arange(128) + 64 * moved.flow[0]
    assert np.diff(columns).min() > 0  # nothing folds
    stays = np.zeros((256, 256), np.float32)
    stays[:, :120] = 1
    assert np.abs(turned(ball, np.array([0, 25, 0]), stays).flow[..., :55]).max() < 0.01 < moved.flow.max()
