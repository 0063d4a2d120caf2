"""A stand-in for FaceEditor that draws a cartoon face: it lets the page be tested in milliseconds."""

import copy
from dataclasses import replace

import cv2
import numpy as np

from dystyle.attributes import ATTRIBUTES, Attribute, validate_configuration
from dystyle.compositing import composite
from dystyle.editors import METHODS
from dystyle.errors import InputError
from dystyle.faces import InvertedFace, fingerprint
from dystyle.pictures import load_image

LEARNT = ("yaw", "pitch", "age", "gender", "smile", "mouth_open", "eyes_closed")


class FakeEditor:
    """FaceEditor's interface. A code's first row holds the attribute values, its second one the skin colour.

    Faces are found by their colour: every saturated red blob of a photo is one. `calls` records what the
    page asked for; `broken` makes `edit` fail as a damaged engine would.
    """

    attributes: dict[str, Attribute] = {name: ATTRIBUTES[name] for name in LEARNT}
    model, edits_pictures = "DyStyle on a cartoon", False
    qualities = ("fast", "balanced", "precise")
    noise_layers = ("conv1", "blocks.0.conv1", "blocks.0.conv2")

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.broken, self.short = False, 0.0

    def detect(self, photo) -> list[InvertedFace]:
        photo = load_image(photo)
        red = (photo[..., 0] > 200) & (photo[..., 1] < 60) & (photo[..., 2] < 60)
        count, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = sorted((s[:4] for s in stats[1:count]), key=lambda b: -b[2] * b[3])
        return [self._face(i, x, y, w, h) for i, (x, y, w, h) in enumerate(boxes)]

    def align(self, photo, index=0) -> tuple[InvertedFace, np.ndarray]:
        face = self.invert(photo, index=index)
        return face, face.portrait

    def invert(self, photo, refine="fast", index=0, progress=None) -> InvertedFace:
        faces, at = ([index], 0) if isinstance(index, InvertedFace) else (self.detect(photo), index)
        self.calls.append(("invert", (refine, getattr(index, "index", index))))
        if not faces:
            raise InputError(
                "No face was found in this picture; choose one that shows a face from the front."
            )
        for step in range(4):
            if progress:
                progress((step + 1) / 4, "Fitting the portrait")
        return replace(faces[at], refine=refine, photo_id=fingerprint(load_image(photo)))

    def sample(self, seed, truncation=0.7) -> np.ndarray:
        rng = np.random.default_rng(seed)
        code = np.zeros((18, 512), np.float32)
        for i, row in enumerate(self.attributes.values()):
            spread = 0.3 if row.kind == "binary" else 0.6
            code[0, i] = row.denormalise(rng.uniform(-spread, spread))
        code[1, :3] = rng.uniform(0.25, 1, 3)
        return code

    def with_method(self, method) -> "FakeEditor":
        """Another method falls short of every target by its place in the registry, in percent."""
        other = copy.copy(self)
        other.short = list(METHODS).index(method) / 100
        return other

    def edit(self, code, configuration, progress=None, face=None, looks=0) -> np.ndarray:
        configuration = validate_configuration(configuration, self.attributes)
        self.calls.append(("edit", configuration))
        if self.broken:
            raise RuntimeError("the engine is out of order")
        edited = code.copy()
        for i, name in enumerate(self.attributes):
            if name in configuration:
                edited[0, i] += (1 - self.short) * (configuration[name] - code[0, i])
        if self.short:
            progress(0.5, "Looking for the strength")
        return edited

    def embed(self, image) -> np.ndarray:
        flat = image[::64, ::64].astype(float).ravel()
        return flat / np.linalg.norm(flat)

    def distance(self, image, other) -> float:
        """By their colours."""
        one, two = (x.reshape(-1, 3).mean(0) / 255 for x in (image, other))
        return float(np.linalg.norm(one - two)) * 10

    def attention(self, code, configuration) -> np.ndarray:
        n = len(configuration)
        return np.full((11, n, n), 1 / n, np.float32)

    def mix(self, code, other, row) -> np.ndarray:
        return np.concatenate((code[:row], other[row:]))

    def truncate(self, code, truncation) -> np.ndarray:
        return np.float32(truncation) * code

    def synthesize(self, code, size=1024, face=None, noise=None) -> np.ndarray:
        value = dict(zip(self.attributes, map(float, code[0]), strict=False))
        skin = np.array([255, 205, 170]) * (0.5 + 0.5 * code[1, :3])
        hair = np.interp(value["age"], [5, 40, 80], [70, 60, 215]) * (0.6 + 0.4 * code[1, 2::-1])
        image = np.empty((256, 256, 3), np.uint8)
        image[:] = np.linspace(200, 110, 256)[:, None, None] * (0.6 + 0.4 * code[1, 1:4][::-1])
        x, y = 128 + value["yaw"], 130 - value["pitch"]

        def ellipse(cx, cy, rx, ry, colour, start=0, end=360, width=-1):
            centre, axes = (round(cx * 16), round(cy * 16)), (round(rx * 16), round(max(ry, 1) * 16))
            cv2.ellipse(image, centre, axes, 0, start, end, tuple(map(float, colour)), width, cv2.LINE_AA, 4)

        ellipse(128, 280, 110, 90, (70, 80, 120))
        ellipse(128, 118, 84, 100, hair)
        ellipse(128, 132, 70, 88, skin)
        for side in (-1, 1):
            ellipse(x + 28 * side, y - 18, 13, 9 * (1 - value["eyes_closed"]), (250, 250, 250))
            ellipse(x + 28 * side, y - 18, 6, 6 * (1 - value["eyes_closed"]), (60, 45, 40))
            ellipse(x + 28 * side, y - 36, 15, 5, hair * 0.6, 190, 350, 3)
        ellipse(x, y + 6, 6, 13, skin * 0.86)
        ellipse(x, y + 36, 26, 3 + 14 * value["smile"], (170, 60, 70), 10, 170, 4)
        ellipse(x, y + 42, 18, 14 * value["mouth_open"], (120, 30, 40))
        image[: 8 * len(noise or {})] = 0  # a bar, the larger, the more layers lack their noise
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
        if face is not None and face.protected is not None:
            image = composite(image, face.portrait, 1 - face.protected)
        return image

    def measure(self, image) -> dict[str, float]:
        self.calls.append(("measure", image.shape))
        return {name: float(image[90 + i, 128].mean()) / 400 for i, name in enumerate(ATTRIBUTES)} | {
            "age": 31.7,
            "yaw": -4.2,
            "pitch": 2.9,
        }

    def paste(self, image, face, original) -> np.ndarray:
        (x0, y0), (x1, y1) = face.quad[0].astype(int), face.quad[2].astype(int)
        whole = original.copy()
        whole[y0:y1, x0:x1] = cv2.resize(image, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        return whole

    def last(self, method: str) -> object:
        """The arguments of the latest call of `method`."""
        return next(arguments for name, arguments in reversed(self.calls) if name == method)

    def _face(self, seed, x, y, w, h) -> InvertedFace:
        quad = np.array([[x, y], [x, y + h], [x + w, y + h], [x + w, y]], np.float32)
        code = self.sample(seed)
        box = np.array([x, y, x + w, y + h], np.float32)
        return InvertedFace(code, self.synthesize(code), quad, box, index=seed)
