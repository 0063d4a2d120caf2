"""Edit portraits: python -m dystyle.edit photo.jpg --set age=60 smile=1 --out out.png.

A face can be kept as a file, which is edited again without being looked for in the photo.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from dystyle import provenance
from dystyle.attributes import validate_configuration
from dystyle.errors import InputError
from dystyle.faces import InvertedFace, check_name, is_face_file
from dystyle.generators.facts import DEFAULT
from dystyle.originals import Original
from dystyle.pictures import ENDINGS, SAVED, check_writable, is_named_like_a_picture, kind_of
from dystyle.pipeline import TRANSLATOR_FILE, FaceEditor
from dystyle.provenance import Credit
from dystyle.translators import FAMILIES

P = TypeVar("P", bound=PurePath)


@dataclass(frozen=True)
class EditOptions:
    """How faces are edited, wherever they come from.

    Attributes:
        set: target values, for example `age=60 smile=1`; nothing gives the unedited reconstruction.
        paste: write the whole photo with the edited face instead of the portrait; all else that the photo
            carries is kept (transparency, colours, EXIF data, resolution).
        refine: "fast", "balanced" or "precise": how carefully the person is reconstructed.
        encoder: "fast", "e4e" (fetched from the Hugging Face hub), or the path of an encoder's checkpoint.
        generator: "mobile_stylegan", "stylegan2_ffhq" (fetched likewise), or the path of a StyleGAN2.
        method: the editing method, "dystyle" or one that it is compared with (`dystyle.editors.METHODS`); or
            one that edits the picture itself: "stgan", "attgan", "stargan", or the path of one trained here.
        condition_on: attributes that InterFaceGAN keeps while it edits: all others if nothing is said, none
            if none is named.
        looks: 1 lets DyStyle look at its edit and correct it, which takes two more pictures.
        truncation: of random people; 1 is the full variety, 0 the mean face.
        backend: what runs the networks: "auto", "onnx", "openvino", "torch", "tensorrt", or "serve".
        url: of the server, for "serve", such as http://127.0.0.1:8000.
    """

    set: tuple[str, ...] = ()
    paste: bool = False
    refine: str = "fast"
    encoder: str = "fast"
    generator: str = DEFAULT
    method: str = "dystyle"
    condition_on: tuple[str, ...] | None = None
    looks: int = 0
    truncation: float = 0.7
    backend: str = "auto"
    url: str | None = None
    device: str = "cpu"

    def open(self) -> tuple[FaceEditor, dict[str, float]]:
        """The editor, and the target values.

        Raises:
            InputError: one of the options is not known, cannot be had here, or does not go with another.
        """
        if self.looks and (self.method in FAMILIES or self.method.endswith(TRANSLATOR_FILE)):
            raise InputError("A translator does not look at its edit; leave --looks at 0.")
        editor = FaceEditor.from_pretrained(
            self.device, self.backend, self.method, self.encoder, self.generator, self.url
        )
        if self.condition_on is not None:
            editor = editor.condition_on(self.condition_on)
        return editor, validate_configuration(parse_configuration(self.set), editor.attributes)


@dataclass(frozen=True)
class EditConfig(EditOptions):
    """Edit the face in a photo, in every photo of a folder, or of a random person.

    Attributes:
        photo: a picture, a folder of pictures, or a face's file that --save-face wrote.
        out: the picture to write (.png, .jpg, .webp, .avif, .tif), or a folder to write it to; for a folder,
            the folder to write to, PNGs, or with --paste files of the photos' names and formats. Without it
            out.png, or with --save-face no picture.
        save_face: keep the photo's face as this file (.safetensors), to edit it again at once.
        keep_photo: put the photo's file into the face's, too, so that --paste needs nothing else.
        recursive: take a folder's subfolders, too.
        overwrite: let a result take the place of a photo that it was made from.
        sample: a random person of this seed instead of a photo.
        face: which face of the photo, 0 is the largest; with --paste also several ("2,5"), or "all".
    """

    photo: Annotated[Path | None, tyro.conf.Positional] = None
    out: Path | None = None
    save_face: Path | None = None
    keep_photo: bool = False
    recursive: bool = False
    overwrite: bool = False
    sample: int | None = None
    face: str = "0"


def parse_configuration(pairs: tuple[str, ...]) -> dict[str, float | str]:
    """("age=60", "smile=x") -> {"age": 60.0, "smile": "x"}, which is for the editor to refuse."""
    configuration: dict[str, float | str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"'{pair}' is not of the form attribute=value, for example age=60.")
        try:
            configuration[name.strip()] = float(value)
        except ValueError:
            configuration[name.strip()] = value.strip()
    return configuration


def parse_faces(text: str) -> list[int] | None:
    """The numbers in a text such as "2,5", from the smallest on; None for "all"."""
    if text.strip() == "all":
        return None
    if not re.fullmatch(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)*", text):
        raise InputError(f"--face takes numbers from 0 on, for example 2,5, or all, not '{text}'.")
    return sorted({int(part) for part in text.split(",")})


def _jobs(config: EditConfig, to: Path) -> list[tuple[Path | None, Path]]:
    """(photo, output) for everything that was asked for, written to a file or folder.

    Raises:
        InputError: there are no pictures, or a result would replace a photo or cannot be written.
    """
    if config.photo is None or not config.photo.is_dir():
        name = "person" if config.photo is None else config.photo.stem
        jobs = [(config.photo, to / f"{name}.png" if to.is_dir() else to)]
    else:
        files = config.photo.rglob("*") if config.recursive else config.photo.iterdir()
        names = sorted(file.relative_to(config.photo) for file in files if file.is_file())
        photos = [name for name in names if is_named_like_a_picture(name)]
        if not photos:
            raise InputError(f"The folder '{config.photo}' holds no pictures ({', '.join(sorted(ENDINGS))}).")
        if left_out := [str(name) for name in names if not is_named_like_a_picture(name)]:
            print(f"Not pictures, left out: {', '.join(left_out)}", file=sys.stderr)
        outs = result_names(photos, config.paste)
        jobs = [(config.photo / photo, to / out) for photo, out in zip(photos, outs, strict=True)]
    originals = {photo.resolve() for photo, _ in jobs if photo}
    for _, out in jobs:
        if out.resolve() in originals and not config.overwrite:
            raise InputError(
                f"'{out}' is one of the photos; give another --out, or --overwrite to replace it."
            )
        kind_of(out)
        check_writable(out)
    return jobs


def result_names(photos: Sequence[P], paste: bool, ending: str = ".png") -> list[P]:
    """What to call the results of these photos, a name each.

    Of two that would share one, anna.jpg and anna.bmp, come anna.jpg.png and anna.bmp.png.

    Args:
        paste: whole photos, in their own formats where those are written; else all have the `ending`.
    """
    wanted = [photo if paste and _is_saved(photo) else photo.with_suffix(ending) for photo in photos]
    shared = Counter(wanted)
    return [
        out if shared[out] == 1 else photo.with_name(f"{photo.name}{ending}")
        for photo, out in zip(photos, wanted, strict=True)
    ]


def _is_saved(photo: PurePath) -> bool:
    """Whether a photo pasted into can be written in its own format."""
    return any(photo.suffix.lower() in entry.endings for entry in SAVED.values())


def _saved_face(config: EditConfig) -> InvertedFace | None:
    """The face, if a file of one is given instead of a photo.

    Raises:
        InputError: it cannot be read or has no photo to paste into, or the face cannot be saved as asked.
    """
    face = InvertedFace.load(config.photo) if config.photo and is_face_file(config.photo) else None
    if config.save_face:
        if face or config.photo is None or config.photo.is_dir():
            raise InputError("--save-face needs one photo, in which the face is found.")
        check_name(config.save_face)
        check_writable(config.save_face)
    if face and config.paste and face.photo is None:
        raise InputError(f"'{config.photo}' holds no photo to paste into; save the face with --keep-photo.")
    return face


def run(config: EditConfig) -> list[str]:
    """Do the edits; returns one sentence for every photo of a folder that could not be edited.

    Raises:
        InputError: bad arguments, or a single photo that could not be edited.
    """
    if (config.photo is None) == (config.sample is None):
        raise InputError("Give either a photo (or a folder of photos) or --sample SEED.")
    if config.paste and config.photo is None:
        raise InputError("--paste needs a photo to paste into.")
    if config.keep_photo and config.save_face is None:
        raise InputError("--keep-photo needs --save-face, and the file to keep the photo in.")
    numbers = parse_faces(config.face)
    saved = _saved_face(config)
    if (numbers is None or len(numbers) > 1) and (saved or config.save_face or not config.paste):
        raise InputError(
            "Several faces are edited in the whole photo: give that, --paste, and no --save-face."
        )
    jobs: Sequence[tuple[Path | None, Path | None]] = [(config.photo, None)]
    if config.out or config.save_face is None:
        jobs = _jobs(config, config.out or Path("out.png"))
    editor, target = config.open()
    credit = Credit(target, photographed=config.photo is not None, model=editor.model)
    failures = []
    for photo, out in jobs:
        try:
            original = _original(config, photo, saved)
            picture, remarks = original and original.rgb, {}
            for face in (
                [saved] if saved or photo is None else _invert(editor, config, photo, picture, numbers)
            ):
                remarks |= dict.fromkeys(face.remarks if face else ())
                if config.save_face:
                    face.save(config.save_face, photo if config.keep_photo else None)
                    print(config.save_face)
                if out:
                    picture = _edit_one(editor, config, face, picture, target)
            for remark in remarks:
                print(f"'{photo}': {remark}", file=sys.stderr)
            if out is None:
                continue
            if config.paste and (note := original.note(kind_of(out))):
                print(f"'{photo}': {note}", file=sys.stderr)
            provenance.save(picture, out, credit, original=original if config.paste else None)
            print(out)
        except InputError as error:
            if photo == config.photo:
                raise
            failures.append(f"{photo}: {error}")
    return failures


def _original(config: EditConfig, photo: Path | None, saved: InvertedFace | None) -> Original | None:
    """What is looked at or pasted into; nothing for a random person, or a portrait of a saved face."""
    if saved:
        return Original.open(saved.photo) if config.paste else None
    return Original.open(photo) if photo else None


def _invert(
    editor: FaceEditor, config: EditConfig, photo: Path, picture: np.ndarray, numbers: list[int] | None
) -> Iterator[InvertedFace]:
    """The faces of these numbers, or all, one after the other: each takes some megabytes.

    Raises:
        InputError: there is none, or not as many; before the first.
    """
    found = editor.detect(picture)
    wanted = list(range(max(len(found), 1))) if numbers is None else numbers
    if wanted[-1] >= len(found):
        editor.align(picture, wanted[-1])  # says that there is none
    total = 100 * len(wanted)
    with tqdm(total=total, desc=photo.name, bar_format="{desc}: {percentage:3.0f}% {postfix}") as bar:
        for done, number in enumerate(wanted):

            def progress(fraction: float, message: str, done: int = done) -> None:
                bar.set_postfix_str(message, refresh=False)
                bar.update(round(100 * (done + fraction)) - bar.n)

            yield editor.invert(picture, config.refine, found[number], progress)


def _edit_one(
    editor: FaceEditor,
    config: EditConfig,
    face: InvertedFace | None,
    picture: np.ndarray | None,
    target: dict[str, float],
) -> np.ndarray:
    """A face edited, as a portrait or in its photo's pixels; without one, the random person."""
    code = editor.sample(config.sample, config.truncation) if face is None else face.code
    portrait = edited_portrait(editor, code, face, target, config.looks)
    return editor.paste(portrait, face, picture) if config.paste else portrait


def edited_portrait(
    editor: FaceEditor, code: np.ndarray, face: InvertedFace | None, target: dict[str, float], looks: int = 0
) -> np.ndarray:
    """A code (18, 512) edited, or by a translator its picture: the portrait, uint8 (s, s, 3) RGB.

    Args:
        face: whose code it is, if it is a photo's.
    """
    if editor.edits_pictures:
        unedited = editor.synthesize(code) if face is None else face.portrait
        return editor.edit_picture(unedited, target, len(unedited))
    return editor.synthesize(editor.edit(code, target, face=face, looks=looks), face=face)


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
