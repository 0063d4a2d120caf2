"""StyleSpace (Wu et al. 2021, arXiv 2011.12799): single channels of S, the generator's style vectors.

S is what the generator's affine layers make of W+: one number for each channel of each modulated layer. Many
channels change one thing in one place. Those of an attribute are found by statistics of few examples
(section 4.2 there) among those whose gradient maps lie in the attribute's region (section 4.1).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dystyle.alignment import hull
from dystyle.attributes import EARS, JAW, PARTS
from dystyle.backend import Backend
from dystyle.editors.base import StrengthEditor, StyledCode
from dystyle.editors.search import Read
from dystyle.errors import InputError
from dystyle.weights import load, save

if TYPE_CHECKING:
    import torch

    from dystyle.generators.mobile_stylegan import MobileStyleGAN

EXAMPLES = 50  # faces that an attribute's channels are found from
FARTHEST = 40.0  # deviations that a channel may be moved
# Times the range among people, to which a channel goes: with 1 hardly anything changes, with 3 noses get dark
# stripes and lips break (eight people looked at).
BEYOND = 2.0
PROBES = 1  # random sign patterns for the gradient maps of a picture; there are many pictures
STEADY = 0.5  # share of the pictures in which a channel has to prefer its region
REGIONS = ("eyes", "brows", "nose", "mouth", "jaw", "skin", "ears", "hair", "neck", "background")
EAR_MARGIN = 0.05  # how wide ears are, in sides of the picture


# Edits need no torch: the search for channels imports it.
def affine_layers(generator: "MobileStyleGAN") -> dict[str, tuple["torch.nn.Linear", int]]:
    """The layers whose outputs are S, in the picture's order: name -> (layer, row of W+ it reads)."""
    layers = {"conv1.modulation": (generator.conv1.modulation, 0)}
    for i, block in enumerate(generator.blocks):
        layers[f"blocks.{i}.up"] = (block.up, 2 * i + 1)
        layers[f"blocks.{i}.conv1.modulation"] = (block.conv1.modulation, 2 * i + 1)
        layers[f"blocks.{i}.conv2.modulation"] = (block.conv2.modulation, 2 * i + 2)
    layers["blocks.6.to_img.modulation"] = (generator.blocks[6].to_img.modulation, 15)
    return layers


def styles(generator: "MobileStyleGAN", codes: np.ndarray) -> np.ndarray:
    """S (n, channels) float32 of codes (n, 18, 512), layer after layer as in `affine_layers`."""
    import torch

    rows = torch.from_numpy(np.array(codes, np.float32))
    with torch.no_grad():
        parts = [layer(rows[:, row]) for layer, row in affine_layers(generator).values()]
    return torch.cat(parts, 1).numpy()


def channel_names(generator: "MobileStyleGAN") -> list[tuple[str, int]]:
    """(layer, channel) of every column of `styles`."""
    layers = affine_layers(generator).items()
    return [(name, channel) for name, (layer, _) in layers for channel in range(layer.out_features)]


def by_examples(s: np.ndarray, levels: np.ndarray, examples: int = EXAMPLES) -> np.ndarray:
    """How far each channel of an attribute's examples lies from all people's mean: signed, (channels,).

    theta = |mean| / deviation of the examples, once all channels are in units of all people's deviations
    (section 4.2 there): what examples differ from people in, and agree in. The sign is that of the mean.

    Args:
        s: (n, channels) of people. levels: (n,) of the attribute; the highest are the examples.
    """
    normal = (s - s.mean(0)) / (s.std(0) + 1e-12)
    positive = normal[np.argsort(levels, kind="stable")[-examples:]]
    return positive.mean(0) / (positive.std(0) + 1e-12)


