"""Edit thousands of pictures: python -m dystyle.batch photos/ --set age=60 --out older/.

Photos come from folders, WebDataset shards, Parquet files or addresses that fsspec knows; or they are of
random people (`--people 10000 --vary yaw age`). What is written is a folder or such an address, too:

- the pictures, under the photos' names;
- `manifest.jsonl`, a line a picture: what it was made from, what it was edited to, and what the networks that
  measure read before and after;
- `failed.jsonl`, a line for every photo that could not be edited, with the reason;
- `rows/` and `failed/`, of which these two are made: a file for every photo that is done with. The same
  command goes on with those that have none, however the last one ended;
- `batch.json`, the options, which have to stay the same for that.
"""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import tyro
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from dystyle import provenance
from dystyle.attributes import ATTRIBUTES, validate_configuration
from dystyle.cores import CORES, cores
from dystyle.edit import EditOptions, edited_portrait, result_names
from dystyle.errors import InputError
from dystyle.originals import Original
from dystyle.pictures import SAVED, kind_of, write_file
from dystyle.pipeline import FaceEditor
from dystyle.provenance import Credit
from dystyle.sources import Photo, TablePhoto, find_photos, open_place

ROWS, FAILED, SETTINGS = "rows", "failed", "batch.json"
MANIFEST, REPORT = "manifest.jsonl", "failed.jsonl"
AT_ONCE = 1000  # rows read together
DIGITS = 4  # of readings


