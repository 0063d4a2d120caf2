"""Picture files in and out: every format, bad ones, and hostile ones that the tests build themselves."""

import ast
import io
import itertools
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, ImageFile, PngImagePlugin
from skimage import data

import dystyle
from dystyle.errors import InputError
from dystyle.pictures import READERS, is_named_like_a_picture, is_picture, load_image
from webapp.language import LANGUAGES

CHINESE = next(language for language in LANGUAGES if language.code == "zh")

ASTRONAUT = data.astronaut()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)))


def encoded(picture: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # PIL's transpose methods that store the upright photo so
    picture = Image.fromarray(ASTRONAUT[:, :400])
    stored = picture.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(load_image(encoded(stored, format="PNG", exif=exif)), ASTRONAUT[:, :400])


def test_every_kind_of_source_gives_the_same_photo(tmp_path):
    picture = Image.fromarray(ASTRONAUT)
    (tmp_path / "photo.png").write_bytes(blob := encoded(picture, format="PNG"))
    with (tmp_path / "photo.png").open("rb") as file:
        read_before = io.BytesIO(blob)
        read_before.read()
        sources = [
            str(tmp_path / "photo.png"),
            tmp_path / "photo.png",
            file,
            read_before,
            blob,
            picture,
            ASTRONAUT,
        ]
        for source in sources:
            np.testing.assert_array_equal(load_image(source), ASTRONAUT)


def test_every_pixel_format_becomes_rgb():
    rgb = Image.fromarray(ASTRONAUT)
    grey = rgb.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    grey_rgb = np.asarray(grey.convert("RGB"))
    np.testing.assert_array_equal(load_image(encoded(grey, format="PNG")), grey_rgb)
    np.testing.assert_array_equal(load_image(encoded(deep, format="PNG")), grey_rgb)
    np.testing.assert_array_equal(load_image(encoded(deep, format="TIFF")), grey_rgb)
    np.testing.assert_array_equal(load_image(grey.convert("I")), grey_rgb)
    np.testing.assert_array_equal(load_image(np.asarray(grey)), grey_rgb)
    np.testing.assert_array_equal(load_image(np.asarray(grey)[:, :, None]), grey_rgb)
    assert psnr(load_image(Image.fromarray(np.float32(grey) / 255)), grey_rgb) > 50
    assert psnr(load_image(encoded(rgb.convert("CMYK"), format="JPEG", quality=95)), ASTRONAUT) > 30
    assert psnr(load_image(encoded(rgb.quantize(256), format="GIF")), ASTRONAUT) > 25
    assert set(np.unique(load_image(grey.convert("1")))) == {0, 255}


def test_transparency_goes_over_white():
    alpha = Image.new("L", (512, 512), 255)
    alpha.paste(0, (0, 0, 512, 100))
    for mode in ("RGB", "L"):
        picture = Image.fromarray(ASTRONAUT).convert(mode)
        opaque = np.asarray(picture.convert("RGB"))
        picture.putalpha(alpha)
        loaded = [load_image(encoded(picture, format="PNG")), load_image(picture)]
        if mode == "RGB":
            loaded.append(load_image(np.asarray(picture)))
        for image in loaded:
            assert (image[:100] == 255).all()
            np.testing.assert_array_equal(image[100:], opaque[100:])
    palette = Image.fromarray(ASTRONAUT).quantize(16)
    index = palette.getpixel((0, 0))
    image = load_image(encoded(palette, format="PNG", transparency=index))
    assert (image[np.asarray(palette) == index] == 255).all()


def test_colour_profile_is_applied_and_a_broken_one_ignored():
    picture = Image.fromarray(ASTRONAUT)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert psnr(load_image(encoded(picture, format="PNG", icc_profile=srgb)), ASTRONAUT) > 45
    np.testing.assert_array_equal(load_image(encoded(picture, format="PNG", icc_profile=b"none")), ASTRONAUT)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixels."""
    blob = bytearray(encoded(Image.new("L", (64, 64)), format="PNG"))
    blob[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    blob[29:33] = zlib.crc32(blob[12:29]).to_bytes(4, "big")
    return bytes(blob)


JPEG = encoded(Image.fromarray(ASTRONAUT), format="JPEG")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/photo.jpg", "no file"),
        (".", "is a folder"),
        (b"", "not a picture"),
        (b"just some text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n", "not a picture"),
        (io.StringIO("text"), "not a picture|damaged"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (JPEG[:200], "not a picture|damaged"),
        (header_only_png(20_000, 20_000), "too large"),
        (header_only_png(16_385, 100), "too large"),
        (header_only_png(9_000, 9_000), "too large"),
        (header_only_png(1_000, 1_000), "damaged"),
        (np.zeros((63, 500, 3), np.uint8), "too small"),
        (Image.new("RGB", (500, 63)), "too small"),
        (np.zeros((100, 100, 3), np.float32), "uint8"),
        (np.zeros((100, 100, 2), np.uint8), "height, width"),
        (np.zeros(100, np.uint8), "height, width"),
        (None, "not a photo"),
        (7, "not a photo"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(source, message):
    with pytest.raises(InputError, match=message) as caught:
        load_image(source)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text


def test_bad_files_are_refused_by_name(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(InputError, match="empty.jpg' is an empty file"):
        load_image(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match="notes.jpg' is not a picture"):
        load_image(tmp_path / "notes.jpg")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_anything_else():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(ASTRONAUT[:128, :128])
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        blob = np.frombuffer(encoded(picture, format=kind), np.uint8)
        for _ in range(30):
            broken = blob.copy()
            broken[rng.integers(0, min(len(blob), 2000), 8)] = rng.integers(0, 256, 8)
            try:
                load_image(broken.tobytes())
            except InputError:
                pass


# ---------------------------------------------------------------------------------------- hostile files


def test_every_reader_in_the_code_is_told_its_formats():
    """Pillow's `Image.open` tries forty formats otherwise, and OpenCV's readers have no such list."""
    folder = Path(dystyle.__file__).parents[1]
    sources = [folder / "app.py"]
    for part in ("dystyle", "webapp", "export"):
        sources += (folder / part).rglob("*.py")
    calls = []
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name.rpartition(".")[2] not in ("imread", "imreadmulti"), source
            if name in ("Image.open", "PIL.Image.open"):
                calls.append(source.name)
                assert any(keyword.arg == "formats" for keyword in node.keywords), source
    assert calls == ["pictures.py"]


def iptc(inner: bytes) -> bytes:
    """A picture of 64 x 64 px, in IPTC's format, that holds another file."""
    fields = {(3, 60): b"\1\0", (3, 20): b"\0\x40", (3, 30): b"\0\x40", (3, 120): b"\0\5", (8, 10): inner}
    return b"".join(
        bytes((0x1C, *tag, 132, 0)) + struct.pack(">I", len(value)) + value for tag, value in fields.items()
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("inner", [EPS, header_only_png(13_000, 13_000)], ids=["EPS", "169 megapixels"])
def test_nothing_inside_a_picture_is_opened(tmp_path, monkeypatch, inner):
    """Pillow's IPTC reader opens whatever is in its file: Ghostscript ran, or gigabytes were filled."""
    opened = []
    for reader in (EpsImagePlugin.EpsImageFile, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(reader, "_open", lambda self: opened.append(self))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: opened.append("gs"))
    # Named like a JPEG, as a JPEG's metadata, and alone.
    metadata = JPEG[:2] + b"\xff\xed" + struct.pack(">H", 2 + 14 + len(inner)) + b"Photoshop 3.0\0" + inner
    (tmp_path / "holiday.jpg").write_bytes(iptc(inner))
    for source in (tmp_path / "holiday.jpg", iptc(inner)):
        with pytest.raises(InputError, match="not a picture"):
            load_image(source)
    assert load_image(metadata + JPEG[2:]).shape == ASTRONAUT.shape
    assert opened == []


def test_what_phones_write_with_a_second_picture_is_opened_as_the_first():
    frames = [Image.fromarray(picture) for picture in (ASTRONAUT, ASTRONAUT[::-1])]
    blob = encoded(frames[0], format="MPO", save_all=True, append_images=frames[1:], quality=95)
    assert psnr(load_image(blob), ASTRONAUT) > 30


@pytest.mark.parametrize("reader", READERS)
def test_every_accepted_format_is_read(reader):
    quality = {"quality": 90} if reader in ("JPEG", "WEBP", "AVIF") else {}
    picture = Image.fromarray(ASTRONAUT)
    picture = picture.quantize() if reader == "GIF" else picture
    assert psnr(load_image(encoded(picture, format=reader, **quality)), ASTRONAUT) > 25


HEIC = Path("IMG_0001.HEIC")


def heic(**options) -> bytes:
    pillow_heif.register_heif_opener()
    return encoded(Image.fromarray(ASTRONAUT), format="HEIF", quality=90, **options)


def test_heic_is_read_as_what_it_is_whatever_its_brand(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = heic(), heic(exif=exif.tobytes())
    assert plain[4:12] == b"ftypheic" and is_picture(plain[:32])
    (tmp_path / HEIC).write_bytes(plain)
    others = [plain[:8] + b"mif1" + plain[12:]]  # what many cameras write first
    for source in (tmp_path / HEIC, *others):
        assert psnr(load_image(source), ASTRONAUT) > 30
    assert psnr(load_image(turned), np.rot90(ASTRONAUT, 3)) > 30
    assert is_named_like_a_picture(HEIC)
    for length in range(0, len(plain), 997):
        with pytest.raises(InputError):
            load_image(plain[:length])


def test_the_package_for_heic_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / HEIC).write_bytes(heic())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"HEIC' is in HEIC, .*\(pip install pillow-heif\)") as caught:
        load_image(tmp_path / HEIC)
    chinese = CHINESE.sentence(str(caught.value))
    assert "pip install pillow-heif" in chinese and "需要" in chinese


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    blob = encoded(Image.new("RGB", (side, side)), format="JPEG", progressive=True)
    last = blob[blob.rindex(b"\xff\xda") : -2]
    return blob[:-2] + last * (count - blob.count(b"\xff\xda")) + b"\xff\xd9"


def directory(entries: list[tuple[int, int, int, int]], behind: bytes = b"") -> bytes:
    """A TIFF file of one directory: entries of tag, type, count, value or place."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<4sIH", b"II*\0", 8, len(entries)) + table + bytes(4) + behind


GREY = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


def overlapping(size: int, count: int = 3_000) -> bytes:
    """Every entry's value is the same bytes, which Pillow copies for each."""
    return directory([*GREY, (273, 4, 1, 8), *((1_000 + i, 7, size, 8) for i in range(count))], bytes(size))


def exif_in_jpeg(block: bytes) -> bytes:
    """In as many segments as it takes."""
    parts = [block[at : at + 60_000] for at in range(0, len(block), 60_000)]
    segments = (b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part for part in parts)
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def in_png(chunk: bytes) -> bytes:
    blob = encoded(Image.fromarray(ASTRONAUT), format="PNG")
    return blob[:33] + chunk + blob[33:]


def chunk(kind: bytes, contents: bytes = b"") -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def exif_as_text(block: bytes) -> bytes:
    """As ImageMagick once wrote it, compressed."""
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def in_gif(extensions: bytes) -> bytes:
    blob = encoded(Image.new("P", (64, 64)), format="GIF")
    start = 13 + (3 << (blob[10] & 7) + 1 if blob[10] & 128 else 0)
    return blob[:start] + extensions + blob[start:]


def run_lengths(width: int, height: int) -> bytes:
    """A BMP whose rows say "one pixel, end of the row"."""
    blob = bytearray(encoded(Image.new("P", (64, 64)), format="BMP")[: 54 + 1024])
    blob[18:26], blob[30:34] = struct.pack("<ii", width, height), struct.pack("<I", 1)
    return bytes(blob) + b"\1\1\0\0" * height + b"\0\1"


def jpeg2000(change, **options) -> bytes:
    blob = bytearray(encoded(Image.new("L", (2_000, 2_000)), format="JPEG2000", **options))
    change(blob, blob.index(b"\xff\x51") + 4, blob.index(b"\xff\x52") + 4)
    return bytes(blob)


def tiny_precincts(blob: bytearray, size: int, coding: int) -> None:
    blob[coding + 10 : coding + 16] = bytes((0x00, 0x11, 0x11, 0x11, 0x11, 0x11))


def tiny_tiles(blob: bytearray, size: int, coding: int) -> None:
    struct.pack_into(">II", blob, size + 18, 16, 16)


def tiny_blocks(blob: bytearray, size: int, coding: int) -> None:
    blob[coding + 6 : coding + 8] = bytes(2)


PRECINCTS = {"precinct_size": (128, 128), "num_resolutions": 6}
TILE = [*GREY, (322, 4, 1, 32_000), (323, 4, 1, 32_000), (324, 4, 1, 200), (325, 4, 1, 100)]
STRIPS = [*GREY, (273, 4, 100_000, 200), (278, 3, 1, 1), (279, 4, 100_000, 400_200)]
JPEG_STRIP = [
    *((tag, kind, count, 7 if tag == 259 else value) for tag, kind, count, value in GREY),
    (273, 4, 1, 200), (278, 3, 1, 64), (279, 4, 1, 100),
]  # fmt: skip

BOMBS = {
    "JPEG of 300 scans": (scans(4_000, 300), "300 scans"),
    "JPEG of 20,000 segments": (JPEG[:2] + b"\xff\xfe\0\2" * 20_000 + JPEG[2:], "segments"),
    "EXIF in a JPEG": (exif_in_jpeg(overlapping(200_000)), "on top of each other"),
    "EXIF in a PNG": (in_png(chunk(b"eXIf", overlapping(200_000))), "on top of each other"),
    "EXIF as text": (in_png(exif_as_text(overlapping(200_000))), "on top of each other"),
    "EXIF in an AVIF": (
        encoded(Image.new("RGB", (64, 64)), format="AVIF") + overlapping(200_000),
        "on top of each other",
    ),
    "EXIF in a WebP": (
        encoded(Image.new("RGB", (64, 64)), format="WEBP", exif=overlapping(200_000)),
        "on top of each other",
    ),
    "TIFF": (overlapping(200_000), "on top of each other"),
    "TIFF with an EXIF directory": (
        directory([*GREY, (0x8769, 4, 1, 98)], overlapping(200_000)[8:]),
        "on top of each other",
    ),
    "TIFF of 20,000 entries": (overlapping(1, 20_000), "20,0.. entries"),
    "TIFF of one huge tile": (directory(TILE).ljust(300, b"\0"), "1,024,000,000 pixels of tiles"),
    "TIFF of 100,000 strips": (directory(STRIPS).ljust(800_200, b"\1"), "100,000 strips"),
    "JPEG of many scans in a TIFF": (
        directory(JPEG_STRIP).ljust(200, b"\0") + b"\xff\xda" * 400_000,
        "400,000 scans",
    ),
    "PNG of 20,000 chunks": (in_png(chunk(b"prVt") * 20_000), "chunks"),
    "GIF with long comments": (in_gif(b"!\xfe" + (b"\xff" + bytes(255)) * 40_000 + b"\0"), "comments"),
    "GIF with rubbish": (in_gif(b"\0" * 100_000), "parts before the picture"),
    "run-length encoded BMP": (run_lengths(4_000, 3_000), "12,000,000 run-length"),
    "JPEG 2000 of precincts": (jpeg2000(tiny_precincts, **PRECINCTS), "precincts"),
    "its code stream alone": (jpeg2000(tiny_precincts, no_jp2=True, **PRECINCTS), "precincts"),
    "JPEG 2000 of tiles": (jpeg2000(tiny_tiles), "15,625 tiles"),
    "JPEG 2000 of code blocks": (jpeg2000(tiny_blocks), "code blocks of 4 px"),
}  # fmt: skip


@pytest.mark.parametrize(("blob", "message"), BOMBS.values(), ids=BOMBS)
def test_a_file_that_costs_far_more_than_it_shows_is_refused_undecoded(monkeypatch, blob, message):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=f"takes too much to decode .*{message}") as caught:
        load_image(blob)
    assert str(caught.value).count(". ") == 0 and len(blob) < 11_000_000