def region_energy(
    render: Callable[[Sequence["torch.Tensor"]], "torch.Tensor"],
    offsets: Sequence["torch.Tensor"],
    masks: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Energy of every channel's gradient map within each region, (m, channels).

    For random signs v the expectation of (d/ds sum_p v_p I_p)^2 is sum_p (dI_p/ds)^2, so that a few backward
    passes serve all channels at once.

    Args:
        render: offsets -> picture (1, 3, s, s); offsets: leaf tensors, one a layer.
        masks: (m, s, s) bool, the regions. seed: of the signs.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    energies = np.zeros((len(masks), sum(offset.numel() for offset in offsets)))
    for _ in range(PROBES):
        picture = render(offsets)
        signed = picture * (torch.randint(0, 2, picture.shape, generator=random) * 2.0 - 1)
        for energy, mask in zip(energies, torch.from_numpy(masks), strict=True):
            gradients = torch.autograd.grad(
                (signed * mask).sum(), list(offsets), retain_graph=True, materialize_grads=True
            )
            energy += torch.cat([g.flatten() for g in gradients]).square().numpy() / PROBES
    return energies


def region_mask(points: np.ndarray, margin: float, size: int) -> np.ndarray:
    """What points (n, 2) enclose, and a margin around it, (size, size) bool; both in sides of the picture."""
    corners = np.array(((0, 0), (0, size), (size, size), (size, 0)))
    return hull(points * size, corners, margin, size)


def regions_of(points: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Where each of `REGIONS` is, (m, s, s) bool, none twice.

    Args:
        points: (468, 2) of the face mesh, in sides of the picture.
        kinds: (s, s) int, of `dystyle.encoders.KINDS`. Ears are face beside the mesh; neck is other face
            beyond it, and things.
    """

    def enclosed(indices: Sequence[int], margin: float) -> np.ndarray:
        return region_mask(points[list(indices)], margin, len(kinds))

    found = {
        part: np.any([enclosed(some, PARTS[part][1][0]) for some in PARTS[part][0]], 0)
        for part in ("eyes", "brows", "nose", "mouth")
    }
    mesh = enclosed(range(len(points)), 0)
    face, hair, things, background = kinds == np.arange(4)[:, None, None]
    sides = [enclosed(EARS[: len(EARS) // 2], EAR_MARGIN), enclosed(EARS[len(EARS) // 2 :], EAR_MARGIN)]
    found["jaw"] = enclosed(JAW, 0) & ~hair
    found["skin"] = mesh & ~hair
    found["ears"] = np.any(sides, 0) & face & ~mesh
    found |= {"hair": hair, "neck": face | things, "background": background}
    taken, masks = np.zeros_like(mesh), []
    for name in REGIONS:
        masks.append(found[name] & ~taken)
        taken |= found[name]
    return np.stack(masks)


def located(energies: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which region each channel belongs to (section 4.1 there), and its share of the energy.

    That where its gradient energy is densest, share of all against share of the area, in at least `STEADY`
    of the pictures.

    Args:
        energies: (pictures, m, channels); the regions fill the picture. areas: (pictures, m), any unit.

    Returns:
        (channels,) int, -1 for none; (m, channels), means over the pictures, 0 where there is no energy.
    """
    shares = energies / np.maximum(energies.sum(1, keepdims=True), 1e-20)
    area = (areas / areas.sum(1, keepdims=True))[..., None]
    preferred = np.where(area > 0, shares / np.maximum(area, 1e-20), 0).argmax(1)
    counts = np.stack([(preferred == region).mean(0) for region in range(energies.shape[1])])
    steady = (counts.max(0) >= STEADY) & (energies.sum((0, 1)) > 0)
    return np.where(steady, counts.argmax(0), -1), shares.mean(0)


class Atlas(NamedTuple):
    """Where every channel of S acts.

    Attributes:
        regions: (channels,) int8, of `REGIONS`; -1: nowhere in particular.
        visible: (channels,) float32, what a deviation of it changes in the picture (root of its energy).
    """

    regions: np.ndarray
    visible: np.ndarray

    @classmethod
    def load(cls, name_or_path: str = "methods/stylespace") -> "Atlas":
        """As `StyleSpaceEditor.save` wrote it."""
        tensors, _ = load(name_or_path)
        return cls(*(tensors[f"atlas_{field}"] for field in cls._fields))

    def top(self, region: str, count: int) -> list[int]:
        """The channels of a region, those that change most first."""
        inside = np.flatnonzero(self.regions == REGIONS.index(region))
        return inside[np.argsort(-self.visible[inside], kind="stable")][:count].tolist()


class Channels(NamedTuple):
    """What single channels of S are computed from, and what they are among people.

    Attributes:
        weights, biases: of the affine layer, (n, 512) and (n,) float32. rows: of W+ read, (n,) int32.
        bounds: the least and the largest value seen, (n, 2) float32.
    """

    weights: np.ndarray
    biases: np.ndarray
    rows: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, generator: "MobileStyleGAN", indices: Sequence[int], s: np.ndarray) -> "Channels":
        """Those of some columns of `styles`, whose values (people, channels) are given."""
        layers, names = affine_layers(generator), channel_names(generator)
        chosen = [(*layers[names[index][0]], names[index][1]) for index in indices]
        return cls(
            np.float32([layer.weight[channel].detach().numpy() for layer, _, channel in chosen]),
            np.float32([layer.bias[channel].item() for layer, _, channel in chosen]),
            np.int32([row for _, row, _ in chosen]),
            np.stack((s[:, indices].min(0), s[:, indices].max(0)), 1).astype(np.float32),
        )

    def move(self, index: int, code: np.ndarray, offset: float) -> float:
        """The offset that is left where a code's channel goes no farther than `BEYOND`, or than it is."""
        value = float(code[self.rows[index]] @ self.weights[index] + self.biases[index])
        centre, reach = self.bounds[index].mean(), BEYOND / 2 * np.ptp(self.bounds[index])
        low, high = centre - reach, centre + reach
        return float(np.clip(value + offset, min(low, value), max(high, value)) - value)


class StyleSpaceEditor(StrengthEditor):
    """One channel for each attribute; strengths are in the channel's deviations.

    They end at twice the range that the channel has among people: farther out the generator paints soot.

    Args:
        chosen: (layer, channel) by attribute.
        deviations: of the channels over faces, (n,), signed so that a positive strength raises the attribute.
        slopes: change of the attribute's level per deviation, (n,).
        widths: number of channels of each layer that is used.
        channels: what is known of them, in the attributes' order.
    """

    farthest = FARTHEST

    def __init__(
        self,
        chosen: Mapping[str, tuple[str, int]],
        deviations: np.ndarray,
        slopes: np.ndarray,
        widths: Mapping[str, int],
        channels: Channels,
    ) -> None:
        self.names, self.chosen, self.channels = tuple(chosen), dict(chosen), channels
        self.deviations, self.slopes, self.widths = deviations, slopes, dict(widths)

    def mover(
        self, code: np.ndarray, names: tuple[str, ...], read: Read
    ) -> Callable[[np.ndarray], np.ndarray]:
        def move(strengths: np.ndarray) -> np.ndarray:
            offsets: dict[str, np.ndarray] = {}
            for name, strength in zip(names, strengths, strict=True):
                (layer, channel), index = self.chosen[name], self.names.index(name)
                offset = offsets.setdefault(layer, np.zeros(self.widths[layer], np.float32))
                offset[channel] += self.channels.move(index, code, strength * self.deviations[index])
            return StyledCode(code, offsets)

        return move

    def save(self, path: Path, atlas: Atlas) -> None:
        """Write safetensors, with the atlas of all channels."""
        tensors = {f"atlas_{field}": value for field, value in atlas._asdict().items()}
        tensors |= {"deviations": self.deviations, "slopes": self.slopes, **self.channels._asdict()}
        tensors["channels"] = np.int32([channel for _, channel in self.chosen.values()])
        layers = [layer for layer, _ in self.chosen.values()]
        tensors["widths"] = np.int32([self.widths[layer] for layer in layers])
        save(path, tensors, format="stylespace", names=" ".join(self.names), layers=" ".join(layers))

    @classmethod
    def load(cls, name_or_path: str = "methods/stylespace") -> "StyleSpaceEditor":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load(name_or_path)
        if metadata.get("format") != "stylespace":
            raise InputError(f"'{name_or_path}' does not hold channels of StyleSpace.")
        layers = metadata["layers"].split()
        channels = zip(layers, map(int, tensors["channels"]), strict=True)
        named = dict(zip(metadata["names"].split(), channels, strict=True))
        widths = dict(zip(layers, map(int, tensors["widths"]), strict=True))
        known = Channels(*(tensors[key] for key in Channels._fields))
        return cls(named, tensors["deviations"], tensors["slopes"], widths, known)

    @classmethod
    def open(cls, weights: str, backend: Backend) -> "StyleSpaceEditor":
        return cls.load(weights)
