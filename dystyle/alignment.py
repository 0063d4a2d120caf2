"""From photos to FFHQ portraits and back: face detection, landmarks, crop and paste.

Photo coordinates are continuous: the picture spans 0..width and 0..height, and the centre of the first
pixel is (0.5, 0.5). A *quad* holds the corners of a square in the photo, of shape (4, 2) as x, y: top-left,
bottom-left, bottom-right, top-right as the face sees it, so a rolled face has a rolled quad.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from dystyle.compositing import COARSE
from dystyle.errors import InputError
from dystyle.pictures import load_image

RIM, CUT = 2, 65  # px of 256: the border of a portrait, and around what is cut off there, where it fades
NEIGHBOURED = 0.0235  # sides of the portrait, around other people's faces


# ---------------------------------------------------------------------------------------- crop and paste


def crop(image: np.ndarray, quad: np.ndarray, size: int = 1024) -> np.ndarray:
    """Cut the square under `quad` out of a photo, upright and antialiased.

    What lies outside the photo is filled as FFHQ was prepared: mirrored, blurred, and fading to the median
    colour with the distance, so that no hard edge and no second face appears.

    Args:
        image: uint8 (H, W, 3).
        quad: (4, 2) corners in photo pixels; it must overlap the photo.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        InputError: the quad does not overlap the photo.
    """
    if (np.max(quad, axis=0) <= 0).any() or (np.min(quad, axis=0) >= image.shape[1::-1]).any():
        raise InputError("The quad lies outside the photo; use the photo in which it was found.")
    portrait = _sample(image, quad, size, cv2.BORDER_REFLECT_101)
    outside = _distance_outside(image.shape[:2], quad, size)
    if outside is None:
        return portrait
    coarse = cv2.resize(portrait, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    median = np.median(coarse.reshape(-1, 3), axis=0).astype(np.float32)
    blurred = cv2.GaussianBlur(coarse.astype(np.float32), (0, 0), 0.02 * COARSE)
    canvas = portrait.astype(np.float32)
    canvas += (cv2.resize(blurred, (size, size)) - canvas) * np.clip(outside / 0.05, 0, 1)
    canvas += (median - canvas) * np.clip(outside / 0.4, 0, 1)
    return np.rint(canvas).astype(np.uint8)


def paste(
    portrait: np.ndarray, quad: np.ndarray, original: np.ndarray, changed: np.ndarray | None = None
) -> np.ndarray:
    """Blend a portrait back into the photo that `quad` was found in.

    The mask is one in the middle and falls smoothly to zero at the quad's border, earlier in the corners,
    where what is wanted reaches that far; pixels outside the quad stay as they are, bit for bit.

    Args:
        portrait: uint8 (size, size, 3), of any size.
        quad: (4, 2) corners in photo pixels.
        original: uint8 (H, W, 3).
        changed: float32 (256, 256), where the portrait is wanted, see `changes`; None: everywhere.

    Returns:
        uint8 (H, W, 3), a new array.
    """
    height, width = original.shape[:2]
    result = original.copy()
    # Shrink by area before the warp, to a little more than the face's size in the photo: at exactly that
    # size the warp would soften it once more.
    size = min(portrait.shape[0], math.ceil(1.25 * _side(quad)))
    if size < portrait.shape[0]:
        portrait = cv2.resize(portrait, (size, size), interpolation=cv2.INTER_AREA)
    mask = _feathered_mask(COARSE)
    if changed is not None:
        rim = np.pad(np.zeros((COARSE - 2 * RIM, COARSE - 2 * RIM), np.float32), RIM, constant_values=1)
        # Elsewhere nothing is to be blended: the mixture would show twice what has moved.
        cut = cv2.dilate(rim * changed, np.ones((CUT, CUT)))
        mask = changed * (1 - (1 - mask) * cv2.GaussianBlur(cut, (0, 0), CUT / 8))
    x0, y0 = np.clip(np.floor(np.min(quad, axis=0)).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(np.max(quad, axis=0)).astype(int), 0, (width, height))
    for top in range(y0, y1 if x1 > x0 else y0, 1024):  # in bands: the memory stays small on large photos
        bottom = min(top + 1024, y1)
        shape = (x1 - x0, bottom - top)
        local = np.asarray(quad, np.float64) - (x0, top)
        face = cv2.warpPerspective(
            portrait,
            _matrix(_square(size), local),
            shape,
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        alpha = cv2.warpPerspective(mask, _matrix(_square(COARSE), local), shape)
        part = result[top:bottom, x0:x1]
        part[:] = cv2.blendLinear(face, np.ascontiguousarray(part), alpha, 1 - alpha)
    return result


def covered(faces: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Where other people's faces lie in a portrait: float32 (256, 256) from 0 to 1, soft at its edges.

    Args:
        faces: (n, 468, 2), landmarks in photo pixels. quad: (4, 2), the portrait's corners, likewise.
    """
    mask = np.zeros((COARSE, COARSE), bool)
    for points in faces:
        mask |= hull(points, quad, NEIGHBOURED)
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.5)


