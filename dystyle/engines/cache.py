"""Engines as files in the user's cache: built on first use, checked, in memory where they cannot be written.

Beside every file lies a card, `NAME.json`, with its size and hash. What does not fit its card, as after a
full disk or a broken copy, is built again. Imports no torch but to build an engine of a network that a user
brings (a StyleGAN2, an encoder), or whose code has been changed.
"""

import hashlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
from filelock import FileLock

from dystyle.engines.editor_graph import EditorWeights, build_editor_graph, shared_weights
from dystyle.engines.generator_graph import default_generator_graph
from dystyle.engines.recipes import fingerprint, recipe
from dystyle.engines.structure import filled
from dystyle.errors import InputError, needed
from dystyle.memory import return_freed_memory
from dystyle.weights import cache_folder, load, sha256


def engine_model(name: str) -> Path | bytes:
    """An ONNX model: its file in the user's cache, or where none can be written what would be in it."""
    return _kept(name, _path(name, ".onnx"), lambda: (_build(name), {}))


def engine_file(name: str) -> Path:
    """The file of an engine in the user's cache, built if it is not there.

    ONNX, and for "editor", or "editor:PATH" of a trained one, the weights of all its configurations.

    Raises:
        InputError: it cannot be written.
    """
    is_editor = name.split(":", 1)[0] == "editor"
    return _on_disk(name, editor_weights(name).file if is_editor else engine_model(name))


def editor_weights(editor: str = "editor") -> EditorWeights:
    """The weights of all configurations of "editor", or "editor:PATH", mapped into memory once for all."""
    file = _path(editor, ".weights")
    with _mapping:  # two threads would map them twice
        if file not in _mapped:
            made: list[tuple[bytes, dict]] = []

            def make() -> tuple[bytes, dict]:
                made.append(shared_weights(*load(*recipe(editor).weights)))
                return made[0]

            kept = _kept(editor, file, make)
            if isinstance(kept, Path):
                _mapped[file] = EditorWeights.map(kept.resolve(), _card(kept))
            else:
                _mapped[file] = EditorWeights.of(*made[0])
        return _mapped[file]


_mapping = threading.Lock()
_mapped: dict[Path, EditorWeights] = {}


def configuration_model(names: Iterable[str], editor: str = "editor") -> Path | bytes:
    """The graph of one attribute configuration: its file beside the editor's weights, or what would be in it.

    It is always assembled, which takes a millisecond; the file is for runtimes that want one.
    """
    names, weights = tuple(names), editor_weights(editor)
    content = build_editor_graph(weights, names).SerializeToString()
    if weights.file is None:
        return content
    file = weights.file.with_name(f"{weights.file.stem}-{'+'.join(names)}.onnx")
    with suppress(OSError):
        if file.read_bytes() == content:
            return file
    try:
        with FileLock(weights.file.with_suffix(".lock")):
            _write(file, content)
    except OSError:
        return content
    return file


def configuration_file(names: Iterable[str], editor: str = "editor") -> Path:
    """The file of `configuration_model`.

    Raises:
        InputError: it cannot be written.
    """
    names = tuple(names)
    return _on_disk("editor:" + ",".join(names), configuration_model(names, editor))


def tuned_model(name: str, tuned: Mapping[str, np.ndarray], adjustable: bool = False) -> onnx.ModelProto:
    """A generator's ONNX model, with other weights by their names in the generator.

    Args:
        adjustable: with inputs for styles and noise, see `build_generator_graph`.
    """
    if ":" not in name:
        return default_generator_graph(name, tuned, adjustable)
    model = engine_model(name)  # a StyleGAN2, exported from PyTorch
    model = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
    for initializer in model.graph.initializer:
        weight = tuned.get(initializer.name.removeprefix("generator."))
        if weight is not None:
            initializer.CopyFrom(onnx.numpy_helper.from_array(weight, initializer.name))
    return model


def compiled_folder(runtime: str, version: str, precision: str) -> Path | None:
    """Where a runtime may keep what it makes of engines; None where nothing can be written.

    The runtimes tell models apart by their files' names or contents, but not all of them the rest.
    """
    folder = cache_folder() / "engines" / f"{runtime}-{version}-{precision}"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


def _path(name: str, suffix: str) -> Path:
    return cache_folder() / "engines" / f"{_title(name)}-{fingerprint(name)}{suffix}"


def _title(name: str) -> str:
    """ "encoder:e4e" is kept as encoder_e4e, beside the bundled encoder's engine."""
    graph, *choice = name.split(":", 1)
    return "_".join([graph, *(re.sub(r"\W", "_", Path(given).stem)[:60] for given in choice)])


def _build(name: str) -> bytes:
    made_from = recipe(name)
    if made_from.module == "dystyle.engines.generator_graph":
        return default_generator_graph(name).SerializeToString()
    if made_from.structure:
        return filled(name).SerializeToString()
    with needed("torch", f"Building the engine {name}"):
        from dystyle.engines.graphs import export

    _say(f"Building the engine {name} ...")
    content = io.BytesIO()
    export(name, content)
    return_freed_memory()  # tracing runs the graph once
    return content.getvalue()


def _kept(name: str, file: Path, make: Callable[[], tuple[bytes, dict]]) -> Path | bytes:
    """The file, with what `make` gives: content, and facts for its card; the content if there is no room."""
    if _intact(file):
        return file
    with _locked(file) as refused:
        if _intact(file):  # another process made it while this one waited
            return file
        if file.exists():
            _say(f"The engine {file.name} is damaged and is built again.")
        content, facts = make()
        if not refused:
            try:
                _remove_stale(file, _title(name))
                _write(file, content, facts)
                del content
                return_freed_memory()  # a model and its bytes were several times its weights
                return file
            except OSError as error:
                refused = error
    _say(f"The engine {name} stays in memory: {file.parent} cannot be written to ({refused.strerror}).")
    return content


@contextmanager
def _locked(file: Path) -> Iterator[OSError | None]:
    """Hold the lock of a file that is to be written; gives the error if that cannot be."""
    lock, refused = FileLock(file.with_suffix(".lock")), None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        refused = error
    try:
        yield refused
    finally:
        lock.release()


def _write(file: Path, content: bytes, facts: Mapping | None = None) -> None:
    """Write a file, and with facts its card before it, so that neither is ever seen in part."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_bytes(content)
        if facts is not None:
            modified = partial.stat().st_mtime_ns
            digest = hashlib.sha256(content).hexdigest()
            checks = {"bytes": len(content), "modified": modified, "sha256": digest}
            _write(file.with_suffix(".json"), json.dumps(checks | facts).encode())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _card(file: Path) -> dict:
    return json.loads(file.with_suffix(".json").read_text())


def _intact(file: Path) -> bool:
    """Whether a file is what was written. A file with its size and time is; one that was copied is read."""
    try:
        card, stat = _card(file), file.stat()
        if stat.st_size != card["bytes"]:
            return False
        return stat.st_mtime_ns == card["modified"] or sha256(file) == card["sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        return False


def _remove_stale(file: Path, title: str) -> None:
    """Remove the engines of this name that were made from something else."""
    for other in file.parent.glob(f"{title}-*"):
        if other.suffix in (".onnx", ".weights", ".json", ".partial"):
            with suppress(OSError):  # open elsewhere, on Windows
                other.unlink()


def _on_disk(name: str, model: Path | bytes | None) -> Path:
    if not isinstance(model, Path):
        raise InputError(
            f"The engine {name} cannot be written to {cache_folder() / 'engines'}; free some space there or "
            "set DYSTYLE_CACHE to another folder."
        )
    return model


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
