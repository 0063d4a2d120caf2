"""Broken files and requests of every kind, for as long as is asked:

    python -m tests.fuzz --minutes 10 --seed 0

Pictures, safetensors, zips and checkpoints that are whole, cut, changed or mixed go to all that reads them:
the package, the command line and a running page. What is wrong with them has to be said in one sentence that
shows no path of the server, and no file may be lost. Prints figures; the status is 1 if anything else
happened.
"""

import contextlib
import io
import json
import random
import re
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pillow_heif
import torch
import tyro
from PIL import Image, ImageCms

from dystyle import edit, provenance, weights
from dystyle.encoders.fast import FastEncoder
from dystyle.errors import InputError
from dystyle.faces import InvertedFace
from dystyle.generators.checkpoints import read_discriminator, read_generator
from dystyle.generators.facts import GeneratorFacts
from dystyle.generators.stylegan2 import StyleGAN2
from dystyle.originals import Original
from dystyle.pictures import FORMATS, SAVED, load_image
from dystyle.provenance import Credit
from dystyle.training.pictures import Pictures
from tests import stylegan2_formats as formats
from tests.browser.conftest import ROOT
from tests.browser.fake_editor import FakeEditor
from tests.test_server import API, FILE, JSON, Visitor, here
from webapp.callbacks import BROKEN
from webapp.files import FOLDER

SLOW = 20  # seconds that nothing may take
CREDIT = Credit({"age": 60.0}, photographed=True)
NAMES = re.compile(r"'[^']*'|\(type: .*?\)|Value: .* \(|[0-9]+")
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n|\n)*([^ \n].*)")
SECRET = (str(ROOT), str(FOLDER), "site-packages", "Traceback", "/tmp/", "/root")


# ------------------------------------------------------------------------------------- what is broken


def pictures() -> dict[str, bytes]:
    """Photos with a red face for the cartoon editor: all formats, all kinds of pixels, with metadata."""
    pillow_heif.register_heif_opener()
    rgb = np.random.default_rng(0).integers(90, 200, (90, 120, 3), np.uint8)
    rgb[20:60, 30:70] = (230, 20, 20)
    whole, found = Image.fromarray(rgb), {}
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told = {"exif": exif.tobytes(), "icc_profile": profile, "xmp": CREDIT.xmp, "dpi": (300, 300)}
    for entry in FORMATS.values():
        for mode in entry.modes or ("L", "P", "RGB"):
            image = Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257)
            image = whole.convert(mode) if mode != "I;16" else image
            for options in ({}, told) if mode in ("RGB", "RGBA") else ({},):
                buffer = io.BytesIO()
                with contextlib.suppress(OSError, ValueError):  # not every format has every mode
                    image.save(buffer, entry.reader, **options)
                    found[f"{mode} {len(options)}{entry.endings[0]}"] = buffer.getvalue()
    return found


def models(folder: Path) -> dict[str, bytes]:
    """Weights as safetensors, checkpoints of both of PyTorch's formats, NVIDIA's pickles."""
    generator, path = StyleGAN2(16, 128, 16, mapping_layers=2), folder / "whole"
    tensors = {key: tensor.detach().numpy() for key, tensor in generator.state_dict().items()}
    structure = json.dumps(generator.structure)
    weights.save(path, tensors, format="stylegan2", structure=structure)
    found = {"generator.safetensors": path.read_bytes()}
    FastEncoder((8, 8)).save(path)
    found["encoder.safetensors"] = path.read_bytes()
    cartoon = load_image(pictures()["RGB 0.png"])
    found["face.safetensors"] = FakeEditor().invert(cartoon).encode()
    both = {
        "g_ema": formats.rosinality_state(16, 128, 16, 2),
        "d": formats.rosinality_discriminator(16, 128, 16),
    }
    for new in (True, False):
        torch.save(both, path, _use_new_zipfile_serialization=new)
        found[f"rosinality {new}.pt"] = path.read_bytes()
    state = formats.nvidia_generator(16, 128, 16, 2, 0)
    networks = {"G_ema": state, "D": formats.nvidia_discriminator(16, 128, 16, 0)}
    first = formats.tensorflow_generator(16, 128, 16, 2), formats.tensorflow_discriminator(16, 128, 16)
    found["tensorflow.pkl"] = formats.tensorflow_pickle(*first, protocol=4)
    return found | {"nvidia.pkl": formats.nvidia_pickle(networks, 256.0, "source", 4)}


