"""Where many photos come from: folders, WebDataset shards, Parquet files, here or at an address of fsspec.

A photo is a place from which its file is read when its turn comes; places are small, and can be handed to
other processes.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import fsspec
from fsspec import AbstractFileSystem

from dystyle.errors import InputError, needed
from dystyle.pictures import ENDINGS, MAX_BYTES, is_named_like_a_picture

SHARD, TABLE = ".tar", ".parquet"


@dataclass(frozen=True)
class Photo:
    """A picture's file, by itself or in a shard.

    Attributes:
        name: unlike that of any other photo of the source, with "/" between folders.
        path: the file's, or the shard's.
        start: where it begins in the shard.
        size: bytes, where they are known.
    """

    name: str
    path: str
    start: int | None = None
    size: int | None = None

    def read(self, place: AbstractFileSystem) -> bytes:
        """The file's bytes.

        Raises:
            InputError: it is too large for a picture.
            OSError: it cannot be read.
        """
        if (self.size or 0) > MAX_BYTES:
            raise InputError(f"The file is too large; use one of at most {MAX_BYTES // 10**6} MB.")
        end = None if self.start is None or self.size is None else self.start + self.size
        return place.cat_file(self.path, self.start, end)


@dataclass(frozen=True)
class TablePhoto:
    """A picture in a row of a Parquet file.

    Attributes:
        name: as `Photo.name`.
        path: the file's.
        column: holds pictures' files as bytes, or, as Hugging Face's data sets do, as `{"bytes": ...}`.
        group, row: the row group, and the row in it.
    """

    name: str
    path: str
    column: str
    group: int
    row: int

    def read(self, place: AbstractFileSystem) -> bytes:
        """As `Photo.read`."""
        value = _row_group(place, self.path, self.column, self.group)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"The column '{self.column}' holds no picture's bytes in this row.")
        return data


def find_photos(source: str, column: str = "image") -> tuple[AbstractFileSystem, list[Photo | TablePhoto]]:
    """Where the photos of a source lie, and they, in the order of their names.

    Args:
        source: a path, or an address such as `s3://bucket/folder`: a picture, a shard (.tar), a Parquet file,
            a folder with any of these in it or in its subfolders, or a pattern of them (`set-*.tar`).
        column: of Parquet files.

    Raises:
        InputError: nothing is there, it cannot be read, or it is damaged.
    """
    place, root = open_place(source)
    with _readable(source):
        pattern, whole = "*" in root, place.isfile(root)
        if whole:
            found = {root: place.info(root)}
        else:
            found = place.glob(root, detail=True) if pattern else place.find(root, detail=True)
        folder = root.split("*")[0] if pattern else root
        folder = folder.rpartition("/")[0] if pattern or whole else folder.rstrip("/")
        photos: list[Photo | TablePhoto] = []
        for path, facts in sorted(found.items()):
            name = path[len(folder) :].lstrip("/") if folder else path
            if name.lower().endswith(SHARD):
                photos += _in_shard(place, path, name[: -len(SHARD)])
            elif name.lower().endswith(TABLE):
                photos += _in_table(place, path, name[: -len(TABLE)], column)
            elif is_named_like_a_picture(name):
                photos.append(Photo(name, path, size=facts.get("size")))
    if not photos:
        raise InputError(
            f"'{source}' holds no pictures ({', '.join(sorted(ENDINGS))}, also in {SHARD} and {TABLE} files)."
        )
    return place, photos


def open_place(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or address, and what it calls it.

    Raises:
        InputError: nothing here speaks that protocol.
    """
    try:
        return fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InputError(f"'{address}' cannot be opened ({error}).") from error


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"'{source}' cannot be read ({error}); check the path or address.") from error


def _in_shard(place: AbstractFileSystem, path: str, name: str) -> Iterator[Photo]:
    """The pictures of a tar file, of which only the headers are read."""
    with place.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as shard:
        for member in shard:
            # A name with ".." counts as hidden, and so none leads out of the folder of the results.
            if member.isfile() and is_named_like_a_picture(member.name):
                inside = member.name.lstrip("/")
                yield Photo(f"{name}/{inside}", path, member.offset_data, member.size)


def _in_table(place: AbstractFileSystem, path: str, name: str, column: str) -> Iterator[TablePhoto]:
    """The rows of a Parquet file."""
    with _table(place, path) as table:
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise InputError(f"'{path}' has no column '{column}'; choose one by --column: {names}.")
        groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    for group, rows in enumerate(groups):
        before = sum(groups[:group])
        yield from (TablePhoto(f"{name}/{before + i:07}", path, column, group, i) for i in range(rows))


@contextmanager
def _table(place: AbstractFileSystem, path: str):
    with needed("pyarrow", f"Reading '{path}'"):
        import pyarrow.parquet
    with place.open(path, "rb") as file:
        try:
            yield pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"'{path}' is no Parquet file, or damaged ({error}).") from error


@lru_cache(maxsize=1)
def _row_group(place: AbstractFileSystem, path: str, column: str, group: int):
    """A column's part of a row group: the smallest piece of a Parquet file that can be read."""
    with _table(place, path) as table:
        return table.read_row_group(group, columns=[column]).column(column)
