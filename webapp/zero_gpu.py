"""Refinement on Hugging Face's ZeroGPU hardware, which lends a GPU to a function for the time of a call.

The page's own process has no GPU: its engines run on the CPU, as on free hardware. A call of the decorated
function goes, pickled, to a process that is forked from the page's for it, and so do its results come back.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dystyle.errors import InputError

if TYPE_CHECKING:
    from dystyle.encoders.refine import Step

SECONDS = 30  # what a refinement asks for, unless DYSTYLE_GPU_SECONDS says otherwise; longer ones are ended
DEVICE = "cuda"  # of the forked process


def here() -> bool:
    """Whether this is a Space on ZeroGPU hardware."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def lent_refiner():
    """What does on a lent GPU what `dystyle.encoders.refine.refine` does, for `FaceEditor.with_refiner`.

    To be called when the engines are built: `spaces` puts a CUDA emulation into PyTorch, under which their
    export loses its inputs.

    Raises:
        InputError: DYSTYLE_GPU_SECONDS is no positive number, or weights are missing.
    """
    import gradio as gr
    import torch

    from dystyle.encoders.refine import refine
    from dystyle.engines.graphs import generator, identity, reader

    given = os.environ.get("DYSTYLE_GPU_SECONDS") or str(SECONDS)
    if not given.isdecimal() or int(given) == 0:
        raise InputError(f"DYSTYLE_GPU_SECONDS = {given!r} is no number of seconds; give one like {SECONDS}.")
    generator(None), identity(), reader()  # read once, before processes are forked

    import spaces  # every Gradio Space has it

    @spaces.GPU(duration=int(given))
    def refine_on_gpu(
        portrait: np.ndarray, code: np.ndarray, quality: str, file: Path | None
    ) -> "Iterator[Step]":
        torch.set_num_threads(1)  # a forked process would wait for OpenMP's other threads, which it lacks
        yield from refine(portrait, code, quality, file, DEVICE)

    def refiner(portrait: np.ndarray, code: np.ndarray, quality: str, file: Path | None) -> "Iterator[Step]":
        try:
            with closing(refine_on_gpu(portrait, code, quality, file)) as steps:
                yield from steps
        except gr.Error as error:  # no GPU is free, the visitor has used up theirs, or the work failed there
            raise InputError(
                f"ZeroGPU could not refine this face ({error.message}); try again, or choose 'Fast'."
            ) from error

    return refiner