def test_what_programs_write_is_far_below_the_limits():
    picture = Image.fromarray(ASTRONAUT)
    exif = Image.Exif()
    exif[0x0112], exif.get_ifd(0x8769)[0x927C] = 1, bytes(50_000)
    blobs = [
        scans(512, 60),
        encoded(picture, format="JPEG", exif=exif, progressive=True),
        encoded(picture, format="PNG", exif=exif),
        encoded(picture, format="AVIF", exif=exif),
        encoded(picture, format="WEBP", exif=exif),
        encoded(picture, format="TIFF", exif=exif),
        encoded(picture, format="TIFF", compression="jpeg"),
        encoded(picture, format="TIFF", big_tiff=True),
        encoded(picture, format="JPEG2000", tile_size=(128, 128), codeblock_size=(32, 32), **PRECINCTS),
        encoded(
            picture.quantize(), format="GIF", comment=b"c" * 1_000, save_all=True, append_images=[picture]
        ),
    ]
    for blob in blobs:
        assert load_image(blob).shape == ASTRONAUT.shape


def test_damaged_structures_never_raise_anything_else():
    """Bytes of every hostile and every honest file are changed and cut where the structure is."""
    rng = np.random.default_rng(1)
    honest = [encoded(Image.new("P", (64, 64)), format=kind) for kind in ("GIF", "TIFF", "BMP")]
    for blob in itertools.chain((blob for blob, _ in BOMBS.values()), honest):
        for _ in range(6):
            broken = np.frombuffer(blob[: int(rng.integers(2, 4_000))], np.uint8).copy()
            broken[rng.integers(0, len(broken), 8)] = rng.integers(0, 256, 8)
            try:
                load_image(blob[:2] + broken[2:].tobytes())
            except InputError:
                pass


@pytest.mark.skipif(sys.platform != "linux", reason="does not tell a process its peak")
def test_a_large_photo_is_held_twice_at_most(tmp_path):
    """Once by the decoder, in four bytes a pixel, and once as the array."""
    file = tmp_path / "large.jpg"
    Image.new("RGB", (6000, 4000), (200, 30, 60)).save(file)
    program = """
import re, sys
from pathlib import Path
from dystyle.pictures import load_image
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
assert abs(load_image(sys.argv[1])[::500, ::500] - (200.0, 30, 60)).max() < 4
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(file)], check=True, capture_output=True)
    assert float(done.stdout) < 8.5 * 6000 * 4000
