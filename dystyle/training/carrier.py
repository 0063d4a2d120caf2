"""Train the carrier's flow: how a face's picture moves when its code is edited.

The editor makes the examples itself; how the faces in them move is read off their meshes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dystyle.encoders import SIZE
from dystyle.encoders.carrier import Carrier
from dystyle.encoders.features import FeatureEncoder
from dystyle.encoders.precision import autocast
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.pipeline import FaceEditor
from dystyle.training import resume
from dystyle.training.pairs import Pairs
from dystyle.training.photo import FULL, PhotoConfig, Stage, descend


@dataclass(frozen=True)
class CarrierConfig(PhotoConfig):
    """Training the carrier.

    Attributes:
        out: folder of the run, for `pairs` and `carrier.safetensors`; an interrupted run goes on.
        features: the encoder of residuals (a name or a path), whose units are the carrier's, too.
        pairs: edits of generated faces to make. held: how many of them are for the report.
        start: weights to go on from (a name or a path); none: untrained.
        flow_weight, slope_weight: see `flow_losses`.
    """

    out: Path = Path("runs/carrier")
    features: str = "features"
    pairs: int = 800
    held: int = 16
    steps: int = 360
    batch: int = 8
    lr: float = 1.5e-3
    start: str | None = None
    flow_weight: float = 20.0
    slope_weight: float = 40.0


def flow_losses(flow: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """What flows (b, 2, s, s) lack of others.

    Returns:
        "flow": mean absolute difference; "slope": the same of their changes from place to place, so that
        what moves together stays together.
    """
    difference = flow - wanted
    slopes = (difference.diff(dim=dim).abs().mean() for dim in (2, 3))
    return {"flow": difference.abs().mean(), "slope": sum(slopes)}


def train_carrier(config: CarrierConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Write `carrier.safetensors` into the run's folder; goes on from the run's checkpoint.

    Args:
        generator: frozen, on the device of the work.

    Returns:
        Of the edits held out, how far the network's flow is from the mesh's, in px of 1024 ("flow_px"), and
        how far that of no move at all ("still_px"); and how many steps were skipped, see `descend`.

    Raises:
        InputError: as `FeatureEncoder.load` and `Carrier.load`, all edits are held out, or the run in the
            folder was begun otherwise, see `resume`.
    """
    device, generator = generator.mean_w.device, generator.eval()
    if config.held >= config.pairs:
        raise InputError(f"All {config.pairs} pairs are held out; give more --pairs, or fewer --held.")
    scale = FeatureEncoder.load(config.features).scale
    resume.begin(config.out, resume.recipe(config, free=("checkpoint_every",)))
    editor = FaceEditor.from_pretrained(backend=config.backend)
    pairs = Pairs.prepare(config.out / "pairs", config.pairs, config.seed, editor)
    torch.manual_seed(config.seed)
    network = Carrier.load(config.start) if config.start else Carrier(scale)
    network = network.train().requires_grad_(True).to(device, memory_format=torch.channels_last)

    def moves(index: np.ndarray) -> tuple[Tensor, Tensor]:
        """The network's flow of these edits, and the mesh's."""
        codes, flows = (torch.from_numpy(x[index]).to(device) for x in (pairs.codes, pairs.flows))
        with autocast(device):
            with torch.no_grad():
                before, after = (generator.features(x, SIZE).float() for x in codes.unbind(1))
            return network.moved(before, after).float(), flows

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        return flow_losses(*moves(rng.integers(config.held, len(pairs.codes), config.batch)))

    result = descend(config, network, [Stage(config.steps, config.lr)], losses)
    network.eval().save(config.out / "carrier.safetensors", recipe=json.dumps(resume.recipe(config)))
    with torch.no_grad():
        found = [moves(np.array([index])) for index in range(config.held)]
    missed = {
        "flow_px": [float((flow - wanted).abs().mean()) for flow, wanted in found],
        "still_px": [float(wanted.abs().mean()) for _, wanted in found],
    }
    return {key: round(np.mean(x) * FULL / 2, 3) for key, x in missed.items() if x} | result
