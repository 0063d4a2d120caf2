"""Engines in the cache: what their names depend on, damaged files, and folders that cannot be written to."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from dystyle import weights
from dystyle.attributes import ATTRIBUTES
from dystyle.engines import cache, graphs, recipes, structure, tensorrt
from dystyle.engines.cache import configuration_file, engine_file
from dystyle.engines.onnx_backend import OnnxBackend
from dystyle.engines.openvino_backend import OpenVinoBackend
from dystyle.weights import TABLE, load_header

ENGINES = (*graphs.GRAPHS, "editor")
USES_THE_TABLE = {"reader", "editor"}
CODE = np.random.default_rng(0).normal(0, 0.3, (1, 18, 512)).astype(np.float32)


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    """A cache with the default generator and nothing else, and its folder of engines."""
    folder, source = tmp_path / "cache", weights.resolve("mobile_stylegan")
    folder.mkdir()
    (folder / source.name).symlink_to(source)
    monkeypatch.setenv("DYSTYLE_CACHE", str(folder))
    monkeypatch.setattr(cache, "_mapped", {})
    return folder / "engines"


@pytest.fixture
def package(monkeypatch, tmp_path) -> Path:
    """A copy of the package's sources, which fingerprints are then taken over."""
    files = (*recipes.PACKAGE.rglob("*.py"), *recipes.structures_folder().iterdir())
    for file in files:
        copy = tmp_path / file.relative_to(recipes.PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(recipes, "PACKAGE", tmp_path)
    recipes.sources.cache_clear()
    yield tmp_path
    recipes.sources.cache_clear()


def fingerprints() -> dict[str, str]:
    return {name: recipes.fingerprint(name) for name in ENGINES}


def changed(before: dict[str, str]) -> set[str]:
    return {name for name, value in fingerprints().items() if value != before[name]}


def test_the_sources_of_an_engine_are_all_that_it_loads():
    """Python's own list of what making each engine imports, in a fresh process."""
    program = (
        "import json, sys; import dystyle.editors; around = set(sys.modules); "
        "from dystyle.engines import {module}; {make}; loaded = sys.modules.keys() - around; "
        "print(json.dumps([sys.modules[n].__file__ for n in loaded if n.startswith('dystyle.')]))"
    )
    making = {
        "encoder:e4e": "[graphs.module(n) for n in graphs.GRAPHS]; import dystyle.generators.checkpoints",
        "reader": "structure.filled('reader')",
        "generator_256": "generator_graph.default_generator_graph('generator_256')",
        "editor": "editor_graph.build_editor_graph",
    }
    for name, make in making.items():
        module = recipes.recipe(name).module
        filled = program.format(module=module.rpartition(".")[2], make=make)
        run = subprocess.run([sys.executable, "-c", filled], check=True, capture_output=True, text=True)
        # The packages around modules hold docstrings and registries, of which engines know nothing.
        loaded = {Path(file) for file in json.loads(run.stdout) if not file.endswith("__init__.py")}
        assert loaded and not loaded - set(recipes.sources(module)), name


def test_every_source_of_an_engine_makes_another_one(package):
    before = fingerprints()
    for name in ("reader", "generator_256", "editor"):
        for file in recipes.sources(recipes.recipe(name).module):
            content = file.read_bytes()
            file.write_bytes(content + b"\n")
            assert name in changed(before), file
            file.write_bytes(content)
    (package / "pipeline.py").write_text("")
    assert not changed(before)


def test_every_weight_that_is_put_into_an_engine_makes_another_one(monkeypatch, tmp_path):
    """Recorded while each network is read."""

    class Recording(dict):
        def get(self, name):
            read.add(name)
            return super().get(name)

    monkeypatch.setattr(weights, "WEIGHTS", Recording(weights.WEIGHTS))
    read: set[str] = set()
    for name in graphs.GRAPHS:
        for kept in (graphs.generator, graphs.identity, graphs.reader):
            kept.cache_clear()
        read.clear()
        graphs.module.__wrapped__(name)
        known = read & weights.WEIGHTS.keys() - {"random_face"}
        assert known == set(recipes.recipe(name).weights), name
    before, real = fingerprints(), recipes.resolve
    for wanted in sorted({w for name in ENGINES for w in recipes.recipe(name).weights}):
        other = tmp_path / "other"
        other.write_bytes(real(wanted).read_bytes() + b" ")
        monkeypatch.setattr(recipes, "resolve", lambda w, o=other, n=wanted: o if w == n else real(w))
        assert changed(before) == {n for n in ENGINES if wanted in recipes.recipe(n).weights}, wanted
        monkeypatch.setattr(recipes, "resolve", real)


@pytest.mark.parametrize("field", ["low", "high", "kind", "carries"])
def test_the_attribute_table_makes_other_engines(monkeypatch, field):
    before = fingerprints()
    name = "smile" if field == "kind" else "yaw"
    value = {"low": -60, "high": 60, "kind": "numeric", "carries": ("age",)}[field]
    monkeypatch.setitem(ATTRIBUTES, name, replace(ATTRIBUTES[name], **{field: value}))
    assert changed(before) >= USES_THE_TABLE


@pytest.mark.parametrize("package", ["onnx", "torch", "numpy"])
def test_other_versions_make_other_engines(monkeypatch, package):
    before, real = fingerprints(), recipes._version
    monkeypatch.setattr(recipes, "_version", lambda p: "0" if p == package else real(p))
    assert changed(before) == (set() if package == "torch" else set(ENGINES))  # it has no part in them
    assert ("torch" in recipes.recipe("encoder:e4e").packages) and not recipes.recipe("encoder:e4e").structure


def test_structures_are_current():
    """If not: python -m dystyle.engines.structure"""
    assert recipes.recorded() == {name: recipes.structure_fingerprint(name) for name in recipes.TRACED}
    every, used = set(), set()
    for name in recipes.TRACED:
        model = onnx.load(recipes.structures_folder() / f"{name}.onnx")
        given = {value.name for value in model.graph.input}
        files = {weights: load_header(weights)[0].keys() for weights in recipes.TRACED[name].weights.values()}
        stored = {f"{w}:{key}" for w, keys in files.items() for key in keys if not key.endswith(TABLE)}
        assert given - stored == {"input", *graphs.GRAPHS[name].others}
        every, used = every | stored, used | given
    assert used >= every  # nothing is left out


@pytest.mark.parametrize("change", ["network", "what is around it", "table", "shapes"])
def test_a_changed_network_is_traced_again(package, monkeypatch, change):
    """With PyTorch; what only reads weights changes no structure."""
    for file in ("weights.py", "pipeline.py"):
        (package / file).write_bytes((package / file).read_bytes() + b"\n")
    (package / "encoders/carrier.py").write_bytes(
        (package / "encoders/carrier.py").read_bytes().replace(b"\n", b"\r\n")
    )
    assert all(map(recipes.is_current, recipes.TRACED))
    if change == "table":
        monkeypatch.setitem(ATTRIBUTES, "yaw", replace(ATTRIBUTES["yaw"], high=60))
    elif change == "shapes":
        real = recipes.load_header
        monkeypatch.setattr(
            recipes, "load_header", lambda w: ({"x": (1,)}, {}) if w == "carrier" else real(w)
        )
    else:
        file = package / ("encoders/carrier.py" if change == "network" else "engines/graphs.py")
        file.write_bytes(file.read_bytes() + b"# another network\n")
    stale = {name for name in recipes.TRACED if not recipes.is_current(name)}
    expected = {"table": {"reader"}, "what is around it": set(recipes.TRACED)}.get(
        change, {name for name in recipes.TRACED if name.startswith("carrier")}
    )
    assert expected <= stale
    assert all(recipes.recipe(name).module == "dystyle.engines.graphs" for name in stale)


def test_new_weights_need_no_new_structure(monkeypatch, tmp_path):
    tensors, metadata = weights.load("features")
    key = "features:feel.weight"
    tensors["feel.weight"] = tensors["feel.weight"] + np.float16(1)
    weights.save(tmp_path / "features.safetensors", tensors, **metadata)
    before = structure.filled("residual")
    monkeypatch.setitem(weights.WEIGHTS, "features", weights.Bundled("features.safetensors"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path)
    after = structure.filled("residual")
    a, b = (
        next(onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == key)
        for model in (before, after)
    )
    np.testing.assert_array_equal(b, tensors["feel.weight"].astype(np.float32))
    assert not np.array_equal(a, b)


def test_runtimes_keep_versions_and_precisions_apart(own_cache):
    names = [("openvino", "2026.1", "fp32"), ("openvino", "2026.1", "bf16"), ("openvino", "2026.2", "fp32")]
    assert len({cache.compiled_folder(*name) for name in names}) == 3
    file = engine_file("generator_256")
    face, graph = (
        tensorrt.tensorrt_options("generator_256", model, "fp16", "11.0")
        for model in (file.read_bytes(), file)
    )
    assert "trt_engine_cache_path" not in face and "fp16" in graph["trt_engine_cache_path"]


def test_swapped_rows_are_not_read_by_the_old_reader(editor, monkeypatch, own_cache):
    """Rows decide which output is which, and ranges what a target means."""
    picture = editor.synthesize(editor.sample(1), 256)
    before = editor.measure(picture)
    rows = dict(ATTRIBUTES)
    swapped = {"pitch": rows["pitch"], "yaw": rows["yaw"], **rows}
    try:
        ATTRIBUTES.clear()
        ATTRIBUTES.update(swapped)
        read = OnnxBackend().run("reader", picture[None])[0][0]
        read = dict(zip(ATTRIBUTES, read, strict=True))
    finally:
        ATTRIBUTES.clear()
        ATTRIBUTES.update(rows)
    assert read == pytest.approx(before, abs=1e-3) and abs(before["yaw"] - before["pitch"]) > 1


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [cut, empty, flip, remove])
@pytest.mark.parametrize("what", ["engine", "its card", "weights", "their card", "configuration"])
def test_a_damaged_file_is_made_anew(own_cache, monkeypatch, capfd, what, damage):
    def outputs() -> list[np.ndarray]:
        monkeypatch.setattr(cache, "_mapped", {})  # as in a new process
        backend = OnnxBackend()
        return [backend.edit(CODE, {"age": 60.0, "smile": 1.0}), backend.run("generator_128", CODE)[0]]

    expected = outputs()
    engine, weight_file = engine_file("generator_128"), engine_file("editor")
    file = {
        "engine": engine,
        "its card": engine.with_suffix(".json"),
        "weights": weight_file,
        "their card": weight_file.with_suffix(".json"),
        "configuration": configuration_file(("age", "smile")),
    }[what]
    content = file.read_bytes()
    damage(file)
    capfd.readouterr()
    for output, wanted in zip(outputs(), expected, strict=True):
        np.testing.assert_array_equal(output, wanted)
    said = capfd.readouterr().err
    assert said.count("\n") <= 1 and "Traceback" not in said
    if what in ("engine", "weights") and damage is not remove:
        assert file.name in said and "damaged" in said
    if what in ("engine", "weights", "configuration"):
        assert file.read_bytes() == content
    assert not list(own_cache.rglob("*.partial"))


def test_a_copied_cache_is_taken_as_it_is(own_cache, capfd):
    """Its files have other times."""
    file = engine_file("generator_128")
    os.utime(file, (0, 0))
    capfd.readouterr()
    assert engine_file("generator_128").stat().st_mtime == 0 and not capfd.readouterr().err


IN_A_FULL_CACHE = """
import json, resource, sys
import numpy as np
from dystyle import FaceEditor
from dystyle.engines import cache

def run(full):
    limit = 1000 if full else resource.RLIM_INFINITY  # bytes beyond which no file may grow
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    cache._mapped.clear()  # as in a new process
    editor = FaceEditor.from_pretrained(backend=sys.argv[1])
    edited = editor.edit(editor.sample(0), {"age": 60, "beard": 0})
    picture = editor.synthesize(edited, 256)
    scores, boxes = editor.backend.run("detector", picture.transpose(2, 0, 1)[None] / np.float32(255))
    return [float(np.abs(x).sum()) for x in (edited, picture, scores, boxes)]

full = run(True)
print("left:", *sorted(p.name for p in (cache.cache_folder() / "engines").rglob("*") if p.suffix != ".lock"))
empty = run(False)
cache.configuration_file(("age", "beard")).unlink()
print("prebuilt", file=sys.stderr)
prebuilt = run(True)
print(json.dumps([full, empty, prebuilt]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of a file's size")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_engines_work_where_nothing_can_be_written(own_cache, backend):
    """First nothing is there, then all but one configuration is."""
    program = [sys.executable, "-c", IN_A_FULL_CACHE, backend]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    *_, left, results = done.stdout.splitlines()
    full, empty, prebuilt = json.loads(results)
    assert full == pytest.approx(empty, rel=1e-4) and prebuilt == pytest.approx(empty, rel=1e-4)
    assert not [name for name in left.split() if name.endswith((".partial", ".onnx", ".weights"))]
    assert not list(own_cache.rglob("*.partial"))
    before, after = done.stderr.split("prebuilt\n")
    assert before.count("stays in memory") == 4 and not after


def test_engines_work_without_a_folder(own_cache):
    own_cache.write_text("a file where the folder should be")
    edited = OnnxBackend().edit(CODE, {"age": 60.0})
    assert OpenVinoBackend().run("generator_128", edited)[0].shape == (1, 128, 128, 3)
    with pytest.raises(Exception, match="cannot be written") as caught:
        engine_file("generator_128")
    assert "\n" not in str(caught.value)


def test_files_may_be_links(own_cache, monkeypatch, tmp_path):
    """To a store whose files have names of their own, as package managers keep them."""
    expected = OnnxBackend().edit(CODE, {"age": 60.0})
    OnnxBackend().run("generator_128", CODE)
    store = tmp_path / "store"
    for number, file in enumerate(own_cache.iterdir()):
        place = store / str(number) / "content"
        place.parent.mkdir(parents=True)
        place.write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(place)
    monkeypatch.setattr(cache, "_mapped", {})
    backend = OnnxBackend()
    np.testing.assert_array_equal(backend.edit(CODE, {"age": 60.0}), expected)
    assert backend.edit(CODE, {"age": 60.0, "beard": 1.0}).shape == CODE.shape  # a new one
    assert backend.run("generator_128", CODE)[0].shape == (1, 128, 128, 3)
