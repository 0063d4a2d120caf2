"""DyStyle Studio: edit face attributes in StyleGAN2's latent space (arXiv 2109.10737)."""

from typing import TYPE_CHECKING

from dystyle.cores import share_cores
from dystyle.errors import InputError

share_cores()

if TYPE_CHECKING:
    from dystyle.faces import InvertedFace
    from dystyle.pipeline import FaceEditor

__all__ = ["FaceEditor", "InputError", "InvertedFace"]
__version__ = "0.1.0"  # pyproject.toml reads it from here


def __getattr__(name: str) -> object:
    # Imported when first asked for: command lines of parts of the package need not load all of it.
    if name == "FaceEditor":
        from dystyle.pipeline import FaceEditor

        return FaceEditor
    if name == "InvertedFace":
        from dystyle.faces import InvertedFace

        return InvertedFace
    raise AttributeError(f"module 'dystyle' has no attribute '{name}'")
