"""Fit the methods that DyStyle is compared with to rendered faces and their readings."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F
from tqdm import tqdm

from dystyle.attributes import ATTRIBUTES
from dystyle.editors.ganspace import BANDS, Components, candidates, explained, name_components
from dystyle.editors.interfacegan import PICTURE_ROWS, Latents, ZEditor
from dystyle.editors.linear import (
    NORMALS,
    LinearEditor,
    accuracy_curve,
    boundary_accuracy,
    label_line,
    normal_svm,
)
from dystyle.editors.search import Read, effect, most_selective
from dystyle.editors.styleflow import BEND, Flow, StyleFlowEditor, unbend
from dystyle.editors.stylespace import (
    EXAMPLES,
    REGIONS,
    Atlas,
    Channels,
    StyleSpaceEditor,
    affine_layers,
    by_examples,
    channel_names,
    located,
    region_energy,
    region_mask,
    regions_of,
    styles,
)
from dystyle.encoders import SIZE
from dystyle.encoders.parser import FeatureParser
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import MESH_CROP, crop
from dystyle.metrics.labels import HAIR, read_hair, read_label_codes, read_labels
from dystyle.metrics.people import SMALL, People
from dystyle.pipeline import FaceEditor
from dystyle.training.resume import make_folder

PREVIEW = 256
LOCAL_MARGIN = 0.03  # around an attribute's place, in sides of the picture
PART = 10_000  # codes at a time
TRIAL = 8.0  # deviations that a channel is moved by to see what it does
CONDITION = 1.0  # change of a condition of the flow, likewise


@dataclass(frozen=True)
class RandomPeople:
    """Random people to fit to.

    Attributes:
        count: people, of this seed. folder: of their readings, see `dystyle.metrics.people`.
    """

    count: int = 8000
    seed: int = 60_000
    folder: Path = Path("runs/people")

    def read(self, generator: MobileStyleGAN) -> People:
        """They, and what is read of them."""
        backend, mean_w = FaceEditor.from_pretrained(backend="auto").backend, generator.mean_w.numpy()
        return People.read(backend, Latents().map, mean_w, self.count, self.seed, self.folder)


@dataclass(frozen=True)
class DirectionsConfig:
    """Direction vectors: mean differences, and logistic regression in W and, row by row, in W+.

    Attributes:
        labels: hand-labelled codes, for the accuracy over their number and for the line of hair colours.
        out: folder to write `mean.safetensors`, `logistic.safetensors` and `logistic_wplus.safetensors` to.
    """

    people: RandomPeople = field(default_factory=RandomPeople)
    labels: Path = Path("data/labels")
    out: Path = Path("weights/methods")
    counts: tuple[int, ...] = (20, 50, 100, 200, 500, 1200)


@dataclass(frozen=True)
class InterFaceGanConfig:
    """InterFaceGAN in Z, W and W+: hyperplanes of support vector machines.

    Attributes:
        share: of the people at either end of an attribute, which a hyperplane separates. The paper takes .02
            of 500,000; of fewer people .05 are right more often (docs/methods.md).
        out: folder to write `z.safetensors`, `w.safetensors` and `wplus.safetensors` to.
    """

    people: RandomPeople = field(default_factory=RandomPeople)
    share: float = 0.05
    out: Path = Path("weights/methods")


@dataclass(frozen=True)
class GanSpaceConfig:
    """GANSpace: components of W and of early features, named by measurement.

    Attributes:
        people: whose readings say which components are tried for an attribute.
        samples: random codes the components are found from.
        feature_samples: as many of the first convolution's features.
        shown: faces on which components are tried.
    """

    people: RandomPeople = field(default_factory=RandomPeople)
    samples: int = 1_000_000
    feature_samples: int = 4000
    components: int = 100
    shown: int = 4
    out: Path = Path("weights/methods/ganspace.safetensors")


@dataclass(frozen=True)
class StyleSpaceConfig:
    """StyleSpace: one channel for each attribute.

    Attributes:
        people: whose styles and readings say which channels an attribute's examples share.
        pictures: of the first of them, on which gradient maps are taken.
        shown: faces on which channels are tried.
        tried: channels tried for each attribute.
    """

    people: RandomPeople = field(default_factory=RandomPeople)
    pictures: int = 200
    shown: int = 4
    tried: int = 4
    out: Path = Path("weights/methods/stylespace.safetensors")


@dataclass(frozen=True)
class StyleFlowConfig:
    """StyleFlow: a conditional continuous normalizing flow.

    Attributes:
        people: whom it learns from; the last tenth is held out.
        samples: more random codes, of which nothing is read.
        components: principal components of P, from these, that it works on.
        shown: faces on which bands of rows are tried.
    """

    people: RandomPeople = field(default_factory=RandomPeople)
    samples: int = 20_000
    components: int = 192
    hidden: int = 512
    steps: int = 300
    batch: int = 128
    lr: float = 1e-3
    shown: int = 2
    out: Path = Path("weights/methods/styleflow.safetensors")


def _reader(editor: FaceEditor) -> Read:
    """Readings of a code's preview."""
    return lambda code: editor.measure(editor.synthesize(code, PREVIEW))


