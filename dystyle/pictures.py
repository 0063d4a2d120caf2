"""Picture files: which formats there are, reading them as they are meant to be seen, and writing them.

Files come from strangers. Pillow is told which formats to open, since a file may name any of its forty
readers, some of which open further pictures inside or start other programs; and `dystyle.picture_limits`
refuses files that cost far more than they show.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from dystyle.errors import InputError
from dystyle.picture_limits import JPEG2000_STARTS, TIFF_STARTS, check_exif, check_structure

MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
MIN_SIDE = 64
MAX_BYTES = 600_000_000  # what 64 megapixels of four 16-bit numbers take uncompressed, and some more


@dataclass(frozen=True)
class Format:
    """A format of picture files.

    Attributes:
        reader: Pillow's name of it.
        endings: of file names, the usual one first.
        media_type: its MIME type.
        options: how it is written; None where it is only read, since it has no place for XMP metadata.
        modes: Pillow's names of the kinds of pixels that can be written.
        package: the plug-in that teaches Pillow to read it, which need not be installed.
    """

    reader: str
    endings: tuple[str, ...]
    media_type: str
    options: dict[str, object] | None = None
    modes: tuple[str, ...] = ()
    package: str = ""


# All that is accepted. What phones write as MPO is JPEG with more pictures behind it, and opens as that.
FORMATS = {
    "png": Format("PNG", (".png",), "image/png", {"compress_level": 1}, ("L", "LA", "RGB", "RGBA", "I;16")),
    "jpeg": Format(
        "JPEG",
        (".jpg", ".jpeg", ".jfif", ".mpo"),
        "image/jpeg",
        {"quality": 95, "subsampling": 0},
        ("L", "RGB", "CMYK"),
    ),
    "webp": Format("WEBP", (".webp",), "image/webp", {"quality": 95}, ("RGB", "RGBA")),
    "avif": Format("AVIF", (".avif",), "image/avif", {"quality": 90}, ("RGB", "RGBA")),
    "tiff": Format(
        "TIFF",
        (".tif", ".tiff"),
        "image/tiff",
        {"compression": "tiff_adobe_deflate"},
        ("L", "LA", "RGB", "RGBA", "CMYK", "I;16"),
    ),
    "gif": Format("GIF", (".gif",), "image/gif"),
    "bmp": Format("BMP", (".bmp",), "image/bmp"),
    "jpeg2000": Format("JPEG2000", (".jp2", ".j2k", ".jpf", ".jpx"), "image/jp2"),
    "heic": Format("HEIF", (".heic", ".heif", ".hif"), "image/heic", package="pillow-heif"),
}
READERS = tuple(entry.reader for entry in FORMATS.values() if not entry.package)
ENDINGS = tuple(ending for entry in FORMATS.values() for ending in entry.endings)
SAVED = {kind: entry for kind, entry in FORMATS.items() if entry.options is not None}
# How files begin, but for those that are found by their container's kind.
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", *TIFF_STARTS, *JPEG2000_STARTS)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
STRIP = 256  # rows
_XMP_TAG = 700  # of TIFF


# --------------------------------------------------------------------------------------------- reading


def load_image(source, smallest: int = MIN_SIDE) -> np.ndarray:
    """Read a photo as it is meant to be seen: uint8 RGB (height, width, 3).

    EXIF orientation and colour profile are applied, transparency goes over white, grey, palette, CMYK and
    16-bit pictures become 8-bit RGB, and of an animation the first frame is taken.

    Args:
        source: a path, an open binary file, the bytes of a file, a PIL image (as it is: a file opened
            elsewhere is not checked), or a uint8 array of shape (height, width) or
            (height, width, 1 | 3 | 4). An RGB array is returned without a copy.
        smallest: least side in pixels.

    Raises:
        InputError: the source is missing, is not a picture, is damaged, has a side below `smallest` or above
            16,384 px, more than 64 megapixels, or takes far more to decode than it shows. All is checked
            before any pixel is decoded.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, smallest)
    with open_picture(source, smallest) as picture:
        return to_rgb(upright(picture, own=picture is not source))


