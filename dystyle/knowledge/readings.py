"""From aligned faces to attribute readings and identity embeddings, gradients included.

All crops are resampled by two small matrices an image (rows, then columns): antialiased, differentiable,
and the same arithmetic at every resolution from 64 px up. Pictures above 256 px are averaged down once
and shared by all networks. Crop geometry is given as fractions of the FFHQ-aligned frame.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.knowledge.graph import Graph
from dystyle.knowledge.networks import AGE_GENDER_MEAN, EMOTIONS, load_network
from dystyle.knowledge.probe import FaceProbe
from dystyle.weights import load

# (centre y, side) of square crops; centre x is 0.5.
AGE_CROPS = ((0.58, 0.6), (0.57, 0.65), (0.56, 0.7))
EMOTION_CROPS = ((0.58, 0.55), (0.58, 0.6), (0.58, 0.65))
MESH_CROP = (0.56, 0.9)
IDENTITY_CROP = (0.57, 0.7)
PERCEPTUAL_LAYERS = ("relu_7", "relu_15", "relu_23")  # of the identity network
# Face mesh points: corners of the eyes on the left and on the right of the picture (outer, inner).
EYE_CORNERS = ((33, 133), (263, 362))
EYE_CROP_SCALE = 2.3
DEGREES = 180 / math.pi


def crop_matrix(size: int, out: int, centre: Tensor, side: Tensor) -> Tensor:
    """Rows that resample an axis of `size` pixels to `out`, with a triangle filter.

    Args:
        centre, side: (n,) centre and length of the crop as fractions of the axis. Beyond the picture the
            border pixel repeats.

    Returns:
        (n, out, size); each row sums to 1.
    """
    step = side[:, None, None] * size / out
    steps = torch.arange(out, device=centre.device) + 0.5 - out / 2
    position = centre[:, None, None] * size + steps[None, :, None] * step - 0.5
    position = position.clamp(0, size - 1)
    pixels = torch.arange(size, device=centre.device)
    weights = (1 - (pixels - position).abs() / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def crop(images: Tensor, out: int, centre_x: Tensor, centre_y: Tensor, side: Tensor) -> Tensor:
    """Square crops of (b, 3, s, s) images, resampled to (b, 3, out, out); geometry (b,) or (1,)."""
    size = images.shape[-1]
    rows, columns = (crop_matrix(size, out, centre, side)[:, None] for centre in (centre_y, centre_x))
    return rows @ images @ columns.transpose(2, 3)


@dataclass(frozen=True)
class SeenFaces:
    """What predictors may look at, of b faces.

    Attributes:
        view: (size, centre y, side) -> square crops (b, 3, size, size) in [-1, 1]; geometry as fractions of
            the frame.
        mesh, mirrored_mesh: points (b, 468, 3) of the faces and of their mirror images, in crops of 192 px;
            x to the right, y downwards, z away from the camera.
        age_gender: the network's answers, age (b,) in years and logits (b,), masculine positive.
    """

    view: Callable[[int, float, float], Tensor]
    mesh: Tensor
    mirrored_mesh: Tensor
    age_gender: tuple[Tensor, Tensor]


def _yaw(faces: SeenFaces) -> Tensor:
    """Degrees, positive towards the picture's right. Read off the mirrored face, too: then both sides are
    treated alike."""

    def angle(mesh: Tensor) -> Tensor:
        across = mesh[:, 454] - mesh[:, 234]
        return torch.atan2(across[:, 2], across[:, 0]) * DEGREES

    return (angle(faces.mesh) - angle(faces.mirrored_mesh)) / 2


def _pitch(faces: SeenFaces) -> Tensor:
    """Degrees, positive upwards; likewise."""

    def angle(mesh: Tensor) -> Tensor:
        down = mesh[:, 152] - mesh[:, 10]
        return -torch.atan2(down[:, 2], down[:, 1]) * DEGREES

    return (angle(faces.mesh) + angle(faces.mirrored_mesh)) / 2


PREDICTORS: dict[str, Callable[[SeenFaces], Tensor]] = {
    "yaw": _yaw,
    "pitch": _pitch,
    "age": lambda faces: faces.age_gender[0],
    "gender": lambda faces: faces.age_gender[1],
}
"""What gives an attribute's score, (b,), without labels. All others are read by what labels taught: the
calibrated signals of published networks, and the probe."""


class FaceReader(nn.Module):
    """Attribute readings of FFHQ-aligned faces by the bundled networks.

    What can be fooled is read twice: a smile by the emotion network with the mesh's geometry and by the
    probe, an open mouth by the mesh and by the probe. The score is the mean of both opinions.

    Args:
        calibrated: False gives raw signals of the published networks for fitting the calibration and the
            probe (`python -m dystyle.train attributes`): then `signals` works and `forward` does not.
    """

    def __init__(self, calibrated: bool = True) -> None:
        super().__init__()
        self.mesh, self.iris = load_network("facemesh"), load_network("iris")
        self.emotion, self.age_gender = load_network("emotion"), load_network("age_gender")
        self.register_buffer("mean_rgb", torch.tensor(AGE_GENDER_MEAN)[:, None, None])
        self.register_buffer("grey", torch.tensor((0.299, 0.587, 0.114))[:, None, None])
        self.probe: FaceProbe | None = None
        if calibrated:
            self.complete(load("knowledge/calibration")[0], FaceProbe.load("knowledge/probe"))

    def complete(self, calibration: dict[str, np.ndarray], probe: FaceProbe) -> None:
        """Add what is trained on labels."""
        for name, value in calibration.items():
            self.register_buffer(name, torch.from_numpy(value))
        self.probe = probe

    def signals(self, images: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Uncalibrated measurements (b, n) of images (b, 3, s, s) in [-1, 1], s >= 64.

        In order: what each of `PREDICTORS` says, log-odds of happiness, lift of the mouth's corners, its
        width, its gap, aspect of the left and of the right eye in the picture, then the logits of `PROBED`.

        Args:
            shift, scale: jitter of the view, (b, 2) in fractions of the frame and (b,) factors.
        """
        if images.shape[-1] > 256:
            images = F.interpolate(images, size=(256, 256), mode="area")
        if shift is None:
            # Shaped like the pictures, not by their count, so that exported graphs take any batch.
            shift, scale = torch.zeros_like(images[:, :2, 0, 0]), torch.ones_like(images[:, 0, 0, 0])

        def view(out: int, centre_y: float, side: float) -> Tensor:
            return crop(images, out, 0.5 + shift[:, 0], centre_y + shift[:, 1], side * scale)

        face = (view(192, *MESH_CROP) + 1) / 2
        mesh, mirrored = self.mesh(torch.cat((face, face.flip(3)))).chunk(2)
        seen = SeenFaces(view, mesh, mirrored, self._age_gender(view))
        faces = [(view(64, *geometry) * self.grey).sum(1, keepdim=True) for geometry in EMOTION_CROPS]
        logits = self.emotion(torch.cat(faces)).view(len(EMOTION_CROPS), -1, len(EMOTIONS)).mean(0)
        happy = EMOTIONS.index("happy")
        others = torch.cat((logits[:, :happy], logits[:, happy + 1 :]), 1)
        # The log of the others' summed exponentials; torch.logsumexp is wrong for batches in OpenVINO 2026.4.
        rest = others[:, 0] - others.log_softmax(1)[:, 0]
        smile = logits[:, happy] - rest
        eyes = self._eye_aspects(images, mesh, shift, scale)
        predictions = [predict(seen) for predict in PREDICTORS.values()]
        signals = torch.stack((*predictions, smile, *self._mouth(mesh), *eyes), 1)
        if self.probe is None:
            return signals
        return torch.cat((signals, self.probe(view(FaceProbe.SIZE, 0.5, 1.0))), 1)

    def _age_gender(self, view: Callable[[int, float, float], Tensor]) -> tuple[Tensor, Tensor]:
        """Age in years and logit of the gender, (b,), means over the crops."""
        faces = [(view(112, *geometry) + 1) * 127.5 for geometry in AGE_CROPS]
        age, gender = self.age_gender((torch.cat(faces) - self.mean_rgb) / 255)
        gender = gender[:, 0] - gender[:, 1]
        return tuple(x.view(len(AGE_CROPS), -1).mean(0) for x in (age, gender))

    @staticmethod
    def _mouth(mesh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lift of the mouth's corners above the lips' middle, mouth width and lip gap, as ratios."""
        points = mesh[..., :2]
        width = (points[:, 308] - points[:, 78]).norm(dim=1)
        face_width = (mesh[:, 454] - mesh[:, 234]).norm(dim=1)
        lips, corners = (points[:, 13] + points[:, 14]) / 2, (points[:, 61] + points[:, 291]) / 2
        gap = (points[:, 13] - points[:, 14]).norm(dim=1)
        return (lips - corners)[:, 1] / width, width / face_width, gap / width

    def _eye_aspects(self, images: Tensor, mesh: Tensor, shift: Tensor, scale: Tensor) -> list[Tensor]:
        """Height over width of both eyes' openings by the iris network. Crops follow the mesh (detached)."""
        origin = torch.stack((0.5 + shift[:, 0], MESH_CROP[0] + shift[:, 1]), 1)
        points = (
            origin[:, None] + (mesh.detach()[..., :2] / 192 - 0.5) * (MESH_CROP[1] * scale)[:, None, None]
        )
        crops = []
        for corners in EYE_CORNERS:
            outer, inner = points[:, corners[0]], points[:, corners[1]]
            centre, side = (outer + inner) / 2, (outer - inner).norm(dim=1) * EYE_CROP_SCALE
            crops.append(crop(images, 64, centre[:, 0], centre[:, 1], side.clamp(min=0.05)))
        # The network knows the eye on the picture's right; the other one is shown to it mirrored.
        contours = self.iris((torch.cat((crops[0].flip(3), crops[1])) + 1) / 2)[..., :2]
        upper, lower = contours[:, 11:14], contours[:, 3:6]
        width = (contours[:, 0] - contours[:, 8]).norm(dim=1)
        return list(((upper - lower).norm(dim=2).mean(1) / width).view(2, -1).unbind(0))

    def calibrate(self, signals: Tensor) -> dict[str, Tensor]:
        """Signals (b, n) -> scores by attribute name, (b,) each: see `forward`."""
        predictions, signals = signals[:, : len(PREDICTORS)], signals[:, len(PREDICTORS) :]
        scores = dict(zip(PREDICTORS, predictions.unbind(1), strict=True))
        scores["pitch"] = scores["pitch"] - self.pitch_zero
        eyes = signals[:, 4:6]
        inputs = {
            "smile": signals[:, :3],
            "mouth_open": signals[:, 3:4],
            "eyes_closed": torch.cat((eyes.mean(1, keepdim=True), eyes.amax(1, keepdim=True)), 1),
        }
        for name, x in inputs.items():
            scores[name] = x @ getattr(self, f"{name}_weight") + getattr(self, f"{name}_bias")
        for name, logit in zip(self.probe.names, signals[:, 6:].unbind(1), strict=True):
            scores[name] = (scores[name] + logit) / 2 if name in scores else logit
        return {name: scores[name] for name in ATTRIBUTES}

    def forward(
        self, images: Tensor, shift: Tensor | None = None, scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scores (b,) by attribute, see `dystyle.attributes`: values, or logits of probabilities.

        Images (b, 3, s, s) in [-1, 1], FFHQ-aligned, s >= 64; the view's jitter as in `signals`.
        """
        return self.calibrate(self.signals(images, shift, scale))


class IdentityNetwork(nn.Module):
    """Face embedding (faceres): (b, 3, s, s) aligned images in [-1, 1] -> (b, 1024) unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network("faceres")

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(self._view(images)), dim=1)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (b, c, h, w) of `PERCEPTUAL_LAYERS`, each pixel's channels a unit vector."""
        network = self.network
        inner = Graph(network.operations, list(PERCEPTUAL_LAYERS), dict(network.named_buffers()))
        return tuple(F.normalize(maps, dim=1) for maps in inner(self._view(images)))

    @staticmethod
    def _view(images: Tensor) -> Tensor:
        if images.shape[-1] > 256:
            images = F.interpolate(images, size=(256, 256), mode="area")
        geometry = (images.new_full((1,), value) for value in (0.5, *IDENTITY_CROP))
        return (crop(images, 224, *geometry) + 1) * 127.5
