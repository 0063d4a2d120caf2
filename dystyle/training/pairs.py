"""Edits that a carrier learns from: a face's code before and after, and how the face moves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.knowledge.readings import MESH_CROP, crop
from dystyle.pipeline import FaceEditor
from dystyle.training.photo import fill

FLOW = 32  # px
POINTS = slice(0, 468, 6)  # of the mesh
BORDER = np.linspace(-0.02, 1.02, 7)
SMOOTHING = 1e-5
TRUNCATION = 0.6, 1.0
COUNTS = (1, 1, 1, 2, 3)  # attributes in an edit, each as likely as the next
TURNED = 0.8  # share of binary targets at the other end from where the face is
MESH = 192  # px of the network's input
COLUMNS = {
    "codes": ((2, 18, 512), np.float32),
    "flows": ((2, FLOW, FLOW), np.float32),
}


@dataclass(frozen=True)
class Pairs:
    """Edits.

    Attributes:
        codes: (n, 2, 18, 512) float32: what the encoder makes of a generated face's picture, and that edited.
        flows: (n, 2, 32, 32) float32, see `flow`.
    """

    codes: np.ndarray
    flows: np.ndarray

    @classmethod
    def prepare(cls, folder: Path, count: int, seed: int, editor: FaceEditor) -> "Pairs":
        """Make `count` edits in a folder, or go on where an earlier run stopped.

        Raises:
            InputError: as `fill`.
        """

        def make(index: int) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng((seed, index, 1))  # other faces than those of the portraits
            own = editor.sample(int(rng.integers(2**31)), float(rng.uniform(*TRUNCATION)))
            picture = editor.synthesize(own)
            code = editor.encode(picture)
            codes = code, editor.edit(code, draw_edit(rng, editor.measure(picture)))
            return np.stack(codes), flow(*(mesh(editor, editor.synthesize(x, 256)) for x in codes))

        return cls(**fill(folder, count, COLUMNS, make))


def draw_edit(rng: np.random.Generator, values: dict[str, float]) -> dict[str, float]:
    """A random edit of one to three attributes of a face with these values."""
    edit = {}
    for name in map(str, rng.choice(list(values), rng.choice(COUNTS), replace=False)):
        row = ATTRIBUTES[name]
        if row.kind == "binary" and rng.random() < TURNED:
            edit[name] = float(values[name] < 0.5)
        else:
            edit[name] = float(rng.uniform(*row.trained))
    return edit


def mesh(editor: FaceEditor, portrait: np.ndarray) -> np.ndarray:
    """The 468 points (468, 2) of an aligned portrait (s, s, 3) uint8, x first, as fractions of the frame."""
    centre = np.array((0.5, MESH_CROP[0]))
    geometry = (torch.tensor([number]) for number in (*centre.tolist(), MESH_CROP[1]))
    view = crop(torch.from_numpy(portrait).permute(2, 0, 1)[None].float() / 255, MESH, *geometry)
    points = editor.backend.run("mesh", view.numpy())[0].reshape(-1, 3)[:, :2]
    return centre + (points / MESH - 0.5) * MESH_CROP[1]


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where each place of the picture after an edit comes from: (2, 32, 32) float32, in half pictures.

    A thin-plate spline through a part of the mesh, with the border of the frame fixed; x first, as in
    `dystyle.encoders.carrier.warp`.

    Args:
        before, after: points (468, 2), as fractions of the frame.
    """
    from scipy.interpolate import RBFInterpolator  # of the development requirements

    before, after = before[POINTS], after[POINTS]
    frame = np.array([(x, y) for x in BORDER for y in BORDER if {x, y} & {BORDER[0], BORDER[-1]}])
    spline = RBFInterpolator(
        np.concatenate((after, frame)),
        np.concatenate((before - after, np.zeros_like(frame))),
        kernel="thin_plate_spline",
        smoothing=SMOOTHING,
    )
    rows, columns = (np.mgrid[:FLOW, :FLOW] + 0.5) / FLOW
    moves = spline(np.stack((columns.ravel(), rows.ravel()), 1))
    return (2 * moves).T.reshape(2, FLOW, FLOW).astype(np.float32)
