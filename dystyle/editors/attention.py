"""How the active experts of an edit attend to one another, for people who want to look inside.

Computed with NumPy from the editor's weight file, without torch; the arithmetic is that of
`dystyle.editors.dystyle.ProxyAttention.weights`, where the equations are explained.
"""

import json
from collections.abc import Mapping
from functools import cache

import numpy as np

from dystyle.attributes import ATTRIBUTES
from dystyle.weights import load


def attention(method: str, code: np.ndarray, configuration: Mapping[str, float]) -> np.ndarray:
    """Attention of each active expert (second axis) to each (third axis): (rows, n, n) float32.

    Args:
        method: the name of an editor's weights.
        code: (18, 512), unedited.
        configuration: n target values in the attributes' units, in the table's order.
    """
    tensors, metadata = _editor(method)
    structure = json.loads(metadata["structure"])

    def linear(layer: str, x: np.ndarray) -> np.ndarray:
        """(rows, n_in) -> (rows, n_out)."""
        weight, bias = (tensors[f"{layer}.{part}"].astype(np.float32) for part in ("weight", "bias"))
        return np.einsum("ri,rio->ro", x, weight) + bias[:, 0]

    rows = structure["rows"]
    x = (code[:rows] - _flat(tensors["mean_w"])) / _flat(tensors["std_w"])
    proxies = []
    for name, value in configuration.items():
        value = ATTRIBUTES[name].normalise(np.float32(value))
        angles = value * np.pi / 2 * 2.0 ** np.arange(3)
        target = np.concatenate(([value], np.sin(angles), np.cos(angles))).astype(np.float32)
        hidden = np.concatenate((x, np.repeat(target[None], rows, 0)), 1)
        for part in ("input", "output"):
            hidden = linear(f"experts.{name}.{part}", hidden)
            hidden = np.where(hidden > 0, hidden, np.float32(0.2) * hidden)
        proxies.append(hidden)
    queries, keys = (
        np.stack([linear(f"attention.{layer}", p) for p in proxies], 1) for layer in ("query", "key")
    )
    logits = queries @ keys.transpose(0, 2, 1) * structure["hidden"] ** -0.5
    weights = np.exp(logits - logits.max(2, keepdims=True))
    return weights / weights.sum(2, keepdims=True)


def _flat(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(-1, 512)


_editor = cache(load)
