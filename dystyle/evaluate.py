"""Evaluate: python -m dystyle.evaluate COMMAND --help.

COMMAND: attributes, editing, inversion, photos, methods, dependency, translators, spaces, components,
atlas, identifiability, latency, neighbours, engines, ops, generator, sheet or mixing.
"""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

try:
    import torch  # noqa: F401 (most of what is imported below needs it)
except ModuleNotFoundError:
    print("Evaluation needs PyTorch and more; pip install 'dystyle[train]'.", file=sys.stderr)
    sys.exit(2)

import tyro

from dystyle.errors import InputError
from dystyle.evaluation import (
    channel_atlas,
    components,
    dependency,
    editing,
    editing_table,
    identifiability,
    inversion_quality,
    latency,
    method_comparison,
    neighbours,
    photos,
    reading_quality,
    spaces,
    speed,
    translators,
)
from dystyle.evaluation.sheets import MixingConfig, SheetConfig, make_mixing_sheet, make_sheet
from dystyle.memory import keep_freed_memory

JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", help="file to write the result to")]
Plots = Annotated[Path | None, tyro.conf.arg(help="folder to write plots and contact sheets to")]


@dataclass(frozen=True)
class Report:
    """A command that measures something: settings -> result -> Markdown.

    Attributes:
        about: one sentence for `--help`.
        config: the dataclass of settings.
        evaluate: settings -> result; it may take a folder `plots`, too.
        table: result -> Markdown.
    """

    about: str
    config: type
    evaluate: Callable[..., dict]
    table: Callable[[dict], str]

    def command(self) -> Callable[..., None]:
        """The function whose signature is the command line."""
        config, default = tyro.conf.OmitArgPrefixes[self.config], self.config()

        def run(protocol: config = default, json_file: JsonFile = None) -> None:
            self._write(self.evaluate(protocol), json_file)

        def run_and_plot(protocol: config = default, json_file: JsonFile = None, plots: Plots = None) -> None:
            self._write(self.evaluate(protocol, plots), json_file)

        command = run_and_plot if "plots" in inspect.signature(self.evaluate).parameters else run
        command.__doc__ = self.about
        return command

    def _write(self, result: dict, file: Path | None) -> None:
        table = self.table(result)
        print(table)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=2) + "\n")
            file.with_suffix(".md").write_text(f"{table}\n")


REPORTS = {
    "attributes": Report(
        "The attribute readings against labels, mirrors, other sizes and independent networks.",
        reading_quality.ReadingQualityConfig,
        reading_quality.evaluate_attributes,
        reading_quality.table,
    ),
    "editing": Report(
        "Single and joint edits of random and inverted faces: what is reached, kept and changed.",
        editing.EditingConfig,
        editing.evaluate_editing,
        editing_table.table,
    ),
    "inversion": Report(
        "Photos and degraded generated faces to codes and back: likeness and time, by quality.",
        inversion_quality.InversionQualityConfig,
        inversion_quality.evaluate_inversion,
        inversion_quality.table,
    ),
    "latency": Report(
        "Time of every stage beside the random-face graph and PyTorch, cold start, peak memory, the floor.",
        latency.LatencyConfig,
        latency.evaluate_latency,
        latency.table,
    ),
    "neighbours": Report(
        "Time of slider and photo beside processes that keep every core busy, and alone.",
        neighbours.NeighboursConfig,
        neighbours.evaluate_neighbours,
        neighbours.table,
    ),
    "engines": Report(
        "Speed and exactness of the default generator by every runtime of a device, and by PyTorch.",
        speed.EngineSpeedConfig,
        speed.evaluate_engines,
        speed.engines_table,
    ),
    "ops": Report(
        "Speed of StyleGAN2's ops: compiled, reference, torch.compile, and what the memory allows.",
        speed.OpsConfig,
        speed.evaluate_ops,
        speed.ops_table,
    ),
    "generator": Report(
        "Speed of StyleGAN2's generator with random weights, likewise.",
        speed.GeneratorSpeedConfig,
        speed.evaluate_generator,
        speed.generator_table,
    ),
    "photos": Report(
        "Real photos inverted and edited, compared with the photos themselves.",
        photos.PhotosConfig,
        photos.evaluate_photos,
        photos.table,
    ),
    "methods": Report(
        "Every editing method on the same faces and targets, at matched effect.",
        method_comparison.MethodComparisonConfig,
        method_comparison.evaluate_methods,
        method_comparison.table,
    ),
    "dependency": Report(
        "How much all else changes over how much the asked attribute does, by method.",
        dependency.DependencyConfig,
        dependency.evaluate_dependency,
        dependency.table,
    ),
    "translators": Report(
        "Networks that edit pictures, beside DyStyle on codes: what comes back, what is reached and kept.",
        translators.TranslatorsConfig,
        translators.evaluate_translators,
        translators.table,
    ),
    "spaces": Report(
        "Z, W, W+ and S: disentanglement, linear separability, perceptual path length.",
        spaces.SpacesConfig,
        spaces.evaluate_spaces,
        spaces.table,
    ),
    "identifiability": Report(
        "Styles' independent components found again, on a toy with known ones, by the number of domains.",
        identifiability.IdentifiabilityConfig,
        identifiability.evaluate_identifiability,
        identifiability.table,
    ),
}


def show_components(
    config: tyro.conf.OmitArgPrefixes[components.ComponentsConfig] = components.ComponentsConfig(),  # noqa: B008
) -> None:
    """Show and measure what GANSpace's components do."""
    print(components.show_components(config))


def show_atlas(
    config: tyro.conf.OmitArgPrefixes[channel_atlas.AtlasConfig] = channel_atlas.AtlasConfig(),  # noqa: B008
) -> None:
    """Show what StyleSpace's channels do, region by region."""
    print(channel_atlas.make_atlas(config))


def sheet(config: tyro.conf.OmitArgPrefixes[SheetConfig] = SheetConfig()) -> None:  # noqa: B008 (frozen)
    """A contact sheet of edits, to be looked at."""
    make_sheet(config)


def mixing(config: tyro.conf.OmitArgPrefixes[MixingConfig] = MixingConfig()) -> None:  # noqa: B008
    """People with the coarse, the middle or the fine styles of another one, as one picture."""
    make_mixing_sheet(config)


def main() -> None:
    keep_freed_memory()
    commands = {name: report.command() for name, report in REPORTS.items()}
    commands |= {"components": show_components, "atlas": show_atlas, "sheet": sheet, "mixing": mixing}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m dystyle.evaluate")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
