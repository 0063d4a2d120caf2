"""An edited face is pasted into a photo, and all else that the file carries comes back."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pillow_heif
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from skimage import data

from dystyle import provenance
from dystyle.alignment import crop
from dystyle.errors import InputError
from dystyle.originals import Original
from dystyle.pictures import FORMATS, SAVED, load_image
from dystyle.pipeline import InvertedFace
from dystyle.provenance import Credit
from dystyle.untouched import with_xmp

ASTRONAUT = data.astronaut()[:128, 100:260]
FACE = (slice(30, 90), slice(40, 100))
CREDIT = Credit({"age": 60.0}, photographed=True, model="DyStyle on a generator")
pillow_heif.register_heif_opener()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """A profile of other colours: sRGB with red and blue exchanged."""
    blob = bytearray(SRGB)
    red, blue = blob.index(b"rXYZ", 128), blob.index(b"bXYZ", 128)
    blob[red : red + 4], blob[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(blob)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    lossless = {"lossless": True} if kind == "webp" else {}
    picture.save(buffer, FORMATS[kind].reader, **{**lossless, **options})
    return buffer.getvalue()


def pasted(blob: bytes, kind: str) -> tuple[Image.Image, np.ndarray]:
    """The file after a red face was pasted in, and what of the pixels, as they are seen, should be red."""
    original = Original.open(blob)
    edited = original.rgb.copy()
    edited[FACE] = (200, 40, 60)
    result = provenance.encode(edited, kind, CREDIT, original=original)
    image = Image.open(io.BytesIO(result))
    image.load()
    return image, load_image(result)


def picture(mode: str) -> Image.Image:
    rgb = Image.fromarray(ASTRONAUT)
    if mode == "I;16":
        deep = np.asarray(rgb.convert("L")).astype(np.uint16) * 257 + 91
        return Image.fromarray(deep)
    image = rgb.convert(mode.removesuffix("A")) if mode in ("LA", "RGBA") else rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        alpha = np.full(ASTRONAUT.shape[:2], 255, np.uint8)
        alpha[:60] = 128
        alpha[:20, :50] = 0
        alpha[40:50, 50:60] = 0  # a hole in the face
        image.putalpha(Image.fromarray(alpha))
    return image


LOSSLESS = [(kind, mode) for kind in ("png", "tiff", "webp") for mode in SAVED[kind].modes]


@pytest.mark.parametrize(("kind", "mode"), LOSSLESS)
@pytest.mark.parametrize("profile", [None, "sRGB", "swapped"])
def test_outside_of_the_face_every_bit_stays(kind, mode, profile):
    options = {"icc_profile": swapped() if profile == "swapped" else SRGB} if profile else {}
    if kind == "webp":
        options["exact"] = True
    blob = encoded(picture(mode), kind, **options)
    before = Image.open(io.BytesIO(blob))
    before.load()
    after, seen = pasted(blob, kind)
    assert after.mode == before.mode and after.format == before.format
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    one, other = np.array(before), np.array(after)
    changed = (one != other).reshape(*ASTRONAUT.shape[:2], -1).any(axis=2)
    changed[FACE] = False
    assert not changed.any()
    face = seen[FACE].reshape(-1, 3).astype(int)
    solid = np.ones(len(face), bool)
    if mode in ("LA", "RGBA"):
        assert np.array_equal(one[..., -1], other[..., -1])
        alpha = one[FACE][..., -1].ravel()
        assert (face[alpha == 0] == 255).all()  # the hole is a hole
        solid = alpha == 255
    expected = (200, 40, 60) if mode in ("RGB", "RGBA", "CMYK") else (90, 90, 90)
    assert np.abs(face[solid] - expected).max() <= 12


def test_transparent_palettes_become_colours_with_the_same_transparency():
    palette = Image.fromarray(ASTRONAUT).quantize(16)
    index = palette.getpixel((0, 0))
    blob = encoded(palette, "png", transparency=index)
    after, _ = pasted(blob, "png")
    assert after.mode == "RGBA"
    assert np.array_equal(np.array(after)[..., 3] == 0, np.asarray(palette) == index)


def test_sixteen_bits_in_the_other_order_of_bytes_are_kept():
    values = np.asarray(picture("I;16"))
    blob = encoded(Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes()), "tiff")
    assert blob[:2] == b"MM"
    after, _ = pasted(blob, "tiff")
    same = np.asarray(after) == values
    same[FACE] = True
    assert after.mode == "I;16" and same.all()


def test_a_transparent_shade_of_sixteen_bits_stays_transparent():
    values = np.asarray(picture("I;16"))
    clear = values == values[70, 70]  # in the face
    after, seen = pasted(encoded(picture("I;16"), "png", transparency=int(values[70, 70])), "png")
    assert after.mode == "LA" and np.array_equal(np.asarray(after)[..., 1] == 0, clear)
    assert (seen[clear] == 255).all()


PLACELESS = [
    ("RGBA", "jpeg", "RGB"),
    ("LA", "jpeg", "L"),
    ("CMYK", "png", "RGB"),
    ("I;16", "jpeg", "L"),
    ("L", "webp", "RGB"),
]


@pytest.mark.parametrize(("mode", "kind", "expected"), PLACELESS)
def test_what_a_format_has_no_place_for_is_as_it_was_seen(mode, kind, expected):
    blob = encoded(picture(mode), "tiff", **({"icc_profile": swapped()} if mode == "CMYK" else {}))
    after, seen = pasted(blob, kind)
    assert after.mode == expected and "icc_profile" not in after.info
    outside = np.ones(ASTRONAUT.shape[:2], bool)
    outside[FACE] = False
    assert np.abs(seen[outside].astype(int) - load_image(blob)[outside]).mean() < 3


XMP = b"""<?xpacket begin="" id="x"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:my="http://example.org/my/" xmp:Rating="5" xmp:CreatorTool="A camera" tiff:Orientation="6"
 my:note="kept"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
