"""What the trainings start from is checked before the work begins, and one sentence says what is wrong."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dystyle import train
from dystyle.errors import InputError
from dystyle.metrics.labels import read_label_codes, read_labels

LABELS = Path(__file__).parent.parent / "data" / "labels"


@pytest.fixture
def labels(tmp_path) -> Path:
    return Path(shutil.copytree(LABELS, tmp_path / "labels"))


def rewrite(path: Path, change) -> None:
    """Write the table again with each row, a dictionary, as `change` makes it."""
    with path.open(newline="") as file:
        rows = [change(row) for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


BROKEN = {
    "has no column 'mouth_open'": lambda row: {k: v for k, v in row.items() if k != "mouth_open"},
    "takes whole numbers": lambda row: row | {"beard": "some"},
    "all are labelled alike": lambda row: row | {"smile": 1},
}


@pytest.mark.parametrize("sentence", BROKEN)
@pytest.mark.parametrize("command", ["judges", "attributes"])
def test_broken_labels_are_refused_before_anything_is_rendered(
    command, sentence, labels, tmp_path, monkeypatch, capsys
):
    rewrite(labels / "faces.csv", BROKEN[sentence])
    monkeypatch.setattr(train, "_generator", None)  # to be called when faces are rendered
    arguments = [f"--labels={labels}", f"--dataset={tmp_path / 'rendered'}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["train", command, *arguments])
    with pytest.raises(SystemExit) as stop:
        train.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in said and said.count("\n") == 1


def test_codes_belong_to_the_labels(labels):
    codes = read_label_codes(labels)
    assert codes.shape == (len(read_labels(labels)[1]), 512) and codes.dtype == np.float32
    np.savez(labels / "codes.npz", w=codes[1:])
    with pytest.raises(InputError, match="faces have labels"):
        read_label_codes(labels)
    np.savez(labels / "codes.npz", z=codes)
    with pytest.raises(InputError, match="codes as 'w'"):
        read_label_codes(labels)
    (labels / "codes.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="cannot be read"):
        read_label_codes(labels)
    with pytest.raises(InputError, match="table of hand labels"):
        read_labels(labels / "nowhere")


def test_every_command_has_its_settings_and_a_help_of_its_own(monkeypatch, capsys):
    configs = [config for config, _ in train.COMMANDS.values()]
    assert len(set(configs)) == len(configs)  # `main` tells commands apart by them
    for name in train.COMMANDS:
        assert name in train.__doc__
    ran = []
    stubs = {name: (config, ran.append) for name, (config, _) in train.COMMANDS.items()}
    monkeypatch.setattr(train, "COMMANDS", stubs)
    for name, (config, _) in stubs.items():
        monkeypatch.setattr(sys, "argv", ["train", name, *(["--data", "x"] if name == "generator" else [])])
        train.main()
        assert type(ran[-1]) is config
    assert capsys.readouterr().out == "null\n" * len(stubs)