@dataclass(frozen=True, kw_only=True)
class BatchConfig(EditOptions):
    """Edit the largest face of every photo of a set, or random people.

    Attributes:
        source: a folder with its subfolders, a shard (.tar), a Parquet file, a pattern of them ("set-*.tar"),
            or the address of one that fsspec knows (s3://bucket/folder).
        out: a folder, or the address of one, which keeps what is done.
        people: so many random people instead of photos.
        seed: of the first person, and of what --vary draws.
        vary: attributes that get a target of their own in every picture, drawn where faces can follow.
        variants: pictures of each face, with --vary.
        format: of the pictures; without it PNG, or with --paste the photos' own.
        column: of Parquet files, that holds the pictures.
        processes: that edit at once, each with its share of the cores and about a gigabyte of memory;
            0: one for every two cores.
        retry: try again what could not be edited.
    """

    source: Annotated[str | None, tyro.conf.Positional] = None
    out: str
    people: int | None = None
    seed: int = 0
    vary: tuple[str, ...] = ()
    variants: int = 1
    format: Literal["png", "jpeg", "webp", "avif", "tiff"] | None = None
    column: str = "image"
    processes: int = 0
    retry: bool = False


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist.

    Attributes:
        name: as `dystyle.sources.Photo.name`.
        seed: as `FaceEditor.sample` takes it.
    """

    name: str
    seed: int


@dataclass(frozen=True)
class Job:
    """A face and where its pictures go, one for each variant."""

    face: Photo | TablePhoto | Person
    pictures: tuple[str, ...]


class Store:
    """A folder that results are written to, here or at an address.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, address: str) -> None:
        self.place, self.root = open_place(address)
        self.root = self.root.rstrip("/")

    def write(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all where the place can do that, as disks and object stores can.

        Raises:
            InputError: it cannot be written.
        """
        path = f"{self.root}/{name}"
        if isinstance(self.place, LocalFileSystem):
            write_file(content, Path(path))
            return
        try:
            self.place.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.place.pipe_file(path, content)
        except OSError as error:
            raise InputError(f"'{path}' could not be written ({error}); check the address.") from error

    def read(self, names: Sequence[str]) -> list[bytes]:
        """Files' contents, in this order; of those that are missing none."""
        paths = [f"{self.root}/{name}" for name in names]
        found = self.place.cat(paths, on_error="omit") if paths else {}
        return [found[path] for path in paths if path in found]

    def names(self, folder: str) -> list[str]:
        """The files in a folder and its subfolders, by their names in it, in order; none if it is missing."""
        start = f"{self.root}/{folder}/"
        return sorted(path.removeprefix(start) for path in self.place.find(start.rstrip("/")))


class Worker:
    """Edits one face at a time, and writes its pictures and what there is to say about them.

    Raises:
        InputError: the options ask for what is not there.
    """

    def __init__(self, config: BatchConfig, place: AbstractFileSystem | None) -> None:
        self.config, self.place = config, place
        self.editor, self.target = config.open()
        check_variety(config, self.editor)
        self.store = Store(config.out)

    def __call__(self, job: Job) -> bool:
        """Whether it could be edited. What went wrong becomes a row, since others are waiting."""
        row, done = {"photo": job.face.name}, True
        try:
            rows = [*self._edit(job)]
        except (InputError, OSError) as error:
            rows, done = [row | {"error": str(error)}], False
        except Exception as error:
            row["error"] = f"Something unexpected happened ({type(error).__name__}: {error})."
            rows, done = [row | {"traceback": traceback.format_exc()}], False
        self.store.write(f"{ROWS if done else FAILED}/{row_name(job.face.name)}", json_lines(rows))
        return done

    def _edit(self, job: Job) -> Iterator[dict]:
        """The row of each picture, once it is written."""
        editor, config, original, remarks = self.editor, self.config, None, ()
        if isinstance(job.face, Person):
            face, code = None, editor.sample(job.face.seed, config.truncation)
            unedited, origin = editor.synthesize(code), {"seed": job.face.seed}
        else:
            original = Original.open(job.face.read(self.place))
            face = editor.invert(original.rgb, config.refine)
            unedited, code, remarks = face.portrait, face.code, face.remarks
            origin = {"photo": job.face.name}
        before = editor.measure(unedited)
        for variant, picture in enumerate(job.pictures):
            target = self.target | draw(config.vary, (config.seed, variant), job.face.name)
            target = validate_configuration(target, editor.attributes)
            portrait = edited_portrait(editor, code, face, target, config.looks)
            after = editor.measure(portrait)
            whole = editor.paste(portrait, face, original.rgb) if config.paste else portrait
            credit = Credit(target, photographed=face is not None, model=editor.model)
            kind, beneath = kind_of(Path(picture)), original if config.paste else None
            self.store.write(picture, provenance.encode(whole, kind, credit, original=beneath))
            notes = [*remarks, *([beneath.note(kind)] if beneath and beneath.note(kind) else [])]
            readings = {"before": rounded(before), "after": rounded(after), "remarks": notes}
            yield origin | {"picture": picture, "set": target} | readings | {"model": editor.model}


def check_variety(config: BatchConfig, editor: FaceEditor) -> None:
    """Find out before the work whether --vary can be drawn.

    Raises:
        InputError: it names what the editor cannot change, or what --set sets.
    """
    target = {name: ATTRIBUTES[name].low for name in config.vary if name in ATTRIBUTES}
    validate_configuration({name: 0.0 for name in config.vary} | target, editor.attributes)
    given = {pair.partition("=")[0].strip() for pair in config.set}
    if both := [name for name in config.vary if name in given]:
        raise InputError(f"'{both[0]}' is in --set and in --vary; leave it out of one of them.")


def draw(names: Sequence[str], key: tuple[int, int], name: str) -> dict[str, float]:
    """Random targets for these attributes; the same for the same key and face.

    Numbers are drawn evenly from where faces can follow (`Attribute.evaluated`), the others are 0 or 1.
    """
    rng = np.random.default_rng((*key, zlib.crc32(name.encode())))
    return {
        row.name: float(rng.integers(2)) if row.kind == "binary" else round(rng.uniform(*row.evaluated), 2)
        for row in (ATTRIBUTES[name] for name in names)
    }


def rounded(readings: dict[str, float]) -> dict[str, float]:
    """Readings with as many digits as mean anything."""
    return {name: round(value, DIGITS) for name, value in readings.items()}


def row_name(face: str) -> str:
    """What tells that a face is done with, in `ROWS` or `FAILED`."""
    return f"{face}.jsonl"


def json_lines(rows: Sequence[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def find_jobs(config: BatchConfig) -> tuple[AbstractFileSystem | None, list[Job]]:
    """Where the photos lie, and all that is to be done, whatever was done before.

    Raises:
        InputError: there are no photos, or the options do not fit together.
    """
    if (config.source is None) == (config.people is None):
        raise InputError("Give either a source of photos or --people COUNT.")
    if config.people is not None and (config.people < 1 or config.seed < 0 or config.paste):
        raise InputError("--people takes a number from 1 on, a --seed from 0 on, and no --paste.")
    if config.variants < 1 or (config.variants > 1 and not config.vary):
        raise InputError("--variants takes a number from 1 on, and above 1 what is to differ: --vary.")
    place, faces = None, []
    if config.people is None:
        place, faces = find_photos(config.source, config.column)
        check_apart(config)
    else:
        faces = [Person(f"{seed:07}", seed) for seed in range(config.seed, config.seed + config.people)]
    own_format = config.paste and config.format is None
    names = [PurePosixPath(face.name) for face in faces]
    if isinstance(faces[0], (Person, TablePhoto)):
        names = [name.with_name(f"{name.name}.png") for name in names]
    ending = SAVED[config.format or "png"].endings[0]
    results = result_names(names, own_format, ending)
    return place, [
        Job(face, tuple(variants(name, config.variants))) for face, name in zip(faces, results, strict=True)
    ]


def variants(name: PurePosixPath, count: int) -> list[str]:
    """anna.png, or of several anna-0.png, anna-1.png, ..."""
    return [str(name)] if count == 1 else [str(name.with_stem(f"{name.stem}-{i}")) for i in range(count)]


def check_apart(config: BatchConfig) -> None:
    """Results among the photos would be edited the next time.

    Raises:
        InputError: --out is the source's folder, or lies in it.
    """
    (place, root), (_, source) = open_place(config.out), open_place(config.source)
    if place.isdir(source) and f"{root.rstrip('/')}/".startswith(f"{source.rstrip('/')}/"):
        raise InputError(f"'{config.out}' lies among the photos; give a folder beside them as --out.")


def check_settings(config: BatchConfig, store: Store) -> None:
    """Write down what shapes the results, or find that those which are there were made in the same way.

    Raises:
        InputError: they were not.
    """
    beside = ("out", "people", "processes", "retry", "backend", "url", "device")
    wanted = json.dumps({key: x for key, x in asdict(config).items() if key not in beside}, indent=2)
    (found,) = store.read([SETTINGS]) or [b""]
    if not found:
        store.write(SETTINGS, f"{wanted}\n".encode())
    elif found.decode(errors="replace").strip() != wanted:
        raise InputError(
            f"'{config.out}' holds another batch, see {SETTINGS} there; give its options, or another --out."
        )


def edit_all(worker: Worker, jobs: Sequence[Job]) -> Iterator[bool]:
    """Whether each could be edited, as they come; all in this process, or in several that share the cores.

    Raises:
        InputError: one of the processes has come to an end.
    """
    config = worker.config
    count = min(config.processes or max(1, cores() // 2), len(jobs))
    if count <= 1:
        yield from map(worker, jobs)
        return
    context, queue = multiprocessing.get_context("spawn"), iter(jobs)
    with (
        _cores_for_each(count),
        ProcessPoolExecutor(count, context, _start, (config, worker.place)) as pool,
    ):
        try:
            waiting: set[Future[bool]] = {
                pool.submit(_edit, job) for job in itertools.islice(queue, 2 * count)
            }
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                waiting |= {pool.submit(_edit, job) for job in itertools.islice(queue, len(done))}
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "One of the processes was ended, as happens for want of memory; the same command goes on, "
                "maybe with fewer --processes."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _cores_for_each(count: int) -> Iterator[None]:
    """Tell the processes that begin meanwhile how many cores each may use."""
    before = os.environ.get(CORES)
    os.environ[CORES] = str(max(1, cores() // count))
    try:
        yield
    finally:
        os.environ.pop(CORES)
        if before is not None:
            os.environ[CORES] = before


_workers: list[Worker] = []  # in each of several processes its own


def _start(config: BatchConfig, place: AbstractFileSystem | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the first process's to say when to stop
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # nobody would take what is done, and the next start would do it, too

    threading.Thread(target=end_with_parent, daemon=True).start()
    _workers.append(Worker(config, place))


def _edit(job: Job) -> bool:
    return _workers[0](job)


def write_reports(store: Store) -> tuple[int, int]:
    """Put the rows together; how many faces could be edited, and could not.

    Raises:
        InputError: as `Store.write`.
    """
    done, failed = store.names(ROWS), store.names(FAILED)
    failed = sorted({*failed} - {*done})  # what was tried again
    for report, folder, names in ((MANIFEST, ROWS, done), (REPORT, FAILED, failed)):
        parts = [f"{folder}/{name}" for name in names]
        read = (store.read(parts[i : i + AT_ONCE]) for i in range(0, len(parts), AT_ONCE))
        store.write(report, b"".join(itertools.chain.from_iterable(read)))
    return len(done), len(failed)


def run(config: BatchConfig) -> str:
    """Edit what has not been edited; returns one sentence about all that is there now.

    Raises:
        InputError: bad options, nothing to edit, or nowhere to write to; not for a single bad picture.
    """
    place, jobs = find_jobs(config)
    worker = Worker(config, place)
    check_settings(config, worker.store)
    over = {*worker.store.names(ROWS), *(() if config.retry else worker.store.names(FAILED))}
    todo = [job for job in jobs if row_name(job.face.name) not in over]
    failed = 0
    with tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="face", smoothing=0) as bar:
        for good in edit_all(worker, todo):
            failed += not good
            bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
            bar.update()
    done, failed = write_reports(worker.store)
    return f"{done} edited, see {MANIFEST}; {failed} could not be, see {REPORT}, in '{config.out}'."


def main() -> None:
    try:
        print(run(tyro.cli(BatchConfig, prog="python -m dystyle.batch", description=__doc__)))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
