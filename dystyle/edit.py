"""Edit portraits: python -m dystyle.edit photo.jpg --set age=60 smile=1 --out out.png."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from dystyle import provenance
from dystyle.attributes import validate_configuration
from dystyle.errors import InputError
from dystyle.generators.facts import DEFAULT
from dystyle.originals import Original
from dystyle.pictures import ENDINGS, SAVED, check_writable, is_named_like_a_picture
from dystyle.pipeline import FaceEditor
from dystyle.provenance import Credit


@dataclass(frozen=True)
class EditConfig:
    """Edit the face in a photo, in every photo of a folder, or of a random person.

    Attributes:
        photo: a picture, or a folder of pictures.
        set: target values, for example `age=60 smile=1`; nothing gives the unedited reconstruction.
        out: the picture to write (.png, .jpg, .webp, .avif, .tif), or a folder to write it to; for a folder,
            the folder to write to, PNGs, or with --paste files of the photos' names and formats.
        recursive: take a folder's subfolders, too.
        overwrite: let a result take the place of a photo that it was made from.
        sample: a random person of this seed instead of a photo.
        paste: write the whole photo with the edited face instead of the portrait; all else that the photo
            carries is kept (transparency, colours, EXIF data, resolution).
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
    recursive: bool = False
    overwrite: bool = False
    sample: int | None = None
    paste: bool = False
    face: int = 0
    refine: str = "fast"
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


def _jobs(config: EditConfig) -> list[tuple[Path | None, Path]]:
    """(photo, output) for everything that was asked for.

    Raises:
        InputError: there are no pictures, or a result would replace a photo or cannot be written.
    """
    if config.photo is None or not config.photo.is_dir():
        name = "person" if config.photo is None else config.photo.stem
        jobs = [(config.photo, config.out / f"{name}.png" if config.out.is_dir() else config.out)]
    else:
        files = config.photo.rglob("*") if config.recursive else config.photo.iterdir()
        names = sorted(file.relative_to(config.photo) for file in files if file.is_file())
        photos = [name for name in names if is_named_like_a_picture(name)]
        if not photos:
            raise InputError(f"The folder '{config.photo}' holds no pictures ({', '.join(sorted(ENDINGS))}).")
        if left_out := [str(name) for name in names if not is_named_like_a_picture(name)]:
            print(f"Not pictures, left out: {', '.join(left_out)}", file=sys.stderr)
        wanted = [
            photo if config.paste and _is_saved(photo) else photo.with_suffix(".png") for photo in photos
        ]
        shared = Counter(wanted)
        # Of two that would share a name, anna.jpg and anna.bmp, come anna.jpg.png and anna.bmp.png.
        jobs = [
            (config.photo / photo, config.out / (out if shared[out] == 1 else f"{photo}.png"))
            for photo, out in zip(photos, wanted, strict=True)
        ]
    originals = {photo.resolve() for photo, _ in jobs if photo}
    for _, out in jobs:
        if out.resolve() in originals and not config.overwrite:
            raise InputError(
                f"'{out}' is one of the photos; give another --out, or --overwrite to replace it."
            )
        check_writable(out)
    return jobs


def _is_saved(photo: Path) -> bool:
    """Whether a photo pasted into can be written in its own format."""
    return any(photo.suffix.lower() in entry.endings for entry in SAVED.values())


def run(config: EditConfig) -> list[str]:
    """Do the edits; returns one sentence for every photo of a folder that could not be edited.

    Raises:
        InputError: bad arguments, or a single photo that could not be edited.
    """
    if (config.photo is None) == (config.sample is None):
        raise InputError("Give either a photo (or a folder of photos) or --sample SEED.")
    if config.paste and config.photo is None:
        raise InputError("--paste needs a photo to paste into.")
    jobs = _jobs(config)
    editor = FaceEditor.from_pretrained(
        config.device, config.backend, config.method, config.encoder, config.generator
    )
    target = validate_configuration(parse_configuration(config.set), editor.attributes)
    credit = Credit(target, photographed=config.photo is not None, model=editor.model)
    failures = []
    for photo, out in jobs:
        try:
            original = Original.open(photo) if photo else None
            picture = _edit_one(editor, config, photo, original and original.rgb, target)
            if config.paste and original.shallow:
                print(f"'{photo}' has 16 bits a channel, of which 8 are kept.", file=sys.stderr)
            provenance.save(picture, out, credit, original=original if config.paste else None)
            print(out)
        except InputError as error:
            if photo == config.photo:
                raise
            failures.append(f"{photo}: {error}")
    return failures


def _edit_one(
    editor: FaceEditor,
    config: EditConfig,
    photo: Path | None,
    picture: np.ndarray | None,
    target: dict[str, float],
) -> np.ndarray:
    if photo is None:
        code = editor.sample(config.sample, config.truncation)
        return editor.synthesize(editor.edit(code, target))
    with tqdm(total=100, desc=photo.name, bar_format="{desc}: {percentage:3.0f}% {postfix}") as bar:

        def progress(fraction: float, message: str) -> None:
            bar.set_postfix_str(message, refresh=False)
            bar.update(round(100 * fraction) - bar.n)

        face = editor.invert(picture, config.refine, config.face, progress)
    for remark in face.remarks:
        print(f"'{photo}': {remark}", file=sys.stderr)
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