def fit_directions(config: DirectionsConfig, generator: MobileStyleGAN) -> dict:
    """Write the three editors; hair gets blacker along the line of hair colours.

    Returns:
        "accuracy": of logistic regressions on hand labels, by attribute and number of labels; "hair": where
            colours lie on their line, and how many faces held out it puts in that order.
    """
    x, (labels, held) = read_label_codes(config.labels), read_labels(config.labels)
    hair = read_hair(config.labels)
    make_folder(config.out)
    people, std = config.people.read(generator), generator.std_w.numpy()
    x = x / std
    known = np.isin(hair, HAIR)
    line, positions, ordered = label_line(
        x[known & ~held], hair[known & ~held], x[known & held], hair[known & held]
    )
    given = {"black_hair": line * np.sign(positions["black"] - positions["blond"])}
    w, mixed = people.w, people.mixed[:, :PICTURE_ROWS]
    for file, codes, values, normal, ready in (
        ("mean", w, people.values, "mean", {}),
        ("logistic", w, people.values, "logistic", given),
        ("logistic_wplus", mixed, people.mixed_values, "logistic", {}),
    ):
        readings = dict(zip(ATTRIBUTES, values.T, strict=True))
        editor = LinearEditor.fit(codes, readings, std, NORMALS[normal], conditional=False, given=ready)
        editor.save(config.out / f"{file}.safetensors")
    labels.pop("eyes_closed")  # too few for a curve
    return {
        "accuracy": {name: accuracy_curve(x, label, config.counts) for name, label in labels.items()},
        "hair": {"positions": positions, "ordered": ordered},
    }


