"""A photo with all that its file carries: an edited face is pasted back, and nothing else changes."""

import io
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageCms

from dystyle.pictures import SAVED, open_picture, to_8_bit, to_rgb, upright
from dystyle.untouched import with_xmp

# EXIF's tags that describe the file and not the photo: they are the writer's. IPTC, Photoshop and the profile
# lie in TIFF's directory, too.
_OF_THE_FILE = {
    *range(254, 267), 273, 274, 277, 278, 279, 282, 283, 284, 296, 317, 320, 322, 323, 324, 325, 330, 338,
    339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532, 700, 33723, 34377, 34675, 34665, 34853,
}  # fmt: skip
_EXIF, _GPS, _WIDTH, _HEIGHT = 34665, 34853, 0xA002, 0xA003
_MAX_SEGMENT = 65_000  # bytes of EXIF or XMP data in a JPEG


@dataclass(frozen=True)
class Original:
    """A photo as it is in its file.

    Attributes:
        picture: upright, in its own mode and colours.
        rgb: as `dystyle.pictures.load_image` gives it.
        exif: its EXIF data, without how it was turned and a thumbnail of that.
        deep: whether it has more than 8 bits a channel, which Pillow keeps of grey alone.
        data: the file, where there is one, and one picture in it. format: Pillow's name of its format.
    """

    picture: Image.Image
    rgb: np.ndarray
    exif: bytes
    deep: bool
    data: bytes = field(repr=False)
    format: str | None

    @classmethod
    def open(cls, source) -> "Original":
        """Source and errors as for `dystyle.pictures.load_image`."""
        with open_picture(source) as opened:
            # Pillow reads colours of 16 bits as 8; its name of what is in the file tells them, or a plug-in.
            deep = any(";16" in str(tile) for tile in getattr(opened, "tile", ()))
            deep |= opened.info.get("bit_depth", 8) > 8
            single = opened is not source and getattr(opened, "n_frames", 1) == 1
            data = opened.fp.getvalue() if single and isinstance(opened.fp, io.BytesIO) else b""
            kind = opened.format
            picture = upright(opened, own=opened is not source)
            return cls(picture, to_rgb(picture), _own_exif(opened, picture.size), deep, data, kind)

    def note(self, kind: str) -> str:
        """What a file of a format has no room for though it is not to be seen; "" where nothing is lost."""
        if not self.deep or (self._writable.mode == "I;16" and "I;16" in SAVED[kind].modes):
            return ""
        return "The photo has more than 8 bits a channel, of which 8 are kept."

    def untouched(self, rgb: np.ndarray, kind: str, xmp: bytes) -> bytes | None:
        """The photo's file with another XMP packet and its pixels as they are compressed, if `rgb` (h, w, 3)
        is the photo and the format its own; None if not, or where encoding again loses nothing."""
        if not self.data or SAVED[kind].reader != self.format or (rgb != self.rgb).any():
            return None
        return with_xmp(self.data, kind, xmp)

    def replaced(self, rgb: np.ndarray, kind: str, drawn: np.ndarray | None = None) -> Image.Image:
        """The photo with other pixels where `rgb` (h, w, 3) differs from its own, for a file of a format.

        Everything else stays as it is, bit for bit: transparency, grey, the profile's colours, 16 bits of
        grey. What the format has no place for becomes RGB over white, palettes become colours.

        Args:
            drawn: bool (h, w), what is to be seen even where the photo is transparent.
        """
        base = self._writable
        if base.mode not in SAVED[kind].modes:
            return Image.fromarray(rgb).convert("L" if base.mode in ("L", "LA", "I;16") else "RGB")
        result, changed = base.copy(), (rgb != self.rgb).any(axis=2)
        result.info = {}
        if not changed.any():
            return result
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        changed, old = changed[part], base.crop(box)
        pixels, new = np.array(old), np.asarray(self._colours(rgb[part], base.mode))
        if base.mode in ("LA", "RGBA"):
            if drawn is not None:
                pixels[..., -1][drawn[part]] = 255
            alpha = pixels[..., -1:].astype(np.float32) / 255
            changed &= alpha[..., 0] > 0
            # The new pixels lie over white: take it away.
            bare = 255 - (255 - new.reshape(*alpha.shape[:2], -1)) / np.maximum(alpha, 1 / 255)
            pixels[..., :-1][changed] = np.clip(np.rint(bare), 0, 255)[changed]
        elif base.mode == "I;16":
            pixels[changed] = new[changed].astype(np.uint16) * 257
        else:
            pixels[changed] = new[changed]
        result.paste(Image.frombytes(base.mode, old.size, pixels.tobytes()), box)
        return result

    def options(self, kind: str, picture: Image.Image) -> dict[str, object]:
        """What to write beside the pixels of `picture`: EXIF data, profile, resolution."""
        options: dict[str, object] = {}
        if self.exif and (kind != "jpeg" or len(self.exif) < _MAX_SEGMENT):
            options["exif"] = self.exif
        if self._profile and picture.mode == self._writable.mode:
            options["icc_profile"] = self._profile
        dpi = [float(value) for value in self.picture.info.get("dpi", ())]
        if kind in ("jpeg", "png", "tiff") and dpi and all(0 < value < 65_536 for value in dpi):
            options["dpi"] = tuple(dpi)
        return options

    @property
    def xmp(self) -> bytes:
        """The XMP packet, empty where there is none."""
        found = self.picture.info.get("xmp") or self.picture.info.get("XML:com.adobe.xmp") or b""
        return found.encode() if isinstance(found, str) else bytes(found)

    @property
    def _profile(self) -> bytes | None:
        return self.picture.info.get("icc_profile")

    @cached_property
    def _writable(self) -> Image.Image:
        """The photo in a mode whose pixels can be replaced one by one."""
        mode, clear = self.picture.mode, self.picture.has_transparency_data
        if mode.startswith("I;16") and not clear:  # of either order of bytes
            return Image.fromarray(np.asarray(self.picture).astype(np.uint16))
        if mode[0] in "IF":  # 32-bit numbers have no scale
            return to_8_bit(self.picture)
        if clear:
            return self.picture.convert("LA" if mode in ("1", "L", "LA", "La") else "RGBA")
        if mode in ("L", "RGB", "CMYK"):
            return self.picture
        return self.picture.convert("L" if mode == "1" else "RGB")

    def _colours(self, rgb: np.ndarray, mode: str) -> Image.Image:
        """sRGB pixels in the photo's colours, without transparency."""
        picture, bare = Image.fromarray(rgb), {"LA": "L", "RGBA": "RGB", "I;16": "L"}.get(mode, mode)
        if self._profile and bare in ("RGB", "CMYK"):
            # A broken profile was not applied when the photo was read either.
            with suppress(ImageCms.PyCMSError, OSError):
                own = ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
                usual = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(picture, usual, own, outputMode=bare)
        return picture.convert(bare)


def _own_exif(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """What a picture's EXIF data say about the photo; `size` is that of the upright photo."""
    try:
        source, kept = picture.getexif(), Image.Exif()
        for tag, value in source.items():
            if tag not in _OF_THE_FILE:
                kept[tag] = value
        for directory in (_EXIF, _GPS):
            if values := source.get_ifd(directory):
                kept.get_ifd(directory).update(values)
        inner = kept.get_ifd(_EXIF)
        inner.update({t: n for t, n in zip((_WIDTH, _HEIGHT), size, strict=True) if t in inner})
        return kept.tobytes() if len(kept) or inner else b""
    except Exception:  # damaged data raise nearly anything; a photo is worth more than they are
        return b""
