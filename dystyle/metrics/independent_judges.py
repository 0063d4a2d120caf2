"""Independent readings of edited faces: networks that no editor, encoder or reader here was trained against.

An editor that is scored by its own teachers proves little: a gain that only they see is an adversarial edit.
The networks of `weights/judges` (origins, licences and figures: the cards there) share neither weights nor
training with those of `weights/knowledge`, and must never supply a loss. What they do not read themselves is
read by logistic regressions on them, fitted to hand labels by `dystyle.training.judges`.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.errors import InputError
from dystyle.knowledge.networks import AGE_GENDER_MEAN, load_network
from dystyle.knowledge.readings import DEGREES, crop
from dystyle.weights import load

# (centre y, side) of square crops as fractions of the FFHQ-aligned frame; centre x is 0.5.
AGE_CROPS = ((0.58, 0.56), (0.60, 0.62), (0.60, 0.70))
EXPRESSION_CROPS = ((0.58, 0.6), (0.57, 0.65), (0.56, 0.7))
LANDMARK_CROPS = ((0.57, 0.6), (0.57, 0.68), (0.57, 0.76))
MESH_CROP = (0.56, 0.9)
RECOGNITION_CROP = (0.61, 0.7)  # dlib's own framing of a face
HAIR_CROP = (0.4, 0.8)
PROBES = ("mouth_open", "eyes_closed", "eyeglasses", "black_hair", "mustache", "beard")
CELLS = 8  # feature maps are averaged to CELLS x CELLS
EYE_CELLS = slice(2, 4)  # the rows that hold the eyes
CHUNK = 16
# Order of the outputs of dlib_gender and face_expression, and the years the classes of dlib_age stand for.
MALE, HAPPY = 1, 1
AGES = torch.tensor([0.25, *range(1, 81)])


class Recognition(nn.Module):
    """dlib's face recognition on FFHQ-aligned faces (b, 3, s, s) in 0..255: descriptors (b, 128), which are
    less than 0.6 apart for one person, and feature maps (b, 32, 35, 35) and (b, 64, 17, 17).
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network("face_recognition", "judges")

    def forward(self, x: Tensor, geometry: tuple[float, float] = RECOGNITION_CROP) -> tuple[Tensor, ...]:
        # In this order, as OpenVINO would put colours' means that follow a crop into its product, wrongly.
        return self.network(_views(_normalise(x), 150, (geometry,)))