def is_named_like_a_picture(name: str | os.PathLike[str]) -> bool:
    """Whether a file is taken for a picture: by its ending; hidden ones and macOS's own are none.

    Args:
        name: within the folder that is looked through, whose own path does not count.
    """
    path = PurePath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in ENDINGS and not hidden


def is_picture(start: bytes) -> bool:
    """Whether a file that begins with these bytes (12 or more) may be of an accepted format."""
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"mif1", b"msf1", *_HEIC))
    )


@contextmanager
def open_picture(source, smallest: int = MIN_SIDE) -> Iterator[Image.Image]:
    """Open a picture for as long as the pixels are read, with the checks and errors of `load_image`.

    Only the structure is read at first; what its decoder raises inside is turned into an `InputError`, too.
    """
    try:
        picture = source if isinstance(source, Image.Image) else _opened(source)
        _check_size(*picture.size, smallest)
        yield picture
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large("The picture")) from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError("The picture is damaged or incomplete; save it again or use another one.") from error


def _opened(source) -> Image.Image:
    name, data = read_file(source)
    check_structure(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=_readers(name, data))
    except Image.UnidentifiedImageError:
        raise InputError(f"{name} is not a picture; use JPEG, PNG or WebP.") from None
    check_exif(_exif(picture))
    check_structure(data, picture.width * picture.height)
    return picture