def zips(whole: dict[str, bytes]) -> dict[str, bytes]:
    found = {}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, contents in list(whole.items())[:6]:
                archive.writestr(name, contents)
            archive.writestr("__MACOSX/._a.png", b"\0\5\x16\7")
        found[f"{method}.zip"] = buffer.getvalue()
    return found


def broken(rng: random.Random, whole: bytes, others: list[bytes]) -> bytes:
    """One to four changes: cut, bytes replaced, numbers made extreme, parts doubled, lost or mixed in."""
    blob = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        end = len(blob) if rng.random() < 0.5 else min(len(blob), 300)  # where the structure is
        at, length = rng.randrange(end + 1), rng.choice((1, 2, 4, 8, 64, 1000))
        kind = rng.randrange(7)
        if kind == 0:
            del blob[at:]
        elif kind == 1:
            blob[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            blob[at : at + min(length, 8)] = rng.choice((b"\0", b"\xff", b"\x7f")) * min(length, 8)
        elif kind == 3:
            blob[at:at] = blob[at : at + length] * rng.choice((1, 1, 50))
        elif kind == 4:
            del blob[at : at + length]
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            blob[at : at + length] = other[start : start + length]
        elif at < len(blob):
            blob[at] ^= 1 << rng.randrange(8)
    return bytes(blob)


# ------------------------------------------------------------------------------------- what reads them


class Fuzz:
    """Counts outcomes and keeps the first example of every fault."""

    def __init__(self, seed: int, folder: Path, url: str) -> None:
        self.rng, self.folder, self.url = random.Random(seed), folder, url
        self.outcomes, self.faults, self.slowest = Counter(), {}, {}
        self.pictures, self.models = pictures(), models(folder)
        self.zips = zips(self.pictures)
        self.rounds = [
            (self.read_picture, 6),
            (self.paste_picture, 6),
            (self.command_line, 2),
            (self.read_weights, 3),
            (self.read_zip, 1),
            (self.page, 1),
            (self.api, 2),
        ]

    def run(self, minutes: float) -> None:
        end = time.monotonic() + 60 * minutes
        calls = [call for call, often in self.rounds for _ in range(often)]
        while time.monotonic() < end:
            self.rng.choice(calls)()

    def attempt(self, what: str, blob: bytes, call: Callable[[], object]) -> object:
        """Call something; nothing but an `InputError` of one sentence may come of it."""
        began, result, outcome = time.monotonic(), None, "read"
        try:
            result = call()
        except InputError as error:
            outcome = "refused"
            if "\n" in str(error) or not str(error).endswith(".") or len(str(error)) > 600:
                self.fault(what, f"no sentence: {error!s:.200}", blob)
        except Exception as error:
            outcome = "fault"
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.fault(what, f"{type(error).__name__} at {last.filename}:{last.lineno}: {error!s:.100}", blob)
        seconds = time.monotonic() - began
        self.outcomes[what, outcome] += 1
        self.slowest[what] = max(self.slowest.get(what, 0.0), seconds)
        if seconds > SLOW:
            self.fault(what, f"{seconds:.0f} s", blob)
        return result

    def fault(self, what: str, said: str, blob: bytes) -> None:
        """One fault of a kind is enough: names of files, numbers and values are not what tells them apart."""
        kind = f"{what}: {re.sub(NAMES, '...', said)}"
        if kind not in self.faults:
            self.faults[kind] = path = self.folder / f"fault-{len(self.faults)}"
            path.write_bytes(blob)
            print(f"{what}: {said}\n  {path}", file=sys.__stderr__, flush=True)

    def some(self, whole: dict[str, bytes]) -> tuple[Path, bytes]:
        """A file, broken most of the time."""
        name = self.rng.choice(list(whole))
        blob = whole[name]
        if self.rng.random() < 0.95:
            blob = broken(self.rng, blob, list(whole.values()))
        path = self.folder / f"given{Path(name).suffix}"
        path.write_bytes(blob)
        return path, blob

    def read_picture(self) -> None:
        path, blob = self.some(self.pictures)
        self.attempt("picture", blob, lambda: load_image(path))

    def paste_picture(self) -> None:
        path, blob = self.some(self.pictures)
        kind, mark = self.rng.choice(list(SAVED)), self.rng.random() < 0.2

        def paste() -> None:
            original = Original.open(path)
            changed = original.rgb.copy()
            changed[10:30, 10:40] = (200, 40, 60)
            load_image(provenance.encode(changed, kind, CREDIT, mark, original))

        self.attempt("picture pasted into", blob, paste)

    def command_line(self) -> None:
        """A folder with a good and a broken photo, and results of last time in the way."""
        path, blob = self.some(self.pictures)
        photos, out = self.folder / "photos", self.folder / "out"
        for folder in (photos, out):
            folder.mkdir(exist_ok=True)
            for old in folder.iterdir():
                old.unlink()
        good = self.pictures["RGB 0.png"]
        (photos / "good.png").write_bytes(good)
        (photos / path.name).write_bytes(blob)
        last = out / f"{path.stem}{path.suffix if path.suffix in ENDINGS else '.png'}"
        last.write_bytes(good)
        config = edit.EditConfig(
            photo=photos, set=("age=60",), out=out, paste=True, face=self.rng.choice(("0", "all"))
        )
        self.attempt("command line", blob, lambda: edit.run(config))
        kept = (photos / "good.png").read_bytes() == good and (photos / path.name).read_bytes() == blob
        names = {file.name for file in out.iterdir()}
        if not kept or names != {"good.png", last.name} or load_image(last).shape[2] != 3:
            self.fault("command line", f"a file is lost; there are {sorted(names)}", blob)

    def read_weights(self) -> None:
        path, blob = self.some(self.models)
        readers = {
            "weights": weights.load,
            "generator": read_generator,
            "discriminator": read_discriminator,
            "encoder": FastEncoder.load,
            "face": InvertedFace.load,
            "generator's facts": GeneratorFacts.load,
        }
        for what, read in readers.items():
            if what == "generator's facts" and path.suffix != ".safetensors":
                continue  # converts what it can read into the cache
            self.attempt(what, blob, lambda read=read: read(path))

    def read_zip(self) -> None:
        path, blob = self.some(self.zips)

        def read() -> None:
            dataset = Pictures(path, 64)
            for i in range(len(dataset)):
                with contextlib.suppress(InputError):
                    dataset[i]

        self.attempt("zip", blob, read)

    # ------------------------------------------------------------------------------------- the server

    def visitor(self) -> Visitor:
        """One of many: an address may take no more than its share."""
        return Visitor(self.url, address=f"198.51.{self.rng.randrange(256)}.{self.rng.randrange(256)}")

    def told(self, what: str, blob: bytes, outcome: tuple[bool, dict, list[str]]) -> None:
        success, output, said = outcome
        sentences = [*said, *([] if success else [str(output.get("error"))])]
        self.outcomes[what, "done" if success else "refused"] += 1
        for sentence in sentences:
            if not sentence.endswith(".") or any(part in sentence for part in SECRET) or sentence == BROKEN:
                self.fault(what, f"said {sentence[:200]!r}", blob)

    def page(self) -> None:
        path, blob = self.some(self.pictures)
        visitor = self.visitor()

        def ask() -> None:
            photo = {"path": visitor.upload(blob, path.name), "orig_name": path.name, "meta": FILE}
            outcome = visitor.send("open_photo", [None, "fast", photo])
            self.told("page", blob, outcome)
            if outcome[0] and not outcome[2]:
                values = ["whole" if value == "portrait" else value for value in visitor.values("download_1")]
                self.told("page's download", blob, visitor.send("download_1", values))

        self.attempt("page's requests", blob, ask)

    def api(self) -> None:
        """Endpoints with files and values that may be anything, as the queue and as `/call` take them."""
        visitor, rng = self.visitor(), self.rng
        path, blob = self.some(self.pictures if rng.random() < 0.8 else self.models)

        def ask() -> None:
            photo = {"path": visitor.upload(blob, path.name), "orig_name": path.name, "meta": FILE}
            usual = {
                "measure": [photo, 0],
                "edit_photo": [photo, {"age": 60}, "fast", 0, True, rng.choice(list(SAVED)), False],
                "edit_person": [3, {"age": 60}, "png", False],
                "mix_people": [3, 4, 8, 1, 1, "png", False],
                "attributes": [],
                "save_face": [photo, "fast", 0, rng.random() < 0.5],
            }
            name = rng.choice(list(usual))
            values = [rng.choice(ODD) if rng.random() < 0.3 else value for value in usual[name]]
            if rng.random() < 0.1:
                values = values[: rng.randrange(len(values) + 1)] + rng.choices(ODD, k=rng.randrange(3))
            body = json.dumps({"data": values}).encode()
            if rng.random() < 0.3:
                body = broken(rng, body, [body])
                answer = visitor.http.post(f"{API}/call/{name}", content=body, headers=JSON)
                text = answer.text
                if answer.status_code == 200 and "event_id" in text:
                    text = visitor.http.get(f"{API}/call/{name}/{answer.json()['event_id']}").text
                self.outcomes["API's bodies", str(answer.status_code)] += 1
                if answer.status_code >= 500 or "Traceback" in text or "site-packages" in text:
                    self.fault("API's bodies", f"{answer.status_code} {text[:200]}", body)
            elif (joined := visitor.join(name, values)).status_code == 200:
                self.told(f"API {name}", body, visitor.outcome(joined.json()["event_id"]))
            else:
                self.outcomes[f"API {name}", str(joined.status_code)] += 1
                if joined.status_code >= 500:
                    self.fault(f"API {name}", f"{joined.status_code} {joined.text[:200]}", body)

        self.attempt("API's requests", blob, ask)


ENDINGS = tuple(ending for entry in SAVED.values() for ending in entry.endings)
ODD = (None, "", "60", -1, 1e9, 1e400, True, [], {}, {"age": "60"}, {"age": 1e400}, [["x"]], "../../x.png")


def main(minutes: float = 10, seed: int = 0) -> None:
    """Break things.

    Args:
        minutes: how long.
        seed: of what is broken how.
    """
    heard, folder = io.StringIO(), Path(tempfile.mkdtemp(prefix="fuzz-"))
    cartoon = mock.patch.object(edit.FaceEditor, "from_pretrained", lambda *_: FakeEditor())
    quiet = contextlib.redirect_stdout(io.StringIO())
    with here() as (url, *_), cartoon, contextlib.redirect_stderr(heard), quiet:
        fuzz = Fuzz(seed, folder, url)
        fuzz.run(minutes)
    for said in re.findall(TRACEBACK, heard.getvalue()):
        fuzz.fault("server", f"a traceback that ends in {said[:200]}", heard.getvalue().encode())
    for (what, outcome), count in sorted(fuzz.outcomes.items()):
        print(f"{count:7} {what} {outcome}")
    print("slowest:", ", ".join(f"{what} {seconds:.1f} s" for what, seconds in fuzz.slowest.items()))
    print(f"{sum(fuzz.outcomes.values())} in {minutes:g} minutes, {len(fuzz.faults)} kinds of faults")
    sys.exit(bool(fuzz.faults))


if __name__ == "__main__":
    tyro.cli(main)
