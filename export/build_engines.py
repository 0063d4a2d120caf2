"""Build the engines ahead of the first start: python export/build_engines.py [--verify].

ONNX graphs go to the user's cache, where `FaceEditor` finds them. Editor graphs are assembled from the
weight file when a configuration is first used, so for them there is nothing to build ahead; naming
configurations opens and, with --verify, checks them.
"""

import itertools
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro

from dystyle import FaceEditor, InputError
from dystyle.attributes import validate_configuration
from dystyle.engines.graphs import GRAPHS, TorchBackend
from dystyle.engines.runtime import OnnxBackend
from dystyle.generators.facts import DEFAULT, GeneratorFacts

# Largest difference allowed, in the unit of the output; pictures and portraits are 8-bit levels.
LIMITS = {"generator": 1, "encoder": 2e-3, "reader": 5e-2, "identity": 1e-3, "detector": 5e-2, "mesh": 5e-2}
EDITOR_LIMIT = 1e-4


@dataclass(frozen=True)
class BuildConfig:
    """Build and check engines.

    Attributes:
        configurations: attributes separated by commas, "singles", "pairs" or "all".
        backend: "onnx" on the CPU, or "tensorrt" through ONNX Runtime.
        generator: "mobile_stylegan", or a StyleGAN2 (a name or a path) to build engines of instead.
        verify: compare every engine with PyTorch and fail beyond the stated limits.
    """

    configurations: tuple[str, ...] = ("singles",)
    backend: Literal["onnx", "tensorrt"] = "onnx"
    generator: str = DEFAULT
    verify: bool = False


def expand(names: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What "singles", "pairs", "all" and "age,smile" mean for an editor of the attributes `names`.

    Raises:
        InputError: an attribute the editor does not know.
    """
    sizes = {"singles": (1,), "pairs": (2,), "all": range(1, len(names) + 1)}
    found: list[tuple[str, ...]] = []
    for item in wanted:
        if item in sizes:
            found += [c for size in sizes[item] for c in itertools.combinations(names, size)]
        else:
            parts = dict.fromkeys(item.split(","), 0.5)
            if unknown := [name for name in parts if name not in names]:
                raise InputError(f"The editor has no '{unknown[0]}'; choose from {', '.join(names)}.")
            found.append(tuple(name for name in names if name in parts))
    return list(dict.fromkeys(found))


def example(name: str, faces: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Realistic inputs of a graph: codes, portraits, or pictures in the network's range."""
    if name.startswith("generator"):
        return codes
    if name in ("detector", "mesh"):
        side = GRAPHS[name][1][1]
        pictures = faces[:, :side, :side].transpose(0, 3, 1, 2).astype(np.float32) / 255
        return pictures * 2 - 1 if name == "detector" else pictures
    return faces


def build(config: BuildConfig) -> bool:
    """Build, print one line an engine, and return whether all are within the limits."""
    editor = FaceEditor.from_pretrained(generator=config.generator)
    generator = GeneratorFacts.load(config.generator)
    backend = OnnxBackend("tensorrt" if config.backend == "tensorrt" else "cpu")
    reference = TorchBackend()
    rng = np.random.default_rng(0)
    codes = np.stack([editor.sample(seed) for seed in range(3)])
    faces = backend.run("generator_256", codes)[0]
    graphs = [generator.graph(size) for size in generator.sizes]
    graphs += [name for name in GRAPHS if not name.startswith("generator_")]
    good = True
    print(f"{'engine':44} {'largest':>10} {'mean':>10} {'limit':>8}")

    def report(name: str, outputs, expected, limit: float) -> bool:
        differences = [np.abs(a.astype(float) - b) for a, b in zip(outputs, expected, strict=True)]
        largest, mean = max(d.max() for d in differences), np.mean([d.mean() for d in differences])
        print(f"{name:44} {largest:10.2e} {mean:10.2e} {limit:8.0e} {'' if largest <= limit else 'FAILED'}")
        return bool(largest <= limit)

    for name in graphs:
        x = example(name, faces, codes)
        outputs = backend.run(name, x)
        if not config.verify:
            print(name)
            continue
        good &= report(name, outputs, reference.run(name, x), LIMITS[name.split("_")[0]])
    for names in expand(tuple(editor.attributes), config.configurations):
        rows = [editor.attributes[name] for name in names]
        target = validate_configuration({row.name: rng.uniform(row.low, row.high) for row in rows})
        edited, label = backend.edit(codes, target), "editor:" + ",".join(names)
        if not config.verify:
            print(label)
            continue
        good &= report(label, [edited], [reference.edit(codes, target)], EDITOR_LIMIT)
    return good


def main() -> None:
    try:
        good = build(tyro.cli(BuildConfig, prog="python export/build_engines.py"))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if not good:
        print("Some engines differ from PyTorch by more than the limit.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
