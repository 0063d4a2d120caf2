"""A backend on compiled engines: which engine a call needs, and how many of them stay open."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dystyle.engines.cache import configuration_model, engine_model, tuned_model
from dystyle.engines.generator_graph import ADJUSTABLE
from dystyle.engines.opened import Opened, Run
from dystyle.memory import return_freed_memory

# How many stay open. A page never stops to ask for new ones of the last two: configurations of the editor,
# and generators tuned to one face (two sizes) or with inputs for styles and noise (likewise). While they run,
# two sizes take a quarter of a gigabyte.
GRAPHS_OPEN, EDITORS_OPEN, TUNED_OPEN = 16, 8, 4
IN_USE = 60.0  # seconds for which others count as using an engine after they have asked for it


class CompiledBackend(ABC):
    """All graphs, compiled when first used; safe to share between threads. A `Backend`."""

    precision = "fp32"

    def __init__(self) -> None:
        self.graphs, self.editors, self.tuned = map(Opened, (GRAPHS_OPEN, EDITORS_OPEN, TUNED_OPEN))

    @abstractmethod
    def compile(self, name: str, model: Path | bytes) -> Run:
        """Make an ONNX model ready to run: inputs by name -> outputs."""

    @abstractmethod
    def trim(self) -> None:
        """Give back what engines keep between runs, where the runtime lets them; they run as before."""

    def release_memory(self) -> None:
        """Make room for something large: close all engines but the editor's and those that others are using.

        The next use opens an engine again from the cache, in some tenths of a second, or makes one tuned to a
        face.
        """
        for opened in (self.graphs, self.tuned):
            opened.close_unused(IN_USE)
        self.trim()
        return_freed_memory()

    def run(
        self,
        name: str,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray,
    ) -> list[np.ndarray]:
        """The outputs of a graph (see `dystyle.engines.graphs`) for a batch.

        Args:
            weights: of the default generator, by their names in it: those tuned to one face, which are
                compiled into an engine of its own, and styles and noise, either all or none of them, which
                are inputs of one engine.
            others: see `Backend.run`.
        """
        feeds = {"input": x, **others}
        if not weights:
            return self.graphs.get(name, lambda: self.compile(name, engine_model(name)))(feeds)
        inputs = {k: w for k, w in weights.items() if ":" not in name and k.endswith(ADJUSTABLE)}
        tuned = {k: w for k, w in weights.items() if k not in inputs}

        def open() -> Run:
            model = tuned_model(name, tuned, adjustable=bool(inputs))
            self.trim()  # for one more engine
            used = [value.name for value in model.graph.input]
            run = self.compile(name, model.SerializeToString())
            del model
            return_freed_memory()  # several times the weights' size
            return lambda feeds: run({key: feeds[key] for key in used})

        key = _digest(f"{name}, adjustable" if inputs else name, tuned)
        return self.tuned.get(key, open)({**feeds, **inputs})

    def edit(
        self, codes: np.ndarray, configuration: Mapping[str, float | np.ndarray], editor: str = "editor"
    ) -> np.ndarray:
        """See `Backend.edit`. A target may be an array (b,), with a value for each code."""
        return self._edit(codes, configuration, editor)[0]

    def attention(
        self, codes: np.ndarray, configuration: Mapping[str, float | np.ndarray], editor: str = "editor"
    ) -> np.ndarray:
        """See `Backend.attention`. Targets as in `edit`."""
        return self._edit(codes, configuration, editor)[1]

    def _edit(
        self, codes: np.ndarray, configuration: Mapping[str, float | np.ndarray], editor: str
    ) -> list[np.ndarray]:
        key = f"{editor}:{','.join(configuration)}"
        run = self.editors.get(key, lambda: self.compile(key, configuration_model(configuration, editor)))
        values = [np.broadcast_to(np.float32(value), len(codes)) for value in configuration.values()]
        targets = np.stack(values, axis=1)
        return run({"codes": codes, "targets": targets})


def _digest(name: str, weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(name.encode())
    for weight in weights.values():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()
