"""DyStyle Studio: edit face attributes in StyleGAN2's latent space (arXiv 2109.10737)."""

from dystyle.errors import InputError
from dystyle.pipeline import FaceEditor

__all__ = ["FaceEditor", "InputError"]
