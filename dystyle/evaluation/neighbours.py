"""How much slower editing is while other processes want the cores: a slider's pictures, and a photo's.

Rounds alone and rounds beside busy processes take turns, so that a machine that is slower for a while is
slower for both.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from dystyle.cores import cores
from dystyle.engines.hardware import has_torch
from dystyle.errors import InputError
from dystyle.evaluation.latency import FIVE, describe_machine, time_work
from dystyle.pipeline import FaceEditor

BUSY = "print(flush=True)\nwhile True: pass"


@dataclass(frozen=True)
class NeighboursConfig:
    """What is timed.

    Attributes:
        backend: what runs the engines: "auto", "onnx" or "openvino".
        busy: processes that compute without a pause; 0: one for every core.
        turns: alone and beside them, one after the other.
        repeats: of everything in a turn.
        refine: qualities of the inversion; "balanced" takes some seconds each time.
    """

    backend: str = "auto"
    busy: int = 0
    turns: int = 3
    repeats: int = 5
    refine: tuple[str, ...] = ("fast", "balanced") if has_torch() else ("fast",)


def evaluate_neighbours(config: NeighboursConfig) -> dict:
    """Time everything; see `table` for what comes out.

    Raises:
        InputError: an unknown backend or quality, no turn or no repetition.
    """
    if min(config.turns, config.repeats) < 1 or config.busy < 0:
        raise InputError("Give at least one turn and one repetition, and no negative number of processes.")
    editor = FaceEditor.from_pretrained(backend=config.backend)
    editor.warm_up()
    work, busy = _work(editor, config.refine), config.busy or cores()
    alone: dict[str, list[float]] = {name: [] for name in work}
    beside: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(config.turns):
        for name, seconds in time_work(work, config.repeats).items():
            alone[name] += seconds
        with busy_processes(busy):
            for name, seconds in time_work(work, config.repeats).items():
                beside[name] += seconds
    medians = {n: (float(np.median(alone[n])), float(np.median(beside[n]))) for n in work}
    return {
        "machine": describe_machine(),
        "busy": busy,
        "rounds": config.turns * config.repeats,
        "stages": {n: {"alone": a, "beside": b, "times": b / a} for n, (a, b) in medians.items()},
    }


def _work(editor: FaceEditor, qualities: tuple[str, ...]) -> dict[str, Callable]:
    code = editor.sample(0)
    photo = editor.synthesize(code)
    face = editor.invert(photo)

    def edit(size: int, **photo) -> Callable:
        start = photo["face"].code if photo else code
        return lambda: editor.synthesize(editor.edit(start, FIVE), size, **photo)

    return {
        "slider to preview": edit(256),
        "slider to full": edit(1024),
        "slider to preview, photo": edit(256, face=face),
        "slider to full, photo": edit(1024, face=face),
        **{f"inversion, {quality}": lambda q=quality: editor.invert(photo, q) for quality in qualities},
    }


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute without a pause, for as long as this lasts."""
    command = [sys.executable, "-c", BUSY]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['machine']}; beside {result['busy']} processes that compute without a pause; medians of "
        f"{result['rounds']} rounds each.",
        "",
        "| | alone, ms | beside them, ms | times |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["stages"].items():
        lines.append(
            f"| {name} | {1e3 * row['alone']:.0f} | {1e3 * row['beside']:.0f} | {row['times']:.1f} |"
        )
    return "\n".join(lines)
