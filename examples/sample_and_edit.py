"""A person who does not exist, as drawn and with several attributes changed at once, side by side.

python examples/sample_and_edit.py --seed 7 --out person.png
"""

from pathlib import Path

import numpy as np
import tyro

from dystyle import FaceEditor
from dystyle.provenance import Credit, encode

EDITS = {"age": 65, "smile": 1, "yaw": 15}


def main(seed: int = 7, out: Path = Path("person.png")) -> None:
    editor = FaceEditor.from_pretrained()
    code = editor.sample(seed)
    edited = editor.edit(code, EDITS)
    pictures = np.hstack([editor.synthesize(code), editor.synthesize(edited)])
    # The file says, in its metadata, that nobody looks like this.
    out.write_bytes(encode(pictures, "png", Credit(EDITS, photographed=False, model=editor.model)))


if __name__ == "__main__":
    tyro.cli(main)
