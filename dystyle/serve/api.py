"""The server's HTTP API: the page's operations by their names, and engines by the Open Inference Protocol.

It is for the programs of those who run it; what stands before the public is the page.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from fastapi import Body, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import Json

from dystyle import provenance
from dystyle.attributes import ATTRIBUTES, validate_configuration
from dystyle.edit import edited_portrait
from dystyle.engines.generator_graph import BLOCKS
from dystyle.engines.protocol import LENGTH, pack, unpack
from dystyle.engines.recipes import TRACED
from dystyle.engines.served import WEIGHT
from dystyle.errors import InputError
from dystyle.faces import InvertedFace, is_face_file
from dystyle.originals import Original
from dystyle.pipeline import FaceEditor
from dystyle.provenance import Credit

MODELS = (*(f"{part}_{size}" for part in ("generator", "decoder") for size in BLOCKS), "features", *TRACED)
MOST_AT_ONCE = 64  # codes or pictures in a request
MOST_BYTES = 2**29  # of a request

Edits = dict[str, float]
Kind = Literal["png", "jpeg", "webp", "avif", "tiff"]
Quality = Literal["fast", "balanced", "precise"]


class Busy(Exception):
    """Too many are waiting already."""


def build_api(editor: FaceEditor) -> FastAPI:
    """The API of an editor. Bad input is answered with 400 and one sentence, too much of it with 503."""
    api = FastAPI(title="DyStyle Studio", version=provenance.tool(), description=__doc__)

    @api.exception_handler(InputError)
    async def refuse(request: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @api.exception_handler(Busy)
    async def put_off(request: Request, error: Busy) -> Response:
        said = "The server is busy; try again in a moment."
        return JSONResponse({"error": said}, 503, {"Retry-After": "1"})

    _add_operations(api, editor)
    _add_engines(api, editor)
    return api


def _add_operations(api: FastAPI, editor: FaceEditor) -> None:
    def checked(edits: object) -> Edits:
        return validate_configuration(edits, editor.attributes)

    def picture(image: np.ndarray, kind: Kind, credit: Credit, mark: bool, original=None) -> Response:
        encoded = provenance.encode(image, kind, credit, mark, original)
        return Response(encoded, media_type=provenance.FORMATS[kind])

    @api.get("/attributes")
    def attributes() -> dict:
        """List the attributes that can be edited, with their kind, lowest and highest value and unit."""
        rows = editor.attributes.values()
        return {r.name: {"kind": r.kind, "low": r.low, "high": r.high, "unit": r.unit} for r in rows}

    @api.post("/measure")
    def measure(photo: UploadFile, face: Annotated[int, Form(ge=0)] = 0) -> Edits:
        """Measure the attributes of a face in a photo; number 0 is the largest."""
        values = editor.measure(editor.align(photo.file, face)[1])
        return {name: round(values[name], 4) for name in editor.attributes}

    @api.post("/save_face")
    def save_face(
        photo: UploadFile,
        quality: Annotated[Quality, Form()] = "fast",
        face: Annotated[int, Form(ge=0)] = 0,
        keep: Annotated[bool, Form()] = False,
    ) -> Response:
        """Find a face in a photo and return it as a file, which `edit_photo` edits at once."""
        found = editor.invert(photo.file, quality, face)
        encoded = found.encode(photo.file if keep else None)
        return Response(encoded, media_type="application/octet-stream")

    @api.post("/edit_photo")
    def edit_photo(
        photo: Annotated[UploadFile, File(description="A picture, or a face's file from `save_face`.")],
        edits: Annotated[Json[Edits], Form(description='For example {"age": 60, "smile": 1}.')] = {},  # noqa: B006
        quality: Annotated[Quality, Form()] = "fast",
        face: Annotated[int, Form(ge=0)] = 0,
        paste: Annotated[bool, Form()] = False,
        kind: Annotated[Kind, Form()] = "png",
        mark: Annotated[bool, Form()] = False,
    ) -> Response:
        """Edit a face in a photo and return the picture's file: the portrait, or with `paste` all of it."""
        target, original = checked(edits), None
        if is_face_file(photo.filename or ""):
            found = _face_in(photo)
            if paste and found.photo is None:
                raise InputError("The face's file holds no photo to paste into; save the face with it.")
            original = Original.open(found.photo) if paste else None
        else:
            original = Original.open(photo.file)
            found = editor.invert(original.rgb, quality, face)
        result = edited_portrait(editor, found.code, found, target)
        if paste:
            result = editor.paste(result, found, original.rgb)
        credit = Credit(target, True, model=editor.model)
        return picture(result, kind, credit, mark, original if paste else None)

    @api.post("/edit_person")
    def edit_person(
        seed: Annotated[int, Body(ge=0)],
        edits: Annotated[Edits, Body()] = {},  # noqa: B006
        kind: Annotated[Kind, Body()] = "png",
        mark: Annotated[bool, Body()] = False,
    ) -> Response:
        """Generate a person who does not exist, edit the face, and return the picture's file."""
        target = checked(edits)
        portrait = edited_portrait(editor, editor.sample(seed), None, target)
        return picture(portrait, kind, Credit(target, False, model=editor.model), mark)

    @api.post("/mix_people")
    def mix_people(
        seed: Annotated[int, Body(ge=0)],
        other: Annotated[int, Body(ge=0)],
        row: Annotated[int, Body()] = 8,
        truncation: Annotated[float, Body()] = 1.0,
        noise: Annotated[float, Body()] = 1.0,
        kind: Annotated[Kind, Body()] = "png",
        mark: Annotated[bool, Body()] = False,
    ) -> Response:
        """Mix two people who do not exist, from a row of the code on, and return the picture's file."""
        code = editor.truncate(editor.mix(editor.sample(seed), editor.sample(other), row), truncation)
        strengths = {} if noise == 1 else dict.fromkeys(editor.noise_layers, noise)
        steps = (f"random person {seed} mixed with {other} from row {row} on",)
        steps += (f"truncation = {truncation:g}", f"noise = {noise:g}")
        image = editor.synthesize(code, noise=strengths)
        return picture(image, kind, Credit({}, False, steps, editor.model), mark)


