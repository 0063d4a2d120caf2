"""The attention that the page shows: the engine's, PyTorch's, and who has none."""

import numpy as np
import pytest
import torch

from dystyle.editors.dystyle import DyStyle
from dystyle.errors import InputError


@pytest.fixture(params=["onnx", "torch"])
def anybody(request, editor, reference):
    """The editor on the engines and on PyTorch."""
    return editor if request.param == "onnx" else reference


def test_attention_follows_the_equation(anybody):
    """softmax_j(Q_i . K_j / sqrt(d)), computed here one pair of experts after the other."""
    model, rng = DyStyle.load("dystyle"), np.random.default_rng(3)
    for count in (1, 2, 5, len(anybody.attributes)):
        names = sorted(rng.choice(list(anybody.attributes), count, replace=False))
        rows = [row for name, row in anybody.attributes.items() if name in names]
        target = {row.name: float(rng.uniform(row.low, row.high)) for row in rows}
        code = anybody.sample(int(rng.integers(1000)))
        with torch.no_grad():
            targets = {name: torch.tensor([value]) for name, value in target.items()}
            proxies = [p[:, 0] for p in model.proxies(torch.from_numpy(code)[None], targets)]
            queries, keys = (
                [layer(p[:, None])[:, 0] for p in proxies]
                for layer in (model.attention.query, model.attention.key)
            )
        products = torch.stack([torch.stack([(q * k).sum(1) for k in keys], 1) for q in queries], 1)
        powers = torch.exp(products / model.hidden**0.5)
        expected = powers / powers.sum(2, keepdim=True)
        shuffled = {name: target[name] for name in names}
        np.testing.assert_allclose(anybody.attention(code, shuffled), expected, atol=2e-5)


def test_nothing_edited_has_no_attention(editor):
    with pytest.raises(InputError):
        editor.attention(editor.sample(1), {})


def test_methods_without_experts_have_no_attention(editor):
    with pytest.raises(InputError, match="Only DyStyle has experts"):
        editor.with_method("interfacegan").attention(editor.sample(1), {"age": 60, "smile": 1})
