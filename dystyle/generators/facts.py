"""What editing needs to know about a generator, without torch: its mapping network, mean W and sizes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dystyle.errors import InputError, needed
from dystyle.generators import STYLEGAN2_SIZES
from dystyle.weights import cache_folder, load, load_header, make_once, read_structure, resolve, sha256

DEFAULT = "mobile_stylegan"
PREVIEWS = (256, 128)
NAMES = {"stylegan2": "StyleGAN2", "stylegan1": "StyleGAN"}  # by our files' format
MOST_NOISE = 10.0  # times as strong as it was trained
MAPPING_LR = 0.01  # of StyleGAN2, as in `dystyle.generators.stylegan2`


@dataclass(frozen=True)
class GeneratorFacts:
    """A generator's W space and pictures.

    Attributes:
        file: our file of a StyleGAN2; None for the default generator.
        sizes: of its pictures: the full one, then previews.
        mapping: weight (n, 512) and bias (512,) of every layer, as they act.
        mean_w: (512,).
        shapes: of the generator's weights by name.
        name: what to call the generator.
    """

    file: Path | None
    sizes: tuple[int, ...]
    mapping: list[tuple[np.ndarray, np.ndarray]]
    mean_w: np.ndarray
    shapes: Mapping[str, tuple[int, ...]]
    name: str = "MobileStyleGAN FFHQ"

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str] = DEFAULT) -> "GeneratorFacts":
        """Facts of the default generator, or of a StyleGAN2 in any format that can be read.

        Raises:
            InputError: no such file, one that holds no StyleGAN2, one that is damaged, or one with class
                labels.
        """
        if name_or_path == DEFAULT:
            tensors, _ = load(DEFAULT, _is_mapping)
            return cls(None, (1024, *PREVIEWS), *_mapping(tensors, rate=None), load_header(DEFAULT)[0])
        file = converted(name_or_path)
        shapes, metadata = load_header(file)
        if metadata.get("format") not in NAMES:
            raise InputError(f"'{name_or_path}' holds no StyleGAN2 generator.")
        structure = read_structure(name_or_path, metadata)
        size, classes, layers = (structure.get(name) for name in ("size", "c_dim", "mapping_layers"))
        if size not in STYLEGAN2_SIZES or not isinstance(classes, int) or not isinstance(layers, int):
            raise InputError(f"'{name_or_path}' is damaged: there is no StyleGAN2 as it describes.")
        if classes:
            raise InputError(
                f"'{name_or_path}' is a generator of {classes} classes; editing needs one without."
            )
        wanted = {"mean_w": (512,)}
        for index in range(min(layers, len(shapes))):
            wanted |= {f"mapping.layers.{index}.weight": (512, 512), f"mapping.layers.{index}.bias": (512,)}
        if wrong := [key for key, shape in wanted.items() if shapes.get(key) != shape]:
            raise InputError(
                f"The StyleGAN2 in '{name_or_path}' lacks '{wrong[0]}', or it has another shape."
            )
        tensors, _ = load(file, _is_mapping)
        sizes = (size, *(preview for preview in PREVIEWS if preview < size))
        name = f"{NAMES[metadata['format']]} ({Path(name_or_path).name})"
        return cls(file, sizes, *_mapping(tensors, MAPPING_LR), shapes, name)

    def graph(self, size: int) -> str:
        """The engine's name (see `dystyle.engines.graphs`) for pictures of this size."""
        return f"generator_{size}" if self.file is None else f"generator_{size}:{self.file}"

    def sample(self, seed: int, truncation: float) -> np.ndarray:
        """A random code (18, 512) float32; truncation 1 is the full variety, 0 the mean."""
        x = np.random.default_rng(seed).standard_normal(512, dtype=np.float32)
        x = x / np.sqrt(np.mean(x * x) + 1e-8)
        for weight, bias in self.mapping:
            x = x @ weight + bias
            x = np.where(x > 0, x, 0.2 * x) * np.float32(2**0.5)
        w = self.mean_w + np.float32(truncation) * (x - self.mean_w)
        return np.repeat(w[None], 18, axis=0)


def converted(name_or_path: str | os.PathLike[str]) -> Path:
    """The generator in any format as our file; a foreign one is converted once, into the user's cache.

    Raises:
        InputError: as `dystyle.generators.checkpoints.read_generator`.
    """
    path = resolve(name_or_path)
    if path.suffix == ".safetensors":
        return path.absolute()
    if not path.is_file():
        raise InputError(f"'{name_or_path}' is no file with a generator.")

    def convert(partial: Path) -> Path:
        with needed("torch", f"Reading the StyleGAN2 in '{path.name}'"):
            from dystyle.generators.checkpoints import read_generator, save

        save(read_generator(path), partial / "generator.safetensors", source=path.name)
        return partial / "generator.safetensors"

    return make_once(cache_folder() / "generators" / f"{path.stem}-{sha256(path)[:16]}.safetensors", convert)


def _is_mapping(name: str) -> bool:
    return name == "mean_w" or name.startswith("mapping.")


def _mapping(tensors: dict[str, np.ndarray], rate: float | None) -> tuple[list, np.ndarray]:
    """The mapping network's layers, and mean W; `rate` is the factor that equalised weights are used with."""
    layers = []
    while f"mapping.layers.{len(layers)}.weight" in tensors:
        weight, bias = (tensors[f"mapping.layers.{len(layers)}.{part}"] for part in ("weight", "bias"))
        if rate is not None:
            weight, bias = weight * np.float32(rate * weight.shape[1] ** -0.5), bias * np.float32(rate)
        layers.append((weight.T, bias))
    return layers, tensors["mean_w"]