def in_portrait(points: np.ndarray, quad: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Points of a photo in a portrait of this size: (n, 2) float32.

    Args:
        points: (n, 2), in photo pixels. quad: (4, 2), the portrait's corners, likewise.
    """
    return cv2.perspectiveTransform(np.float32(points)[None], _matrix(np.asarray(quad), _square(size)))[0]


def hull(points: np.ndarray, quad: np.ndarray, margin: float, size: int = COARSE) -> np.ndarray:
    """What points enclose in a portrait, and a margin around it: bool (size, size).

    Args:
        points: (n, 2), in photo pixels. quad: (4, 2), the portrait's corners, likewise.
        margin: in sides of the portrait.
    """
    points = in_portrait(points, quad, size)
    mask, side = np.zeros((size, size), np.uint8), 2 * round(margin * size) + 1
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(points).astype(np.int32)), 1)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))).astype(bool)


def _sample(image: np.ndarray, quad: np.ndarray, size: int, border: int) -> np.ndarray:
    """Warp the square under `quad` to uint8 (size, size, 3); `border` is OpenCV's rule outside the photo."""
    height, width = image.shape[:2]
    scale = max(1.0, _side(quad) / size)
    margin = 4 * scale  # the reach of the filters
    x0, y0 = np.clip(np.floor(np.min(quad, axis=0) - margin).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(np.max(quad, axis=0) + margin).astype(int), 0, (width, height))
    if x0 >= x1 or y0 >= y1:
        return np.zeros((size, size, 3), np.uint8)
    region = image[y0:y1, x0:x1]
    shape = np.maximum(1, np.rint(np.array([x1 - x0, y1 - y0]) / scale)).astype(int)
    if scale > 1:
        region = cv2.resize(region, tuple(map(int, shape)), interpolation=cv2.INTER_AREA)
    local = (np.asarray(quad, np.float64) - (x0, y0)) * (shape / (x1 - x0, y1 - y0))
    return cv2.warpPerspective(
        region, _matrix(local, _square(size)), (size, size), flags=cv2.INTER_CUBIC, borderMode=border
    )


def _distance_outside(shape: tuple[int, int], quad: np.ndarray, size: int) -> np.ndarray | None:
    """How far each portrait pixel lies outside the photo: (size, size, 1) float32, in sides of the quad.

    None where the whole quad lies inside.
    """
    height, width = shape
    low, high = np.min(quad, axis=0), np.max(quad, axis=0)
    if min(low) >= 0 and high[0] <= width and high[1] <= height:
        return None
    back = _matrix(_square(size), np.asarray(quad, np.float64))
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float32)
    x, y = np.moveaxis(cv2.perspectiveTransform(pixels, back), -1, 0)
    beyond = np.stack([-0.5 - x, x - (width - 0.5), -0.5 - y, y - (height - 0.5)])
    return np.maximum(beyond.max(axis=0), 0)[:, :, None] / _side(quad)


def _feathered_mask(size: int) -> np.ndarray:
    """float32 (size, size): a square with round corners, smooth from 0 at the border to 1 inside."""
    axis = np.abs(np.linspace(-1, 1, size, dtype=np.float32))
    radius = (axis[:, None] ** 6 + axis[None, :] ** 6) ** (1 / 6)
    inside = np.clip((1 - radius) / 0.25, 0, 1)
    return inside**2 * (3 - 2 * inside)


