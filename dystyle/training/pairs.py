"""Edits that a carrier learns from: a face's own code and the encoder's, both before and after the same
edit, and how the face moves.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dystyle.attributes import ATTRIBUTES
from dystyle.encoders import RENDER
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import MESH_CROP, crop
from dystyle.pipeline import FaceEditor
from dystyle.training.photo import fill, render

FLOW = 32  # px
POINTS = slice(0, 468, 6)  # of the mesh
BORDER = np.linspace(-0.02, 1.02, 7)
SMOOTHING = 1e-5
TRUNCATION = 0.6, 1.0
COUNTS = (1, 1, 1, 2, 3)  # attributes in an edit, each as likely as the next
TURNED = 0.8  # share of binary targets at the other end from where the face is
MESH = 192  # px of the network's input
COLUMNS = {
    "codes": ((4, 18, 512), np.float32),
    "flows": ((2, 2, FLOW, FLOW), np.float32),
    "renders": ((3, RENDER, RENDER), np.float16),
}


@dataclass(frozen=True)
class Pairs:
    """Edits.

    Attributes:
        codes: (n, 4, 18, 512) float32: a generated face's own, what the encoder makes of its picture, and
            both edited alike.
        flows: (n, 2, 2, 32, 32) float32, see `flow`: between pictures of the own codes, and of the others.
        renders: (n, 3, 256, 256) float16, the pictures of the encoder's codes.
    """

    codes: np.ndarray
    flows: np.ndarray
    renders: np.ndarray

    @classmethod
    def prepare(
        cls, folder: Path, count: int, seed: int, editor: FaceEditor, generator: MobileStyleGAN
    ) -> "Pairs":
        """Make `count` edits in a folder, or go on where an earlier run stopped.

        Raises:
            InputError: as `fill`.
        """

        def make(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rng = np.random.default_rng((seed, index, 1))  # other faces than those of the portraits
            own = editor.sample(int(rng.integers(2**31)), float(rng.uniform(*TRUNCATION)))
            picture = editor.synthesize(own)
            code = editor.encode(picture)
            edit = draw_edit(rng, editor.measure(picture))
            codes = [own, code, *(editor.edit(x, edit) for x in (own, code))]
            points = [mesh(editor, editor.synthesize(x, 256)) for x in codes]
            flows = flow(points[0], points[2]), flow(points[1], points[3])
            return np.stack(codes), np.stack(flows), render(generator, code)

        return cls(**fill(folder, count, COLUMNS, make))

    @property
    def fingerprint(self) -> str:
        """How many edits these are, and a digest of their codes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.codes)).hexdigest()[:16]
        return f"{len(self.codes)} edits, {digest}"


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
