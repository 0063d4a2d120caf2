"""Networks as weight files: float16 kernels, and the structure among the metadata."""

import json
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch

from dystyle.errors import InputError
from dystyle.torch_files import misfit
from dystyle.weights import load, load_header, read_structure, save

Network = TypeVar("Network", bound="Stored")


class Stored:
    """A module that is saved with what makes one of its shape; mixed into `nn.Module`.

    Attributes:
        format: of its files. structure: the constructor's arguments that shape it, JSON values.
    """

    format: ClassVar[str]
    structure: dict

    def save(self, path: Path, **metadata: str) -> None:
        """Write float16 weights (vectors stay float32) with what `load` needs as metadata."""
        tensors = {name: value.detach().cpu().numpy() for name, value in _state(self).items()}
        tensors = {n: v.astype(np.float16) if v.ndim > 1 else v for n, v in tensors.items()}
        save(path, tensors, format=self.format, structure=json.dumps(self.structure), **metadata)

    @classmethod
    def load(cls: type[Network], name_or_path: str) -> Network:
        """Read a network written by `save`, frozen.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        shapes, metadata = load_header(name_or_path)
        if metadata.get("format") != cls.format:
            raise InputError(f"'{name_or_path}' does not hold {cls.format.replace('_', ' ')} weights.")
        structure = read_structure(name_or_path, metadata)
        try:
            with torch.device("meta"):  # sizes are checked before anything takes memory
                outline = cls(**structure)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"'{name_or_path}' is damaged: there is no {cls.format.replace('_', ' ')} as it describes."
            ) from error
        given = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        if wrong := misfit(given, _state(outline)):
            raise InputError(f"'{name_or_path}' does not fit its structure: {wrong}.")
        model, (tensors, _) = cls(**structure), load(name_or_path)
        state = {name: torch.from_numpy(np.asarray(value)).float() for name, value in tensors.items()}
        model.load_state_dict(state, strict=False)
        return model.eval().requires_grad_(False)


def _state(model: Stored) -> dict[str, torch.Tensor]:
    """The tensors of a model without the counters of normalisation layers."""
    return {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
