"""Fit the generator's preview heads to its own full pictures, of generated people and of photos."""

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.alignment import crop
from dystyle.encoders import RENDER, SIZE
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import DIM, ROWS, MobileStyleGAN
from dystyle.pictures import load_image
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.pairs import TRUNCATION, draw_edit
from dystyle.training.photo import PhotoConfig, Stage, descend, fill
from dystyle.training.portraits import find_faces, note_faces, photos_fingerprint
from dystyle.weights import save

COLUMNS = {
    "features": ((512, SIZE, SIZE), np.float16),
    "codes": ((ROWS, DIM), np.float32),
    "pictures": ((RENDER, RENDER, 3), np.uint8),
}
PICTURES = 4  # of a person: the first as it is, the others edited
HELD_OUT = 16  # one of so many people is for the report
MIXED = 0.5  # share of generated people with another one's later rows
CARRIED = 0.3  # at least so much of a residual is left in an edited picture
SOFT = 0.01  # levels of [-1, 1] within which the loss is square


@dataclass(frozen=True)
class PreviewConfig(PhotoConfig):
    """Fitting the preview heads at 128 and 256 px.

    Attributes:
        out: folder of the run, for `pictures` and `preview_heads.safetensors`; an interrupted run goes on.
        photos: folder of photos, of each of which the largest face counts, with what no code holds of it;
            none: generated people only.
        generated: how many people.
        start: go on from the bundled heads instead of from nothing.
        pixels_weight: of the only loss.
    """

    out: Path = Path("runs/previews")
    photos: Path | None = None
    generated: int = 250
    start: bool = False
    steps: int = 3000
    batch: int = 4
    lr: float = 3e-3
    pixels_weight: float = 1.0


def charbonnier(difference: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + `SOFT`^2), d of any shape: near L1, so that sharp edges are not averaged away."""
    return (difference.square() + SOFT**2).sqrt().mean()


def train_previews(config: PreviewConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Write `preview_heads.safetensors` into the run's folder; goes on from the run's checkpoint.

    Args:
        generator: frozen, on the device of the work.

    Returns:
        Root mean squared error on the 0..255 scale against the full picture averaged down, of the people held
        out, by size: "photos_128", "photos_256", "generated_128", "generated_256"; and how many steps were
        skipped, see `descend`.

    Raises:
        InputError: as `find_faces`, there are too few people for the batch, or the run in the folder was
            begun otherwise, see `resume`.
    """
    device, generator = generator.mean_w.device, generator.eval()
    settings = resume.recipe(config, free=("checkpoint_every",))
    resume.begin(config.out, settings | {"photos": photos_fingerprint(config.photos)})
    editor, folder = FaceEditor.from_pretrained(backend=config.backend), config.out / "pictures"
    faces = find_faces(config.photos, folder, editor) if config.photos else []
    people = len(faces) + config.generated
    if people < 2:
        raise InputError(f"{people} people are too few, as one is held out; give 2 or more --generated.")
    index = np.arange(PICTURES * people)
    photographed, held = index < PICTURES * len(faces), index // PICTURES % HELD_OUT == 0
    if (learnt := np.count_nonzero(~held)) < config.batch:
        raise InputError(f"There are {learnt} pictures to learn from; give a smaller --batch or more people.")
    note_faces(folder, faces)

    @lru_cache(1)
    def person(number: int) -> tuple[np.ndarray, np.ndarray | None, dict[str, float]]:
        """Code, residual and readings."""
        if number < len(faces):
            portrait = crop(load_image(faces[number].file), faces[number].quad)
            face = editor.invert(portrait)
            return face.code, face.residual, editor.measure(portrait)
        code = _sampled(np.random.default_rng((config.seed, number)), editor)
        return code, None, editor.measure(editor.synthesize(code))

    def make(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number, variant = divmod(index, PICTURES)
        rng, (code, residual, values) = np.random.default_rng((config.seed, number, variant)), person(number)
        if variant:
            code = np.asarray(editor.edit(code, draw_edit(rng, values)))
        features = editor.backend.run("features", code[None])[0]
        if residual is not None:
            features = features + residual * np.float32(rng.uniform(CARRIED, 1) if variant else 1)
        picture = editor.backend.run("decoder_1024", features, codes=code[None])[0][0]
        picture = cv2.resize(picture, (RENDER, RENDER), interpolation=cv2.INTER_AREA)
        return features[0], code, picture

    rows = fill(folder, PICTURES * people, COLUMNS, make)
    torch.manual_seed(config.seed)
    heads = (deepcopy(generator) if config.start else MobileStyleGAN()).previews.requires_grad_(True)
    heads = heads.to(device, memory_format=torch.channels_last)

    def differences(chosen: np.ndarray) -> dict[str, Tensor]:
        features, codes, pictures = (
            torch.from_numpy(rows[name][chosen]).to(device).float() for name in COLUMNS
        )
        pictures = pictures.permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            features = features.contiguous(memory_format=torch.channels_last)
            seen = {"128": features, "256": generator.blocks[4](features, codes[:, 9], codes[:, 10])}
        return {
            size: head(seen[size], codes) - F.adaptive_avg_pool2d(pictures, int(size))
            for size, head in heads.items()
        }

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        found = differences(np.sort(rng.choice(index[~held], config.batch, replace=False)))
        return {"pixels": sum(map(charbonnier, found.values()))}

    result: dict[str, float] = descend(config, heads, [Stage(config.steps, config.lr)], losses)
    squares: dict[str, list[float]] = {}
    with torch.no_grad():
        for row in index[held]:
            kind = "photos" if photographed[row] else "generated"
            for size, d in differences(np.array([row])).items():
                squares.setdefault(f"{kind}_{size}", []).append(float(d.square().mean()))
    errors = {name: round(float(np.mean(x)) ** 0.5 * 127.5, 2) for name, x in squares.items()}
    tensors = {name: value.half().cpu().numpy() for name, value in heads.state_dict().items()}
    recipe = json.dumps(resume.recipe(config))
    save(config.out / "preview_heads.safetensors", tensors, format="preview_heads", recipe=recipe)
    return errors | result


def _sampled(rng: np.random.Generator, editor: FaceEditor) -> np.ndarray:
    """A random person's code, now and then with another's later rows, (18, 512)."""

    def sample() -> np.ndarray:
        return editor.sample(int(rng.integers(2**31)), float(rng.uniform(*TRUNCATION)))

    code = sample()
    return editor.mix(code, sample(), int(rng.integers(9, 16))) if rng.random() < MIXED else code
