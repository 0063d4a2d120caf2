"""Refuse picture files that cost far more than they show, from their structure alone.

Pixels bound what a usual file takes to decode. These checks find the others, of which some kilobytes keep a
decoder busy for minutes or fill the memory: they read headers and never a pixel, take milliseconds, and are
far above what cameras and programs write. The decoders' own limits cover the rest: compressed texts and
profiles in a PNG (1 MB each), frames after the first (never read), canvases of WebP and AVIF.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dystyle.errors import InputError

MAX_SCANNED = 1_280_000_000  # pixels times passes over them: 20 scans of 64 megapixels
MAX_PARTS = 10_000  # segments of a JPEG, chunks of a PNG
MAX_TIFF_PARTS = 65_536  # strips or tiles: those of 64 megapixels in tiles of 32 px
MAX_ENTRIES = 4_096  # of TIFF and EXIF directories
MAX_BLOCKS = 16  # of EXIF data in one file
MAX_COMMENT = 65_536  # bytes
MAX_GIF_PARTS = 50_000  # before its first picture
MAX_RUNS = 4_000_000  # pixels of a run-length encoded BMP, which Pillow unpacks in Python
MAX_TILES, MAX_LAYERS = 4_096, 1_024  # of JPEG 2000
MAX_PRECINCTS = 100_000  # each takes a kilobyte
MIN_BLOCK = 16  # px, of code blocks
MAX_TILED = 128_000_000  # pixels of all tiles of a TIFF, with what lies beyond the picture's border

TIFF_STARTS = (
    b"II*\0",
    b"MM\0*",
    b"II\0*",
    b"MM*\0",
    b"II+\0",
    b"MM\0+",
)
JPEG2000_STARTS = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")  # the code stream, and in boxes
# Types of TIFF's values: bytes each.
_SIZES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_DIRECTORIES = (330, 0x8769, 0x8825, 0xA005)  # tags that point at further ones: SubIFDs, EXIF, GPS, interop


def check_structure(data: bytes, pixels: int | None = None) -> None:
    """Check a whole file, of any format; what it is, is told by its first bytes.

    Args:
        pixels: of the picture, once they are known; without them, only what an opened file costs is checked.

    Raises:
        InputError: it would cost too much.
    """
    for start, check in _CHECKS.items():
        if data[: len(start)] == start:
            check(data, pixels)
    if data[4:8] == b"ftyp":  # AVIF: Pillow reads its EXIF block, wherever that is, when it opens the file
        for number, found in enumerate(re.finditer(rb"II\*\0|MM\0\*", data)):
            _limit(number, MAX_BLOCKS, "more than {} EXIF blocks")
            _read_directories(memoryview(data)[found.start() :])


def check_exif(block: bytes) -> None:
    """Check EXIF data or a TIFF file: in honest ones no two values share their bytes.

    Raises:
        InputError: the values are together larger than the data, or there are too many.
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    if block.startswith(TIFF_STARTS):
        _read_directories(block)


def _refuse(what: str) -> None:
    raise InputError(f"The picture takes too much to decode ({what}); save it again with another program.")


def _limit(count: int, most: int, what: str) -> None:
    if count > most:
        _refuse(f"{what.format(count)}, at most {most:,} are accepted")


# ------------------------------------------------------------------------------------------------ JPEG


def _check_jpeg(data: bytes, pixels: int | None) -> None:
    """Every scan is a pass over all pixels."""
    scans, exif = 0, []  # Pillow joins the EXIF data of several segments
    for number, (marker, payload) in enumerate(_jpeg_segments(data)):
        _limit(number, MAX_PARTS, "more than {} segments")
        scans += marker == 0xDA
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            exif.append(payload[6:])
        if scans and not pixels:
            break
    check_exif(b"".join(exif))
    if pixels:
        _limit_scans(scans, pixels)


