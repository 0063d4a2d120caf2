"""The head of a portrait as a surface, and how it turns.

A head that turns shows the same skin, hair and glasses in other places. Where, its surface says: points of
the face mesh with their depth, spread smoothly over the head and a little beyond its outline, where all is as
deep as the ears. So the outline hardly moves, as a ball's does not, what is far before it moves most, and a
cheek grows narrow on one side and wide on the other. The head goes a part of the face's way back, so that its
face stays about where portraits have it, and what is beside it gives way, as cloth would.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dystyle.compositing import Flow, ramp

SIZE = 128  # places of the surface along a side
EARS = (234, 454)  # points of the face mesh before either ear
COARSEST, ROUNDS = 8, 16  # places from which on the surface is spread, and how often in each size
AROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))  # beside the head, what goes along with it
# Places, standard deviations of blurs: of the surface, of the head's edge, and of moves, where a cheek folds.
SMOOTH, SOFT, EVEN = 2.0, 3.0, 1.0
FACE = (33, 133, 362, 263, 61, 61, 291, 291)  # points of the mesh: eyes and, as much, the mouth
# How much of the face's way the head goes back, places that it goes at most, and those beside it up to which
# all goes along, and from which nothing does.
BACK, FARTHEST, BESIDE = 1.0, 8.0, (2, 28)
FRAME = (5, 18)  # places from the portrait's frame, beyond which a photo goes on: no moves, and whole ones
STEPS, DAMPING = 20, 0.5  # of the search for where each place comes from


class Relief(NamedTuple):
    """A head's surface.

    Attributes:
        depth: (128, 128) float32, how far each place is before the ears, in places.
        middle: (2,) float32, the place between the ears, x first.
        face: (3,) float32, where its face is from there: to the right, down, and away from the camera.
        head: (128, 128) float32 from 0 to 1, how much each place turns. along: likewise, how much it goes
            along with the head.
    """

    depth: np.ndarray
    middle: np.ndarray
    face: np.ndarray
    head: np.ndarray
    along: np.ndarray


def relief_of(points: np.ndarray, head: np.ndarray) -> Relief:
    """The surface of a portrait's head.

    Args:
        points: (468, 3), of the face mesh: x, y, and the distance from the camera, in sides of the portrait.
        head: (256, 256) float32 from 0 to 1, where the head is, its face included.
    """
    points = points * SIZE
    middle = points[list(EARS)].mean(0)
    places = np.rint(points[:, :2]).astype(int).clip(0, SIZE - 1)
    head = cv2.resize(head, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    near = cv2.dilate(head, AROUND)
    known = (near < 0.5).astype(np.float32)
    sums = np.zeros_like(known)
    np.add.at(sums, (places[:, 1], places[:, 0]), middle[2] - points[:, 2])
    np.add.at(known, (places[:, 1], places[:, 0]), 1)
    depth = np.zeros((COARSEST, COARSEST), np.float32)
    while True:
        size = (len(depth), len(depth))
        weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        given = cv2.resize(sums, size, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)
        for _ in range(ROUNDS):  # as a membrane would lie between what is known
            depth = np.where(weight > 0, given, cv2.blur(depth, (3, 3)))
        if len(depth) == SIZE:
            break
        depth = cv2.resize(depth, (2 * len(depth), 2 * len(depth)))
    edge = cv2.GaussianBlur((near >= 0.5).astype(np.float32), (0, 0), SOFT)
    beside = cv2.distanceTransform((head < 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    along = cv2.GaussianBlur(1 - ramp(beside, *BESIDE), (0, 0), SOFT)
    inwards = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1]).astype(np.float32)
    within = ramp(np.minimum.outer(inwards, inwards), *FRAME)
    face = points[list(FACE)].mean(0) - middle
    depth = cv2.GaussianBlur(depth, (0, 0), SMOOTH)
    return Relief(depth, middle[:2], face, edge * within, along * within)


def turned(relief: Relief, rotation: np.ndarray, stays: np.ndarray | None = None) -> Flow:
    """How a picture moves when its head turns.

    Args:
        rotation: (3,), degrees around axes to the right, down and away from the camera, clockwise as seen
            along them. stays: (s, s) float32 from 0 to 1, what does not move at all.
    """
    matrix, _ = cv2.Rodrigues(np.radians(rotation))
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    x, y = columns - relief.middle[0], rows - relief.middle[1]
    place = np.stack((x, y, -relief.depth))
    moves = relief.head * (np.tensordot(matrix[:2], place, 1) - place[:2])
    back = BACK * (matrix @ relief.face - relief.face)[:2]
    back *= FARTHEST * np.tanh(np.linalg.norm(back) / FARTHEST) / max(np.linalg.norm(back), 1e-6)
    moves -= relief.along * back[:, None, None]
    if stays is not None:
        moves *= 1 - cv2.resize(stays, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    across, down = moves.astype(np.float32)
    from_x, from_y = columns, rows
    for _ in range(STEPS):
        shift = [cv2.remap(axis, from_x, from_y, cv2.INTER_LINEAR) for axis in (across, down)]
        from_x = (1 - DAMPING) * from_x + DAMPING * (columns - shift[0])
        from_y = (1 - DAMPING) * from_y + DAMPING * (rows - shift[1])
    flow = np.stack([cv2.GaussianBlur(axis, (0, 0), EVEN) for axis in (from_x - columns, from_y - rows)])
    return Flow(flow * np.float32(2 / SIZE), small_too=True)
