"""A picture's file with another XMP packet and the same compressed pixels: nothing is encoded again.

JPEG keeps its packet in a segment before the picture (XMP specification, part 3, 1.1.3), WebP in a chunk
behind it (RFC 9649, 2.7.1.5), AVIF as an item that describes the primary one (ISO/IEC 23008-12).
"""

import struct
from collections.abc import Callable, Iterator

_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_TYPE = b"application/rdf+xml"
_ALPHA, _XMP = 0x10, 0x04  # flags of WebP's header


def with_xmp(data: bytes, kind: str, xmp: bytes) -> bytes | None:
    """The same file with an XMP packet in place of its own.

    Args:
        data: a whole file that opens.
        kind: "jpeg", "webp" or "avif"; of others there is nothing that encoding again would lose.
        xmp: for JPEG at most 65,000 bytes.

    Returns:
        None where the kind is another one, or the file is built in a way that is not known here.
    """
    try:
        if kind == "jpeg":
            return _jpeg(data, xmp)
        if kind == "webp":
            return _webp(data, xmp)
        return _avif(data, xmp) if kind == "avif" else None
    except (LookupError, ValueError, StopIteration, struct.error):
        return None


def _jpeg(data: bytes, xmp: bytes) -> bytes:
    parts, at = [data[:2]], 2
    while (marker := data[at + 1]) != 0xDA:  # start of scan
        if data[at] != 0xFF or marker == 0xFF:
            raise ValueError("not a segment")
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not data.startswith(_XMP_SEGMENT, at + 4):
            parts.append(data[at:end])
        at = end
    # Behind JFIF's and EXIF's segments, which come first, and before all that holds distances in the file.
    first = 1
    while first < len(parts) and (parts[first][1] == 0xE0 or parts[first][4:8] == b"Exif"):
        first += 1
    packet = _XMP_SEGMENT + xmp
    parts.insert(first, b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet)
    return b"".join(parts) + data[at:]


def _webp(data: bytes, xmp: bytes) -> bytes:
    chunks = [(name, chunk) for name, chunk in _chunks(data) if name != b"XMP "]
    if chunks[0][0] == b"VP8X":
        header = bytearray(chunks.pop(0)[1])
    else:  # the plain form has no room for metadata
        header = _webp_header(*chunks[0])
    header[0] |= _XMP
    chunks = [(b"VP8X", bytes(header)), *chunks, (b"XMP ", xmp)]
    body = b"".join(
        name + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2) for name, chunk in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def is_lossless_webp(data: bytes) -> bool:
    """Whether a file is a WebP whose pixels are compressed without loss."""
    try:
        return data[:4] == b"RIFF" and any(name == b"VP8L" for name, _ in _chunks(data))
    except struct.error:
        return False


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _webp_header(name: bytes, picture: bytes) -> bytearray:
    """The header for a picture without one, from the picture's own (RFC 9649, 2.5 to 2.7)."""
    if name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", picture, 6))
        alpha = False
    elif name == b"VP8L":
        (bits,) = struct.unpack_from("<I", picture, 1)
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    else:
        raise ValueError("not a picture")
    sides = (struct.pack("<I", side - 1)[:3] for side in (width, height))
    return bytearray([_ALPHA if alpha else 0, 0, 0, 0]) + b"".join(sides)


def _boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the boxes of ISO's container that lie one after the other."""
    at = start
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if length == 0:
            length = len(data) - at
        if length < 8 or at + length > len(data):
            raise ValueError("not a box")
        yield name, data[at + 8 : at + length]
        at += length


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, name) + content


def _avif(data: bytes, xmp: bytes) -> bytes:
    boxes = list(_boxes(data))
    meta = next(content for name, content in boxes if name == b"meta")
    parts = list(_boxes(meta, 4))
    inner = dict(parts)
    items = list(_boxes(inner[b"iinf"], 6))
    versions = [inner[name][0] for name in (b"pitm", b"iinf")] + [item[0] - 2 for _, item in items]
    if any(versions) or len(inner) != len(parts):
        raise ValueError("another form")
    numbers = [int.from_bytes(item[4:6], "big") for _, item in items]
    mine = next((n for n, (_, item) in zip(numbers, items, strict=True) if _XMP_TYPE + b"\0" in item), None)
    if mine is None:
        mine = max(numbers) + 1
        entry = struct.pack(">IHH", 0x02000001, mine, 0) + b"mime\0" + _XMP_TYPE + b"\0"  # 1: not to be shown
        count = struct.pack(">H", len(items) + 1)
        inner[b"iinf"] = inner[b"iinf"][:4] + count + inner[b"iinf"][6:] + _box(b"infe", entry)
        describes = _box(b"cdsc", struct.pack(">HH", mine, 1) + inner[b"pitm"][4:6])
        inner[b"iref"] = inner.get(b"iref", bytes(4)) + describes

    def rebuilt(moved: int, end: int) -> bytes:
        places = _places(inner[b"iloc"], mine, lambda offset: offset + moved, end, len(xmp))
        return meta[:4] + b"".join(
            _box(name, places if name == b"iloc" else content) for name, content in inner.items()
        )

    moved = len(rebuilt(0, 0)) - len(meta)  # everything behind, since the pixels come last
    if [name for name, _ in boxes].index(b"meta") > [name for name, _ in boxes].index(b"mdat"):
        raise ValueError("pixels come first")
    whole = b"".join(
        _box(name, rebuilt(moved, len(data) + moved + 8) if name == b"meta" else content)
        for name, content in boxes
    )
    return whole + _box(b"mdat", xmp)


def _places(iloc: bytes, mine: int, moved: Callable[[int], int], offset: int, length: int) -> bytes:
    """The table of where items lie, with all moved and one put at an offset."""
    version, sizes, bases = iloc[0], iloc[4], iloc[5]
    if version > 1 or sizes != 0x44 or bases not in (0x00, 0x40):
        raise ValueError("another form")
    base_size, at, entries = bases >> 4, 8, []
    for _ in range(int.from_bytes(iloc[6:8], "big")):
        (number,) = struct.unpack_from(">H", iloc, at)
        head = iloc[at : at + (6 if version else 4)]
        at += len(head)
        if version and head[2:4] != b"\0\0":
            raise ValueError("not in the file")
        base = int.from_bytes(iloc[at : at + base_size], "big")
        at += base_size
        (count,) = struct.unpack_from(">H", iloc, at)
        extents = list(struct.iter_unpack(">II", iloc[at + 2 : at + 2 + 8 * count]))
        at += 2 + 8 * count
        entries.append((number, [(moved(base + start), size) for start, size in extents]))
    entries = [entry for entry in entries if entry[0] != mine] + [(mine, [(offset, length)])]
    # Version 0, offsets and lengths of four bytes, no bases.
    result = bytes(4) + b"\x44\x00" + struct.pack(">H", len(entries))
    for number, extents in entries:
        result += struct.pack(">HHH", number, 0, len(extents))
        result += b"".join(struct.pack(">II", *extent) for extent in extents)
    return result
