"""Portraits to train on: of photos and of generated faces, covered in places, with the codes they get."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dystyle.alignment import crop
from dystyle.encoders import RENDER
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.metrics.degradations import bend
from dystyle.metrics.overlays import cover
from dystyle.pictures import is_named_like_a_picture, load_image, save_picture
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.photo import fill, render

FACES = "faces.json"
COVERED = 0.4, 0.7  # share of the changed photos, and of the generated faces, with something before them
TRUNCATION = 0.6, 1.0
COLUMNS = {"codes": ((18, 512), np.float32), "renders": ((3, RENDER, RENDER), np.float16)}


class Photo(NamedTuple):
    """A photo's file and the corners (4, 2) of the portrait in it."""

    file: Path
    quad: np.ndarray


class Pictures(Sequence[np.ndarray]):
    """The portraits in a folder, (1024, 1024, 3) uint8 each, read when they are asked for."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return load_image(self.file(self.folder, index))

    @staticmethod
    def file(folder: Path, index: int) -> Path:
        return folder / f"{index:05d}.jpg"


@dataclass(frozen=True)
class Portraits:
    """Portraits of photos, each `variants` times, then of generated faces.

    Attributes:
        pictures: (1024, 1024, 3) uint8 each.
        codes: (n, 18, 512) float32, which the editor's encoder gives them.
        renders: (n, 3, 256, 256) float16, the codes' pictures.
        photos: how many people are photographed.
    """

    pictures: Pictures
    codes: np.ndarray
    renders: np.ndarray
    photos: int

    @classmethod
    def load(cls, folder: Path) -> "Portraits":
        """Open a folder that `prepare` has finished.

        Raises:
            InputError: there are none, or they are damaged.
        """
        try:
            done = int((folder / "done.txt").read_text())
            photos = len(json.loads((folder / FACES).read_text()))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
        except FileNotFoundError as error:
            raise InputError(
                f"There are no portraits in '{folder}'; python -m dystyle.train features makes them."
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"The portraits in '{folder}' are damaged; make them again.") from error
        if done < len(arrays["codes"]):
            raise InputError(
                f"The portraits in '{folder}' are not finished; go on with python -m dystyle.train features."
            )
        return cls(Pictures(folder, done), **arrays, photos=photos)

    @classmethod
    def prepare(
        cls,
        folder: Path,
        photos: Path | None,
        variants: int,
        generated: int,
        least: int,
        seed: int,
        editor: FaceEditor,
        generator: MobileStyleGAN,
    ) -> "Portraits":
        """Make a folder of portraits, or go on where an earlier run stopped.

        Args:
            photos: folder of photos, of each of which the largest face counts, or None.
            variants: of a photo: the portrait, its mirror image, then others that are cut and lit a little
                differently, mirrored, and covered in places.
            generated: further faces, from the generator, bent as no code gives them.
            least: how many people are needed.

        Raises:
            InputError: there is no such folder, no face in it, or there are too few people; or nothing can
                be written.
        """
        faces = find_faces(photos, folder, editor) if photos else []
        if (people := len(faces) + generated) < least:
            raise InputError(
                f"{people} people are too few: {least} are needed; give more photos or --generated."
            )
        note_faces(folder, faces)

        def make(index: int) -> tuple[np.ndarray, np.ndarray]:
            rng, others = np.random.default_rng((seed, index)), Pictures(folder, index)
            if index < variants * len(faces):
                variant, person = divmod(index, len(faces))
                picture = _photographed(rng, faces[person], variant, others)
            else:
                picture = _generated(rng, editor, others)
            save_picture(picture, Pictures.file(folder, index))
            code = editor.encode(others[index])  # of the picture as it is read again
            return code, render(generator, code)

        fill(folder, variants * len(faces) + generated, COLUMNS, make)
        return cls.load(folder)

    @property
    def fingerprint(self) -> str:
        """How many portraits these are, and a digest of their codes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.codes)).hexdigest()[:16]
        return f"{len(self.codes)} portraits, {digest}"

    def people(self, variants: int) -> np.ndarray:
        """Who is on each portrait, (n,): numbers from 0, the photographed people first."""
        index, photographed = np.arange(len(self.codes)), variants * self.photos
        return np.where(index < photographed, index % max(self.photos, 1), index - photographed + self.photos)


