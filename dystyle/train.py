"""Train: python -m dystyle.train COMMAND --help.

COMMAND is faces, previews, attributes, encoder, descent, inversion, editor, sequences, features, carrier,
parser, judges, generator, a translator (stgan, attgan, stargan), or a method the editor is compared with:
directions, interfacegan, ganspace, stylespace or styleflow.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

try:
    import torch
except ModuleNotFoundError:
    print("Training needs PyTorch and more; pip install 'dystyle[train]'.", file=sys.stderr)
    sys.exit(2)

import numpy as np
import tyro
from torch import distributed

from dystyle.errors import InputError
from dystyle.generators.checkpoints import read_generator
from dystyle.generators.facts import DEFAULT
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.memory import keep_freed_memory
from dystyle.metrics.drawing import sample_codes
from dystyle.metrics.labels import read_label_codes
from dystyle.training.attributes import AttributeConfig, train_attributes
from dystyle.training.carrier import CarrierConfig, train_carrier
from dystyle.training.dataset import FaceDataset
from dystyle.training.descent import DescentConfig, fit_descent
from dystyle.training.editor import EditorConfig, EditorTrainer
from dystyle.training.encoder import EncoderConfig, train_encoder
from dystyle.training.features import FeaturesConfig, train_features
from dystyle.training.generator import GeneratorConfig, GeneratorTrainer
from dystyle.training.inversion import InverterConfig, train_inversion
from dystyle.training.judges import train_judges
from dystyle.training.methods import (
    DirectionsConfig,
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
from dystyle.training.parser import ParserConfig, fit_parser
from dystyle.training.previews import PreviewConfig, train_previews
from dystyle.training.sequences import SequencesConfig, train_sequences
from dystyle.training.translators import AttganConfig, StarganConfig, StganConfig, train_translator
from dystyle.weights import resolve


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


def _generator(previews: bool = True, name: str = DEFAULT) -> MobileStyleGAN | StyleGAN2:
    if name != DEFAULT:
        return read_generator(name)
    heads = resolve("preview_heads") if previews else None
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), heads)


def _on_device() -> MobileStyleGAN:
    return _generator().to("cuda" if torch.cuda.is_available() else "cpu")


def _render(folder: Path, codes: np.ndarray, generator: MobileStyleGAN | StyleGAN2) -> FaceDataset:
    if not torch.cuda.is_available():
        return FaceDataset.render(folder, codes, generator)
    return FaceDataset.render(folder, codes, generator.cuda(), "cuda", batch=16)


def _faces(config: FacesConfig) -> int:
    rng, generator = np.random.default_rng(config.seed), _generator(previews=False, name=config.generator)
    codes = sample_codes(rng, config.count, generator.map, generator.mean_w.numpy())
    return len(_render(config.out, codes, generator).codes)


def _labelled_faces(labels: Path, folder: Path) -> None:
    codes = read_label_codes(labels)
    _render(folder, np.repeat(codes[:, None], 18, axis=1), _generator(previews=False))


def _attributes(config: AttributeConfig) -> dict[str, float]:
    _labelled_faces(config.labels, config.dataset)
    if not config.faces.exists():
        _faces(FacesConfig(out=config.faces))
    return train_attributes(config, _generator(previews=False))


def _judges(config: JudgesConfig) -> dict[str, float]:
    _labelled_faces(config.labels, config.dataset)
    return train_judges(config.labels, config.dataset, config.out, _generator(previews=False))


def _editor(config: EditorConfig) -> str:
    return str(EditorTrainer(config, _generator(name=config.generator)).run())


# By the command: its settings, and what runs it and returns the report.
COMMANDS: dict[str, tuple[type, Callable]] = {
    "faces": (FacesConfig, _faces),
    "previews": (PreviewConfig, lambda config: train_previews(config, _on_device())),
    "attributes": (AttributeConfig, _attributes),
    "encoder": (EncoderConfig, lambda config: train_encoder(config, _on_device())),
    "descent": (DescentConfig, fit_descent),
    "inversion": (InverterConfig, lambda config: train_inversion(config, _on_device())),
    "editor": (EditorConfig, _editor),
    "sequences": (SequencesConfig, lambda config: train_sequences(config, _generator())),
    "features": (FeaturesConfig, lambda config: train_features(config, _on_device())),
    "carrier": (CarrierConfig, lambda config: train_carrier(config, _on_device())),
    "parser": (ParserConfig, lambda config: fit_parser(config, _generator(previews=False))),
    "judges": (JudgesConfig, _judges),
    "generator": (GeneratorConfig, lambda config: str(GeneratorTrainer(config).run())),
    "stgan": (StganConfig, train_translator),
    "attgan": (AttganConfig, train_translator),
    "stargan": (StarganConfig, train_translator),
    "directions": (DirectionsConfig, lambda config: fit_directions(config, _generator())),
    "interfacegan": (InterFaceGanConfig, lambda config: fit_interfacegan(config, _generator())),
    "ganspace": (GanSpaceConfig, lambda config: fit_ganspace(config, _generator())),
    "stylespace": (StyleSpaceConfig, lambda config: fit_stylespace(config, _generator())),
    "styleflow": (StyleFlowConfig, lambda config: fit_styleflow(config, _generator())),
}


def main() -> None:
    keep_freed_memory()
    subcommands = (Annotated[config, tyro.conf.subcommand(name)] for name, (config, _) in COMMANDS.items())
    runs = dict(COMMANDS.values())
    try:
        config = tyro.cli(Union[tuple(subcommands)], prog="python -m dystyle.train")  # noqa: UP007
        print(json.dumps(runs[type(config)](config), indent=2))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # its threads would abort a process that ends before them


if __name__ == "__main__":
    main()