def _matrix(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 3x3 map between two quads, in OpenCV's coordinates, where pixel centres are whole numbers."""
    return cv2.getPerspectiveTransform((source - 0.5).astype(np.float32), (target - 0.5).astype(np.float32))


def _square(size: float) -> np.ndarray:
    return np.array([[0, 0], [0, size], [size, size], [size, 0]], np.float64)


def _side(quad: np.ndarray) -> float:
    """Longest side of a quad in pixels."""
    return float(np.linalg.norm(np.asarray(quad, np.float64) - np.roll(quad, 1, axis=0), axis=1).max())


# ------------------------------------------------------------------------------------------- finding faces

DETECTOR_SIZE = 256
MESH_SIZE = 192
MAX_FACES = 256
MAX_MISSES = 128  # of what looked like a face in one grid of views
GRIDS = (0.4, 0.2, 0.1)  # sides of the views, in the photo's longer one
OVERLAP = 0.2  # of neighbours, in views
MAX_VIEWS = 36  # of a grid
SEEN = 0.45  # of a view's side: larger faces have been seen in the larger views before
MIN_SCORE, DOUBTFUL = 0.5, 0.8
ROLL = 12  # degrees
MAX_MOTION = 0.035
IN_PORTRAIT = (0.5, 0.56), (0.28, 0)  # where faces are, and how far to their right, in sides of the portrait
EYE_TOLERANCE = 0.15  # in sides of the portrait; 0.04 is usual, extreme profiles reach 0.14

# Indices into the 468 points. The eye contours are the six points of each eye that stand for those of the
# 68-point scheme FFHQ was aligned with; "left" is the left of the picture.
LEFT_EYE = (33, 160, 158, 133, 153, 144)
RIGHT_EYE = (362, 385, 387, 263, 373, 380)
MOUTH_CORNERS = (61, 291)


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a photo; all coordinates in photo pixels.

    Attributes:
        box: float32 (4,): x0, y0, x1, y1 around the landmarks, inside the photo.
        score: the detector's confidence on the aligned face, 0..1.
        landmarks: float32 (468, 2), the points of the face mesh.
        quad: float32 (4, 2), the corners of the FFHQ crop (see the module's note); it may leave the photo.
        others: float32 (n, 468, 2), the landmarks of the photo's other faces that reach into the quad.
        index: its number in the photo, from the largest, 0, on.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray
    quad: np.ndarray
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, 468, 2), np.float32))
    index: int = 0


