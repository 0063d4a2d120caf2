"""The NumPy attention of the page against the PyTorch editor."""

import numpy as np
import pytest
import torch

from dystyle.editors.attention import attention
from dystyle.editors.dystyle import DyStyle
from dystyle.errors import InputError


def test_attention_is_that_of_the_torch_editor(editor):
    model, rng = DyStyle.load("dystyle"), np.random.default_rng(3)
    for count in (1, 2, 5, len(editor.attributes)):
        names = sorted(rng.choice(list(editor.attributes), count, replace=False))
        rows = [row for name, row in editor.attributes.items() if name in names]
        target = {row.name: float(rng.uniform(row.low, row.high)) for row in rows}
        code = editor.sample(int(rng.integers(1000)))
        with torch.no_grad():
            targets = {name: torch.tensor([value]) for name, value in target.items()}
            proxies = model.proxies(torch.from_numpy(code)[None], targets)
            expected = model.attention.weights(proxies)[:, 0].numpy()
        shuffled = {name: target[name] for name in names}
        np.testing.assert_allclose(editor.attention(code, shuffled), expected, atol=2e-5)
        np.testing.assert_allclose(attention("dystyle", code, target).sum(2), 1, atol=1e-5)


def test_nothing_edited_has_no_attention(editor):
    with pytest.raises(InputError):
        editor.attention(editor.sample(1), {})
