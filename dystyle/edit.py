"""Edit portraits: python -m dystyle.edit photo.jpg --set age=60 smile=1 --out out.png."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from dystyle.attributes import validate_configuration
from dystyle.errors import InputError
from dystyle.generators.facts import DEFAULT
from dystyle.pictures import load_image, save_picture
from dystyle.pipeline import FaceEditor

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class EditConfig:
    """Edit the face in a photo, in every photo of a folder, or of a random person.

    Attributes:
        photo: a picture, or a folder of pictures.
        set: target values, for example `age=60 smile=1`; nothing gives the unedited reconstruction.
        out: the picture to write (.png, .jpg, .webp); for a folder, the folder to write to.
        sample: a random person of this seed instead of a photo.
        paste: write the whole photo with the edited face instead of the portrait.
        face: which face of the photo, 0 is the largest.
        refine: "fast", "balanced" or "precise": how carefully the person is reconstructed.
        encoder: "fast", "e4e" (fetched from the Hugging Face hub), or the path of an encoder's checkpoint.
        generator: "mobile_stylegan", "stylegan2_ffhq" (fetched likewise), or the path of a StyleGAN2.
        method: the editing method, "dystyle" or one that it is compared with (`dystyle.editors.METHODS`).
        truncation: for `--sample`; 1 is the full variety, 0 the mean face.
    """

    photo: Annotated[Path | None, tyro.conf.Positional] = None
    set: tuple[str, ...] = ()
    out: Path = Path("out.png")
    sample: int | None = None
    paste: bool = False
    face: int = 0
    refine: str = "balanced"
    encoder: str = "fast"
    generator: str = DEFAULT
    method: str = "dystyle"
    truncation: float = 0.7
    backend: str = "onnx"
    device: str = "cpu"


def parse_configuration(pairs: tuple[str, ...]) -> dict[str, str]:
    """("age=60", "smile=1") -> {"age": "60", "smile": "1"}; the values are checked by the editor."""
    configuration = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not of the form attribute=value, for example age=60.")
        configuration[name.strip()] = value.strip()
    return configuration


def _jobs(config: EditConfig) -> Iterator[tuple[Path | None, Path]]:
    """(photo, output) for everything that was asked for."""
    if config.photo is None or not config.photo.is_dir():
        yield config.photo, config.out
        return
    photos = sorted(p for p in config.photo.iterdir() if p.suffix.lower() in PICTURES)
    if not photos:
        raise InputError(f"The folder '{config.photo}' holds no pictures ({', '.join(sorted(PICTURES))}).")
    for photo in photos:
        yield photo, config.out / f"{photo.stem}.png"


def run(config: EditConfig) -> list[str]:
    """Do the edits; returns one sentence for every photo of a folder that could not be edited.

    Raises:
        InputError: bad arguments, or a single photo that could not be edited.
    """
    if (config.photo is None) == (config.sample is None):
        raise InputError("Give either a photo (or a folder of photos) or --sample SEED.")
    if config.paste and config.photo is None:
        raise InputError("--paste needs a photo to paste into.")
    editor = FaceEditor.from_pretrained(
        config.device, config.backend, config.method, config.encoder, config.generator
    )
    target = validate_configuration(parse_configuration(config.set), editor.attributes)
    failures = []
    for photo, out in list(_jobs(config)):
        try:
            save_picture(_edit_one(editor, config, photo, target), out)
            print(out)
        except InputError as error:
            if photo == config.photo:
                raise
            failures.append(f"{photo}: {error}")
    return failures


def _edit_one(
    editor: FaceEditor, config: EditConfig, photo: Path | None, target: dict[str, float]
) -> np.ndarray:
    if photo is None:
        code = editor.sample(config.sample, config.truncation)
        return editor.synthesize(editor.edit(code, target))
    picture = load_image(photo)
    with tqdm(total=100, desc=photo.name, bar_format="{desc}: {percentage:3.0f}% {postfix}") as bar:

        def progress(fraction: float, message: str) -> None:
            bar.set_postfix_str(message, refresh=False)
            bar.update(round(100 * fraction) - bar.n)

        face = editor.invert(picture, config.refine, config.face, progress)
    portrait = editor.synthesize(editor.edit(face.code, target, face=face), face=face)
    return editor.paste(portrait, face, picture) if config.paste else portrait


def main() -> None:
    try:
        failures = run(tyro.cli(EditConfig, prog="python -m dystyle.edit", description=__doc__))
    except InputError as error:
        failures = [str(error)]
    if failures:
        print("\n".join(failures), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
