"""A face in a photo, edited and pasted back; the rest of the photo stays as it is.

python examples/edit_photo.py photo.jpg --out older.png
"""

from pathlib import Path
from typing import Annotated

import tyro

from dystyle import FaceEditor
from dystyle.provenance import Credit, encode

EDITS = {"age": 65, "eyeglasses": 1}


def main(photo: Annotated[Path, tyro.conf.Positional], out: Path = Path("older.png")) -> None:
    editor = FaceEditor.from_pretrained()
    face = editor.invert(photo, refine="fast")  # "balanced" and "precise" take longer and are more alike
    code = editor.edit(face.code, EDITS)
    portrait = editor.synthesize(code, face=face)
    whole = editor.paste(portrait, face, photo)
    out.write_bytes(encode(whole, "png", Credit(EDITS, photographed=True, model=editor.model)))

    before, after = editor.measure(face.portrait), editor.measure(portrait)
    for name, target in EDITS.items():
        print(f"{name}: {before[name]:.2f} in the photo, {target} asked for, {after[name]:.2f} now")


if __name__ == "__main__":
    tyro.cli(main)
