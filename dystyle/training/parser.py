"""Fit the parser of the features: k-means finds clusters, and whoever has looked at them gives names."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from dystyle.encoders import CHANNELS, KINDS, SIZE
from dystyle.encoders.parser import FeatureParser
from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN
from dystyle.pictures import save_picture
from dystyle.training import resume

SHOWN, SIDE, COLUMNS = 4, 128, 3  # people of a cluster on the sheet, px of each, clusters side by side


@dataclass(frozen=True)
class ParserConfig:
    """Fitting the parser of the features.

    The first run writes `clusters.png`, on which each cluster is marked in the pictures that show most of it.
    The second one, told the names, finds the same clusters and writes `parser.safetensors`, too.

    Attributes:
        out: folder to write.
        people: generated faces to learn from. places: of each of them.
        clusters: how many.
        truncation: of the people.
        names: of the clusters in order: face, hair, things or background.
    """

    out: Path = Path("runs/parser")
    people: int = 240
    places: int = 400
    clusters: int = 48
    truncation: float = 0.8
    seed: int = 0
    names: tuple[str, ...] = ()


@torch.no_grad()
def fit_parser(config: ParserConfig, generator: MobileStyleGAN) -> dict[str, float]:
    """Fit, write, and return the mean cosine of places with their clusters' centres.

    Raises:
        InputError: other names, or of another number, or the folder cannot be written.
    """
    if config.names and len(config.names) != config.clusters or set(config.names) - set(KINDS):
        raise InputError(
            f"Give {config.clusters} names, each of them {', '.join(KINDS[:-1])} or {KINDS[-1]}."
        )
    resume.make_folder(config.out)
    rng = np.random.default_rng(config.seed)
    z = rng.standard_normal((config.people, 512)).astype(np.float32)
    codes = generator.truncate(generator.mapping(torch.from_numpy(z)), config.truncation)
    codes = codes[:, None].expand(-1, 18, -1)

    def features(index: int) -> torch.Tensor:
        """Of one person's picture, by place: (4096, 512)."""
        return generator.features(codes[index : index + 1], SIZE)[0].reshape(CHANNELS, -1).T

    drawn = [features(i)[rng.choice(SIZE**2, config.places, replace=False)] for i in range(config.people)]
    seen = torch.cat(drawn)
    mean, scale = seen.mean(0), seen.std(0)
    directions = F.normalize((seen - mean) / scale, dim=1)
    found = KMeans(config.clusters, n_init=2, random_state=config.seed).fit(directions.numpy())
    centres = F.normalize(torch.from_numpy(found.cluster_centers_).float(), dim=1)

    def clusters_of(index: int) -> np.ndarray:
        cosines = F.normalize((features(index) - mean) / scale, dim=1) @ centres.T
        return cosines.argmax(1).reshape(SIZE, SIZE).numpy()

    maps = np.stack([clusters_of(i) for i in range(config.people)])
    save_picture(_sheet(maps, codes, generator, config.clusters), config.out / "clusters.png")
    if config.names:
        parser = FeatureParser(list(config.names), mean, scale, centres)
        parser.save(config.out / "parser.safetensors", recipe=json.dumps(resume.recipe(config)))
    return {"cosine": float((directions @ centres.T).amax(1).mean())}


def _sheet(maps: np.ndarray, codes: torch.Tensor, generator: MobileStyleGAN, clusters: int) -> np.ndarray:
    """A picture (h, w, 3) uint8 RGB of all clusters, each with its number."""

    def shown(cluster: int) -> np.ndarray:
        most = np.argsort(-(maps == cluster).sum((1, 2)), kind="stable")[:SHOWN]
        row = np.hstack([_marked(generator(codes[i : i + 1]), maps[i] == cluster) for i in most])
        return cv2.putText(row, str(cluster), (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)

    cells = [shown(cluster) for cluster in range(clusters)]
    cells += [np.zeros_like(cells[0])] * (-clusters % COLUMNS)
    return np.concatenate([np.concatenate(cells[i::COLUMNS]) for i in range(COLUMNS)], 1)


def _marked(picture: torch.Tensor, where: np.ndarray) -> np.ndarray:
    """A small picture (s, s, 3) uint8 of one (1, 3, 1024, 1024), with a colour over the places (64, 64)."""
    small = F.avg_pool2d((picture.clamp(-1, 1) + 1) * 127.5, picture.shape[-1] // SIDE)[0].permute(1, 2, 0)
    marked = where.repeat(SIDE // SIZE, 0).repeat(SIDE // SIZE, 1)[..., None]
    shown = np.where(marked, small.numpy() / 3 + (170, 0, 170), small.numpy())
    return np.ascontiguousarray(shown.round(), np.uint8)
