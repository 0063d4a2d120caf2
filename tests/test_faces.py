"""A face is a file: what is saved comes back, and what is no face is refused in one sentence."""

import io
import json
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from dystyle import InputError
from dystyle.faces import ARRAYS, FORMAT, InvertedFace, _checksum, fingerprint
from dystyle.weights import BUNDLED


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_face_from_its_file_gives_the_same_pictures_bit_for_bit(editor, astronaut, tmp_path):
    path, photo = tmp_path / "faces" / "astronaut.safetensors", as_png(astronaut)
    face = editor.invert(photo)
    rng = np.random.default_rng(0)
    own = {"blocks.3.conv1.weight": rng.normal(size=editor._generator.shapes["blocks.3.conv1.weight"])}
    tuned = replace(
        face,
        residual=None,
        tuned={name: weight.astype(np.float32) for name, weight in own.items()},
        tone=rng.integers(0, 256, (256, 3), np.uint8),
        cover=rng.random((256, 256), np.float32),
        protected=rng.random((256, 256), np.float32),
        others=rng.uniform(0, 512, (2, 468, 2)).astype(np.float32),
        index=1,
        refine="precise",
    )
    for field in fields(InvertedFace)[4:]:
        assert field.name in ("residual", "photo", "kept") or getattr(tuned, field.name) is not field.default
    for saved, size in ((face, 7.5), (tuned, 5.5)):
        saved.save(path, photo)
        assert path.stat().st_size - len(photo) < size * 1e6
        loaded = InvertedFace.load(path)
        for field in fields(face):
            if field.name not in ("kept", "photo", "tuned"):
                expected, found = getattr(saved, field.name), getattr(loaded, field.name)
                np.testing.assert_array_equal(
                    found, expected, field.name, strict=isinstance(found, np.ndarray)
                )
        assert loaded.photo == photo and loaded.tuned.keys() == saved.tuned.keys()
        for target in ({}, {"age": 70, "yaw": 10}):
            one, other = (
                editor.synthesize(editor.edit(face.code, target, face=face), face=face)
                for face in (saved, loaded)
            )
            assert np.array_equal(one, other)
        pasted = editor.paste(other, loaded, loaded.photo)
        assert np.array_equal(pasted, editor.paste(one, saved, astronaut))
    loaded.save(path)  # the photo stays in it
    assert InvertedFace.load(path).photo == photo
    with pytest.raises(InputError, match="tuned for Another, and MobileStyleGAN FFHQ runs here"):
        editor.synthesize(tuned.code, face=replace(tuned, generator="Another"))
    wrong = {"blocks.3.conv1.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(InputError, match="open it with that one"):
        editor.synthesize(tuned.code, face=replace(tuned, tuned=wrong))


@pytest.fixture(scope="module")
def face() -> InvertedFace:
    """A made-up face in a grey photo."""
    rng = np.random.default_rng(0)
    return InvertedFace(
        rng.normal(size=(18, 512)).astype(np.float32),
        rng.integers(0, 256, (1024, 1024, 3), np.uint8),
        np.float32([[10, 10], [10, 90], [90, 90], [90, 10]]),
        np.float32([20, 20, 80, 80]),
        photo_id=fingerprint(np.full((100, 100, 3), 128, np.uint8)),
    )


def test_a_face_is_saved_with_its_own_photo_under_its_own_ending(face, tmp_path):
    path = tmp_path / "face.safetensors"
    face.save(path)
    assert InvertedFace.load(path).photo is None
    before = path.read_bytes()
    other, text = as_png(np.zeros((100, 100, 3), np.uint8)), tmp_path / "notes.txt"
    text.write_text("Dear diary")
    for photo, sentence in (
        (other, "found in another photo"),
        (text, "not a picture"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(InputError, match=sentence):
            face.save(path, photo)
    with pytest.raises(InputError, match=r"let it end in \.safetensors"):
        face.save(tmp_path / "face.png")
    with pytest.raises(InputError, match="could not be written"):
        face.save(text / "face.safetensors")
    assert path.read_bytes() == before
    own = as_png(np.full((100, 100, 3), 128, np.uint8))
    face.save(path, own)
    assert InvertedFace.load(path).photo == own


def made_up(face: InvertedFace, about: dict[str, str] | None = None, **changes) -> bytes:
    """The face's file with arrays and metadata changed, and a checksum that fits."""
    encoded = face.encode()
    header = json.loads(encoded[8 : 8 + int.from_bytes(encoded[:8], "little")])
    arrays = {name: array for name, array in (load(encoded) | changes).items() if array is not None}
    told = header["__metadata__"] | (about or {})
    told.pop("sha256")
    return save(arrays, told | {"sha256": _checksum(arrays, told)})


def flipped(encoded: bytes, at: int) -> bytes:
    return encoded[:at] + bytes([encoded[at] ^ 4]) + encoded[at + 1 :]


SENTENCES = {
    "damaged": "is damaged or incomplete; save the face again.",
    "foreign": "is not a face's file; give one that was saved as such.",
    "another": "holds something else than a face; give a file that was saved as one.",
    "newer": "comes from a newer version of DyStyle Studio; update this one.",
}


def test_what_is_no_face_is_refused_in_one_sentence(face, tmp_path):
    path, encoded = tmp_path / "face.safetensors", face.encode()
    start = 8 + int.from_bytes(encoded[:8], "little")
    nan = np.full((18, 512), np.nan, np.float32)
    wrong = {
        "foreign": [b"", b"Dear diary", as_png(face.portrait[:99]), (2**40).to_bytes(8, "little") + b"{}"],
        "another": [
            (BUNDLED / "descent.safetensors").read_bytes(),
            save({"code": face.code}),
            made_up(face, {"format": "dystyle-editor"}),
        ],
        "newer": [made_up(face, {"version": "3"})],
        "damaged": [
            *(encoded[:n] for n in (9, start - 1, start, len(encoded) - 1)),
            *(flipped(encoded, at) for at in (9, start, start + 4000, len(encoded) - 1)),
            flipped(encoded, encoded.index(b'"index"') + 10),
            *(made_up(face, **{name: None}) for name in ("code", "portrait", "quad", "box")),
            made_up(face, code=face.code[:17]),
            made_up(face, code=face.code.astype(np.float64)),
            made_up(face, portrait=face.portrait[:1000]),
            made_up(face, residual=np.zeros((512, 64, 64), np.float32)),
            made_up(face, others=np.zeros((1001, 468, 2), np.float32)),
            made_up(face, others=np.zeros((468, 2), np.float32)),
            made_up(face, surprise=np.zeros(1, np.float32)),
            made_up(face, **{"tuned.x": np.zeros(2**24 + 1, np.float32)}),
            made_up(face, **{"tuned.x": np.zeros(2, np.float16)}),
            made_up(face, code=nan),
            made_up(face, quad=1e9 * face.quad),
            made_up(face, quad=0.01 * face.quad),
            made_up(face, others=np.full((1, 468, 2), 1e9, np.float32)),
            *(made_up(face, {name: "x" * 300}) for name in ("index", "refine", "generator", "photo")),
        ],
    }
    for kind, files in wrong.items():
        for number, contents in enumerate(files):
            path.write_bytes(contents)
            with pytest.raises(InputError) as refusal:
                InvertedFace.load(path)
            assert str(refusal.value) == f"'{path}' {SENTENCES[kind]}", (kind, number)
    for missing in (tmp_path / "nobody.safetensors", tmp_path):
        with pytest.raises(InputError, match="cannot be read .*; check the path"):
            InvertedFace.load(missing)


@pytest.mark.parametrize("name", ["code", "photo", "tuned.x"])
def test_sizes_are_checked_before_anything_is_read(tmp_path, name):
    size = 2**30
    kind = "F32" if name == "tuned.x" else ARRAYS[name][0]
    shape = [size // (4 if kind == "F32" else 1)]
    header = {name: {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}
    header["__metadata__"] = {"format": FORMAT, "version": "1"}
    encoded, path = json.dumps(header).encode(), tmp_path / "face.safetensors"
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + size)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="damaged"):
            InvertedFace.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