class FaceAligner:
    """Finds faces and cuts FFHQ portraits.

    Args:
        detector: float32 (1, 3, 256, 256) RGB in [-1, 1] -> (score logits (1, 896), boxes (1, 896, 16)):
            centre, width, height and six points in pixels relative to the anchors.
        mesh: float32 (1, 3, 192, 192) RGB in [0, 1] -> (1, 468, 3) points in pixels of that crop.
    """

    def __init__(
        self,
        detector: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        mesh: Callable[[np.ndarray], np.ndarray],
    ):
        self.detector = detector
        self.mesh = mesh

    def detect(self, image) -> list[Face]:
        """Find the faces of a photo, largest first; an empty list where there is none.

        The whole photo is looked at first, and if that shows none, a frame of twice its size, for faces that
        fill it. Grids of smaller views follow: one always, and more while faces are small or a grid has shown
        new ones. If there is still no face, the photo is tried turned.

        Args:
            image: anything `load_image` takes.

        Raises:
            InputError: as `load_image`.
        """
        pyramid = _pyramid(load_image(image))
        height, width = pyramid[0].shape[:2]
        whole = _view((width / 2, height / 2), max(width, height))
        faces = self._search(pyramid, [whole], [])
        faces = faces or self._search(
            pyramid, [_view((width / 2, height / 2), 2 * max(width, height))], faces
        )
        grown = True
        for side, views in _grids(width, height):
            if faces and not grown and _side(faces[0].quad) > side:
                break
            known, faces = len(faces), self._search(pyramid, views, faces)
            grown = len(faces) > known
        faces = faces or self._search(pyramid, [np.roll(whole, turn, axis=0) for turn in (1, 2, 3)], faces)
        landmarks = np.float32([face.landmarks for face in faces])
        return [
            replace(face, others=_reaching(np.delete(landmarks, i, axis=0), face.quad), index=i)
            for i, face in enumerate(faces)
        ]

    def align(self, image, index: int | Face = 0) -> tuple[Face, np.ndarray]:
        """A face of a photo and its portrait, uint8 (1024, 1024, 3).

        Args:
            index: the face's number, largest first, or one that `detect` found in the photo.

        Raises:
            InputError: as `load_image`; the photo shows no face, or no face of that number.
        """
        image = load_image(image)
        if isinstance(index, Face):
            return index, crop(image, index.quad)
        faces = self.detect(image)
        if not faces:
            raise InputError("No face was found in the photo; use one that shows a face clearly.")
        if not 0 <= index < len(faces):
            raise InputError(f"There is no face number {index}; choose one from 0 to {len(faces) - 1}.")
        return faces[index], crop(image, faces[index].quad)

    def _search(self, pyramid: list[np.ndarray], views: list[np.ndarray], known: list[Face]) -> list[Face]:
        """Add the faces seen in `views` to those known."""
        candidates = [
            candidate
            for view in views
            for candidate in self._candidates(pyramid, view)
            if not known or _side(candidate[1]) < SEEN * _side(view)
        ]
        faces, squares, misses = list(known), [_square_around(face.landmarks) for face in known], 0
        for score, square, _ in sorted(candidates, key=lambda candidate: -candidate[0]):
            if len(faces) == MAX_FACES or misses == MAX_MISSES:
                break
            if any(_same_face(square, other) or _holds(other, square.mean(axis=0)) for other in squares):
                continue
            face = self._examine(pyramid, square) if self._is_clear(pyramid, square, score) else None
            found = None if face is None else _square_around(face.landmarks)
            if face is None or any(_same_face(found, other) for other in squares):
                misses += 1
            else:
                faces.append(face)
                squares.append(found)
        return sorted(faces, key=lambda face: -_side(face.quad))

    def _candidates(
        self, pyramid: list[np.ndarray], view: np.ndarray
    ) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Detector scores, face squares (4, 2) and eyes (2, 2) in one view, best first, overlaps removed."""
        pixels = _look(pyramid, view, DETECTOR_SIZE)
        logits, boxes = self.detector(_as_input(pixels / np.float32(127.5) - 1))
        scores = 1 / (1 + np.exp(-np.clip(logits[0], -30, 30)))
        centres, sides = ANCHORS + boxes[0, :, :2], np.maximum(boxes[0, :, 2:4].max(axis=1), 1)
        left = np.argsort(-scores)[: np.count_nonzero(scores >= MIN_SCORE)]
        kept: list[tuple[float, np.ndarray, np.ndarray]] = []
        while len(left):
            best = left[0]
            eyes = ANCHORS[best] + boxes[0, best, 4:8].reshape(2, 2)
            square = _square_at(centres[best], sides[best] / 2 * _unit(eyes[1] - eyes[0]))
            square, eyes = (_to_photo(points, view, DETECTOR_SIZE) for points in (square, eyes))
            kept.append((float(scores[best]), square, eyes))
            apart = np.linalg.norm(centres[left] - centres[best], axis=1)  # as `_same_face`
            left = left[apart >= 0.5 * np.maximum(sides[left], sides[best])]
        return kept

    def _is_clear(self, pyramid: list[np.ndarray], square: np.ndarray, score: float) -> bool:
        """Whether what looked like a face still does from nearby: that costs less than its landmarks."""
        nearby = _square_at(square.mean(axis=0), square[3] - square[0])
        return score >= DOUBTFUL or any(
            _same_face(square, other) for _, other, _ in self._candidates(pyramid, nearby)
        )

    def _examine(self, pyramid: list[np.ndarray], square: np.ndarray) -> Face | None:
        """Measure the face in a square of the photo; None if it is none on a closer look."""
        motion, landmarks = MAX_MOTION, None
        for turn in (0, 2, 1, 3):  # the detector takes many an upside-down face for an upright one
            points, moved = self._landmarks(pyramid, np.roll(square, turn, axis=0))
            if moved < motion:
                motion, landmarks = moved, points
            if motion < 0.7 * MAX_MOTION:
                break
        if landmarks is None:
            return None
        quad = _ffhq_quad(landmarks)
        # A face is found again in its own portrait, with the eyes where the mesh has them.
        mesh_eyes = _eyes_and_mouth(landmarks)[:2]
        for score, _, eyes in self._candidates(pyramid, quad):
            if np.linalg.norm(eyes - mesh_eyes, axis=1).max() < EYE_TOLERANCE * _side(quad):
                height, width = pyramid[0].shape[:2]
                box = np.clip([*landmarks.min(axis=0), *landmarks.max(axis=0)], 0, [width, height] * 2)
                return Face(np.float32(box), score, np.float32(landmarks), np.float32(quad))
        return None

    def _landmarks(self, pyramid: list[np.ndarray], square: np.ndarray) -> tuple[np.ndarray, float]:
        """Landmarks (468, 2) of the face in a square that is about upright, and how far they move.

        Two crops frame the face; two more, rolled to either side, are averaged. The mesh gives points for any
        picture, but only on an upright face do they stay in place when the crop is rolled: the motion, in
        sides of the face square, is around 0.013 there, and 0.14 on faces upside down.
        """
        for _ in range(2):
            square = _square_around(self._mesh_in(pyramid, square)[:, :2])
        left, right = (self._mesh_in(pyramid, _rolled(square, angle))[:, :2] for angle in (-ROLL, ROLL))
        return (left + right) / 2, float(np.linalg.norm(left - right, axis=1).mean() / _side(square))

    def surface(self, portrait: np.ndarray) -> np.ndarray:
        """The points of the mesh of a portrait's face with their depth.

        Args:
            portrait: uint8 (s, s, 3), as `crop` cuts it.

        Returns:
            (468, 3) float32, x, y and the distance from the camera, in sides of the portrait.
        """
        pyramid = _pyramid(portrait)
        square = _square_at(*(len(portrait) * np.array(point) for point in IN_PORTRAIT))
        for _ in range(2):
            points = self._mesh_in(pyramid, square)
            square = _square_around(points[:, :2])
        return np.float32(points / len(portrait))

    def _mesh_in(self, pyramid: list[np.ndarray], square: np.ndarray) -> np.ndarray:
        """The mesh's points (468, 3), in pixels, from a crop of 1.5 times a face square."""
        view = _square_at(square.mean(axis=0), 0.75 * (square[3] - square[0]))
        pixels = _look(pyramid, view, MESH_SIZE)
        points = self.mesh(_as_input(pixels / np.float32(255)))[0]
        places = _to_photo(points[:, :2], view, MESH_SIZE)
        return np.column_stack((places, points[:, 2] * (_side(view) / MESH_SIZE)))


