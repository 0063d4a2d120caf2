"""An atlas of StyleSpace: which channels act on which region of the picture, and what they do there."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dystyle.editors.base import StyledCode
from dystyle.editors.interfacegan import Latents
from dystyle.editors.stylespace import REGIONS, Atlas, Channels, affine_layers, channel_names, styles
from dystyle.engines.graphs import generator
from dystyle.evaluation.sheets import tile
from dystyle.pictures import save_picture
from dystyle.pipeline import FaceEditor

PREVIEW = 256
FACE = slice(60, 230), slice(43, 213)  # of a preview, where the regions of a face are shown
WHOLE = slice(None), slice(None)
BEYOND_THE_FACE = {"ears", "hair", "neck", "background"}
PAGE = """\
# An atlas of StyleSpace

Made by `python -m dystyle.evaluate atlas`: the channels of S that belong to each region (`located` in
`dystyle/editors/stylespace.py`: their gradient energy is densest there in at least half of the pictures),
those first that change the picture most by one deviation. `train stylespace` found them. Of {total} channels
{located} have a region; the others act in several, or on finer texture than a picture of 128 px shows.

![What the first ones do]({picture})

A row is a region on one of {faces} generated faces: unedited, then by channel the least and the greatest
value to which an edit goes (twice the range among {people} random people).

| region | channels | the first: layer and channel |
|---|---|---|
{rows}
"""


@dataclass(frozen=True)
class AtlasConfig:
    """The atlas of StyleSpace's channels.

    Attributes:
        out: page to write; its picture, of the same name, goes beside it.
        top: channels shown of each region. listed: of these, in the page's table.
        seeds: of the faces shown. people: random ones, whose ranges bound the channels.
        size: of one picture, in pixels.
    """

    out: Path = Path("docs/benchmarks/stylespace-atlas.md")
    top: int = 4
    listed: int = 8
    seeds: tuple[int, ...] = (5, 3)
    people: int = 4000
    size: int = 144


def make_atlas(config: AtlasConfig) -> str:
    """Write page and picture; returns the page."""
    atlas, editor, network = Atlas.load(), FaceEditor.from_pretrained(backend="onnx"), generator()
    names, layers = channel_names(network), affine_layers(network)
    z = np.random.default_rng(0).standard_normal((config.people, 512), dtype=np.float32)
    s = styles(network, np.broadcast_to(Latents().map(z)[:, None], (config.people, 18, 512)))
    short = [f"{layer.removesuffix('.modulation').removeprefix('blocks.')} {i}" for layer, i in names]
    pictures, captions, rows = [], [], []
    for region in REGIONS:
        tops = atlas.top(region, config.listed)
        number = int((atlas.regions == REGIONS.index(region)).sum())
        rows.append(f"| {region} | {number} | {', '.join(short[index] for index in tops)} |")
        shown = tops[: config.top]
        for seed in config.seeds if shown else ():
            code = editor.sample(seed)
            row, words = [code], [region]
            for index in shown:
                known, (layer, channel) = Channels.of(network, [index], s), names[index]
                for end, sign in ((-np.inf, "-"), (np.inf, "+")):
                    offset = np.zeros(layers[layer][0].out_features, np.float32)
                    offset[channel] = known.move(0, code, end)
                    row.append(StyledCode(code, {layer: offset}))
                    words.append(f"{short[index]} {sign}")
            missing = 1 + 2 * config.top - len(row)
            where = WHOLE if region in BEYOND_THE_FACE else FACE
            pictures += [_shown(editor.synthesize(edited, PREVIEW)[where], config.size) for edited in row]
            pictures += [np.full((config.size, config.size, 3), 255, np.uint8)] * missing
            captions += [*words, *[""] * missing]
    picture = config.out.with_suffix(".jpg")
    save_picture(tile(pictures, captions, 1 + 2 * config.top), picture)
    page = PAGE.format(
        total=len(names),
        located=int((atlas.regions >= 0).sum()),
        picture=picture.name,
        faces=len(config.seeds),
        people=config.people,
        rows="\n".join(rows),
    )
    config.out.write_text(page)
    return page


def _shown(picture: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