class Judges:
    """Attribute values and identity descriptors of FFHQ-aligned faces by the independent networks.

    Args:
        calibrated: False leaves out the fitted numbers, which `dystyle.training.judges` then fits: `features`
            works and `read` does not.

    Raises:
        InputError: the weights are missing or damaged.
    """

    def __init__(self, calibrated: bool = True) -> None:
        self.recognition = Recognition()
        self.landmarks, self.expression, self.mesh, self.age, self.gender = (
            load_network(name, "judges")
            for name in (
                "face_landmark_68",
                "face_expression",
                "facemesh_attention",
                "dlib_age",
                "dlib_gender",
            )
        )
        self.calibration = load("judges/calibration")[0] if calibrated else {}

    def read(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Values (b,) by attribute, in the units of the attribute table, for images uint8 (b, s, s, 3).

        Attributes of the table that no judge knows are missing. Numbers keep to the table's ranges, as those
        of `FaceEditor.measure` do.

        Raises:
            InputError: not a batch of square uint8 RGB pictures.
        """
        features = self.features(images)
        values = dict(features)
        for name in ("yaw", "pitch"):
            values[name] = features[name] - self.calibration[f"{name}_zero"]
        for name in PROBES:
            score = features[name] @ self.calibration[f"{name}_weight"] + self.calibration[f"{name}_bias"]
            values[name] = 1 / (1 + np.exp(-score))
        rows = [row for name, row in ATTRIBUTES.items() if name in values]
        return {row.name: np.clip(values[row.name], row.low, row.high) for row in rows}

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Identity descriptors (b, 128) of images uint8 (b, s, s, 3).

        The Euclidean distance of two descriptors is, by dlib's rule, below 0.6 for pictures of one person.

        Raises:
            InputError: not a batch of square uint8 RGB pictures.
        """
        return np.concatenate([self._recognise(x, RECOGNITION_CROP)[0].numpy() for x in _chunks(images)])

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the networks say, by attribute: values (b,), but for `PROBES` features (b, d).

        Args:
            images: uint8 (b, s, s, 3).

        Raises:
            InputError: not a batch of square uint8 RGB pictures.
        """
        chunks = [self._features(x) for x in _chunks(images)]
        return {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in chunks[0]}

    @torch.no_grad()
    def _features(self, x: Tensor) -> dict[str, Tensor]:
        """`features` of (b, 3, s, s) images in 0..255."""
        mesh = self.mesh(_views(x, 192, (MESH_CROP,)) / 255)
        across, down = mesh[:, 454] - mesh[:, 234], mesh[:, 152] - mesh[:, 10]
        ages = self.age(_normalise(_views(x, 64, AGE_CROPS), 256)).softmax(1)
        genders = self.gender(_normalise(_views(x, 32, AGE_CROPS), 256)).softmax(1)
        expressions = self.expression(_normalise(_views(x, 112, EXPRESSION_CROPS))).softmax(1)
        face = _cells(self._recognise(x, RECOGNITION_CROP)[2])
        return {
            "yaw": torch.atan2(across[:, 2], across[:, 0]) * DEGREES,
            "pitch": -torch.atan2(down[:, 2], down[:, 1]) * DEGREES,
            "age": _average(ages @ AGES, AGE_CROPS),
            "gender": _average(genders[:, MALE], AGE_CROPS),
            "smile": _average(expressions[:, HAPPY], EXPRESSION_CROPS),
            "mouth_open": self._lip_gap(x)[:, None],
            "eyes_closed": face[:, :, EYE_CELLS].flatten(1),
            "eyeglasses": face.flatten(1),
            "black_hair": _cells(self._recognise(x, HAIR_CROP)[1]).flatten(1),
            "mustache": face.flatten(1),
            "beard": face.flatten(1),
        }

    @torch.no_grad()
    def _recognise(self, x: Tensor, geometry: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """Descriptors (b, 128) and the two feature maps of one crop."""
        return self.recognition(x, geometry)

    def _lip_gap(self, x: Tensor) -> Tensor:
        """Distance of the inner lips over that from the nose's root to the chin, (b,)."""
        points = self.landmarks(_normalise(_views(x, 112, LANDMARK_CROPS)))
        gap = (points[:, 61:64] - points[:, [67, 66, 65]]).norm(dim=2).mean(1)
        return _average(gap / (points[:, 27] - points[:, 8]).norm(dim=1), LANDMARK_CROPS)


def _chunks(images: np.ndarray) -> list[Tensor]:
    """Batches (b, 3, s, s) of float32 in 0..255, averaged down to 256 px at most."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (images.shape[1],) * 2 + (3,):
        raise InputError("The judges read uint8 RGB pictures of shape (b, s, s, 3).")
    batches = (torch.from_numpy(images[i : i + CHUNK].copy()) for i in range(0, len(images), CHUNK))
    pictures = [batch.permute(0, 3, 1, 2).float() for batch in batches]
    if images.shape[1] > 256:
        pictures = [F.interpolate(x, size=(256, 256), mode="area") for x in pictures]
    return pictures


def _views(x: Tensor, size: int, crops: tuple[tuple[float, float], ...]) -> Tensor:
    """Every picture in every crop: (crops * b, 3, size, size), all of the first crop coming first."""
    geometries = ((x.new_full((1,), value) for value in (0.5, *geometry)) for geometry in crops)
    return torch.cat([crop(x, size, *geometry) for geometry in geometries])


def _average(values: Tensor, crops: tuple[tuple[float, float], ...]) -> Tensor:
    """Mean over the crops of `_views`: (crops * b,) -> (b,)."""
    return values.view(len(crops), -1).mean(0)


def _normalise(x: Tensor, scale: float = 255) -> Tensor:
    """The input of face-api's and dlib's networks: the mean colour taken off, then scaled."""
    return (x - x.new_tensor(AGE_GENDER_MEAN)[:, None, None]) / scale


def _cells(x: Tensor) -> Tensor:
    """Feature maps averaged to CELLS x CELLS."""
    return F.adaptive_avg_pool2d(x, CELLS)