def _pyramid(image: np.ndarray) -> list[np.ndarray]:
    """The photo and its halves, quarters, ...: looking at a large photo many times stays cheap."""
    levels = [image]
    while min(levels[-1].shape[:2]) > DETECTOR_SIZE:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return levels


def _look(pyramid: list[np.ndarray], view: np.ndarray, size: int) -> np.ndarray:
    """Sample a view in photo pixels, black outside the photo, from the smallest level with its detail."""
    height, width = pyramid[0].shape[:2]
    level = pyramid[int(np.clip(math.log2(_side(view) / size), 0, len(pyramid) - 1))]
    scale = level.shape[1] / width, level.shape[0] / height
    return _sample(level, view * scale, size, cv2.BORDER_CONSTANT)


def _ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """The crop that the FFHQ pictures were cut with (Karras et al. 2019): (4, 2) corners.

    FFHQ's factors are 2.0 and 1.8. The mesh's points lie 1 % further apart than those of FFHQ's detector:
    with these factors, the quads of generated faces are on average the pictures' own frame.
    """
    left, right, mouth = _eyes_and_mouth(landmarks)
    eyes = (left + right) / 2
    eye_to_eye, eye_to_mouth = right - left, mouth - eyes
    x = _unit(eye_to_eye - _turned(eye_to_mouth))
    x *= max(1.98 * np.linalg.norm(eye_to_eye), 1.782 * np.linalg.norm(eye_to_mouth))
    return _square_at(eyes + 0.1 * eye_to_mouth, x)


