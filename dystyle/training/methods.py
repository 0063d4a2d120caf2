"""Fit the methods that DyStyle is compared with to rendered faces and their readings."""

import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.ganspace import BANDS, Components, candidates, explained, name_components, save_ganspace
from dystyle.editors.interfacegan import PICTURE_ROWS, Latents, ZEditor
from dystyle.editors.linear import NORMALS, LinearEditor, accuracy_curve, boundary_accuracy, normal_svm
from dystyle.editors.search import Read, effect, most_selective
from dystyle.editors.styleflow import Flow, StyleFlowEditor
from dystyle.editors.stylespace import (
    EXAMPLES,
    Channels,
    StyleSpaceEditor,
    affine_layers,
    by_examples,
    channel_names,
    region_energy,
    region_mask,
    styles,
)
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import MESH_CROP, crop
from dystyle.metrics.labels import read_label_codes, read_labels
from dystyle.metrics.people import People
from dystyle.pipeline import FaceEditor
from dystyle.training.dataset import FaceDataset
from dystyle.training.resume import make_folder, whole

PREVIEW = 256
TRIAL = 8.0  # deviations that a channel is moved by to see what it does
CONDITION = 1.0  # change of a condition of the flow, likewise


@dataclass(frozen=True)
class Faces:
    """Rendered faces to fit to.

    Attributes:
        folder: of `python -m dystyle.train faces`; readings are kept there, in readings.npz.
        count: how many to read.
    """

    folder: Path = Path("runs/faces")
    count: int = 3000

    def read(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Codes (n, 18, 512) and readings (n,) by attribute, in the table's units.

        Raises:
            InputError: there are no faces, or they are damaged.
        """
        data, names = FaceDataset.load(self.folder), list(ATTRIBUTES)
        codes, file = data.codes[: self.count], self.folder / "readings.npz"
        wanted = {"names": names, "faces": data.fingerprint}
        values = _stored(file, wanted)
        if len(values) < len(codes):
            editor = FaceEditor.from_pretrained(backend="onnx")
            pictures = tqdm(data.images[: len(codes)], desc="reading faces", mininterval=10)
            values = np.float32([list(editor.measure(picture).values()) for picture in pictures])
            with whole(file) as stream:
                np.savez(stream, values=values, of=json.dumps(wanted))
        return codes, dict(zip(names, values[: len(codes)].T, strict=True))


def _stored(file: Path, wanted: dict) -> np.ndarray:
    """Readings (n, attributes) in a file, if they are of these attributes and faces; else none, (0, 0)."""
    if file.exists():
        # Damaged ones, and those from before it was noted what they are of, are read anew.
        with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile), np.load(file) as stored:
            if json.loads(str(stored["of"])) == wanted:
                return stored["values"]
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class DirectionsConfig:
    """Direction vectors: mean differences, and logistic regression with its accuracy over labels.

    Attributes:
        labels: hand-labelled codes for the curve.
        out: folder to write `mean.safetensors` and `logistic.safetensors` to.
    """

    faces: Faces = field(default_factory=Faces)
    labels: Path = Path("data/labels")
    out: Path = Path("weights/methods")
    counts: tuple[int, ...] = (20, 50, 100, 200, 500, 1200)


@dataclass(frozen=True)
class InterFaceGanConfig:
    """InterFaceGAN in Z, W and W+: hyperplanes of support vector machines.

    Attributes:
        count: people, of this seed. people: folder of their readings, see `dystyle.metrics.people`.
        share: of them at either end of an attribute, which a hyperplane separates. The paper takes .02 of
            500,000; of fewer people .05 are right more often (docs/methods.md).
        out: folder to write `z.safetensors`, `w.safetensors` and `wplus.safetensors` to.
    """

    count: int = 8000
    seed: int = 60_000
    people: Path = Path("runs/people")
    share: float = 0.05
    out: Path = Path("weights/methods")


@dataclass(frozen=True)
class GanSpaceConfig:
    """GANSpace: components of W and of early features, named by measurement.

    Attributes:
        samples: random codes the components are found from; features are those of the first convolution.
        shown: faces on which components are tried.
    """

    faces: Faces = field(default_factory=Faces)
    samples: int = 50_000
    feature_samples: int = 4000
    components: int = 100
    shown: int = 4
    out: Path = Path("weights/methods/ganspace.safetensors")


@dataclass(frozen=True)
class StyleSpaceConfig:
    """StyleSpace: one channel for each attribute.

    Attributes:
        shown: faces on which gradient maps are taken and channels tried.
        tried: channels tried for each attribute.
    """

    faces: Faces = field(default_factory=Faces)
    shown: int = 4
    tried: int = 4
    out: Path = Path("weights/methods/stylespace.safetensors")


@dataclass(frozen=True)
class StyleFlowConfig:
    """StyleFlow: a conditional continuous normalizing flow.

    Attributes:
        components: principal components of W that it works on.
        shown: faces on which bands of rows are tried.
    """

    faces: Faces = field(default_factory=Faces)
    components: int = 128
    hidden: int = 256
    steps: int = 1500
    batch: int = 64
    lr: float = 1e-3
    shown: int = 2
    out: Path = Path("weights/methods/styleflow.safetensors")


def _reader(editor: FaceEditor) -> Read:
    """Readings of a code's preview."""
    return lambda code: editor.measure(editor.synthesize(code, PREVIEW))


def fit_directions(config: DirectionsConfig, generator: MobileStyleGAN) -> dict:
    """Write both editors; returns the mean accuracy over hand labels by number of labels."""
    x, (labels, _) = read_label_codes(config.labels), read_labels(config.labels)
    make_folder(config.out)
    codes, values = config.faces.read()
    w, std = codes[:, :PICTURE_ROWS].mean(1), generator.std_w.numpy()
    for name in ("mean", "logistic"):
        editor = LinearEditor.fit(w, values, std, NORMALS[name], conditional=False)
        editor.save(config.out / f"{name}.safetensors")
    labels.pop("eyes_closed")  # too few for a curve
    return {name: accuracy_curve(x / std, label, config.counts) for name, label in labels.items()}


def fit_interfacegan(config: InterFaceGanConfig, generator: MobileStyleGAN) -> dict:
    """Write the three editors.

    Returns:
        by space, the accuracy of each boundary on people held out at the ends, and on all in between, and the
        cosines of the directions.
    """
    make_folder(config.out)
    latents, backend = Latents(), FaceEditor.from_pretrained(backend="auto").backend
    mean_w, std_w = generator.mean_w.numpy(), generator.std_w.numpy()
    people = People.read(backend, latents.map, mean_w, config.count, config.seed, config.people)
    normal, report = partial(normal_svm, share=config.share), {}
    for name, editor, codes, values, std in (
        ("z", ZEditor, people.z, people.values, np.ones(512)),
        ("w", LinearEditor, people.w, people.values, std_w),
        ("wplus", LinearEditor, people.mixed[:, :PICTURE_ROWS], people.mixed_values, std_w),
    ):
        fitted = editor.fit(codes, dict(zip(ATTRIBUTES, values.T, strict=True)), std, normal)
        fitted.save(config.out / f"{name}.safetensors")
        report[name] = boundaries(codes, values, std, config.share) | {
            "cosines": np.round(fitted.directions @ fitted.directions.T, 2).tolist()
        }
    return report


def boundaries(codes: np.ndarray, values: np.ndarray, std: np.ndarray, share: float) -> dict[str, list]:
    """Accuracies of `boundary_accuracy` in the attributes' order: of the "ends", and of those "between".

    Args:
        codes: (n, ..., 512). values: (n, attributes). std: (512,), deviations of codes.
    """
    x = (codes / std).reshape(len(codes), -1)
    levels = [row.value_to_level(value) for row, value in zip(ATTRIBUTES.values(), values.T, strict=True)]
    ends, between = zip(*(boundary_accuracy(x, level, share) for level in levels), strict=True)
    return {"ends": np.round(ends, 3).tolist(), "between": np.round(between, 3).tolist()}


def fit_ganspace(config: GanSpaceConfig, generator: MobileStyleGAN) -> dict:
    """Write the editor; returns shares of variance and of attributes' change, and the components' names."""
    make_folder(config.out.parent)
    codes, values = config.faces.read()
    rng, count = np.random.default_rng(0), config.components
    w = generator.map(rng.standard_normal((config.samples, 512), dtype=np.float32))
    components = Components.of(w, count)
    some = w[: config.feature_samples]
    with torch.no_grad():
        parts = torch.from_numpy(some).split(256)
        maps = [generator.conv1(generator.const, part).flatten(1).numpy() for part in parts]
    features = Components.of_features(some, np.concatenate(maps), 20)
    rows = codes[:, :PICTURE_ROWS].mean(1)
    editor = FaceEditor.from_pretrained(backend="onnx")
    shown = [editor.sample(seed) for seed in range(config.shown)]
    found = candidates(rows, values, components)
    linear, names = name_components(found, components, shown, _reader(editor), generator.std_w.numpy())
    save_ganspace(config.out, linear, components, features)
    variance = {str(n): float(components.share[:n].sum()) for n in (20, count)}
    return {
        "variance": variance,
        "feature_variance": float(features.share.sum()),
        "attributes": explained(rows, values, components, (20, count)),
        "names": names,
    }


def fit_stylespace(config: StyleSpaceConfig, generator: MobileStyleGAN) -> dict:
    """Write the editor; returns by attribute the channel and what it changes."""
    make_folder(config.out.parent)
    codes, values = config.faces.read()
    s, channels = styles(generator, np.asarray(codes)), channel_names(generator)
    deviations = s.std(0)
    editor = FaceEditor.from_pretrained(backend="torch")  # an engine would be compiled for every channel
    read = _reader(editor)
    shown = [editor.sample(seed) for seed in range(config.shown)]
    local = _locality(generator, shown)
    before = [read(code) for code in shown]
    widths = {name: layer.out_features for name, (layer, _) in affine_layers(generator).items()}
    chosen, indices, signs, slopes, report = {}, [], [], [], {}
    for name, value in values.items():
        levels = ATTRIBUTES[name].value_to_level(value)
        evidence = by_examples(s, levels, min(EXAMPLES, len(s) // 4))
        upwards = deviations * np.sign(evidence)
        effects, tried = [], np.argsort(-np.abs(evidence) * local.get(name, 1.0))[: config.tried]
        for index in tried:
            known = Channels.of(generator, [index], s)
            one = StyleSpaceEditor({name: channels[index]}, upwards[[index]], np.ones(1), widths, known)

            def move(code: np.ndarray, side: float, one=one) -> np.ndarray:
                return one.mover(code, one.names, read)(np.array([side * TRIAL]))

            effects.append(effect(name, move, shown, before, read))
        best = most_selective(name, effects)
        index, changes = tried[best], effects[best]
        chosen[name] = channels[index]
        indices.append(index)
        signs.append(np.sign(evidence[index]))
        slopes.append(max(changes[name] / TRIAL, 1e-3))
        report[name] = {"layer": channels[index][0], "channel": channels[index][1], "effect": changes}
    signed, known = deviations[indices] * signs, Channels.of(generator, indices, s)
    StyleSpaceEditor(chosen, np.float32(signed), np.float32(slopes), widths, known).save(config.out)
    return report


def _locality(generator: MobileStyleGAN, codes: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Share of every channel's gradient energy that lies in the attributes' regions, (channels,) by name."""
    from dystyle.engines.graphs import reader

    layers, state = affine_layers(generator), generator.state_dict()
    local = [name for name, row in ATTRIBUTES.items() if row.region]
    energies = np.zeros((len(local) + 1, sum(layer.out_features for layer, _ in layers.values())))
    for code in codes:
        x = torch.from_numpy(code[None])
        offsets = [torch.zeros(layer.out_features, requires_grad=True) for layer, _ in layers.values()]

        def render(offsets, x=x):
            biases = {
                f"{name}.bias": state[f"{name}.bias"] + offset
                for name, offset in zip(layers, offsets, strict=True)
            }
            return functional_call(generator, biases, (x, PREVIEW))

        with torch.no_grad():
            half, one = torch.full((1,), 0.5), torch.ones(1)
            face = crop(render(offsets), 192, half, MESH_CROP[0] * one, MESH_CROP[1] * one)
            points = reader().mesh((face + 1) / 2)[0, :, :2].numpy()
        points = (np.array((0.5, MESH_CROP[0])) + (points / 192 - 0.5) * MESH_CROP[1]) * PREVIEW
        masks = [region_mask(points, name, PREVIEW) for name in local]
        energies += region_energy(render, offsets, np.stack([*masks, np.ones_like(masks[0])]))
    return dict(zip(local, energies[:-1] / np.maximum(energies[-1], 1e-12), strict=True))


def fit_styleflow(config: StyleFlowConfig, generator: MobileStyleGAN) -> dict:
    """Write the editor; returns the negative log-likelihood per dimension (nats), rows, and effects."""
    make_folder(config.out.parent)
    codes, values = config.faces.read()
    w = codes[:, :PICTURE_ROWS].mean(1)
    space = Components.of(w, config.components)
    levels = np.stack([ATTRIBUTES[name].value_to_level(value) for name, value in values.items()], 1)
    torch.manual_seed(0)
    flow = Flow(config.components, len(values), config.hidden)
    editor = StyleFlowEditor(tuple(values), flow, space.mean, space.basis, space.deviations)
    x, conditions = editor.encode(w), torch.from_numpy(np.float32(levels))
    flow.requires_grad_(True).train()
    losses = flow.fit(x, conditions, config.steps, config.batch, config.lr)
    flow.eval().requires_grad_(False)
    effects = _choose_bands(editor, config.shown)
    editor.save(config.out)
    return {
        "first": float(np.mean(losses[:20])),
        "last": float(np.mean(losses[-50:])),
        "rows": dict(zip(editor.names, editor.bands.tolist(), strict=True)),
        "effects": effects,
    }


def _choose_bands(flow: StyleFlowEditor, shown: int) -> dict[str, dict[str, float]]:
    """Give every attribute the band of rows that changes it most for what else it changes, and its slope.

    Returns by attribute the changes of all levels, signed as asked for, for `CONDITION` of its condition.
    """
    editor = FaceEditor.from_pretrained(backend="onnx")
    read, codes = _reader(editor), [editor.sample(seed) for seed in range(shown)]
    before, report = [read(code) for code in codes], {}
    known = {code.tobytes(): values for code, values in zip(codes, before, strict=True)}
    for index, name in enumerate(flow.names):
        effects = []

        def move(code: np.ndarray, side: float, name=name) -> np.ndarray:
            return flow.mover(code, (name,), lambda seen: known[seen.tobytes()])(np.array([side * CONDITION]))

        for band in BANDS:
            flow.bands[index] = band
            effects.append(effect(name, move, codes, before, read))
        best = most_selective(name, effects)
        flow.bands[index], report[name] = BANDS[best], effects[best]
        flow.slopes[index] = max(report[name][name] / CONDITION, 0.05)
    return report