def listed(folder: Path | None) -> list[Path]:
    """The pictures in a folder, by name; none without one.

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    if folder is None:
        return []
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not (files := [file for file in files if is_named_like_a_picture(file.name)]):
        raise InputError(f"There are no pictures in '{folder}'; give a folder of photos that show faces.")
    return files


def photos_fingerprint(folder: Path | None) -> str:
    """How many photos there are, and a digest of their names and sizes."""
    files = [(file.name, file.stat().st_size) for file in listed(folder)]
    return f"{len(files)} photos, {hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}"


def find_faces(photos: Path, folder: Path, editor: FaceEditor) -> list[Photo]:
    """The photos with a face: as noted in the folder of portraits by an earlier run, or looked for."""
    if (folder / FACES).exists():
        noted = json.loads((folder / FACES).read_text())
        return [Photo(photos / name, np.float32(quad)) for name, quad in noted]
    found = []
    for file in listed(photos):
        try:
            found.append(Photo(file, editor.align(file)[0].quad))
        except InputError as error:
            print(f"'{file}' is left out: {error}", file=sys.stderr)
    if not found:
        raise InputError(f"No face was found in the pictures in '{photos}'; give photos that show one.")
    return found


def note_faces(folder: Path, faces: list[Photo]) -> None:
    resume.make_folder(folder)
    with resume.whole(folder / FACES) as file:
        file.write(json.dumps([(photo.file.name, photo.quad.tolist()) for photo in faces]).encode())


def _photographed(
    rng: np.random.Generator, face: Photo, variant: int, others: Sequence[np.ndarray]
) -> np.ndarray:
    """A variant of a photo's portrait; see `Portraits.prepare`."""
    photo, quad = load_image(face.file), face.quad
    if variant < 2:
        portrait = crop(photo, quad)
        return portrait if variant == 0 else np.ascontiguousarray(portrait[:, ::-1])
    centre, side = quad.mean(0), np.linalg.norm(quad[3] - quad[0])
    angle, zoom = rng.normal(0, 0.05), 1 + rng.normal(0, 0.06)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    portrait = crop(photo, (quad - centre) @ turn.T + centre + rng.normal(0, 0.02, 2) * side)
    if rng.random() < 0.5:
        portrait = portrait[:, ::-1]
    if rng.random() < COVERED[0]:
        portrait = cover(rng, portrait, others)
    return _relit(rng, portrait)


def _generated(rng: np.random.Generator, editor: FaceEditor, others: Sequence[np.ndarray]) -> np.ndarray:
    """A generated face, bent, covered in places and lit otherwise."""
    rendered = editor.synthesize(editor.sample(int(rng.integers(2**31)), float(rng.uniform(*TRUNCATION))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        bent = bend(torch.from_numpy(rendered).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    portrait = ((bent + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    if rng.random() < COVERED[1]:
        portrait = cover(rng, portrait, others)
    return _relit(rng, portrait)


def _relit(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A picture (s, s, 3) uint8 under other light; now and then grey, or in sepia."""
    lit = (picture / np.float32(255)) ** np.float32(np.exp(rng.normal(0, 0.2)))
    lit = lit * (1 + rng.normal(0, 0.1)) * (1 + rng.normal(0, 0.05, 3)) + rng.normal(0, 0.03)
    if rng.random() < 0.08:
        lit = lit.mean(2, keepdims=True) * (np.ones(3) if rng.random() < 0.6 else (1.05, 0.98, 0.85))
    return (lit * 255).round().clip(0, 255).astype(np.uint8)