def _add_engines(api: FastAPI, editor: FaceEditor) -> None:
    @api.get("/v2/health/live")
    @api.get("/v2/health/ready")
    def ready() -> dict:
        """Whether the server answers."""
        return {"live": True, "ready": True}

    @api.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request) -> Response:
        """Run a model as the Open Inference Protocol says: `encoder`, `generator_1024`, `editor-age`, ...

        Inputs and outputs are those of the models that `python -m dystyle.export --layout kserve` writes, and
        `attention-age-smile` has what the experts take from each other.
        """
        if int(request.headers.get("content-length", 0)) > MOST_BYTES:
            raise HTTPException(413, f"A request has at most {MOST_BYTES // 2**20} MB.")
        inputs, asked = unpack("inputs", await request.body(), request.headers.get(LENGTH))
        outputs = await run_in_threadpool(_run, editor, name, inputs)
        options = asked.get("parameters")
        binary = isinstance(options, dict) and options.get("binary_data_output") is True
        body, length = pack("outputs", outputs, {"model_name": name, "model_version": "1"}, binary)
        if not binary:
            return Response(body, media_type="application/json")
        return Response(body, headers={LENGTH: str(length)}, media_type="application/octet-stream")


def _run(editor: FaceEditor, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name."""
    given = dict(inputs)
    weights = {key.removeprefix(WEIGHT): given.pop(key) for key in inputs if key.startswith(WEIGHT)}
    if len({*map(len, given.values())}) != 1 or max(map(len, given.values())) > MOST_AT_ONCE:
        raise InputError(f"Give inputs of one batch, of at most {MOST_AT_ONCE}.")
    what, *names = name.split("-")
    if what in ("editor", "attention") and names:
        if names != [row for row in ATTRIBUTES if row in names]:
            raise InputError(f"There is no model '{name}'; name attributes in the order of the table.")
        codes, targets = given.get("codes"), given.get("targets")
        if codes is None or targets is None or targets.shape != (len(codes), len(names)):
            raise InputError(f"'{name}' takes codes (b, 18, 512) and targets (b, {len(names)}).")
        target = dict(zip(names, targets.T, strict=True))
        if what == "editor":
            return {"edited": editor.backend.edit(codes, target)}
        return {"attention": editor.backend.attention(codes, target).swapaxes(0, 1)}
    if name not in MODELS or "input" not in given:
        raise InputError(f"There is no model '{name}', or it lacks 'input'; there are {', '.join(MODELS)}.")
    x = given.pop("input")
    outputs = editor.backend.run(name, x, weights, **given)
    return {f"output{number}": np.asarray(output) for number, output in enumerate(outputs)}


def _face_in(upload: UploadFile) -> InvertedFace:
    """The face in a file that was sent."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "face.safetensors")
        path.write_bytes(upload.file.read())
        return InvertedFace.load(path)