UPRIGHT = XMP.replace(b'tiff:Orientation="6"', b"")


KINDS = ("jpeg", "png", "webp", "tiff")


@pytest.mark.parametrize("source", [*KINDS, "heic"])
@pytest.mark.parametrize("kind", [*KINDS, "avif"])
def test_metadata_are_kept_but_for_how_the_photo_was_turned(source, kind):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", 6, "2026:05:06 07:08:09"
    exif.get_ifd(0x8769).update({0x9003: "2026:05:06 07:08:09", 0xA002: 160, 0xA003: 128})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    if source == "tiff":
        exif[700] = XMP
    options = {"exif": exif.tobytes(), "icc_profile": SRGB, "dpi": (300, 300)}
    options |= {"pnginfo": png_text()} if source == "png" else {"xmp": XMP} if source != "tiff" else {}
    after, _ = pasted(encoded(Image.fromarray(ASTRONAUT), source, **options), kind)
    assert after.size == (128, 160)  # upright
    kept = after.getexif()
    assert kept.get(0x0112, 1) == 1 and kept[0x010F] == "Maker" and kept[0x0132] == exif[0x0132]
    assert kept.get_ifd(0x8769)[0x9003] == exif[0x0132]
    assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (128, 160)
    assert kept.get_ifd(0x8825)[2] == (52, 31, 12)
    assert not kept.get_ifd(1)  # the thumbnail
    assert after.info["icc_profile"] == SRGB
    if source in ("jpeg", "png", "tiff") and kind in ("jpeg", "png", "tiff"):
        assert np.allclose(after.info["dpi"], 300, atol=0.1)
    packet = after.info["xmp"]
    for expected in (b"age = 60", b"DyStyle on a generator", b'Rating="5"', b'note="kept"'):
        assert expected in packet
    assert b"A camera" not in packet and b"Orientation" not in packet
    assert packet.count(b"DigitalSourceType") == 1


def png_text() -> PngInfo:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return text


def test_damaged_metadata_stop_nothing():
    for exif, xmp in ((b"Exif\0\0rubbish", b"<x"), (b"Exif\0\0II*\0\xff\xff\xff\xff", b"<!DOCTYPE x [")):
        blob = encoded(Image.fromarray(ASTRONAUT), "jpeg", exif=exif, xmp=xmp, icc_profile=b"none")
        after, _ = pasted(blob, "jpeg")
        assert b"age = 60" in after.info["xmp"]


def test_sixteen_bits_that_are_lost_are_told():
    _, blob = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint16))
    deep, plain = (Original.open(encoded(picture(mode), "png")) for mode in ("I;16", "L"))
    ten = Original.open(encoded(picture("I;16"), "heic"))
    for original, kind in ((Original.open(blob.tobytes()), "png"), (deep, "jpeg"), (ten, "jpeg")):
        assert original.note(kind) == "The photo has more than 8 bits a channel, of which 8 are kept."
    for original, kind in ((deep, "png"), (deep, "tiff"), (ten, "png"), (plain, "png")):
        assert original.note(kind) == ""


# ------------------------------------------------------------------------- whatever a file is like

