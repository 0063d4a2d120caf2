"""Networks that turn codes into pictures, and loaders of their public formats."""

STYLEGAN2_SIZES = tuple(4 << i for i in range(9))  # px of the pictures that a StyleGAN2 may give
