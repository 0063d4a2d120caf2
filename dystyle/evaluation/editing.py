"""How well an editor edits (the paper's section 4): targets reached, the person kept, the rest left alone.

Everything is read twice: by the networks that taught the editor, and by independent judges.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.linear import LinearEditor
from dystyle.errors import InputError
from dystyle.evaluation.bench import Bench, Method
from dystyle.evaluation.editing_plot import plot
from dystyle.evaluation.photos import photo_files
from dystyle.metrics.degradations import degraded
from dystyle.metrics.drawing import draw_edit
from dystyle.pipeline import FaceEditor


def benchmarked() -> tuple[str, ...]:
    """The attributes that are edited and read unless it is said otherwise."""
    return tuple(name for name, row in ATTRIBUTES.items() if row.benchmarked)


@dataclass(frozen=True)
class EditingConfig:
    """Edits of random faces, read on the 1024 px picture.

    Attributes:
        attributes: edited one by one and together, and read.
        count: faces, of seeds `first_seed` on (training draws its codes elsewhere); truncation of theirs.
        joint: numbers of attributes edited at once, besides every single one; 0 stands for all.
        methods: compared with "dystyle", which edits jointly: "sum" adds up the same editor's single edits;
            "sequential" makes them one after the other in random order; "interfacegan" follows its
            directions, each to its target by line search, one after the other; "interfacegan_joint" searches
            for all their strengths at once; "look" is the joint edit with a second look.
        compared: faces on which they are compared; searched: numbers of attributes at which these
            are, too, which look at up to 16 pictures a search.
        inverted: further faces, degraded as photos are and put through the encoder, for the single edits
            and those of three.
        photos: folder of portraits, inverted by `fast` and edited with all that comes along of a photo, for
            the single edits and those of three and five; first_photo, photo_count: which of them, in the
            order of their names (0: all).
        backend: what runs the engines, see `FaceEditor.from_pretrained`.
    """

    attributes: tuple[str, ...] = field(default_factory=benchmarked)
    count: int = 256
    first_seed: int = 10_000
    truncation: float = 0.7
    joint: tuple[int, ...] = (2, 3, 5, 0)
    methods: tuple[str, ...] = ("sum", "sequential", "look", "interfacegan", "interfacegan_joint")
    compared: int = 96
    searched: tuple[int, ...] = (3, 5)
    inverted: int = 64
    photos: Path | None = None
    first_photo: int = 0
    photo_count: int = 0
    backend: str = "onnx"


def evaluate_editing(config: EditingConfig, plots: Path | None = None) -> dict:
    """Measure single and joint edits.

    Args:
        plots: folder to write `editing.png` to.

    Returns:
        "single" by attribute, "joint" by number of attributes, and "compared" by that and method, on the
        first `compared` faces, the same for all methods. Each: "identity", mean cosine
        to the unedited face by the identity network; "descriptor_distance", the same by the judges'
        face_recognition (Euclidean); "frechet", distance of the embeddings of all edited faces to those of
        the unedited; "values" and "judged", what the teachers and the judges read, see `compare`. Means
        come with half of their 95 % confidence interval. "inverted": the same of inverted faces, and
        "portraits": of those in the folder, as they are seen. "noise": see `Bench.noise`.

    Raises:
        InputError: an attribute that the editor has not learnt, more at once than there are, or as
            `photo_files` and `Bench`.
    """
    editor = FaceEditor.from_pretrained(backend=config.backend)
    seeds = range(config.first_seed, config.first_seed + config.count)
    if wrong := [name for name in config.attributes if name not in editor.attributes]:
        raise InputError(
            f"The editor has not learnt '{wrong[0]}'; choose from {', '.join(editor.attributes)}."
        )
    if max(config.joint, default=0) > len(config.attributes):
        raise InputError(f"{max(config.joint)} at once are more than the attributes; give a smaller number.")
    bench = Bench(editor, [editor.sample(seed, config.truncation) for seed in seeds], config.attributes)
    result = {"faces": config.count, "compared_faces": config.compared, "methods": config.methods}
    result["attributes"] = config.attributes
    result |= {"first_seed": config.first_seed, "truncation": config.truncation}
    result |= {"searched": config.searched, "backend": config.backend, "inverted_faces": config.inverted}
    result |= {"noise": bench.noise(), **_protocol(bench, config, config.joint, config.methods)}
    if config.inverted:
        bench = Bench(editor, _inverted(editor, config), config.attributes)
        result["inverted"] = _protocol(bench, config, _together(config, 3), ())
    if config.photos is not None:
        files = photo_files(config.photos, config.first_photo, config.photo_count)
        faces = [editor.invert(file) for file in files]
        bench = Bench(editor, [face.code for face in faces], config.attributes, faces)
        result["portraits"] = _protocol(bench, config, _together(config, 3, 5), ())
        result |= {"first_photo": config.first_photo, "photo_count": config.photo_count, "photos": len(faces)}
    if plots is not None:
        plot(result, plots / "editing.png")
    return result


def _protocol(bench: Bench, config: EditingConfig, joint: tuple[int, ...], methods: tuple[str, ...]) -> dict:
    rng = np.random.default_rng(config.first_seed)
    names, result = list(config.attributes), {"single": {}, "joint": {}, "compared": {}}
    for name in names:
        edits = [draw_edit(rng, [name]) for _ in bench.codes]
        result["single"][name] = bench.figures(bench.follow(bench.editor.edit, edits, name), edits)
    for size in joint:
        size = size or len(names)
        edits = [draw_edit(rng, rng.choice(names, size, replace=False)) for _ in bench.codes]
        after = bench.follow(bench.editor.edit, edits, f"{size} at once")
        result["joint"][str(size)] = bench.figures(after, edits)
        others = {
            method: bench.follow(
                METHODS[method](bench), edits[: config.compared], f"{size} at once, {method}"
            )
            for method in methods
            if not method.startswith("interfacegan") or size in config.searched
        }
        if others:
            seen = {"dystyle": after[: config.compared]} | others
            result["compared"][str(size)] = {name: bench.figures(s, edits) for name, s in seen.items()}
    return result


def _together(config: EditingConfig, *sizes: int) -> tuple[int, ...]:
    """Those numbers for which there are attributes."""
    return tuple(size for size in sizes if size <= len(config.attributes))


def _inverted(editor: FaceEditor, config: EditingConfig) -> list[np.ndarray]:
    """Codes of further faces, degraded and put through the encoder."""
    first = config.first_seed + config.count
    seeds = range(first, first + config.inverted)
    pictures = degraded([editor.synthesize(editor.sample(seed, config.truncation)) for seed in seeds], first)
    return [editor.invert(picture).code for picture in pictures]


def _sum(bench: Bench) -> Method:
    edit = bench.editor.edit
    return lambda code, c: code + sum(edit(code, {name: value}) - code for name, value in c.items())


def _one_by_one(edit: Method) -> Method:
    def method(code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
        rng = np.random.default_rng(code[0].view(np.uint32))  # an order of its own for every face
        for name in rng.permutation(list(configuration)):
            code = edit(code, {name: configuration[name]})
        return code

    return method


def _interfacegan(bench: Bench) -> Method:
    """Directions that leave alone what is read, and do not care for anything else."""
    editor, directions = bench.editor, LinearEditor.load().only(bench.attributes)
    return partial(directions.edit, read=lambda code: editor.measure(editor.synthesize(code)))


METHODS: dict[str, Callable[[Bench], Method]] = {
    "sum": _sum,
    "sequential": lambda bench: _one_by_one(bench.editor.edit),
    "look": lambda bench: partial(bench.editor.edit, looks=1),
    "interfacegan": lambda bench: _one_by_one(_interfacegan(bench)),
    "interfacegan_joint": _interfacegan,
}