SETTINGS = settings(
    derandomize=True, deadline=None, database=None, phases=(Phase.generate,), report_multiple_bugs=False
)
MODES = {  # of what Pillow writes, with a transparent colour where there is a +
    "png": ("1", "L", "LA", "P", "P+", "RGB", "RGB+", "RGBA", "I;16", "I;16+"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "F"),
    "jpeg": ("L", "RGB", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "avif": ("RGB", "RGBA"),
    "gif": ("L", "P", "P+"),
    "bmp": ("1", "L", "P", "RGB"),
    "jpeg2000": ("L", "LA", "RGB", "RGBA"),
    "heic": ("L", "RGB", "RGBA"),
}
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
EXACT = {"lossless": True, "exact": True}


@dataclass(frozen=True)
class Drawn:
    """What a photo's file is like; `profile` and below only where the format takes it."""

    kind: str
    mode: str
    width: int
    height: int
    compression: str
    turned: int
    colours: int
    profile: str
    maker: str
    dpi: bool
    xmp: bool

    def file(self) -> bytes:
        rgb, mode, options = (
            Image.fromarray(ASTRONAUT[: self.height, : self.width]),
            self.mode.rstrip("+"),
            {},
        )
        if mode.startswith("I;16") or mode == "F":
            values = np.asarray(rgb.convert("L")).astype("f4" if mode == "F" else "u2") * 257 + 3
            image = Image.fromarray(values)
            if mode == "I;16B":
                image = Image.frombytes(mode, image.size, values.astype(">u2").tobytes())
        elif mode in ("LA", "RGBA"):
            image, rng = rgb.convert(mode[:-1]), np.random.default_rng(self.width)
            image.putalpha(Image.fromarray(rng.integers(0, 256, (self.height, self.width), np.uint8)))
        else:
            image = rgb.quantize(self.colours) if mode == "P" else rgb.convert(mode)
        if self.mode.endswith("+"):
            options["transparency"] = image.getpixel((5, 5))
        if self.kind == "webp":
            options |= EXACT
        if self.kind == "tiff" and mode != "F":
            options["compression"] = "raw" if self.maker else self.compression  # see `encode_picture`
        if self.kind in ("png", "jpeg", "webp", "avif", "tiff", "heic"):
            exif = Image.Exif()
            exif[0x0112] = self.turned if self.kind != "heic" else 1
            if self.maker:
                exif[0x010F], exif.get_ifd(0x8769)[0x9003] = self.maker, "2026:05:06 07:08:09"
            options["exif"] = exif.tobytes()
            if self.profile and mode in ("RGB", "RGBA"):
                options["icc_profile"] = SRGB if self.profile == "sRGB" else swapped()
            options |= {"dpi": (300, 300)} if self.dpi else {}
            options |= {"xmp": XMP} if self.xmp and self.kind in ("jpeg", "webp", "avif") else {}
        return encoded(image, self.kind, **options)


LIKE = st.builds(
    dict,
    width=st.integers(64, 128),
    height=st.integers(64, 128),
    compression=st.sampled_from(COMPRESSIONS),
    turned=st.integers(1, 8),
    colours=st.integers(2, 256),
    profile=st.sampled_from(("swapped", "sRGB", "")),
    maker=st.sampled_from(("Maker", "")),
    dpi=st.booleans(),
    xmp=st.booleans(),
)


@pytest.fixture(scope="module")
def paste(editor) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Paste a face into a photo (h, w, 3), at a quad."""
    code = editor.sample(1)
    picture = editor.synthesize(code)

    def paste(photo: np.ndarray, quad: np.ndarray) -> np.ndarray:
        there = InvertedFace(code, crop(photo, quad), quad, np.zeros(4, np.float32))
        return editor.paste(picture, there, photo)

    return paste


def test_an_edit_that_asks_for_nothing_changes_no_bit_of_a_photo(editor, astronaut):
    blob = encoded(Image.fromarray(astronaut), "jpeg", quality=70)
    photo, face = Original.open(blob), editor.invert(blob)
    picture = editor.synthesize(editor.edit(face.code, {}, face=face), face=face)
    whole = editor.paste(picture, face, photo.rgb)
    assert np.array_equal(whole, photo.rgb)
    dark = editor.paste(picture // 2, face, photo.rgb)
    assert not np.array_equal(dark, photo.rgb)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("options", [{}, {"xmp": UPRIGHT, "icc_profile": SRGB}])
def test_a_file_without_a_change_is_not_compressed_again(kind, options):
    blob = encoded(Image.fromarray(ASTRONAUT), kind, quality=60, lossless=False, **options)
    photo = Original.open(blob)
    written = provenance.encode(photo.rgb, kind, CREDIT, original=photo)
    after = Image.open(io.BytesIO(written))
    assert np.array_equal(load_image(written), photo.rgb) and abs(len(written) - len(blob)) < 4000
    assert b"age = 60" in after.info["xmp"] and after.info.get("icc_profile") == options.get("icc_profile")


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_files_of_another_form_are_left_to_be_encoded(kind):
    """Cut short anywhere, or with names of parts that nobody knows, a file is no traceback."""
    blob = encoded(Image.fromarray(ASTRONAUT), kind, quality=60)
    for end in range(0, 600, 7):
        assert isinstance(with_xmp(blob[:end], kind, XMP), bytes | None)
    for name in (b"meta", b"iinf", b"pitm", b"iloc", b"mdat", b"VP8 "):
        assert isinstance(with_xmp(blob.replace(name, b"free"), kind, XMP), bytes | None)


def test_a_photo_that_only_its_xmp_turns_comes_back_upright():
    photo = Original.open(encoded(Image.fromarray(ASTRONAUT), "jpeg", xmp=XMP))
    written = load_image(provenance.encode(photo.rgb, "jpeg", CREDIT, original=photo))
    assert written.shape == photo.rgb.shape == (160, 128, 3)
    assert np.abs(written.astype(int) - photo.rgb).mean() < 2


def kept(picture: Image.Image, kind: str) -> str:
    """The mode in which a picture comes back from a format."""
    grey = picture.mode[0] in "1LIF" and picture.mode != "La"
    mode = {"I;16B": "I;16"}.get(picture.mode, picture.mode)
    if picture.has_transparency_data:
        mode = "LA" if grey else "RGBA"
    elif mode not in ("L", "I;16", "CMYK"):
        mode = "L" if grey else "RGB"
    if mode in SAVED[kind].modes:
        return mode
    return "L" if grey and kind == "jpeg" else "RGB"


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind]])
@settings(SETTINGS, max_examples=2)
@given(like=LIKE, place=st.tuples(*[st.floats(0.3, 0.7)] * 2), side=st.floats(24, 40))
def test_a_file_comes_back_as_it_was_outside_of_the_face(paste, kind, mode, like, place, side):
    drawn = Drawn(kind, mode, **like)
    blob, out = drawn.file(), kind if kind in SAVED else "png"
    photo = Original.open(blob)
    height, width = photo.rgb.shape[:2]
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) @ ((0.9, 0.3), (-0.3, 0.9))
    quad = np.float32(corners * side / 2 + np.multiply(place, (width, height)))
    # Another face in the quad; none in files that lose something whenever they are encoded again.
    whole = photo.rgb if kind in ("jpeg", "avif") else paste(photo.rgb, quad)
    written = provenance.encode(whole, out, CREDIT, original=photo)
    opened, result = (Image.open(io.BytesIO(file)) for file in (blob, written))
    before, old = ImageOps.exif_transpose(opened), opened.getexif()
    new, after = result.getexif(), ImageOps.exif_transpose(result)
    back = kept(before, out)
    assert (result.format, after.mode, after.size) == (SAVED[out].reader, back, (width, height))
    if before.mode == "I;16B":
        one = np.asarray(before).astype(np.uint16)
    elif before.mode[0] in "IF" and back != "I;16":  # grey of other depths, as it is seen
        one = np.asarray(Image.fromarray(photo.rgb).convert(back))
    else:
        one = np.asarray(before.convert(back))
    other, unseen = np.asarray(after), np.zeros((height, width), bool)
    if back in ("LA", "RGBA"):
        unseen = other[..., -1] == 0
    if mode == "I;16+":
        assert np.array_equal(unseen, np.asarray(before) == before.info["transparency"])
        one = np.where(unseen[..., None], other, one)
    inside = cv2.fillConvexPoly(np.zeros((height, width), np.uint8), np.rint(quad).astype(np.int32), 1)
    outside = cv2.dilate(inside, np.ones((3, 3))) == 0
    assert np.array_equal(one[outside], other[outside])
    assert back not in ("LA", "RGBA") or np.array_equal(one[..., -1], other[..., -1])
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    if "dpi" in before.info and out in ("jpeg", "png", "tiff"):
        dots = [[float(value) for value in image.info["dpi"]] for image in (before, after)]
        assert np.allclose(*dots, rtol=0, atol=0.1)
    assert new.get(0x010F) == old.get(0x010F)
    assert new.get_ifd(0x8769).get(0x9003) == old.get_ifd(0x8769).get(0x9003)
    assert (0x0112 not in new or whole is photo.rgb) and b"age = 60" in after.info["xmp"]
    assert "xmp" not in before.info or b'note="kept"' in after.info["xmp"]


@settings(SETTINGS, max_examples=30)
@given(kind=st.sampled_from(("jpeg", "png", "webp")), exif=st.binary(), xmp=st.binary(), profile=st.binary())
def test_bad_metadata_are_left_out_or_refused(kind, exif, xmp, profile):
    image = Image.fromarray(ASTRONAUT)
    blob = encoded(image, kind, exif=b"Exif\0\0II*\0\x08\0\0\0" + exif, icc_profile=profile, xmp=xmp)
    try:
        after, _ = pasted(blob, kind)
    except InputError as error:
        assert "takes too much" in str(error)
        return
    assert after.size == image.size and b"age = 60" in after.info["xmp"]
