"""Malformed uploads, made from a seed: each is a file's name and its bytes."""

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


def malformed_uploads(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files: truncated, of a wrong type, of huge dimensions, disguised, and with fuzzed headers."""
    rng = np.random.default_rng(seed)
    kinds = (_truncated, _wrong_type, _huge, _tricks, _fuzzed, _fuzzed)
    for i in range(count):
        kind = FORMATS[i % len(FORMATS)]
        yield f"upload-{i}.{kind.lower()}", kinds[i // len(FORMATS) % len(kinds)](rng, kind)


@functools.cache
def _picture(kind: str) -> bytes:
    """A valid picture of noise, in which nobody is to be seen."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(len(kind)).integers(0, 200, (96, 120, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def _truncated(rng: np.random.Generator, kind: str) -> bytes:
    whole = _picture(kind)
    return whole[: int(rng.integers(0, len(whole) * 0.9))]


def _wrong_type(rng: np.random.Generator, kind: str) -> bytes:
    return [
        rng.bytes(int(rng.integers(1, 4000))),
        b"Dear diary, " * int(rng.integers(1, 300)),
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(r) file showpage",
        b"<html><script>alert(1)</script></html>",
        b"\x7fELF" + rng.bytes(200),
    ][rng.integers(6)]


def _huge(rng: np.random.Generator, kind: str) -> bytes:
    """A header that promises more pixels than any photo has."""
    width, height = (int(side) for side in rng.integers(20_000, 2**31 - 1, 2))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    if kind == "BMP":
        return b"BM" + struct.pack(
            "<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
        )
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + rng.bytes(99)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + rng.bytes(20)
    data = zlib.compress(bytes(100_000))  # a bomb in miniature
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _tricks(rng: np.random.Generator, kind: str) -> bytes:
    """Zips and SVGs under a picture's name, and pictures with something else behind their first bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../photo.png", bytes(500_000))
    entities = '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    return [
        packed.getvalue(),
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><image href='file:///etc/passwd'/></svg>",
        f"<?xml version='1.0'?>{entities}<svg>&b;</svg>".encode(),
        _picture(kind)[:20] + packed.getvalue(),
        b"\x1f\x8b\x08" + rng.bytes(100),
    ][rng.integers(5)]


def _fuzzed(rng: np.random.Generator, kind: str) -> bytes:
    """A valid picture with random bytes in its head."""
    whole = bytearray(_picture(kind))
    for place in rng.integers(0, min(len(whole), 120), int(rng.integers(1, 12))):
        whole[place] = int(rng.integers(256))
    return bytes(whole)