def _readers(name: str, data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may be of.

    Raises:
        InputError: its format's plug-in is not installed.
    """
    # The container of AVIF and HEIC says what it is, and then what else it may be taken for.
    brands = [data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4], "big"), 256), 4))]
    if data[4:8] != b"ftyp" or not any(brand in _HEIC for brand in brands):
        return READERS
    heic = FORMATS["heic"]
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"{name} is in HEIC, which takes a package (pip install {heic.package}); or save it as JPEG."
        ) from None
    register_heif_opener()
    return (heic.reader,)


def read_file(source) -> tuple[str, bytes]:
    """What to call a source, a path, file object or bytes, and the bytes of its file.

    Raises:
        InputError: it is missing, empty, too large, or none of these.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "The data", bytes(source)
    if isinstance(source, (str, os.PathLike)):
        path, name = os.fspath(source), f"'{os.fspath(source)}'"
        if os.path.isdir(path):
            raise InputError(f"{name} is a folder; give the path of a picture.")
        if not os.path.isfile(path):
            raise InputError(f"There is no file {name}; check the path.")
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except PermissionError:
            raise InputError(f"{name} cannot be read; check its permissions.") from None
        if not data:
            raise InputError(f"{name} is an empty file; use another picture.")
    elif hasattr(source, "read"):
        name = "The file"
        source.seek(0)
        data = source.read(MAX_BYTES + 1)
        if not isinstance(data, bytes):
            raise InputError(f"{name} is not a picture; open it in binary mode.")
    else:
        raise InputError(f"A {type(source).__name__} is not a photo; give a path, a file, bytes or an image.")
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is too large; use one of at most {MAX_BYTES // 10**6} MB.")
    return name, data


def _exif(picture: Image.Image) -> bytes:
    """A picture's EXIF data where Pillow finds it; some old PNGs have it as text."""
    if isinstance(text := picture.info.get("Raw profile type exif"), str):
        return bytes.fromhex("".join(text.split("\n")[3:]))
    return picture.info.get("exif") or b""


def upright(picture: Image.Image, own: bool) -> Image.Image:
    """A picture turned as its EXIF data say; one of our own is turned itself, and is not held twice."""
    if not own:
        return ImageOps.exif_transpose(picture)
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def to_rgb(picture: Image.Image) -> np.ndarray:
    """An upright picture as it is meant to be seen: uint8 RGB (height, width, 3)."""
    profile = picture.info.get("icc_profile")
    if picture.mode[0] in "IF":
        picture = to_8_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if profile and picture.mode in ("RGB", "CMYK"):
        picture = _to_srgb(picture, profile)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    # Strip by strip: Pillow hands a picture over as bytes, twice, and 64 megapixels are 200 MB each time.
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, STRIP):
        bottom = min(top + STRIP, picture.height)
        pixels[top:bottom] = picture.crop((0, top, picture.width, bottom))
    return pixels


def to_8_bit(picture: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as L, or as LA where one of its numbers stands for transparency.

    They are 16-bit numbers, or others in 0..65535, 0..255 or 0..1.
    """
    values, clear = np.asarray(picture), picture.info.get("transparency")
    top = values.max()
    if values.dtype.itemsize == 2 or top > 255:
        scale = 1 / 257
    else:
        scale = 255 if values.dtype.kind == "f" and top <= 1 else 1
    grey = np.clip(np.rint(np.nan_to_num(values.astype(np.float32)) * scale), 0, 255).astype(np.uint8)
    if clear is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.dstack((grey, np.where(values == clear, 0, 255).astype(np.uint8))))


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Phones save Display P3 and print shops CMYK: their numbers mean other colours than sRGB's."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture  # a broken profile, or one for another kind of picture: the plain numbers are close


def _array_to_rgb(array: np.ndarray, smallest: int) -> np.ndarray:
    if array.dtype != np.uint8:
        raise InputError(f"An image array must be uint8 with values 0..255, not {array.dtype}.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InputError(f"An image array must be (height, width) or (height, width, 3), not {array.shape}.")
    _check_size(array.shape[1], array.shape[0], smallest)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 4:
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(array)


def _check_size(width: int, height: int, smallest: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(_too_large(f"The picture of {width} x {height} px"))
    if min(width, height) < smallest:
        raise InputError(f"The picture of {width} x {height} px is too small; both sides need {smallest} px.")


def _too_large(what: str) -> str:
    return (
        f"{what} is too large; use one of at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} px a side."
    )


# --------------------------------------------------------------------------------------------- writing


def encode_picture(image: np.ndarray | Image.Image, kind: str, xmp: bytes = b"", **options: object) -> bytes:
    """A picture, uint8 RGB (height, width, 3) or of a mode of the format, as a file of a format of `SAVED`.

    Args:
        xmp: an XMP packet to put into it.
        options: of Pillow's writer, beside those of the format.

    Raises:
        InputError: another format.
    """
    if kind not in SAVED:
        raise InputError(f"format = {kind!r} is unknown; choose from {', '.join(SAVED)}.")
    options = SAVED[kind].options | options
    if xmp and kind == "png":  # Pillow takes XMP itself only for the others
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp and kind == "tiff":  # one directory holds all
        directory = Image.Exif()
        directory.load(options.get("exif") or b"")
        directory[_XMP_TAG] = xmp
        options["exif"] = directory
        if directory.keys() & {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}:
            options["compression"] = "raw"  # with libtiff, Pillow writes no directory inside
    elif xmp:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, SAVED[kind].reader, **options)
    return buffer.getvalue()


def kind_of(path: Path) -> str:
    """The format that a file name's ending asks for.

    Raises:
        InputError: one that is not written.
    """
    for kind, entry in SAVED.items():
        if path.suffix.lower() in entry.endings:
            return kind
    endings = ", ".join(entry.endings[0] for entry in SAVED.values())
    raise InputError(f"'{path}' cannot be written; name a file that ends in one of {endings}.")


def check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written there; its folder is made.

    Raises:
        InputError: a folder that cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(
        f"'{path}' could not be written ({error.strerror or error}); name a file in a folder that can be "
        "written to and has room."
    )


def write_file(encoded: bytes, path: Path) -> None:
    """Write a file, complete or not at all; its folder is made.

    Raises:
        InputError: the folder cannot be written to, or its disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(encoded)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error


def save_picture(image: np.ndarray, path: Path, xmp: bytes = b"") -> None:
    """Write a uint8 RGB picture; the ending chooses the format. Results of an edit: `provenance.save`.

    Raises:
        InputError: an ending that is not written, or as `write_file`.
    """
    write_file(encode_picture(image, kind_of(path), xmp), path)
