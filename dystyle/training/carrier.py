"""Train the carrier, which takes the residual of a photo's features through an edit.

The editor makes the examples itself. In one half the photo is a generated face, bent, relit and with
something laid over it, as the encoder's code cannot give it. What it should become is the same face edited,
bent and lit alike, with what was laid over it moved with the head or left where it is. In the other half it
is a portrait of `dystyle.training.portraits`: nobody knows its edited picture, but it should be read as the
code's, be of the same person, and stay the photo where the code's picture stays. First the flow is learnt
alone, then with it what is added.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dystyle.attributes import ATTRIBUTES
from dystyle.encoders import SIZE
from dystyle.encoders.carrier import Carrier, warp
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.precision import autocast
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.knowledge.readings import FaceReader, IdentityNetwork
from dystyle.metrics.overlays import overlay
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.pairs import FLOW, Pairs, draw_edit
from dystyle.training.photo import (
    FACE,
    FULL,
    Part,
    PhotoConfig,
    Stage,
    descend,
    face_losses,
    picture_losses,
    restore,
    root_mean_square,
)
from dystyle.training.portraits import Portraits

FACE_EVERY = 2  # steps, of which one is on the face; the others see a part of the picture of this side:
SIDE = 32
TURNS = 2  # pairs of steps, of which one is on portraits
TINT = 32  # px of 1024, from which on a photo's colours are kept where an edit replaces the rest
OVERLAYS = 2  # at most; each goes along with the head in this share of the examples:
ALONG = 0.6
BENT, LIT = 0.6, 0.6  # shares of the examples
# Change beyond the flow, of pictures in [-1, 1], from which on the edit's picture counts, and alone.
REPLACED = 0.05, 0.15


@dataclass(frozen=True)
class CarrierConfig(PhotoConfig):
    """Training the carrier.

    Attributes:
        out: folder of the run, for `pairs` and `carrier.safetensors`; an interrupted run goes on.
        features: the encoder of residuals (a name or a path).
        portraits: folder of portraits (`python -m dystyle.train features` makes it) to take overlays from.
        pairs: edits of generated faces to make. held: how many of them are for the report.
        start: weights to go on from (a name or a path); none: untrained. restarted: of them, only the flow.
        width: of an untrained network, see `Carrier`.
        flow_steps, flow_batch, flow_lr: of the first stage, which learns the flow; `steps`, `batch` and `lr`
            are of the second one, in which it stays.
        flow_weight, slope_weight: see `flow_losses`.
        edited: by how much more differences count where the edit replaces the picture; in portraits it is
            `guessed` of them that count there.
        reading_weight: of `reading_loss`: a half-hearted edit looks much like the photo, and would be learnt.
    """

    out: Path = Path("runs/carrier")
    features: str = "features"
    portraits: Path = Path("runs/features/portraits")
    pairs: int = 800
    held: int = 16
    steps: int = 800
    batch: int = 2
    start: str | None = None
    restarted: bool = False
    width: int = 96
    flow_steps: int = 360
    flow_batch: int = 8
    flow_lr: float = 1.5e-3
    texture_weight: float = 3.0
    perceptual_weight: float = 2.0
    flow_weight: float = 20.0
    slope_weight: float = 40.0
    identity_weight: float = 2.0
    edited: float = 3.0
    guessed: float = 0.4
    reading_weight: float = 6.0


class Example(NamedTuple):
    """What the carrier is shown, and what should come out.

    Attributes:
        residual: (b, 512, 64, 64), of the photos. before, after: likewise, the codes' features.
        codes: (b, 18, 512), edited.
        wanted: (b, 3, 1024, 1024), the edited photos. weights: (b, 1, 1024, 1024), of differences to them.
        person: (b, 3, 1024, 1024), pictures of whoever should be seen.
        unread, read: (b, 3, 1024, 1024), pictures before and after the edit, off which its effect is read.
    """

    residual: Tensor
    before: Tensor
    after: Tensor
    codes: Tensor
    wanted: Tensor
    weights: Tensor
    person: Tensor
    unread: Tensor
    read: Tensor


class Examples:
    """Draws examples from edits.

    Args:
        generator, encoder: frozen, on the device of the work.
        config: of the training.
    """

    def __init__(
        self,
        pairs: Pairs,
        portraits: Portraits,
        generator: MobileStyleGAN,
        encoder: FeatureEncoder,
        config: CarrierConfig,
    ) -> None:
        self.pairs, self.portraits, self.generator, self.encoder = pairs, portraits, generator, encoder
        self.device, self.config = generator.mean_w.device, config

    @torch.no_grad()
    def moves(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Features (b, 512, 64, 64) of these edits' codes before and after, and the flow by the mesh."""
        arrays = self.pairs.codes, self.pairs.flows
        codes, flows = (torch.from_numpy(array[index]).to(self.device) for array in arrays)
        with autocast(codes.device):
            before, after = (self.generator.features(x, SIZE).float() for x in (codes[:, 1], codes[:, 3]))
        return before, after, flows[:, 1]

    @torch.no_grad()
    def draw(self, rng: np.random.Generator, index: np.ndarray) -> Example:
        """The examples of these edits, with overlays, bending and light drawn at random."""
        codes, flows, renders = (
            torch.from_numpy(array[index]).float().to(self.device)
            for array in (self.pairs.codes, self.pairs.flows, self.pairs.renders)
        )
        own, code, own_edited, edited = codes.unbind(1)
        photos, wanted, replaced = self.photos(rng, own, own_edited, flows[:, 0])
        before, residual = restore(self.generator, self.encoder, photos, renders, code)
        with autocast(codes.device):
            after = self.generator.features(edited, SIZE).float()
        weights = 1 + self.config.edited * replaced
        return Example(residual, before, after, edited, wanted, weights, wanted, photos, wanted)

    @torch.no_grad()
    def photographed(self, rng: np.random.Generator, editor: FaceEditor, network: Carrier) -> Example:
        """Portraits, edited at random. What they should become is guessed: the photo, moved as `network`
        says; where the edit replaces the code's picture, its picture in the photo's colours."""
        index = rng.integers(0, len(self.portraits.codes), self.config.batch)
        pictures = np.stack([self.portraits.pictures[i] for i in index])
        edits = [draw_edit(rng, editor.measure(picture)) for picture in pictures]
        code = self.portraits.codes[index]
        edited = np.stack([editor.edit(*pair) for pair in zip(code, edits, strict=True)])
        code, edited = self._tensor(code), self._tensor(edited)
        photos = self._tensor(pictures.transpose(0, 3, 1, 2)) / 127.5 - 1
        before, residual = restore(
            self.generator, self.encoder, photos, self._tensor(self.portraits.renders[index]), code
        )
        with autocast(code.device):
            after = self.generator.features(edited, SIZE).float()
            unread, read = (
                self.generator.decode(x, y).float().clamp(-1, 1) for x, y in ((before, code), (after, edited))
            )
            flow = network.moved(before, after).float()
        moved, expected = warp(photos, flow), warp(unread, flow)
        replaced = replacement(read, expected)
        tint = F.interpolate(F.avg_pool2d(moved - expected, TINT), (FULL, FULL), mode="bilinear")
        wanted = moved + replaced * ((read + tint).clamp(-1, 1) - moved)
        weights = 1 + (self.config.guessed - 1) * replaced
        return Example(residual, before, after, edited, wanted, weights, photos, unread, read)

    def photos(
        self, rng: np.random.Generator, codes: Tensor, edited: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Photos (b, 3, 1024, 1024) of faces with these codes, of the same faces edited, and by how much they
        are not what was there before, moved, (b, 1, 1024, 1024)."""
        with autocast(codes.device):
            photos, pictures = (self.generator(x).float().clamp(-1, 1) for x in (codes, edited))
        moved = warp(photos, flow)
        replaced = replacement(pictures, moved)
        wanted = moved + replaced * (pictures - moved)
        count = len(codes)
        overlays = rng.integers(0, OVERLAYS + 1, count)
        for number in range(OVERLAYS):
            contents, masks = (self._tensor(x) for x in self._overlays(rng, overlays > number))
            along = torch.from_numpy(rng.random((count, 1, 1, 1)) < ALONG).to(self.device)
            photos = photos + masks * (contents - photos)
            contents, masks = (torch.where(along, warp(x, flow), x) for x in (contents, masks))
            wanted, replaced = wanted + masks * (contents - wanted), replaced * (1 - masks)
        bent = self._bend(rng, flow.abs().amax((1, 2, 3)))
        gains, offsets = (self._tensor(x) for x in self._light(rng, count))
        photos, wanted = ((warp(x, bent) * gains + offsets).clamp(-1, 1) for x in (photos, wanted))
        return photos, wanted, warp(replaced, bent)

    def _overlays(self, rng: np.random.Generator, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contents (b, 3, 1024, 1024) in [-1, 1] and masks (b, 1, 1024, 1024) of overlays for the `given`
        examples (b,); masks of 0 for the others."""
        contents = np.zeros((len(given), FULL, FULL, 3), np.float32)
        masks = np.zeros((len(given), 1, FULL, FULL), np.float32)
        for index in np.flatnonzero(given):
            contents[index], masks[index, 0] = overlay(rng, self.portraits.pictures)
        return contents.transpose(0, 3, 1, 2) / 127.5 - 1, masks

    def _bend(self, rng: np.random.Generator, moves: Tensor) -> Tensor:
        """Flows (b, 2, 32, 32) that deform: the less, the more (b,) of a half picture the head moves, as it
        would have to be bent alike where it comes from and where it arrives."""
        count = len(moves)
        strength = 0.03 * rng.random((count, 1, 1, 1)) * (rng.random((count, 1, 1, 1)) < BENT)
        knots = self._tensor(rng.standard_normal((count, 2, 6, 6)) * strength)
        return F.interpolate(knots, (FLOW, FLOW), mode="bicubic") / (1 + 10 * moves[:, None, None, None])

    @staticmethod
    def _light(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Gains (b, 3, 1, 1) and offsets (b, 1, 1, 1)."""
        lit = rng.random((count, 1, 1, 1)) < LIT
        gains = 0.05 * rng.standard_normal((count, 3, 1, 1)) + 0.1 * rng.standard_normal((count, 1, 1, 1))
        return 1 + lit * gains, lit * 0.06 * rng.standard_normal((count, 1, 1, 1))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device)


def replacement(pictures: Tensor, moved: Tensor) -> Tensor:
    """How much of edited pictures (b, 3, 1024, 1024) is not the unedited ones, moved: (b, 1, 1024, 1024)."""
    change = F.avg_pool2d(pictures - moved, 8).abs().mean(1, keepdim=True)
    change = F.avg_pool2d(F.pad(change, (2,) * 4, mode="replicate"), 5, 1)
    least, full = REPLACED
    return F.interpolate(((change - least) / (full - least)).clamp(0, 1), (FULL, FULL), mode="bilinear")


def flow_losses(flow: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """What flows (b, 2, s, s) lack of others.

    Returns:
        "flow": mean absolute difference; "slope": the same of their changes from place to place, so that
        what moves together stays together.
    """
    difference = flow - wanted
    slopes = (difference.diff(dim=dim).abs().mean() for dim in (2, 3))
    return {"flow": difference.abs().mean(), "slope": sum(slopes)}


def reading_loss(seen: Tensor, before: Tensor, after: Tensor, reader: FaceReader) -> Tensor:
    """What faces in pictures (b, 3, 256, 256) lack of an edit's effect: the mean difference from what is read
    off `after`, in shares of the attributes' ranges, each weighed by how far the edit changes it."""

    def levels(pictures: Tensor) -> Tensor:
        scores = reader(pictures)
        return torch.stack([ATTRIBUTES[name].score_to_level(x.float()) for name, x in scores.items()])

    with autocast(seen.device):
        reached = levels(seen)
        with torch.no_grad():
            start, goal = levels(before), levels(after)
    weights = (goal - start).abs()
    return (weights * (reached - goal).abs()).sum() / weights.sum().clamp(min=1e-6)


def train_carrier(config: CarrierConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Write `carrier.safetensors` into the run's folder; goes on from the run's checkpoint.

    Args:
        generator: frozen, on the device of the work.

    Returns:
        Of the edits held out, root mean square difference at 256 px to what was wanted: of the edited code
        alone ("rmse_code"), with the unedited residual ("rmse_added") and with the carried one ("rmse");
        "flow_px": how far the network's flow is from the mesh's, in px of 1024; and how many steps were
        skipped, see `descend`.

    Raises:
        InputError: as `FeatureEncoder.load` and `Carrier.load`, there are no portraits, all edits are held
            out, or the run in the folder was begun otherwise, see `resume`.
    """
    device, generator = generator.mean_w.device, generator.eval()
    if config.held >= config.pairs:
        raise InputError(f"All {config.pairs} pairs are held out; give more --pairs, or fewer --held.")
    encoder, portraits = FeatureEncoder.load(config.features), Portraits.load(config.portraits)
    settings = resume.recipe(config, free=("checkpoint_every",))
    resume.begin(config.out, settings | {"portraits": portraits.fingerprint})
    encoder = encoder.to(device, memory_format=torch.channels_last)
    editor = FaceEditor.from_pretrained(backend=config.backend)
    pairs = Pairs.prepare(config.out / "pairs", config.pairs, config.seed, editor, generator)
    examples = Examples(pairs, portraits, generator, encoder, config)
    identity = IdentityNetwork().eval().requires_grad_(False).to(device)
    reader = FaceReader().eval().requires_grad_(False).to(device)
    torch.manual_seed(config.seed)
    network = Carrier.load(config.start) if config.start else Carrier.for_encoder(encoder, config.width)
    if config.restarted:
        network.restart()
    network = network.train().requires_grad_(True).to(device, memory_format=torch.channels_last)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        if step < config.flow_steps:
            index = rng.integers(config.held, len(pairs.codes), config.flow_batch)
            before, after, flow = examples.moves(index)
            with autocast(before.device):
                return flow_losses(network.moved(before, after).float(), flow)
        on_face = step % FACE_EVERY == 0
        if step // FACE_EVERY % TURNS == 1:
            example = examples.photographed(rng, editor, network)
        else:
            example = examples.draw(rng, rng.integers(config.held, len(pairs.codes), config.batch))
        part = FACE if on_face else Part.draw(rng, SIDE)
        carried = carry(example)
        seen = part.decode(generator, example.after + carried, example.codes)
        wanted = part.cut(example.wanted)
        terms = picture_losses(seen, wanted, part.cut(example.weights))
        if not on_face:
            return terms
        person, unread, read = map(part.cut, (example.person, example.unread, example.read))
        seen, wanted, person, unread, read = map(part.framed, (seen, wanted, person, unread, read))
        terms |= face_losses(seen, wanted, identity, person)
        return terms | {"reading": reading_loss(seen, unread, read, reader)}

    def carry(example: Example) -> Tensor:
        with autocast(example.before.device):
            with torch.no_grad():  # the flow has been learnt
                flow = network.moved(example.before, example.after).float()
            return network(example.residual, example.before, example.after, flow).float()

    stages = Stage(config.flow_steps, config.flow_lr), Stage(config.steps, config.lr)
    result = descend(config, network, stages, losses)
    network.eval().save(config.out / "carrier.safetensors", recipe=json.dumps(resume.recipe(config)))

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = []
        for index in range(config.held):
            example = examples.draw(np.random.default_rng((config.seed, index)), np.array([index]))
            after, (*moved, flow) = example.after, examples.moves(np.array([index]))
            tried = after, after + example.residual, after + carry(example)
            with autocast(after.device):
                seen = [generator.decode(x, example.codes).float() for x in tried]
                missed = (network.moved(*moved).float() - flow).abs().mean() * FULL / 2
            rows.append([*(float(root_mean_square(x, example.wanted).mean()) for x in seen), float(missed)])
        names = ("rmse_code", "rmse_added", "rmse", "flow_px")
        return dict(zip(names, np.mean(rows, 0).round(3).tolist(), strict=True)) if rows else {}

    return report() | result
