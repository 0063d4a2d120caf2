"""FaceEditor: photo -> portrait -> code -> edited code -> picture -> photo. The public Python API."""

import copy
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import closing
from functools import cached_property, partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dystyle.alignment import Face, FaceAligner, covered, in_portrait, paste
from dystyle.attributes import ATTRIBUTES, CHEEKS, PARTS, Attribute, validate_configuration
from dystyle.backend import Backend
from dystyle.compositing import (
    COARSE,
    Carried,
    Flow,
    by_place,
    changes,
    complexion,
    composite,
    corrected,
    detailed,
    grain,
    ramp,
    thin_changes,
    widened,
)
from dystyle.covers import cover_of
from dystyle.dyeing import Colours, colours, dyed, find_hair, new_colours, shifted
from dystyle.editors import METHODS, open_method
from dystyle.editors.base import EditedCode, Editor, edits_since, styles_of
from dystyle.editors.search import MOST_LOOKS
from dystyle.editors.second_look import LOOKS, look_again
from dystyle.encoders import EARLY, PASSES, PHOTO, RENDER, SAMPLED, SIZE
from dystyle.encoders.descent import DescentStep, describe, load_steps
from dystyle.engines.choice import auto_device, choose_backend
from dystyle.engines.generator_graph import ADJUSTABLE
from dystyle.engines.hardware import has_gpu, has_torch
from dystyle.errors import InputError
from dystyle.faces import REFINE, InvertedFace, fingerprint
from dystyle.generators.facts import DEFAULT, MOST_NOISE, GeneratorFacts
from dystyle.pictures import load_image
from dystyle.places import LIDS, Moved, Places, above_the_neck, faces_of, region_of
from dystyle.relief import relief_of, turned
from dystyle.tone import tone_of, toned
from dystyle.translators import FAMILIES
from dystyle.translators.compiled import Translator
from dystyle.weights import load, resolve

if TYPE_CHECKING:
    from dystyle.encoders.refine import Step

BACKENDS = ("onnx", "openvino", "torch", "tensorrt", "serve", "auto")
DEVICES = ("cpu", "cuda", "auto")
TRANSLATOR_FILE = ".safetensors"
# Differences, of 255, from and up to which a picture counts as changed, and px by which it is blurred before
# (see `changes`): of two renders of a face, which differ a little everywhere; of a head that only turns, with
# fine structure never quite in its place; of a picture and the portrait whose pixels it has where nothing
# changed.
RENDERED, TURNED, COMPOSED = (3.0, 12.0), (12.0, 40.0, 3.0), (0.5, 2.0)
# Differences, of 255, that glasses make when they are taken off, and their rims, beside broader differences.
GLASSES, WORN, RIMS = "eyeglasses", (12.0, 30.0), (15.0, 30.0)
# Around a face where hair is told from it: a margin in sides of the portrait, and how softly it ends, in px
# of 256.
AROUND = 0.06, 3
DARK = 0.35  # times as light as the nose, what is behind dark glasses
FRINGE = 16  # px of 256 above the brows, over which hair begins to stay in front of glasses
# Of a head that a code turns: places of the features within its outline that stay the photo's, from and up
# to which share of a place that is no ground it is the generator's, and px of 256 from it up to which all
# goes along, and from which nothing does.
RIM, DRAWN, BESIDE = 2, (0.8, 1.0), (8, 56)
PERSON = 0.1, 0.5  # shares of a place that are a person's, up to which it is beside heads, and from which not
SEEN = 0.05  # shares closer than that to what a photo shows look the same
EDGE_BLUR = 2.0  # px of 256, standard deviation: the edge of what is protected

# For the gain of a photo's edits: looks, the edit looked at (in shares of the evaluated range), the least,
# and what is left of it for edits of several attributes, which change more, so that more of the photo fades.
GAIN_LOOKS, GAIN_STEP, LEAST_GAIN, AMONG = 2, 0.4, 0.6, 0.5


