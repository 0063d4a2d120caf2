"""Train: python -m dystyle.train COMMAND --help.

COMMAND is faces, previews, attributes, encoder, descent, inversion, editor, sequences, judges, generator, or
a method the editor is compared with: linear, directions, interfacegan, ganspace, stylespace or styleflow.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from dystyle.editors.linear import LinearEditor
from dystyle.errors import InputError
from dystyle.generators.checkpoints import read_generator
from dystyle.generators.facts import DEFAULT
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.memory import keep_freed_memory
from dystyle.metrics.drawing import sample_codes
from dystyle.training.attributes import AttributeConfig, train_attributes
from dystyle.training.dataset import FaceDataset
from dystyle.training.descent import DescentConfig, fit_descent
from dystyle.training.editor import EditorConfig, EditorTrainer
from dystyle.training.encoder import EncoderConfig, train_encoder
from dystyle.training.generator import GeneratorConfig, GeneratorTrainer
from dystyle.training.inversion import InversionConfig, train_inversion
from dystyle.training.judges import train_judges
from dystyle.training.methods import (
    DirectionsConfig,
    Faces,
    GanSpaceConfig,
    InterFaceGanConfig,
    StyleFlowConfig,
    StyleSpaceConfig,
    fit_directions,
    fit_ganspace,
    fit_interfacegan,
    fit_styleflow,
    fit_stylespace,
)
from dystyle.training.previews import PreviewConfig, train_previews
from dystyle.training.sequences import SequencesConfig, train_sequences
from dystyle.weights import resolve

PICTURE_ROWS = 16  # the rows of W+ that reach the picture


@dataclass(frozen=True)
class FacesConfig:
    """Rendering a dataset of generated faces, which the other trainings start from.

    Attributes:
        out: folder to write; an interrupted run goes on where it stopped.
        generator: "mobile_stylegan", or a StyleGAN2 of 256 px or more (a name or a path).
    """

    out: Path = Path("runs/faces")
    generator: str = DEFAULT
    count: int = 6000
    seed: int = 100


@dataclass(frozen=True)
class JudgesConfig:
    """Fitting the independent judges of `dystyle.metrics.independent_judges` to the hand labels.

    Attributes:
        labels: folder with `codes.npz` (w) and `faces.csv`.
        dataset: folder to render the labelled faces into.
        out: file to write.
    """

    labels: Path = Path("data/labels")
    dataset: Path = Path("runs/labelled")
    out: Path = Path("weights/judges/calibration.safetensors")


@dataclass(frozen=True)
class LinearConfig:
    """Fitting the directions of the linear baseline (InterFaceGAN).

    Attributes:
        faces: folder of rendered faces (`python -m dystyle.train faces`); count: how many of them to read.
        out: file to write.
    """

    faces: Path = Path("runs/faces")
    count: int = 3000
    out: Path = Path("weights/linear.safetensors")


def _fit_linear(config: LinearConfig, generator: MobileStyleGAN) -> dict[str, float]:
    codes, values = Faces(config.faces, config.count).read()
    linear = LinearEditor.fit(codes[:, :PICTURE_ROWS].mean(1), values, generator.std_w.numpy())
    linear.save(config.out)
    return dict(zip(linear.names, linear.slopes.tolist(), strict=True))


FITS = {
    LinearConfig: _fit_linear,
    DirectionsConfig: fit_directions,
    InterFaceGanConfig: fit_interfacegan,
    GanSpaceConfig: fit_ganspace,
    StyleSpaceConfig: fit_stylespace,
    StyleFlowConfig: fit_styleflow,
    SequencesConfig: train_sequences,
}


def _generator(previews: bool = True, name: str = DEFAULT) -> MobileStyleGAN | StyleGAN2:
    if name != DEFAULT:
        return read_generator(name)
    heads = resolve("preview_heads") if previews else None
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), heads)


def _render(folder: Path, codes: np.ndarray, generator: MobileStyleGAN | StyleGAN2) -> FaceDataset:
    if not torch.cuda.is_available():
        return FaceDataset.render(folder, codes, generator)
    return FaceDataset.render(folder, codes, generator.cuda(), "cuda", batch=16)


def _train(config) -> object:
    """Run one training; returns what it reports."""
    if isinstance(config, FacesConfig):
        rng, generator = np.random.default_rng(config.seed), _generator(previews=False, name=config.generator)
        codes = sample_codes(rng, config.count, generator.map, generator.mean_w.numpy())
        return len(_render(config.out, codes, generator).codes)
    if isinstance(config, AttributeConfig | JudgesConfig):
        codes = np.load(config.labels / "codes.npz")["w"]
        _render(config.dataset, np.repeat(codes[:, None], 18, axis=1), _generator(previews=False))
    if isinstance(config, JudgesConfig):
        return train_judges(config.labels, config.dataset, config.out, _generator(previews=False))
    if isinstance(config, AttributeConfig):
        if not config.faces.exists():
            _train(FacesConfig(out=config.faces))
        return train_attributes(config, _generator(previews=False))
    if isinstance(config, PreviewConfig):
        return train_previews(config, _generator(previews=config.start))
    if isinstance(config, EncoderConfig | InversionConfig):
        train = train_encoder if isinstance(config, EncoderConfig) else train_inversion
        return train(config, _generator().to("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(config, DescentConfig):
        return fit_descent(config)
    if fit := FITS.get(type(config)):
        return fit(config, _generator())
    if isinstance(config, GeneratorConfig):
        return str(GeneratorTrainer(config).run())
    return str(EditorTrainer(config, _generator(name=config.generator)).run())


Command = (
    Annotated[FacesConfig, tyro.conf.subcommand("faces")]
    | Annotated[PreviewConfig, tyro.conf.subcommand("previews")]
    | Annotated[AttributeConfig, tyro.conf.subcommand("attributes")]
    | Annotated[EncoderConfig, tyro.conf.subcommand("encoder")]
    | Annotated[DescentConfig, tyro.conf.subcommand("descent")]
    | Annotated[InversionConfig, tyro.conf.subcommand("inversion")]
    | Annotated[EditorConfig, tyro.conf.subcommand("editor")]
    | Annotated[SequencesConfig, tyro.conf.subcommand("sequences")]
    | Annotated[JudgesConfig, tyro.conf.subcommand("judges")]
    | Annotated[LinearConfig, tyro.conf.subcommand("linear")]
    | Annotated[GeneratorConfig, tyro.conf.subcommand("generator")]
    | Annotated[DirectionsConfig, tyro.conf.subcommand("directions")]
    | Annotated[InterFaceGanConfig, tyro.conf.subcommand("interfacegan")]
    | Annotated[GanSpaceConfig, tyro.conf.subcommand("ganspace")]
    | Annotated[StyleSpaceConfig, tyro.conf.subcommand("stylespace")]
    | Annotated[StyleFlowConfig, tyro.conf.subcommand("styleflow")]
)


def main() -> None:
    keep_freed_memory()
    try:
        print(json.dumps(_train(tyro.cli(Command, prog="python -m dystyle.train")), indent=2))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
