"""Learn the steps that bring an encoder's codes closer to the portrait; see `dystyle.encoders.descent`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dystyle.encoders.descent import COLOURS, ROWS, DescentStep, describe, save_steps
from dystyle.encoders.fast import FastEncoder
from dystyle.metrics.degradations import degrade, occlude
from dystyle.pipeline import FaceEditor
from dystyle.training.dataset import FaceDataset
from dystyle.training.resume import make_folder


@dataclass(frozen=True)
class DescentConfig:
    """Fitting the steps that follow the fast encoder.

    Attributes:
        faces: folder of rendered faces (`python -m dystyle.train faces`).
        out: file to write.
        passes: how often each face is degraded and encoded; every second time something is put before it.
        steps: how many there are; each is a map of its own.
        ridge: weight of the map's squares against the errors of its regression.
        rank: how many directions in W+ a map keeps.
        backend: renders and embeds, see `FaceEditor.from_pretrained`.
    """

    faces: Path = Path("runs/faces")
    out: Path = Path("weights/descent.safetensors")
    passes: int = 2
    steps: int = 2
    ridge: float = 1.0
    rank: int = 192
    backend: str = "auto"
    seed: int = 0


def fit_descent(config: DescentConfig) -> dict[str, list[float]]:
    """Write the steps to `config.out`.

    The codes start as the encoder's, of degraded pictures. Each step is a ridge regression from what they
    lack of the clean picture to what remains to its own code. The codes that the next one learns from took
    this step with a map fitted to the other half of the faces.

    Returns:
        "identity": mean cosine of the previews to the pictures, before each step and after the last.

    Raises:
        InputError: as `FaceEditor.from_pretrained`, or weights are missing.
    """
    torch.manual_seed(config.seed)
    make_folder(config.out.parent)
    editor, data = FaceEditor.from_pretrained(backend=config.backend), FaceDataset.load(config.faces)
    encoder = FastEncoder.load("encoder")
    wanted = np.stack([_describe(editor, picture) for picture in tqdm(data.images, desc="reading faces")])
    index = np.tile(np.arange(len(wanted)), config.passes)
    codes = np.concatenate([_encode(encoder, data.images, number % 2 > 0) for number in range(config.passes)])
    steps, identity = [], []
    for number in range(config.steps + 1):
        progress = tqdm(codes, desc=f"rendering after {number} steps", mininterval=10)
        seen = np.stack([_describe(editor, editor.synthesize(code, 256)) for code in progress])
        lacking = wanted[index] - seen
        cosines = (wanted[index] * seen)[:, :-COLOURS].sum(1)  # of the embeddings, which come first
        identity.append(float(cosines.mean()))
        if number == config.steps:
            break
        remaining = (data.codes[index] - codes)[:, :ROWS] / encoder.std_w.numpy()
        steps.append(_fit(lacking, remaining, encoder, config))
        for half in (0, 1):
            moved = index % 2 == half
            step = _fit(lacking[~moved], remaining[~moved], encoder, config)
            codes[moved] = [step(*pair) for pair in zip(codes[moved], lacking[moved], strict=True)]
    save_steps(config.out, steps, faces=str(len(wanted)), passes=str(config.passes))
    return {"identity": identity}


def _describe(editor: FaceEditor, picture: np.ndarray) -> np.ndarray:
    """`describe` of a picture (256, 256, 3) uint8: (1792,)."""
    return describe(picture, editor.embed(picture))


def _encode(encoder: FastEncoder, pictures: np.ndarray, hide: bool) -> np.ndarray:
    """The encoder's codes (n, 18, 512) of pictures (n, 256, 256, 3), degraded, maybe partly hidden."""
    codes = []
    for start in tqdm(range(0, len(pictures), 8), desc="encoding", mininterval=10):
        images = torch.from_numpy(pictures[start : start + 8].copy()).permute(0, 3, 1, 2) / 127.5 - 1
        photos = degrade(images)
        codes.append(encoder(occlude(photos) if hide else photos).numpy())
    return np.concatenate(codes)


def _fit(lacking: np.ndarray, move: np.ndarray, encoder: FastEncoder, config: DescentConfig) -> DescentStep:
    """Ridge regression, cut to a low rank, of the codes' move (n, 16, 512), in units of W's deviation, on
    what is lacking (n, 1792)."""
    move = move.reshape(len(move), -1)
    squares = lacking.T @ lacking + config.ridge * np.eye(lacking.shape[1], dtype=np.float32)
    full = np.linalg.solve(squares, lacking.T @ move)
    # Reduced-rank regression: the directions that most of the fitted moves lie in.
    directions = torch.svd_lowrank(torch.from_numpy(lacking @ full), config.rank)[2].numpy()
    write = directions.T * np.tile(encoder.std_w.numpy(), ROWS)
    return DescentStep(full @ directions, write)
