"""Build the compiled ops ahead, or check the CUDA kernels: python -m dystyle.ops [--check-cuda]."""

import sys
from typing import Annotated

import tyro

from cuda_ext.build import check_cuda, library_folder
from dystyle.ops.compiled import load
from dystyle.weights import cache_folder


def main(check_cuda_only: Annotated[bool, tyro.conf.arg(name="check-cuda")] = False) -> None:
    """Build the StyleGAN2 ops ahead of their first use, and print what there is.

    Args:
        check_cuda_only: compile the CUDA kernels for every architecture instead, and print registers, static
            shared memory and spilled bytes of each; needs nvcc but no GPU.
    """
    if check_cuda_only:
        sys.exit(0 if check_cuda() else 1)
    compiled = load()
    for kind in ("cpu", "cuda"):
        print(f"{kind:<5}{'compiled' if kind in compiled else 'PyTorch reference'}")
    if compiled:
        print(f"Cache: {library_folder(cache_folder(), 'cuda' in compiled)}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m dystyle.ops", config=(tyro.conf.FlagCreatePairsOff,))