def fit_interfacegan(config: InterFaceGanConfig, generator: MobileStyleGAN) -> dict:
    """Write the three editors.

    Returns:
        by space, the accuracy of each boundary on people held out at the ends, and on all in between, and the
        cosines of the directions.
    """
    make_folder(config.out)
    people, std_w = config.people.read(generator), generator.std_w.numpy()
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
    count, latents, rng = config.components, Latents(), np.random.default_rng(0)
    sizes = [PART] * (config.samples // PART) + [config.samples % PART] * (config.samples % PART > 0)
    draws = (rng.standard_normal((size, 512), dtype=np.float32) for size in sizes)
    components = Components.of(map(latents.map, tqdm(draws, "codes", len(sizes), mininterval=10)), count)
    some = latents.map(rng.standard_normal((config.feature_samples, 512), dtype=np.float32))
    with torch.no_grad():
        parts = torch.from_numpy(some).split(256)
        maps = [generator.conv1(generator.const, part).flatten(1).numpy() for part in parts]
    features = Components.of_features(some, np.concatenate(maps), 20)
    people = config.people.read(generator)
    values = dict(zip(ATTRIBUTES, people.values.T, strict=True))
    editor = FaceEditor.from_pretrained(backend="onnx")
    shown = [editor.sample(seed) for seed in range(config.shown)]
    named, effects = name_components(
        candidates(people.w, values, components), components, shown, _reader(editor)
    )
    named.save(config.out, features)
    return {
        "variance": {str(n): float(components.share[:n].sum()) for n in (20, count)},
        "feature_variance": float(features.share.sum()),
        "attributes": explained(people.w, values, components, (20, count)),
        "chosen": named.chosen,
        "effects": effects,
    }


def fit_stylespace(config: StyleSpaceConfig, generator: MobileStyleGAN) -> dict:
    """Write the editor; returns by attribute the channel and what it changes, and how many channels belong to
    each region."""
    make_folder(config.out.parent)
    people = config.people.read(generator)
    values = dict(zip(ATTRIBUTES, people.values.T, strict=True))
    codes = np.broadcast_to(people.w[:, None], (len(people.w), 18, 512))
    s, channels = styles(generator, codes), channel_names(generator)
    deviations = s.std(0)
    atlas, local = map_channels(generator, codes[: config.pictures], deviations)
    editor = FaceEditor.from_pretrained(backend="torch")  # an engine would be compiled for every channel
    read = _reader(editor)
    shown = [editor.sample(seed) for seed in range(config.shown)]
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
    StyleSpaceEditor(chosen, np.float32(signed), np.float32(slopes), widths, known).save(config.out, atlas)
    report["regions"] = {name: int((atlas.regions == i).sum()) for i, name in enumerate(REGIONS)}
    return report


def map_channels(
    generator: MobileStyleGAN, codes: np.ndarray, deviations: np.ndarray
) -> tuple[Atlas, dict[str, np.ndarray]]:
    """Where the channels act in the pictures of codes (n, 18, 512); deviations (channels,) among people.

    Returns:
        The atlas, and by attribute with a place in the face the share of every channel's gradient energy that
        lies there, (channels,).
    """
    from dystyle.engines.graphs import reader

    layers, state, parser = affine_layers(generator), generator.state_dict(), FeatureParser.load("parser")
    local = {name: row.region for name, row in ATTRIBUTES.items() if row.region}
    energies, areas, overlaps = [], [], np.zeros((len(local), len(REGIONS)))
    for seed, code in enumerate(tqdm(codes, "gradient maps", mininterval=10)):
        x = torch.from_numpy(np.array(code[None], np.float32))
        offsets = [torch.zeros(layer.out_features, requires_grad=True) for layer, _ in layers.values()]

        def render(offsets, x=x):
            biases = {
                f"{name}.bias": state[f"{name}.bias"] + offset
                for name, offset in zip(layers, offsets, strict=True)
            }
            return functional_call(generator, biases, (x, SMALL))

        with torch.no_grad():
            half, one = torch.full((1,), 0.5), torch.ones(1)
            face = crop(generator(x, SMALL), 192, half, MESH_CROP[0] * one, MESH_CROP[1] * one)
            points = reader().mesh((face + 1) / 2)[0, :, :2].numpy()
            kinds = parser(generator.features(x, SIZE))
            kinds = F.interpolate(kinds, (SMALL, SMALL), mode="bilinear").argmax(1)[0].numpy()
        points = np.array((0.5, MESH_CROP[0])) + (points / 192 - 0.5) * MESH_CROP[1]
        masks = regions_of(points, kinds)
        energies.append(region_energy(render, offsets, masks, seed))
        areas.append(masks.sum((1, 2)))
        for total, region in zip(overlaps, local.values(), strict=True):
            total += (masks & region_mask(points[list(region)], LOCAL_MARGIN, SMALL)).sum((1, 2))
    regions, shares = located(np.stack(energies), np.stack(areas))
    inside = overlaps / np.maximum(np.sum(areas, 0), 1) @ shares
    visible = np.sqrt(np.mean(energies, 0).sum(0)) * deviations
    return Atlas(regions.astype(np.int8), np.float32(visible)), dict(zip(local, inside, strict=True))


def fit_styleflow(config: StyleFlowConfig, generator: MobileStyleGAN) -> dict:
    """Write the editor; returns negative log-likelihoods of codes that were held out, rows, and effects.

    In nats: "gain", by which the flow is better for a code than the normal distribution of its coordinates,
    on people held out and on those "learnt" from; per dimension of W those of a normal distribution in W
    ("normal_in_w"), of one in P ("normal_in_p"), and of the latter with the flow ("flow").
    """
    make_folder(config.out.parent)
    people = config.people.read(generator)
    rows = ATTRIBUTES.values()
    levels = np.stack([row.value_to_level(v) for row, v in zip(rows, people.values.T, strict=True)], 1)
    z = np.random.default_rng(config.people.seed + 1).standard_normal((config.samples, 512), dtype=np.float32)
    others = Latents().map(z)
    space = Components.of([unbend(others)], config.components)
    torch.manual_seed(0)
    flow = Flow(config.components, len(ATTRIBUTES), config.hidden)
    editor = StyleFlowEditor(tuple(ATTRIBUTES), flow, space.mean, space.basis, space.deviations)
    x, conditions = editor.encode(people.w), torch.from_numpy(np.float32(levels))
    learnt = len(x) * 9 // 10
    flow.requires_grad_(True).train()
    flow.fit(x[:learnt], conditions[:learnt], config.steps, config.batch, config.lr)
    flow.eval().requires_grad_(False)
    gains = [gain(flow, *some) for some in zip(x.split(learnt), conditions.split(learnt), strict=True)]
    held = people.w[learnt:]
    normal = [
        -normal_log_density(others, held).mean(),
        -normal_log_density(unbend(others), unbend(held)).mean(),
    ]
    normal[1] -= np.log(BEND) * (held < 0).sum(1).mean()
    effects = _choose_bands(editor, config.shown)
    editor.save(config.out)
    per_dimension = np.array([*normal, normal[1] - gains[1]]) / held.shape[1]
    return {
        "gain": {"held out": gains[1], "learnt": gains[0]},
        **dict(zip(("normal_in_w", "normal_in_p", "flow"), per_dimension.tolist(), strict=True)),
        "rows": dict(zip(editor.names, editor.bands.tolist(), strict=True)),
        "effects": effects,
    }


def normal_log_density(samples: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log p(x), (n,), of x (n, d) by the normal distribution of samples (m, d)."""
    lower = np.linalg.cholesky(np.cov(samples.T.astype(np.float64)))
    z = np.linalg.solve(lower, (x - samples.mean(0, dtype=np.float64)).T)
    return -0.5 * (z**2).sum(0) - np.log(lower.diagonal()).sum() - 0.5 * len(lower) * np.log(2 * np.pi)


def gain(flow: Flow, x: torch.Tensor, conditions: torch.Tensor) -> float:
    """Mean nats by which a flow explains x (b, dim) better than a standard normal distribution does."""
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, x.shape, generator=random) * 2.0 - 1
    parts = zip(x.split(256), conditions.split(256), signs.split(256), strict=True)
    flowing = torch.cat([flow.log_density(*part).detach() for part in parts])
    normal = -0.5 * (x.square().sum(1) + flow.dim * np.log(2 * np.pi))
    return float((flowing - normal).mean())


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
