"""Editing methods: W+ code x configuration of attributes -> W+ code. A new one is a file and a line here."""

import importlib
from dataclasses import dataclass

from dystyle.backend import Backend
from dystyle.editors.base import Editor
from dystyle.errors import InputError


@dataclass(frozen=True)
class Method:
    """Where a method is: its class as "module:Class", imported when it is opened, and its weights' name."""

    path: str
    weights: str
    title: str


LINEAR = "dystyle.editors.linear:LinearEditor"
METHODS: dict[str, Method] = {
    "dystyle": Method("dystyle.editors.compiled:CompiledEditor", "dystyle", "DyStyle"),
    "interfacegan": Method(LINEAR, "methods/w", "InterFaceGAN in W"),
    "interfacegan_z": Method("dystyle.editors.interfacegan:ZEditor", "methods/z", "InterFaceGAN in Z"),
    "interfacegan_wplus": Method(LINEAR, "methods/wplus", "InterFaceGAN in W+"),
    "mean_difference": Method(LINEAR, "methods/mean", "Mean differences"),
    "logistic": Method(LINEAR, "methods/logistic", "Logistic regression"),
    "logistic_wplus": Method(LINEAR, "methods/logistic_wplus", "Logistic regression in W+"),
    "ganspace": Method("dystyle.editors.ganspace:GanSpaceEditor", "methods/ganspace", "GANSpace"),
    "stylespace": Method("dystyle.editors.stylespace:StyleSpaceEditor", "methods/stylespace", "StyleSpace"),
    "styleflow": Method("dystyle.editors.styleflow:StyleFlowEditor", "methods/styleflow", "StyleFlow"),
}


def open_method(name: str, backend: Backend) -> Editor:
    """The method of this name, a key of `METHODS`, ready to edit; see `Editor.open`.

    Raises:
        InputError: as `Editor.open`, and when a package is missing.
    """
    method = METHODS[name]
    module, _, cls = method.path.partition(":")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"The method '{name}' needs a package; pip install {error.name}.") from error
    editor = getattr(imported, cls).open(method.weights, backend)
    editor.title = method.title
    return editor