class FaceEditor:
    """Edits faces. Make one with `from_pretrained`; it may be shared between threads.

    Attributes:
        attributes: what the editor can change, by name, in the table's order.
        sizes: of pictures in px: the full one, then previews.
        backend: what runs the networks.
        method: the editing method: of codes, or a translator, which edits pictures.
    """

    def __init__(
        self,
        backend: Backend,
        method: Editor | Translator,
        encoder: str = "encoder",
        generator: GeneratorFacts | None = None,
        device: str = "cpu",
        descent: Iterable[DescentStep] = (),
    ) -> None:
        self.backend, self.method, self._encoder = backend, method, encoder
        self._descent = tuple(descent)
        self._generator = generator or GeneratorFacts.load()
        self._refiner: Callable[..., Generator[Step, None, None]] = partial(_refine, device=device)
        self.sizes = self._generator.sizes
        self.attributes: dict[str, Attribute] = {name: ATTRIBUTES[name] for name in method.names}

        def detector(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, boxes = backend.run("detector", x)
            return scores, boxes

        self._aligner = FaceAligner(detector, lambda x: backend.run("mesh", x)[0])

    @classmethod
    def from_pretrained(
        cls,
        device: str = "cpu",
        backend: str | Backend = "auto",
        method: str = "dystyle",
        encoder: str | os.PathLike[str] = "fast",
        generator: str | os.PathLike[str] = DEFAULT,
        url: str | None = None,
    ) -> "FaceEditor":
        """An editor with the bundled weights.

        Args:
            device: "cpu", "cuda", or "auto": a GPU if there is one that the backend can use.
            backend: what runs the engines, which are built on first use: "auto", on a CPU what a short
                measurement at the first start found fastest, on a GPU TensorRT if it is there, else what is
                installed for it; "onnx" (ONNX Runtime), "openvino" (for CPUs), "tensorrt" (its package, else
                the TensorRT-RTX plug-in), "torch" (PyTorch, the reference), or "serve" (those of a server at
                `url`, where nothing is built here). Or whatever else runs them.
            method: the editing method, a key of `dystyle.editors.METHODS`: "dystyle", or one that it is
                compared with. The others look at the picture while they edit, and take seconds. Or a
                translator, which has `edit_picture` instead of `edit`: a key of
                `dystyle.translators.FAMILIES`, or the path of one trained here (.safetensors).
            encoder: "fast" (bundled), "e4e" (1.2 GB from the Hugging Face hub), or the path of a checkpoint
                of e4e or pSp (.pt) or of a fast encoder trained here (.safetensors).
            generator: "mobile_stylegan", "stylegan2_ffhq" (from the Hugging Face hub), or the path of a
                StyleGAN2 in any format of `dystyle.generators.checkpoints`. The editor and the encoder fit
                generators with the W space of StyleGAN2 FFHQ.
            url: of a server with `python -m dystyle.serve`, or with the models that `python -m dystyle.export
                --layout` writes, for `backend="serve"`: http://127.0.0.1:8000.

        Raises:
            InputError: an unknown name, something that is not installed here, a failed download, or a server
                that does not answer.
        """
        _choose("device", device, DEVICES)
        if isinstance(backend, str):
            _choose("backend", backend, BACKENDS)
        if url is not None and backend != "serve":
            raise InputError("A url goes with backend='serve'; give that, or leave it out.")
        _check_method(method)
        graph, facts = encoder_graph(encoder), GeneratorFacts.load(generator)
        if isinstance(backend, str):
            device = auto_device(backend) if device == "auto" else device
            runner = choose_backend(device, backend, url)
        else:
            runner = backend
        # The steps were learnt for what the bundled encoder lacks on the default generator.
        descent = load_steps() if encoder == "fast" and generator == DEFAULT else ()
        return cls(runner, _open(method, runner), graph, facts, device, descent)

    def with_method(self, method: str) -> "FaceEditor":
        """The same editor with another editing method; both share engines."""
        _check_method(method)
        other = copy.copy(self)
        other.method = _open(method, self.backend)
        other.attributes = {name: ATTRIBUTES[name] for name in other.method.names}
        return other

    def condition_on(self, names: Sequence[str]) -> "FaceEditor":
        """The same editor, whose edits keep these attributes: InterFaceGAN's conditional manipulation.

        Without it, they keep all others; what is not named then goes along, as it does among people.

        Args:
            names: attributes; none of them follows every direction as it was found.

        Raises:
            InputError: an unknown attribute, or a method that projects no directions.
        """
        unknown = [name for name in names if name not in self.attributes]
        if unknown:
            known = ", ".join(self.attributes)
            raise InputError(f"There is no attribute '{str(unknown[0])[:40]}' to keep; choose from {known}.")
        other = copy.copy(self)
        other.method = self._of_codes.condition_on(tuple(names))
        return other

    def with_refiner(self, refiner: "Callable[..., Generator[Step, None, None]]") -> "FaceEditor":
        """The same editor, but codes are refined somewhere else.

        Args:
            refiner: does what `dystyle.encoders.refine.refine` does for a portrait, a code, a quality and
                a generator's file.
        """
        other = copy.copy(self)
        other._refiner = refiner
        return other

    def detect(self, photo) -> list[Face]:
        """The faces of a photo, largest first; see `invert` for what a photo may be."""
        return self._aligner.detect(load_image(photo))

    def align(self, photo, index: int | Face = 0) -> tuple[Face, np.ndarray]:
        """A face of a photo and its portrait, (1024, 1024, 3) uint8 RGB; see `invert` for the arguments.

        Raises:
            InputError: not a picture, no face, no such face, or an index that is no whole number.
        """
        if not isinstance(index, Face):
            _check_number("index (which face)", index, 0, whole=True)
        return self._aligner.align(load_image(photo), index)

    def invert(
        self,
        photo,
        refine: str = "fast",
        index: int | Face = 0,
        progress: Callable[[float, str], None] | None = None,
    ) -> InvertedFace:
        """Find a face in a photo and its code.

        Args:
            photo: a path, file object, PIL image, or uint8 array (h, w, 3) RGB.
            refine: "fast" (the encoder, and with the bundled one steps of supervised descent), "balanced"
                (then optimisation of the code, some seconds), or "precise" (more of it, then pivotal tuning
                of the generator, up to a minute); these two need PyTorch.
            index: which face, from the largest, 0, on, or one that `detect` found in the photo.
            progress: called with the share done, 0..1, and a message; an exception it raises stops the work.

        Raises:
            InputError: not a picture, no face, no such face, an unknown `refine`, or one that needs
                PyTorch where it is missing.
        """
        _choose("refine", refine, REFINE)
        if refine not in self.qualities:
            lacking = "PyTorch (pip install torch)" if self.sizes[0] == 1024 else "a generator of 1024 px"
            raise InputError(f"refine='{refine}' needs {lacking}; use 'fast'.")
        report = progress or (lambda fraction, message: None)
        report(0.0, "Finding the face")
        photo = load_image(photo)
        face, portrait = self.align(photo, index)
        code = self.encode(portrait)
        tuned: Mapping[str, np.ndarray] = {}
        if refine != "fast":
            self.backend.release_memory()  # for the optimisation, which takes as much
            with closing(self._refiner(portrait, code, refine, self._generator.file)) as steps:
                for share, message, result in steps:
                    if result is None:
                        report(share, message)
                    else:
                        code, tuned = result
        report(1.0, "Done")
        restored = not tuned and self._descent
        residual, cover = self._restore(portrait, code) if restored else (None, None)
        return InvertedFace(
            code,
            portrait,
            face.quad,
            face.box,
            tuned,
            residual,
            tone_of(portrait),
            cover,
            face.others,
            face.index,
            refine,
            generator=self._generator.name,
            photo_id=fingerprint(photo),
            landmarks=face.landmarks,
        )

    def _restore(self, portrait: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """What of a portrait its code lacks, and what covers it: `InvertedFace.residual` and `cover`."""
        own = seen = self._features(code)
        cover = None
        for look in range(PASSES):
            render = self._decode(RENDER, seen, code)
            if look == 0:
                cover = cover_of(_resize(portrait, RENDER), render)
            known = {"codes": code[None], "features": seen, "renders": render[None].astype(np.float32)}
            seen = seen + self.backend.run("residual", _resize(portrait, PHOTO)[None], None, **known)[0]
        return (seen - own)[0].astype(np.float16), cover

    def encode(self, portrait: np.ndarray) -> np.ndarray:
        """The code (18, 512) float32 of an aligned portrait (s, s, 3) uint8 RGB, as fast as it can be had."""
        portrait = _resize(portrait, 256)
        code = self.backend.run(self._encoder, portrait[None])[0][0]
        if self._descent:
            wanted = describe(portrait, self.embed(portrait))
        for step in self._descent:
            preview = self.synthesize(code, 256)
            code = step(code, wanted - describe(preview, self.embed(preview)))
        return code

    def edit(
        self,
        code: np.ndarray,
        configuration: Mapping[str, float],
        progress: Callable[[float, str], None] | None = None,
        face: InvertedFace | None = None,
        looks: int = 0,
    ) -> np.ndarray:
        """The edited code, (18, 512) float32, which knows what was edited (`EditedCode`).

        Args:
            code: (18, 512).
            configuration: attribute name -> target value in the attribute's unit. Only these attributes'
                experts run; an empty configuration returns the code unchanged.
            progress: where pictures are looked at, called before each one with the share of the search
                that is over, 0..1, and a message.
            face: the inverted face the code came from, if it did: pictures that are looked at are then those
                that `synthesize` shows for it.
            looks: 1 lets DyStyle look at what it did, and put right what was missed, and what moved without
                being asked to (`dystyle.editors.second_look`). It costs two full pictures and their readings,
                of the code and of the edit. Other methods look by themselves.

        Raises:
            InputError: an unknown attribute, or a value that is no number or out of range; looks of a method
                that looks by itself; a translator, which edits pictures.
        """
        method = self._of_codes
        configuration = validate_configuration(configuration, self.attributes)
        code = _check_code(code)
        _check_number("looks", looks, 0, LOOKS, whole=True)
        if looks and method.searches:
            raise InputError(f"{method.title} looks at the picture by itself; use looks=0.")
        if not configuration:
            return code.copy()
        seen, most = itertools.count(), 2 if looks else MOST_LOOKS
        message = "Looking at the edit" if looks else "Looking for the strength"

        def read(seen_code: np.ndarray) -> dict[str, float]:
            if progress:
                progress(min(next(seen) / most, 1.0), message)
            return self.measure(self.synthesize(seen_code, face=face))

        def look(edited: np.ndarray) -> dict[str, float]:
            return read(edited if edited is code else EditedCode(edited, code, configuration))

        if looks:
            edit = partial(method.edit, read=read)
            edited = look_again(edit, code, configuration, tuple(self.attributes), look)
        else:
            edited = method.edit(code, configuration, read)
        if styles_of(edited):
            return edited
        return EditedCode(edited, code, configuration, method.searches)

    def edit_picture(
        self, portrait: np.ndarray, configuration: Mapping[str, float], size: int | None = None
    ) -> np.ndarray:
        """The edited picture by a translator, which needs no code: (size, size, 3) uint8 RGB.

        Args:
            portrait: aligned, (s, s, 3) uint8 RGB.
            configuration: as in `edit`; an empty one asks for nothing, and gives the portrait in this size.
            size: px. None: the translator's own, 128 if it was not trained otherwise; at another size its
                change is laid over the portrait, whose own detail stays.

        Raises:
            InputError: as `edit` and `measure`; a size below 64 or that is no whole number; a method that
                edits codes.
        """
        if not isinstance(self.method, Translator):
            raise InputError(
                f"{self.method.title} edits codes: use invert, edit and synthesize, or a method that edits "
                f"pictures ({', '.join(FAMILIES)})."
            )
        configuration = validate_configuration(configuration, self.attributes)
        if size is not None:
            _check_number("size", size, 64, whole=True)
        return self.method.translate(portrait, configuration, self.measure(portrait), size)

    @property
    def edits_pictures(self) -> bool:
        """Whether the method is a translator: `edit_picture` works, and `edit` does not."""
        return isinstance(self.method, Translator)

    @property
    def _of_codes(self) -> Editor:
        if isinstance(self.method, Translator):
            raise InputError(f"{self.method.title} edits pictures, not codes; use edit_picture.")
        return self.method

    def attention(self, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        """What each active expert (second axis) takes from each (third axis): (rows, n, n) float32.

        Arguments as `edit`, but with at least one attribute; the axes are in the table's order.

        Raises:
            InputError: as `edit`; the method is not DyStyle, and has no experts.
        """
        configuration = validate_configuration(configuration, self.attributes)
        if not configuration:
            raise InputError("Without an edited attribute no expert is active; give at least one.")
        return self._of_codes.attention(_check_code(code), configuration)

    def mix(self, code: np.ndarray, other: np.ndarray, row: int) -> np.ndarray:
        """Style mixing (StyleGAN, section 3.1): the rows of `code` before `row`, those of `other` from it on.

        Args:
            code, other: (18, 512).
            row: 0 gives `other`, 18 gives `code`; early rows hold pose and shape, late ones colours.
        """
        _check_number("row", row, 0, 18, whole=True)
        return np.concatenate((_check_code(code)[:row], _check_code(other)[row:]))

    def truncate(self, code: np.ndarray, truncation: float) -> np.ndarray:
        """A code (18, 512) pulled to the mean face: 1 leaves it, 0 gives the mean."""
        _check_number("truncation", truncation, 0, 1)
        return self._generator.mean_w + np.float32(truncation) * (_check_code(code) - self._generator.mean_w)

    def synthesize(
        self,
        code: np.ndarray,
        size: int | None = None,
        face: InvertedFace | None = None,
        noise: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """The picture of a code: (size, size, 3) uint8 RGB.

        Args:
            code: (18, 512); a `StyledCode` brings its changed channels along.
            size: one of `sizes`, with the default generator 1024 or the previews 256 and 128; None: the full
                one.
            face: the inverted face the code came from, which brings along what of the photo no code holds;
                where an edited picture differs from the unedited one by no more than that things have moved,
                it is the photo's own pixels, moved. A code that `edit` made of the face's goes farther, as
                the photo holds it back (`Attribute.photo_gain`), is edited only where its attributes have
                business (`Attribute.region`), and what they leave (`Attribute.leaves`), the complexion, what
                is ground before and after (clothes, hats, background) and what is protected
                (`InvertedFace.protect`) stay the photo's. What turns the head (`Attribute.turns`) is no part
                of that: the picture of all else is turned, as its surface says (`dystyle.relief`).
            noise: strengths of layers' noise images (`noise_layers`): 1 is the generator's own, 0 off, 10 the
                most.

        Raises:
            InputError: another size, a code of another shape, an unknown layer, a strength out of range, or a
                face with weights tuned for another generator.
        """
        size = self.sizes[0] if size is None else size
        _choose("size", size, self.sizes)
        tuned = {} if face is None else self._tuned(face)
        styles, noise = styles_of(code), noise or {}
        weights = {**self._weights, **tuned} if styles or noise else dict(tuned)
        for layer, offset in styles.items():
            _choose("style layer", f"{layer}.bias", self._weights)
            weights[f"{layer}.bias"] = weights[f"{layer}.bias"] + offset
        for layer, strength in noise.items():
            _choose("noise layer", layer, self.noise_layers)
            _check_number(f"noise of {layer}", strength, 0, MOST_NOISE)
            weights[f"{layer}.noise"] = weights[f"{layer}.noise"] * np.float32(strength)
        dye: tuple[Colours, ...] = ()
        dyes: Mapping[str, float] = {}
        turns: Mapping[str, float] = {}
        targets: Mapping[str, float] = {}
        code, places, apart = _check_code(code), Places(), set[str]()
        if face is not None and (known := edits_since(face.code, code)) is not None:
            targets = known.targets
            if face.residual is not None:
                shown = self._shown(targets, face)
                dyes, dye = self._dyes(known, face, shown)
                turns = self._turns(known, face)
                apart = dyes.keys() | turns.keys() | shown
                code = self._held_back(known, face, apart)
                targets = {name: target for name, target in targets.items() if name not in apart}
            places = self._places(targets, face)
            if dye:
                places = self._with_own_hair(places, targets, face)
        code = np.asarray(code)
        if face is None:
            return self._picture(code, size, None, weights, places)[0]
        only = bool(apart) and not weights and np.array_equal(code, face.code)
        edited = partial(self._edited, code, size, face, weights, places, dye, only, anew=bool(dyes))
        if turns and not weights:  # who turns a head to and fro does not wait for what else is edited
            known_as = np.round(code, 4).tobytes(), *targets.items(), *dyes.items()
            made_of, picture = face.kept.get(f"shown unturned {size}", (None, None))
            if made_of != known_as:
                picture = edited()
                face.kept[f"shown unturned {size}"] = known_as, picture
        else:
            picture = edited()
        if turns:
            picture = self._turn(picture, face, turns).copy()  # what is kept is not given away
        if face.tone is not None:
            picture = toned(picture, face.tone)
        if face.protected is not None:
            picture = composite(picture, face.portrait, 1 - _edged(face.protected))
        if not (styles or noise or apart) and np.array_equal(code, face.code):
            face.kept[f"shown {size}"] = picture.copy()
        return picture

    def _edited(
        self,
        code: np.ndarray,
        size: int,
        face: InvertedFace,
        weights: Mapping[str, np.ndarray],
        places: Places,
        dye: tuple[Colours, ...],
        only: bool = False,
        anew: bool = False,
    ) -> np.ndarray:
        """A face's picture by its code, its hair dyed.

        Args:
            only: nothing else of the photo changes. anew: hair that the generator draws is dyed, too.
        """
        picture, moved = (self._own(size, face), None)
        if not only:
            picture, moved = self._picture(code, size, face, weights, places)
        if dye:
            hair = self._hair(face)
            if moved is not None:
                hair = moved.carry(hair, anew)
            picture = dyed(picture, hair, *dye)
        return picture

    def _tuned(self, face: InvertedFace) -> Mapping[str, np.ndarray]:
        """A face's tuned weights, if they are this generator's."""
        shapes = self._generator.shapes
        if face.tuned and (
            face.generator != self._generator.name
            or any(shapes.get(name) != weight.shape for name, weight in face.tuned.items())
        ):
            raise InputError(
                f"This face was tuned for {face.generator or 'another generator'}, and "
                f"{self._generator.name} runs here; open it with that one."
            )
        return face.tuned

    def _picture(
        self,
        code: np.ndarray,
        size: int,
        face: InvertedFace | None,
        weights: Mapping[str, np.ndarray],
        places: Places,
    ) -> tuple[np.ndarray, Moved | None]:
        """See `synthesize`, and what of the photo has moved; `weights` stand in for the generator's."""
        if self._generator.file is not None:
            return self.backend.run(self._generator.graph(size), code[None], weights)[0][0], None
        features = self._features(code, weights)
        if face is None or face.residual is None:
            return self._decode(size, features, code, weights), None
        if np.array_equal(code, face.code):
            if weights:
                return self._decode(size, features + face.residual, code, weights), None
            render = self._unedited(size, face)
            return detailed(render, face.portrait, render), None
        after = self._features(code) if weights else features
        known, ground, faces = self._start(face), self._ground(places, face), faces_of(places)
        moves = {"read": known["read"], "unmoved": known["unmoved"], "faces": faces}
        (flow,), ((now,),), ((hair,),) = self.backend.run("carrier_moves", after, None, **moves)
        route, head = Flow(flow), None
        if places.turns and places.face is not None:
            was = (1 - ground) * _resize(above_the_neck(face), SIZE)
            head = cv2.erode(np.minimum(route.move(was), 1 - now), np.ones((2 * RIM + 1, 2 * RIM + 1)))
            head = ramp(head, *DRAWN)
            now = 1 - head
        elif places.still:  # edges included, and so heads keep their outlines
            now = widened(np.maximum(ground, now))
            ground = np.ones_like(ground)
        hair, going = np.minimum(hair, 1 - now), 1 - now if head is None else _near(head)
        along = flow * cv2.resize(going, flow.shape[1:])  # what is beside a head gives way, as cloth would
        if places.edited is not None:
            along = along * cv2.resize(places.edited, flow.shape[1:])
        if face.protected is not None:
            along = along * (1 - cv2.resize(_edged(face.protected), flow.shape[1:]))
        moving = Flow(along)
        own = moving.move(self._own(size, face))
        lasts = np.ones_like(now)
        if places.gives_way is not None:
            lasts -= cv2.resize(places.gives_way, lasts.shape)
        stays = ground * now * lasts
        residual, sampled = (route.carry(x)[None] for x in by_place(known["carried"]))
        carried, touched = self.backend.run(
            "carrier",
            residual,
            None,
            sampled=sampled,
            after=after,
            restored=known["restored"],
            flow=flow[None],
            stay=stays[None, None],
            lasts=lasts[None, None],
        )
        edited = self._decode(size, features + (carried - after) if weights else carried, code, weights)
        if weights:
            everywhere = np.ones((COARSE, COARSE), np.float32)
            return edited, Moved(route, everywhere, hair, places.face)
        unedited = moving.move(self._unedited(size, face))
        changed = changes(edited, unedited, *RENDERED)
        if places.turned is not None:
            only_turned = moving.move(places.turned)
            changed += only_turned * (changes(edited, unedited, *TURNED) - changed)
        changed *= cv2.resize(touched[0, 0], changed.shape, interpolation=cv2.INTER_LINEAR)
        if places.edited is not None:
            changed *= cv2.resize(places.edited, changed.shape)
        for kept in (face.cover, places.left):
            if kept is not None:
                changed *= 1 - cv2.resize(moving.move(kept), changed.shape)
        changed *= cv2.resize(1 - stays if head is None else head, changed.shape)
        skin = None if places.face is None else moving.move(places.face)
        if places.still and skin is not None:  # nor does anything beside such a head change
            changed *= np.maximum(ramp(moving.move(self._person(face)), *PERSON), skin)
        edited = detailed(edited, own, unedited, self._grain(size, face), skin)
        edited = corrected(edited, own, unedited, now, stays)
        if places.skin is not None:
            skin = moving.move(places.skin)
            edited = complexion(edited, own, skin * (1 - cv2.resize(now, skin.shape)))
        return composite(edited, own, changed), Moved(moving, changed, hair, places.face)

    def _turns(self, code: EditedCode, face: InvertedFace) -> dict[str, float]:
        """Which of the targets of a face's edits turn its head; none if its face's place is not known, or
        pictures were looked at for them, so that the code does not tell what they change."""
        if face.landmarks is None:
            return {}
        asked = {name: target for _, targets, _ in code.steps for name, target in targets.items()}
        turns = {name: target for name, target in asked.items() if ATTRIBUTES[name].turns}
        return {name: target for name, target in turns.items() if code.targets[name] == target}

    def _turn(self, picture: np.ndarray, face: InvertedFace, targets: Mapping[str, float]) -> np.ndarray:
        """A picture of a face, with its head turned from how the portrait has it to these targets."""
        rotation = np.zeros(3)
        for name, target in targets.items():
            change = target - self._readings(face)[name]
            rotation += self._gain(name, change > 0, face) * change * np.array(ATTRIBUTES[name].turns)
        return self._rotate(picture, face, rotation)

    def _rotate(self, picture: np.ndarray, face: InvertedFace, rotation: np.ndarray) -> np.ndarray:
        """The same by angles around three axes, see `turned`."""
        if "relief" not in face.kept:
            points = self._aligner.surface(face.portrait)
            whole = region_of(face, [range(len(points))], *PARTS["face"][1])
            head = np.maximum(whole, self._person(face) * _resize(above_the_neck(face), COARSE))
            face.kept["relief"] = relief_of(points, head * (1 - covered(face.others, face.quad)))
        stays = None if face.protected is None else _edged(face.protected)
        return turned(face.kept["relief"], rotation, stays).move(picture)

    def _shown(self, targets: Mapping[str, float], face: InvertedFace) -> set[str]:
        """Which of the targets of a face's edits its portrait shows already, as far as can be seen: a smile
        asked of who smiles leaves the mouth as it is."""
        ends = {name: t for name, t in targets.items() if ATTRIBUTES[name].scale == "probability"}
        return {name for name, t in ends.items() if abs(t - self._readings(face)[name]) < SEEN}

    def _dyes(
        self, code: EditedCode, face: InvertedFace, shown: Set[str]
    ) -> tuple[dict[str, float], tuple[Colours, ...]]:
        """Which of the targets of a face's edits do nothing but dye its hair, and the colours that it has and
        gets; none of either if there is no hair to be dyed. What is `shown` is not dyed."""
        targets = {name: target for _, step, _ in code.steps for name, target in step.items()}
        dyes = {name: t for name, t in targets.items() if ATTRIBUTES[name].dyes != "no" and name not in shown}
        if not dyes:
            return {}, ()
        if "colours" not in face.kept:
            known = colours(face.portrait, self._hair(face)), self._hair_of(face.code)
            face.kept["colours"] = np.array([x for x in known if x is not None], np.float32)
        if len(face.kept["colours"]) < 2:
            return {}, ()
        own, before = (Colours(*x) for x in face.kept["colours"])
        only = {name: target for name, target in dyes.items() if ATTRIBUTES[name].dyes == "only"}
        if only:
            after = self._hair_of(self._of_codes.edit(face.code, only, self.measure))
            return (only, (own, new_colours(own, before, after))) if after else ({}, ())
        new = own
        for name, target in dyes.items():
            new = shifted(new, before, *self._colours_towards(name, target, face, before))
        return {}, (own, new)

    def _colours_towards(
        self, name: str, target: float, face: InvertedFace, before: Colours
    ) -> tuple[Colours, float]:
        """The colours that a code's hair, now as `before`, has at an attribute's end, and how much of the way
        there a target is."""
        start, row = self._readings(face)[name], ATTRIBUTES[name]
        end = float(row.trained[-1] if target > start else row.trained[0])
        key = f"colours {name} {end:g}"
        if key not in face.kept:
            found = self._hair_of(self._of_codes.edit(face.code, {name: end}, self.measure))
            face.kept[key] = np.array(found or before, np.float32)
        share = float(np.clip((target - start) / (end - start), 0, 1)) if end != start else 0.0
        return Colours(*face.kept[key]), share

    def _hair(self, face: InvertedFace) -> np.ndarray:
        """Where a face's portrait shows hair, (256, 256) float32 from 0 to 1."""
        if "hair" not in face.kept:
            bare = region_of(face, PARTS["face"][0], *PARTS["face"][1])
            around = region_of(face, [range(468)], *AROUND)
            known = self._person(face), self._parts(face)[2], bare, around
            face.kept["hair"] = find_hair(face.portrait, *known)
        return face.kept["hair"]

    def _parts(self, face: InvertedFace) -> np.ndarray:
        """What of a face's portrait is ground, things and hair by its features, (3, 64, 64) float32."""
        if "parts" not in face.kept:
            found = self.backend.run("parts", self._restored(face), None, faces=faces_of(Places.of({}, face)))
            face.kept["parts"] = np.concatenate(found, 1)[0]
        return face.kept["parts"]

    def _person(self, face: InvertedFace) -> np.ndarray:
        """Where a face's portrait shows people, (256, 256) float32 from 0 to 1."""
        if "person" not in face.kept:
            (face.kept["person"],) = self.backend.run("person", _resize(face.portrait, COARSE)[None])[0]
        return face.kept["person"]

    def _hair_of(self, code: np.ndarray) -> Colours | None:
        """The colours of the hair that the generator gives a code (18, 512); None if it gives none."""
        features, nowhere = self._features(code), np.zeros((1, 1, SIZE, SIZE), np.float32)
        _, _, ((hair,),) = self.backend.run("parts", features, None, faces=nowhere)
        return colours(self._decode(self.sizes[-1], features, code), hair)

    def _start(self, face: InvertedFace) -> Mapping[Any, Any]:
        """What the carrier has to know of a face's features before an edit, see `InvertedFace.kept`."""
        if "restored" not in face.kept:
            features, residual = self._features(face.code), np.asarray(face.residual)
            read, unmoved = self.backend.run("carrier_start", features)
            # All at once: another thread may be at the same face.
            face.kept.update(
                carried=Carried(residual, features[0, ::SAMPLED].astype(np.float16)),
                read=read,
                unmoved=unmoved,
                restored=(features + residual).astype(np.float16),
            )
        return face.kept

    def _restored(self, face: InvertedFace) -> np.ndarray:
        """The features of a face's code with their residual, if there is one, (1, 512, 64, 64) float32."""
        if face.residual is None:
            return self._features(face.code)
        return self._start(face)["restored"].astype(np.float32)

    def _own(self, size: int, face: InvertedFace) -> np.ndarray:
        """A face's portrait of this size, uint8 (size, size, 3)."""
        if size == len(face.portrait):
            return face.portrait
        if f"own {size}" not in face.kept:
            face.kept[f"own {size}"] = _resize(face.portrait, size)
        return face.kept[f"own {size}"]

    def _unedited(self, size: int, face: InvertedFace) -> np.ndarray:
        """What the generator makes of a face's features with their residual, uint8 (size, size, 3)."""
        if size not in face.kept:
            face.kept[size] = self._decode(size, self._restored(face), face.code)
        return face.kept[size]

    def _grain(self, size: int, face: InvertedFace) -> np.ndarray | None:
        """A texture like that of a face's skin; None if it is not known where that is."""
        if face.landmarks is None:
            return None
        if f"grain {size}" not in face.kept:
            places = in_portrait(face.landmarks[list(CHEEKS)], face.quad)
            face.kept[f"grain {size}"] = grain(self._own(size, face), self._unedited(size, face), places)
        return face.kept[f"grain {size}"]

    def _ground(self, places: Places, face: InvertedFace) -> np.ndarray:
        """What of a photo is ground, (64, 64) float32 from 0 to 1, by its features and residual and where its
        face is known to be."""
        return 1 - faces_of(places)[0, 0] if places.face is None else self._parts(face)[0]

    def _held_back(self, code: EditedCode, face: InvertedFace, without: Set[str]) -> np.ndarray:
        """The code (18, 512) that brings a face's edits through, `without` some of the targets, although its
        residual holds them back.

        The rows that decode features stay as they were, as the residual was found for those: with others all
        colours of the picture shift.
        """
        if without >= code.targets.keys():
            return np.array(face.code)
        edit, farther = partial(self._of_codes.edit, read=self.measure), np.array(code)
        share = 1.0 if len(code.targets.keys() - without) == 1 else AMONG
        for before, targets, after in code.steps:
            others = {name: target for name, target in targets.items() if name not in without}
            if len(others) < len(targets):
                undyed = edit(before, others) if others else before
                farther += np.asarray(undyed) - np.asarray(edit(before, targets))
            for name, target in others.items():
                alone = after if len(targets) == 1 else edit(before, {name: target})
                part = np.asarray(alone - before)
                farther += np.float32(share * self._push(name, target, face)) * part
        if code.steps:
            before, _, _ = code.steps[0]
            farther[EARLY:] = before[EARLY:]
        return farther

    def _push(self, name: str, target: float, face: InvertedFace) -> float:
        """How much farther an attribute's part of a face's edit has to go, in shares of it.

        Edits larger than usual ones are pushed no farther than those: out there the generator knows no faces.
        """
        row = ATTRIBUTES[name]
        change = target - self._readings(face)[name]
        larger = 1.0 if row.scale == "probability" else max(1.0, abs(change) / _usual_step(row))
        return (self._gain(name, change > 0, face) - 1) / larger

    def _gain(self, name: str, up: bool, face: InvertedFace) -> float:
        """How many times as far as asked an edit of a face has to go, see `Attribute.photo_gain`.

        For numbers it is found by looking at what the face shows, once in each direction, at a usual edit, so
        that it does not depend on what is asked for.
        """
        row = ATTRIBUTES[name]
        if row.kind == "binary":
            return row.photo_gain[up]
        if (name, up) not in face.gains:
            face.gains[name, up] = self._find_gain(row, self._readings(face)[name], up, face)
        return face.gains[name, up]

    def _places(self, targets: Mapping[str, float], face: InvertedFace, wearing: bool = True) -> Places:
        starts = self._readings(face)
        steps = [(ATTRIBUTES[name], starts[name], target) for name, target in targets.items()]
        sides = {name: float(target >= 0.5) for name, target in targets.items()}  # all that they depend on
        known, places = face.kept.get("places", (None, None))
        if known != sides:
            places = Places.of(sides, face)
            face.kept["places"] = sides, places
        if places.face is None or face.residual is None or not targets:
            return places
        worn = self._worn(face) if wearing else None
        giving = []
        for row, start, target in steps:
            share = row.gives_way[target > start] * min(1.0, abs(target - start) / _usual_step(row))
            if share:
                part = PARTS.get(row.gives_way_in)
                where = region_of(face, part[0], *part[1]) if part else places.face
                if row.name == GLASSES and worn is not None:
                    where = np.maximum(where, worn[0])
                giving.append(np.float32(share) * where)
        left, edited = places.left, places.edited
        if GLASSES in targets and worn is not None:  # which may be larger than usual ones
            seen = region_of(face, PARTS["eyes"][0], *PARTS["eyes"][1]) * self._sees_eyes(face)
            left = left * (1 - worn[0] * (1 - seen))
            edited = None if edited is None else np.maximum(edited, worn[0])
        elif GLASSES in targets and wearing:  # frames reach no higher than brows, but fringes do
            brows = np.flatnonzero(region_of(face, PARTS["brows"][0], *PARTS["brows"][1]).max(1) > 0.5)
            above = ramp(np.arange(COARSE), brows.mean(), brows.mean() - FRINGE).astype(np.float32)
            left = np.maximum(left, self._hair(face) * above[:, None])
        elif worn is not None:
            lids = region_of(face, PARTS["eyes"][0], *LIDS) if "eyes_closed" in targets else np.float32(0)
            left = np.maximum(left, worn[1] * (1 - lids))
        return places._replace(edited=edited, left=left, gives_way=np.max(giving, 0) if giving else None)

    def _with_own_hair(self, places: Places, targets: Mapping[str, float], face: InvertedFace) -> Places:
        """The same places, where a face's hair stays, unless it is changed by more than its colour."""
        rows = [ATTRIBUTES[name] for name in targets]
        if places.left is None or not all(row.region or row.dyes == "too" for row in rows):
            return places
        return places._replace(left=np.maximum(places.left, self._hair(face)))

    def _worn(self, face: InvertedFace) -> np.ndarray | None:
        """Where a face's portrait shows glasses, and their rims, (2, 256, 256) float32 from 0 to 1: what
        changes when they are taken off. None if there are none."""
        if GLASSES not in self.attributes or self._of_codes.searches:
            return None
        if "worn" not in face.kept:
            worn = None
            if self._readings(face)[GLASSES] > 0.5:
                off, size = {GLASSES: 0.0}, self.sizes[1]
                without = EditedCode(self._of_codes.edit(face.code, off, self.measure), face.code, off)
                code, places = self._held_back(without, face, set()), self._places(off, face, wearing=False)
                pictures = self._picture(code, size, face, {}, places)[0], self._own(size, face)
                worn = np.stack((changes(*pictures, *WORN), thin_changes(*pictures, *RIMS)))
            face.kept["worn"] = worn
        return face.kept["worn"]

    def _sees_eyes(self, face: InvertedFace) -> bool:
        """Whether the eyes of a face's portrait are not behind dark glasses."""
        light = cv2.cvtColor(_resize(face.portrait, COARSE), cv2.COLOR_RGB2GRAY)
        eyes, skin = (region_of(face, PARTS[x][0], *PARTS[x][1]) > 0.5 for x in ("eyes", "nose"))
        return bool(eyes.any() and light[eyes].mean() > DARK * light[skin].mean())

    def _readings(self, face: InvertedFace) -> dict[str, float]:
        """Of a face's portrait, as `measure`."""
        if not face.readings:
            face.readings.update(self.measure(face.portrait))
        return face.readings

    def _find_gain(self, row: Attribute, start: float, up: bool, face: InvertedFace) -> float:
        far = row.high if up else row.low
        step = far - start if row.scale == "probability" else math.copysign(_usual_step(row), far - start)
        target = float(row.clamp(start + step))
        wanted, size = target - start, self.sizes[1]
        gain = row.photo_gain[up]
        if wanted * step <= 0:
            return gain
        if row.turns is not None and face.landmarks is not None:

            def show(gain: float) -> np.ndarray:
                return self._rotate(self._own(size, face), face, gain * wanted * np.array(row.turns))
        else:
            part = np.asarray(self._of_codes.edit(face.code, {row.name: target}, self.measure)) - face.code
            part[EARLY:] = 0
            edit = {row.name: target}
            places = self._places(edit, face)
            dye: tuple[Colours, ...] = ()
            if row.dyes == "too":
                _, dye = self._dyes(EditedCode(face.code + part, face.code, edit), face, set())
                places = self._with_own_hair(places, edit, face) if dye else places

            def show(gain: float) -> np.ndarray:
                return self._edited(face.code + np.float32(gain) * part, size, face, {}, places, dye)

        for _ in range(GAIN_LOOKS):
            share = (self.measure(show(gain))[row.name] - start) / wanted
            gain = float(np.clip(gain / np.clip(share, 0.5, 1.6), LEAST_GAIN, row.most_gain[up]))
        return gain

    def _features(self, code: np.ndarray, weights: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The default generator's activations at 64 px for a code, (1, 512, 64, 64) float32."""
        return self.backend.run("features", code[None], weights)[0]

    def _decode(
        self,
        size: int,
        features: np.ndarray,
        code: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """The picture of activations (1, 512, 64, 64): those of `_features`, with or without a residual."""
        return self.backend.run(f"decoder_{size}", features, weights, codes=code[None])[0][0]

    @cached_property
    def _weights(self) -> dict[str, np.ndarray]:
        """What noise strengths and changed style channels replace, in the default generator."""
        default = {} if self._generator.file else load(DEFAULT)[0]
        return {name: value for name, value in default.items() if name.endswith(ADJUSTABLE)}

    @property
    def model(self) -> str:
        """What makes the pictures, for their credits: the method and, if it edits codes, the generator."""
        if isinstance(self.method, Translator):
            return self.method.title
        return f"{self.method.title} on {self._generator.name}"

    @property
    def qualities(self) -> tuple[str, ...]:
        """What `invert` can do here: all of `REFINE`, or "fast" alone where optimisation lacks PyTorch or a
        generator of 1024 px."""
        return REFINE if has_torch() and self.sizes[0] == 1024 else REFINE[:1]

    @property
    def noise_layers(self) -> tuple[str, ...]:
        """The generator's layers that have a noise image, from the coarsest on."""
        names = [name.removesuffix(".noise") for name in self._weights if name.endswith(".noise")]
        return tuple(sorted(names, key=lambda layer: self._weights[f"{layer}.noise"].shape[-1]))

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Attribute values of an aligned portrait (s, s, 3) uint8 RGB, in the table's units.

        Raises:
            InputError: not a square uint8 RGB picture of 64 px or more.
        """
        read = self.backend.run("reader", _as_input(image))[0][0]
        return {name: float(value) for name, value in zip(ATTRIBUTES, read, strict=True)}

    def embed(self, image: np.ndarray) -> np.ndarray:
        """The identity embedding (1024,) of an aligned portrait, of length 1; arguments as `measure`.

        The product of two embeddings is their cosine: about 0.4 for strangers and above 0.6 for pictures
        of one person.
        """
        return self.backend.run("identity", _as_input(image))[0][0]

    def distance(self, image: np.ndarray, other: np.ndarray) -> float:
        """How far apart the people of two aligned portraits are, from 0 on; arguments as `measure`.

        By dlib's face recognition, which has taught nothing here, and which takes what is less than 0.6 apart
        for one person.
        """
        one, two = (self.backend.run("recognition", _as_input(x))[0][0] for x in (image, other))
        return float(np.linalg.norm(one - two))

    def paste(self, image: np.ndarray, face: InvertedFace, original) -> np.ndarray:
        """The photo (h, w, 3) uint8 with a portrait blended in where it differs from the face's own, and
        where none of the photo's other faces is; the photo as it is if the portrait is the unedited one.

        Args:
            image: (1024, 1024, 3) uint8, an edited portrait of `face`.
            original: the photo `face` was found in.
        """
        photo = load_image(original)
        unedited = face.kept.get(f"shown {len(image)}")
        if unedited is not None and np.array_equal(image, unedited):
            return photo.copy()
        changed = changes(image, _resize(face.portrait, len(image)), *COMPOSED)
        changed *= 1 - covered(face.others, face.quad)
        return paste(image, face.quad, photo, changed)

    def sample(self, seed: int, truncation: float = 0.7) -> np.ndarray:
        """The code (18, 512) float32 of a random person.

        Args:
            seed: the same seed gives the same person.
            truncation: 1 is the full variety of the generator, 0 always the mean face.
        """
        _check_number("seed", seed, 0, whole=True)
        _check_number("truncation", truncation, 0, 1)
        return self._generator.sample(seed, truncation)

    def warm_up(
        self, sizes: Iterable[int] | None = None, progress: Callable[[float, str], None] | None = None
    ) -> None:
        """Build and open the engines, so that the first visitor does not wait for them.

        Args:
            sizes: of the pictures that will be asked for, some of `sizes`; None: all.
            progress: as in `invert`.
        """
        report, message = progress or (lambda fraction, message: None), "Opening the engines"
        code = self.sample(0)
        for size in self.sizes if sizes is None else sizes:
            picture = self.synthesize(code, size)
        report(0.3, message)
        self.measure(picture)
        self.distance(picture, picture)
        report(0.4, message)
        self.encode(picture)
        report(0.6, message)
        self._aligner.detect(_resize(picture, 256))
        edited = self.edit(code, {name: row.high for name, row in self.attributes.items()})
        report(0.7, message)
        if self._descent:  # what only photos go through
            residual, _ = self._restore(picture, code)
            nowhere = np.zeros((1, 1, SIZE, SIZE), np.float32)
            opened = InvertedFace(code, picture, np.zeros((4, 2)), np.zeros(4), residual=residual)
            self._picture(edited, self.sizes[-1], opened, {}, Places())
            self.backend.run("parts", self._restored(opened), None, faces=nowhere)
            self.backend.run("person", _resize(picture, 256)[None])


def _refine(
    portrait: np.ndarray, code: np.ndarray, quality: str, file: Path | None, device: str
) -> "Generator[Step, None, None]":
    """Refine here; on the CPU if PyTorch cannot use the device that the engines run on."""
    # Optimisation needs gradients, and so torch, which nothing else here does.
    from dystyle.encoders.refine import refine

    return refine(portrait, code, quality, file, device if has_gpu() else "cpu")


def _near(head: np.ndarray) -> np.ndarray:
    """How much each place goes along with a head: both maps (s, s) from 0 to 1."""
    away = cv2.distanceTransform((head < 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return 1 - ramp(away * COARSE / len(head), *BESIDE)


def _edged(mask: np.ndarray) -> np.ndarray:
    """What is protected, (256, 256), with a soft edge around it."""
    return np.maximum(mask, 2 * cv2.GaussianBlur(mask, (0, 0), EDGE_BLUR)).clip(0, 1)


def _usual_step(row: Attribute) -> float:
    """How far a number is usually edited, in its unit."""
    return GAIN_STEP * (row.evaluated[-1] - row.evaluated[0])


def _choose(what: str, value, choices) -> None:
    if value not in choices:
        raise InputError(f"{what} = {value!r} is unknown; choose from {', '.join(map(str, choices))}.")


def _check_number(what: str, value: Any, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Refuse what is no number, such as a text or a truth value, or out of the range."""
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        wanted = "a whole number" if whole else "a number"
        to = "on" if high == math.inf else f"to {high:g}"
        raise InputError(f"{what} takes {wanted} from {low:g} {to}, not {repr(value)[:40]}.")


def encoder_graph(encoder: str | os.PathLike[str]) -> str:
    """The engines' name (see `dystyle.engines.graphs`) for an encoder, made local."""
    if encoder == "fast":
        return "encoder"
    path = resolve(encoder)
    if not path.is_file():
        raise InputError(f"encoder = '{encoder}' is no encoder; give fast, e4e, or the path of a checkpoint.")
    return f"encoder:{path.absolute()}"


def _check_method(method: str) -> None:
    if not str(method).endswith(TRANSLATOR_FILE):
        _choose("method", method, (*METHODS, *FAMILIES))


def _open(method: str, backend: Backend) -> Editor | Translator:
    return (open_method if method in METHODS else Translator.open)(method, backend)


def _check_code(code: np.ndarray) -> np.ndarray:
    try:
        code = np.asanyarray(code, dtype=np.float32)  # a StyledCode keeps its styles
    except (TypeError, ValueError):
        raise InputError(f"A code is an array (18, 512), not a {type(code).__name__}.") from None
    if code.shape != (18, 512):
        raise InputError(f"A code has the shape (18, 512), not {code.shape}.")
    return code


def _as_input(image: np.ndarray) -> np.ndarray:
    """A checked portrait as the readers take it: (1, 256, 256, 3)."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or len(image) != image.shape[1]:
        raise InputError("Give an aligned portrait: a square array (s, s, 3) of uint8 RGB.")
    if len(image) < 64:
        raise InputError(f"The portrait has {len(image)} px; give at least 64.")
    return _resize(image, 256)[None]


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    if len(image) == size:
        return image
    method = cv2.INTER_AREA if len(image) > size else cv2.INTER_CUBIC
    return cv2.resize(image, (size, size), interpolation=method)
