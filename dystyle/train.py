"""Train: python -m dystyle.train [faces|previews|attributes|encoder|editor] --help."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.pipeline import FaceEditor
from dystyle.training.attributes import AttributeConfig, train_attributes
from dystyle.training.dataset import FaceDataset, sample_codes
from dystyle.training.editor import EditorConfig, EditorTrainer
from dystyle.training.encoder import EncoderConfig, train_encoder
from dystyle.training.previews import PreviewConfig, train_previews
from dystyle.weights import resolve


@dataclass(frozen=True)
class FacesConfig:
    """Rendering a dataset of generated faces, which the other trainings start from.

    Attributes:
        out: folder to write; an interrupted run goes on where it stopped.
    """

    out: Path = Path("runs/faces")
    count: int = 6000
    seed: int = 100


def _generator(previews: bool = True) -> MobileStyleGAN:
    heads = resolve("preview_heads") if previews else None
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), heads)


def _render(folder: Path, codes: np.ndarray) -> FaceDataset:
    return FaceDataset.render(folder, codes, FaceEditor.from_pretrained().synthesize)


def _train(config) -> object:
    """Run one training; returns what it reports."""
    if isinstance(config, FacesConfig):
        rng, generator = np.random.default_rng(config.seed), _generator(previews=False)
        codes = sample_codes(rng, config.count, generator.map, generator.mean_w.numpy())
        return len(_render(config.out, codes).codes)
    if isinstance(config, AttributeConfig):
        codes = np.load(config.labels / "codes.npz")["w"]
        _render(config.dataset, np.repeat(codes[:, None], 18, axis=1))
        return train_attributes(config, _generator(previews=False))
    if isinstance(config, PreviewConfig):
        return train_previews(config, _generator(previews=config.start))
    if isinstance(config, EncoderConfig):
        return train_encoder(config, _generator())
    return str(EditorTrainer(config, _generator()).run())


Command = (
    Annotated[FacesConfig, tyro.conf.subcommand("faces")]
    | Annotated[PreviewConfig, tyro.conf.subcommand("previews")]
    | Annotated[AttributeConfig, tyro.conf.subcommand("attributes")]
    | Annotated[EncoderConfig, tyro.conf.subcommand("encoder")]
    | Annotated[EditorConfig, tyro.conf.subcommand("editor")]
)


def main() -> None:
    try:
        print(json.dumps(_train(tyro.cli(Command, prog="python -m dystyle.train")), indent=2))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
