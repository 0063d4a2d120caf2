"""An edited face is pasted into a photo, and all else that the file carries comes back."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from skimage import data

from dystyle import provenance
from dystyle.originals import Original
from dystyle.pictures import SAVED, load_image
from dystyle.provenance import Credit

ASTRONAUT = data.astronaut()[:128, 100:260]
FACE = (slice(30, 90), slice(40, 100))
CREDIT = Credit({"age": 60.0}, photographed=True, model="DyStyle on a generator")
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
    picture.save(buffer, SAVED[kind].reader if kind in SAVED else kind, **lossless, **options)
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
def test_outside_of_the_face_every_bit_stays(monkeypatch, kind, mode, profile):
    if kind == "webp":
        monkeypatch.setitem(SAVED["webp"].options, "lossless", True)
        monkeypatch.setitem(SAVED["webp"].options, "exact", True)
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


KINDS = ("jpeg", "png", "webp", "tiff")


@pytest.mark.parametrize("source", KINDS)
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


def test_sixteen_bits_of_colours_are_told():
    _, blob = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint16))
    assert Original.open(blob.tobytes()).shallow
    assert not Original.open(encoded(picture("I;16"), "png")).shallow
    assert not Original.open(encoded(picture("RGB"), "png")).shallow
