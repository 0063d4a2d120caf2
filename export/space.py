"""Assemble what is to be pushed to a Hugging Face Space: python export/space.py --out build/space.

The folder holds what `python app.py` needs and nothing else; README.md's front matter configures the Space.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from dystyle import InputError

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "app.py",
    "README.md",
    "LICENSE",
    "NOTICE",
    "requirements.txt",
    "dystyle",
    "webapp",
    "weights",
    "docs/images",
)
LEFT_OUT = ("__pycache__", "*.pyc", "*.pyi", "training", "train.py", "evaluation", "evaluate.py")
# Judges, which are for evaluations.
LEFT_OUT += ("dlib_*", "face_expression.*", "face_landmark_68.*", "facemesh_attention.*")
# The hub keeps large files apart, by git-lfs.
ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.jpg filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class SpaceConfig:
    """Assemble the folder of a Space.

    Attributes:
        out: a folder that is not there yet, or is empty.
    """

    out: Path = Path("build/space")


def assemble(config: SpaceConfig) -> Path:
    """Copy the Space's files and return the folder.

    Raises:
        InputError: the folder has something in it.
    """
    out = config.out
    if out.exists() and any(out.iterdir()):
        raise InputError(f"The folder '{out}' is not empty; name a new one.")
    for part in PARTS:
        source, target = ROOT / part, out / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy2(source, target)
    (out / ".gitattributes").write_text(ATTRIBUTES)
    return out


def main() -> None:
    try:
        out = assemble(tyro.cli(SpaceConfig, prog="python export/space.py"))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    files = [file for file in out.rglob("*") if file.is_file()]
    print(f"{out}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