def _eyes_and_mouth(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the left eye, the right eye and the mouth: (3, 2)."""
    return np.stack([landmarks[list(points)].mean(axis=0) for points in (LEFT_EYE, RIGHT_EYE, MOUTH_CORNERS)])


def _square_around(landmarks: np.ndarray) -> np.ndarray:
    """The smallest square around the landmarks that is as level as the eyes."""
    left, right, _ = _eyes_and_mouth(landmarks)
    x = _unit(right - left)
    axes = np.stack([x, _turned(x)])
    along = landmarks @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    return _square_at((low + high) / 2 @ axes, (high - low).max() / 2 * x)


def _square_at(centre: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Corners of the square with this centre; `x` points from the centre to the middle of the right side."""
    y = _turned(x)
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _rolled(square: np.ndarray, degrees: float) -> np.ndarray:
    """The square turned clockwise about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre, x = square.mean(axis=0), (square[3] - square[0]) / 2
    return _square_at(centre, cos * x + sin * _turned(x))


def _turned(vector: np.ndarray) -> np.ndarray:
    """A quarter turn clockwise as seen: right becomes down."""
    return np.array([-vector[1], vector[0]])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-6)


def _view(centre: tuple[float, float], side: float) -> np.ndarray:
    return _square_at(np.array(centre), np.array([side / 2, 0]))


def _to_photo(points: np.ndarray, view: np.ndarray, size: int) -> np.ndarray:
    """Points (n, 2) in pixels of a sampled view of this size, in photo pixels."""
    return view[0] + points / size @ np.stack([view[3] - view[0], view[1] - view[0]])


def _reaching(faces: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Of landmarks (n, 468, 2) those of faces that reach into a quad, or nearly."""
    if not len(faces):
        return faces
    points = cv2.perspectiveTransform(faces.reshape(1, -1, 2), _matrix(quad, _square(COARSE)))
    inside = (np.abs(points.reshape(faces.shape) / COARSE - 0.5) < 0.6).all(axis=2)
    return faces[inside.any(axis=1)]


def _grids(width: int, height: int) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Grids of overlapping square views, each of smaller ones than the one before, with their side in pixels.

    They stop where a view is no more than the detector's own input, or there would be too many.
    """
    last = 0.8 * max(width, height)  # from which on a view is as good as the whole
    for share in GRIDS:
        side = max(share * max(width, height), DETECTOR_SIZE)
        xs, ys = _centres(width, side), _centres(height, side)
        if side >= last or len(xs) * len(ys) > MAX_VIEWS:
            return
        yield side, [_view((x, y), side) for y in ys for x in xs]
        last = side


def _centres(length: int, side: float) -> np.ndarray:
    if length <= side:
        return np.array([length / 2])
    return np.linspace(side / 2, length - side / 2, 1 + math.ceil((length - side) / ((1 - OVERLAP) * side)))


def _same_face(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two face squares are of one face: neighbours in a crowd are further apart."""
    return bool(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)) < 0.5 * max(_side(a), _side(b)))


def _holds(square: np.ndarray, point: np.ndarray) -> bool:
    """Whether a point lies in a square: what looks like a face in a face is a part of it."""
    axes, from_corner = square[[3, 1]] - square[0], point - square[0]
    along = axes @ from_corner / np.square(axes).sum(axis=1)
    return bool((along > 0).all() and (along < 1).all())


def _as_input(pixels: np.ndarray) -> np.ndarray:
    """(size, size, 3) -> (1, 3, size, size) float32."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _anchors() -> np.ndarray:
    """(896, 2) centres in pixels, cell by cell: 2 a cell on the grid of stride 16, then 6 on stride 32."""
    grids = []
    for stride, count in ((16, 2), (32, 6)):
        centres = (np.arange(DETECTOR_SIZE // stride) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
    return np.concatenate(grids)


ANCHORS = _anchors()