def _limit_scans(scans: int, pixels: int) -> None:
    # A scan has a cost of its own, too: that of some thousands of pixels.
    _limit(scans, max(MAX_SCANNED // (pixels + 4096), 1), "{:,} scans")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) up to the end of the picture, as libjpeg sees them."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a payload
            continue
        length = max(int.from_bytes(data[at : at + 2], "big"), 2)
        yield marker, data[at + 2 : at + length]
        at += length


_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)


# -------------------------------------------------------------------------------------------- PNG and GIF


def _check_png(data: bytes, pixels: int | None) -> None:
    at, count = 8, 0
    while at + 8 <= len(data):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        count += 1
        _limit(count, MAX_PARTS + len(data) // 1024, "more than {:,} chunks")


def _check_gif(data: bytes, pixels: int | None) -> None:
    """Pillow joins the comments before the first picture, each time copying what it has."""
    flags, comment, parts = _unpack("B", data, 10), 0, 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    while data[at : at + 1] not in (b",", b";", b""):
        parts += 1
        _limit(parts, MAX_GIF_PARTS, "more than {:,} parts before the picture")
        if data[at] != 0x21:  # not an extension: passed over
            at += 1
            continue
        start, is_comment, at = at, data[at + 1 : at + 2] == b"\xfe", at + 2
        while size := _unpack("B", data, at):
            at, parts = at + size + 1, parts + 1
        at += 1
        comment += at - start if is_comment else 0
    _limit(comment, MAX_COMMENT, "comments of {:,} bytes")


# ------------------------------------------------------------------------------------------- BMP and TIFF


def _check_bmp(data: bytes, pixels: int | None) -> None:
    if pixels and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        _limit(pixels, MAX_RUNS, "{:,} run-length encoded pixels")


def _check_tiff(data: bytes, pixels: int | None) -> None:
    tags = _read_directories(data)

    def tag(number: int, missing: int = 0) -> int:
        return tags[number].value if number in tags else missing

    parts = max(tags[offsets].count if offsets in tags else 0 for offsets in (273, 324))
    _limit(parts, MAX_TIFF_PARTS, "{:,} strips or tiles")
    if not pixels:
        return
    width, height, across, down = (tag(number) for number in (256, 257, 322, 323))
    part = width * min(tag(278, height), height)
    if across and down:
        part = across * down
        _limit(-(-width // across) * -(-height // down) * part, MAX_TILED, "{:,} pixels of tiles")
    if tag(259) in (6, 7):  # JPEG inside, of which libtiff decodes up to a hundred scans a part
        _limit_scans(data.count(b"\xff\xda"), part)


class _Entry(NamedTuple):
    count: int
    value: int  # the first one of a whole number's


def _read_directories(data: bytes | memoryview) -> dict[int, _Entry]:
    """The first directory's entries by their tags; the sizes of all directories' values are checked.

    Raises:
        InputError: there are too many entries, or their values lie on top of each other.
    """
    order, large = "<>"[data[:2] == b"MM"], data[2] == 43
    head, entry, pointer, inline = ("Q", "HHQ", "Q", 8) if large else ("H", "HHI", "I", 4)
    head, entry, pointer = order + head, order + entry, order + pointer
    first: dict[int, _Entry] = {}
    waiting, seen, total, entries = [_unpack(pointer, data, inline)], {0}, 0, 0
    while waiting:
        at = waiting.pop(0)
        if at in seen:
            continue
        seen.add(at)
        count = _unpack(head, data, at)
        at += struct.calcsize(head)
        entries += count
        _limit(entries, MAX_ENTRIES, "directories of {:,} entries")
        for _ in range(count):
            if at + struct.calcsize(entry) + inline > len(data):
                break
            tag, kind, number = struct.unpack_from(entry, data, at)
            at += struct.calcsize(entry)
            size, place = number * _SIZES.get(kind, 0), at
            at += inline
            if size > inline:
                place = _unpack(pointer, data, place)
                # One that reaches beyond the end is where Pillow stops reading.
                total += size if place + size <= len(data) else 0
            if total > len(data) + MAX_COMMENT:
                _refuse("the values of its directories lie on top of each other")
            value = _unpack(order + _INTEGERS[kind], data, place) if kind in _INTEGERS else 0
            if len(seen) == 2:
                first[tag] = _Entry(number, value)
            if tag in _DIRECTORIES:
                waiting.append(value)
        waiting.append(_unpack(pointer, data, at))
    return first


def _unpack(form: str, data: bytes | memoryview, at: int) -> int:
    """One number; 0 beyond the end."""
    return struct.unpack_from(form, data, at)[0] if at + struct.calcsize(form) <= len(data) else 0


# -------------------------------------------------------------------------------------------- JPEG 2000


def _check_jpeg2000_boxes(data: bytes, pixels: int | None) -> None:
    """Find the code stream in the boxes of a JP2 file."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"jp2c":
            return _check_jpeg2000(data[at + (16 if size == 1 else 8) :], pixels)
        size = _unpack(">Q", data, at + 8) if size == 1 else size
        if size < 8:
            return
        at += size


def _check_jpeg2000(data: bytes, pixels: int | None) -> None:
    """OpenJPEG makes tables for every tile and precinct before it reads their data."""
    at, part, width, height, tiles = 2, (0, 0), 0, 0, 0
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        payload = data[at + 4 : at + 2 + length]
        if marker == 0xFF90:  # a tile's part: its length is counted from here
            part = at, _unpack(">I", data, at + 6)
        elif marker == 0xFF93:
            if part[1] < 12:  # the last part may leave its length out
                return
            at = sum(part)
            continue
        elif marker == 0xFFD9:
            return
        elif marker == 0xFF51 and len(payload) >= 36:
            right, bottom, left, top, across, down = struct.unpack_from(">6I", payload, 2)
            width, height = min(right - left, across), min(bottom - top, down)
            tiles = -(-(right - left) // max(across, 1)) * -(-(bottom - top) // max(down, 1))
            _limit(tiles, MAX_TILES, "{:,} tiles")
            tiles *= min(_unpack(">H", payload, 34), 4)
        elif marker == 0xFF52 and len(payload) >= 10:
            _limit(_unpack(">H", payload, 2), MAX_LAYERS, "{:,} layers")
            _check_coding(payload[0], payload[5:], width, height, tiles)
        elif marker == 0xFF53 and len(payload) >= 7:
            _check_coding(payload[1], payload[2:], width, height, tiles)
        elif not 0xFF50 <= marker <= 0xFF78:
            return _refuse("its code stream is damaged")
        at += 2 + length


def _check_coding(style: int, coding: bytes, width: int, height: int, tiles: int) -> None:
    """A tile's coding: its levels, its code blocks, and the precincts of every level if `style` says so."""
    levels = min(coding[0], 32)
    smallest = 1 << 2 + min(coding[1] & 15, coding[2] & 15)
    if smallest < MIN_BLOCK:
        _refuse(f"code blocks of {smallest} px, at least {MIN_BLOCK} are accepted")
    if style & 1:
        count = 0
        for level, size in enumerate(coding[5 : 6 + levels]):
            across, down = (1 << levels - level + bits for bits in (size & 15, size >> 4))
            count += -(-width // across) * -(-height // down)
        _limit(count * tiles, MAX_PRECINCTS, "{:,} precincts")


_CHECKS = {
    b"\xff\xd8": _check_jpeg,
    b"\x89PNG": _check_png,
    b"GIF8": _check_gif,
    b"BM": _check_bmp,
    **dict.fromkeys(TIFF_STARTS, _check_tiff),
    **dict(zip(JPEG2000_STARTS, (_check_jpeg2000, _check_jpeg2000_boxes), strict=True)),
}
