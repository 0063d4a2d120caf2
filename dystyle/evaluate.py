"""Evaluate: python -m dystyle.evaluate COMMAND --help.

COMMAND: attributes, editing, inversion, methods, spaces, components, latency, engines, ops, generator or
sheet.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from dystyle.errors import InputError
from dystyle.evaluation import attributes as attribute_report
from dystyle.evaluation import editing as editing_report
from dystyle.evaluation import inversion as inversion_report
from dystyle.evaluation import latency as latency_report
from dystyle.evaluation import methods as methods_report
from dystyle.evaluation import spaces as spaces_report
from dystyle.evaluation import speed
from dystyle.evaluation.attributes import AttributesConfig
from dystyle.evaluation.editing import EditingConfig
from dystyle.evaluation.inversion import InversionConfig
from dystyle.evaluation.latency import LatencyConfig
from dystyle.evaluation.methods import MethodsConfig
from dystyle.evaluation.sheets import SheetConfig, make_sheet
from dystyle.evaluation.spaces import ComponentsConfig, SpacesConfig, show_components
from dystyle.evaluation.speed import EngineSpeedConfig, GeneratorSpeedConfig, OpsConfig
from dystyle.memory import keep_freed_memory

JsonFile = Annotated[Path | None, tyro.conf.arg(name="json")]


def attributes(
    protocol: tyro.conf.OmitArgPrefixes[AttributesConfig] = AttributesConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
    plots: Path | None = None,
) -> None:
    """The attribute readings against labels, mirrors, other sizes and independent networks.

    Args:
        json_file: file to write the result to; its table goes beside it.
        plots: folder to write plots and contact sheets to.
    """
    result = attribute_report.evaluate_attributes(protocol, plots)
    _report(result, attribute_report.table(result), json_file)


def editing(
    protocol: tyro.conf.OmitArgPrefixes[EditingConfig] = EditingConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
    plots: Path | None = None,
) -> None:
    """Single and joint edits of random and inverted faces: targets reached, identity kept, what else changed.

    Args:
        json_file: file to write the result to; its table goes beside it.
        plots: folder to write plots to.
    """
    result = editing_report.evaluate_editing(protocol, plots)
    _report(result, editing_report.table(result), json_file)


def inversion(
    protocol: tyro.conf.OmitArgPrefixes[InversionConfig] = InversionConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
    plots: Path | None = None,
) -> None:
    """Photos and degraded generated faces to codes and back: likeness and time, by quality.

    Args:
        json_file: file to write the result to; its table goes beside it.
        plots: folder to write plots and a contact sheet to.
    """
    result = inversion_report.evaluate_inversion(protocol, plots)
    _report(result, inversion_report.table(result), json_file)


def latency(
    protocol: tyro.conf.OmitArgPrefixes[LatencyConfig] = LatencyConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
    plots: Path | None = None,
) -> None:
    """Time of every stage beside the random-face graph and PyTorch, cold start, peak memory, the floor.

    Args:
        json_file: file to write the result to; its table goes beside it.
        plots: folder to write the plot to.
    """
    result = latency_report.evaluate_latency(protocol, plots)
    _report(result, latency_report.table(result), json_file)


def methods(
    protocol: tyro.conf.OmitArgPrefixes[MethodsConfig] = MethodsConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
    plots: Path | None = None,
) -> None:
    """Every editing method on the same faces and targets, at matched effect.

    Args:
        json_file: file to write the result to; its table goes beside it.
        plots: folder to write plots and contact sheets to.
    """
    result = methods_report.evaluate_methods(protocol, plots)
    _report(result, methods_report.table(result), json_file)


def spaces(
    protocol: tyro.conf.OmitArgPrefixes[SpacesConfig] = SpacesConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
) -> None:
    """Z, W, W+ and S: disentanglement, linear separability, perceptual path length.

    Args:
        json_file: file to write the result to; its table goes beside it.
    """
    result = spaces_report.evaluate_spaces(protocol)
    _report(result, spaces_report.table(result), json_file)


def components(
    config: tyro.conf.OmitArgPrefixes[ComponentsConfig] = ComponentsConfig(),  # noqa: B008 (frozen)
) -> None:
    """Show and measure what GANSpace's components do."""
    print(show_components(config))


def sheet(config: tyro.conf.OmitArgPrefixes[SheetConfig] = SheetConfig()) -> None:  # noqa: B008 (frozen)
    """A contact sheet of edits, to be looked at."""
    make_sheet(config)


def engines(
    protocol: tyro.conf.OmitArgPrefixes[EngineSpeedConfig] = EngineSpeedConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
) -> None:
    """Speed and exactness of the default generator by every runtime of a device, and by PyTorch.

    Args:
        json_file: file to write the result to; its table goes beside it.
    """
    result = speed.evaluate_engines(protocol)
    _report(result, speed.engines_table(result), json_file)


def ops(
    protocol: tyro.conf.OmitArgPrefixes[OpsConfig] = OpsConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
) -> None:
    """Speed of StyleGAN2's ops: compiled, reference, torch.compile, and what the memory's bandwidth allows.

    Args:
        json_file: file to write the result to; its table goes beside it.
    """
    result = speed.evaluate_ops(protocol)
    _report(result, speed.ops_table(result), json_file)


def generator(
    protocol: tyro.conf.OmitArgPrefixes[GeneratorSpeedConfig] = GeneratorSpeedConfig(),  # noqa: B008 (frozen)
    json_file: JsonFile = None,
) -> None:
    """Speed of StyleGAN2's generator with random weights, likewise.

    Args:
        json_file: file to write the result to; its table goes beside it.
    """
    result = speed.evaluate_generator(protocol)
    _report(result, speed.generator_table(result), json_file)


def _report(result: dict, table: str, path: Path | None) -> None:
    print(table)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".md").write_text(f"{table}\n")


def main() -> None:
    keep_freed_memory()
    commands = {
        "attributes": attributes,
        "editing": editing,
        "inversion": inversion,
        "latency": latency,
        "engines": engines,
        "ops": ops,
        "generator": generator,
        "methods": methods,
        "spaces": spaces,
        "components": components,
        "sheet": sheet,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m dystyle.evaluate")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
