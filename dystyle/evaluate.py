"""Evaluate: python -m dystyle.evaluate [editing|sheet] --help."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from dystyle.errors import InputError
from dystyle.evaluation.editing import EditingConfig, evaluate_editing, table
from dystyle.evaluation.sheets import SheetConfig, make_sheet


def editing(
    protocol: tyro.conf.OmitArgPrefixes[EditingConfig] = EditingConfig(),  # noqa: B008 (frozen)
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Single and joint edits of random faces: targets reached, identity kept, what else changed.

    Args:
        json_file: file to write the result to.
    """
    result = evaluate_editing(protocol)
    print(table(result))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def sheet(config: tyro.conf.OmitArgPrefixes[SheetConfig] = SheetConfig()) -> None:  # noqa: B008 (frozen)
    """A contact sheet of edits, to be looked at."""
    make_sheet(config)


def main() -> None:
    commands = {"editing": editing, "sheet": sheet}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m dystyle.evaluate")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
