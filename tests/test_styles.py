"""Latent styles: the spline flow against autograd, and its components found again on a toy."""

from dataclasses import asdict

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.func import jacrev, vmap

from dystyle.evaluation.identifiability import (
    Coupling,
    IdentifiabilityConfig,
    Model,
    Toy,
    correlations,
    measure,
    plot,
    table,
    variability,
)
from dystyle.translators.styles import BOUND, LEAST, LatentStyleEncoder, spline, spline_numbers

BINS = 8


def drawn(count: int, components: int = 3, width: float = 2.0, seed: int = 0):
    """Points beyond both ends of the splines, and what describes the splines, in double precision."""
    random = torch.Generator().manual_seed(seed)
    x = (2 * torch.rand(count, components, generator=random, dtype=torch.float64) - 1) * 1.4 * BOUND
    shape = (count, components, spline_numbers(BINS))
    return x, width * torch.randn(shape, generator=random, dtype=torch.float64)


def slopes(x, theta, inverse=False):
    """By autograd."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(spline(x, theta, inverse)[0].sum(), x)[0]


# -------------------------------------------------------------------------------------- the splines


@pytest.mark.parametrize("inverse", [False, True], ids=["forwards", "backwards"])
def test_log_slopes_are_those_of_autograd(inverse):
    x, theta = drawn(5_000)
    log_slope = spline(x, theta, inverse)[1]
    torch.testing.assert_close(log_slope.exp(), slopes(x, theta, inverse), rtol=1e-6, atol=1e-9)


def test_the_inverse_comes_back():
    x, theta = drawn(5_000)
    y, there = spline(x, theta)
    again, back = spline(y, theta, inverse=True)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(there + back, torch.zeros_like(x), rtol=0, atol=1e-5)


def test_knots_and_their_slopes_are_what_is_asked_for():
    """Places by hand: the spline goes through its knots, with its slopes, from both sides."""
    theta = torch.randn(spline_numbers(BINS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    widths, heights, raw = (t.numpy() for t in theta.split((BINS, BINS, BINS - 1)))

    def places(shares):
        steps = LEAST + (1 - BINS * LEAST) * np.exp(shares) / np.exp(shares).sum()
        return 2 * BOUND * np.cumsum(steps)[:-1] - BOUND

    expected = LEAST + np.log1p(np.exp(raw) * np.expm1(1 - LEAST))
    for side in (-1e-9, 1e-9):
        x = torch.from_numpy(places(widths) + side)
        y, log_slope = spline(x, theta.expand(len(x), -1))
        np.testing.assert_allclose(y, places(heights), atol=1e-6)
        np.testing.assert_allclose(log_slope.exp(), expected, rtol=1e-5)


def test_the_jacobian_is_diagonal():
    x, theta = drawn(200, components=4)
    for inverse in (False, True):
        jacobian = vmap(jacrev(lambda x, t, i=inverse: spline(x, t, i)[0]))(x, theta)
        log_slope = spline(x, theta, inverse)[1]
        torch.testing.assert_close(jacobian, torch.diag_embed(log_slope.exp()), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(jacobian.slogdet()[1], log_slope.sum(1), rtol=1e-6, atol=1e-6)


def test_monotone_over_a_million_draws():
    for seed in range(10):
        x, theta = drawn(100_000, components=1, width=3.0, seed=seed)
        further = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for inverse in (False, True):
            low, high = spline(x, theta, inverse)[0], spline(x + 1e-6 + further, theta, inverse)[0]
            assert (high > low).all()


def test_tails_are_the_identity_and_so_are_zeros():
    x, theta = drawn(1_000)
    y, log_slope = spline(x, theta)
    beyond = x.abs() >= BOUND
    assert beyond.any() and (y[beyond] == x[beyond]).all() and (log_slope[beyond] == 0).all()
    assert (y[~beyond].abs() <= BOUND).all()
    for side in (-1, 1):  # without a step at the ends
        x = torch.full((1, 3), side * (BOUND - 1e-9), dtype=torch.float64)
        torch.testing.assert_close(spline(x, theta[:1])[0], x, rtol=0, atol=1e-7)
    x, theta = drawn(1_000, width=0.0)
    torch.testing.assert_close(spline(x, theta)[0], x)


def test_gradients_are_finite_everywhere():
    """Beyond the ends and at them, too, where a formula that is not used must not poison the others."""
    x, theta = drawn(2_000)
    x[:4, 0] = torch.tensor([-BOUND, BOUND, 1e6, -1e6])
    for inverse in (False, True):
        given = [t.clone().requires_grad_() for t in (x, theta)]
        value, log_slope = spline(*given, inverse)
        for gradient in torch.autograd.grad((value + log_slope).sum(), given):
            assert gradient.isfinite().all()


# -------------------------------------------------------------------------------------- the encoder


def encoder(components: int = 3) -> LatentStyleEncoder:
    """One whose domains differ, as after training."""
    torch.manual_seed(2)
    made = LatentStyleEncoder(components, domain=2)
    torch.nn.init.normal_(made.mlp[-1].weight, std=0.5)
    return made.requires_grad_(False)


def test_styles_of_a_domain():
    styles, z = encoder(), torch.randn(50, 3, generator=torch.Generator().manual_seed(3))
    one, other = (torch.eye(2)[k].expand(50, 2) for k in (0, 1))
    s = styles(z, one)
    assert (s - styles(z, other)).abs().mean() > 0.1
    torch.testing.assert_close(styles.inverse(s, one), z, rtol=0, atol=1e-4)
    changed = z.clone()
    changed[:, 1] += 0.5  # moves its own component alone
    moved = styles(changed, one) != s
    assert moved[:, 1].all() and not moved[:, [0, 2]].any()


def test_densities_are_densities():
    """They sum to one, and are where the samples are."""
    styles, u = encoder(components=1), torch.eye(2)[:1]
    edges = torch.linspace(-9, 9, 18_001)[:, None]
    mass = styles.log_density(edges, u.expand(len(edges), 2)).exp() * 1e-3
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    z = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(4))
    below = (styles(z, u.expand(len(z), 2)) < 0.5).float().mean()
    assert float(below) == pytest.approx(float(mass[edges < 0.5].sum()), abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_exports_to_onnx_for_any_batch(tmp_path):
    styles, path = encoder(), tmp_path / "styles.onnx"
    z, u = torch.randn(5, 3), torch.eye(2)[torch.tensor([0, 1, 1, 0, 1])]
    axes = {name: {0: "batch"} for name in ("z", "u")}
    torch.onnx.export(
        styles,
        (z[:2], u[:2]),
        path,
        input_names=["z", "u"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"z": z.numpy(), "u": u.numpy()})
    np.testing.assert_allclose(made, styles(z, u), atol=1e-5)


# -------------------------------------------------------------------------------------- the toy


def test_the_toy_meets_what_the_theorem_asks_for():
    toy = Toy(components=4, domains=9, seed=0)
    assert torch.linalg.matrix_rank(variability(toy.means, toy.scales)) == 8
    assert torch.linalg.matrix_rank(variability(toy.means[:2], toy.scales[:2])) == 1
    s, u = toy.draw(9_000, 9)
    within = torch.stack([s[u == k].std(0) for k in range(9)])
    torch.testing.assert_close(within, toy.scales, rtol=0.15, atol=0)
    jacobian = vmap(jacrev(lambda s: toy.mix(s[None])[0][0]))(s[:200])
    torch.testing.assert_close(jacobian.slogdet()[1], toy.mix(s[:200])[1], rtol=0, atol=1e-4)


def test_log_determinants_of_the_flow():
    torch.manual_seed(5)
    x, layer = torch.randn(20, 4), Coupling(4, 16).requires_grad_(False)
    torch.nn.init.normal_(layer.net[-1].weight)
    jacobian = vmap(jacrev(lambda x: layer(x[None])[0][0]))(x)
    torch.testing.assert_close(layer(x)[1], jacobian.slogdet()[1], rtol=0, atol=1e-4)
    model = Model(3 * x + 1, domains=2, layers=3, hidden=16).requires_grad_(False)
    jacobian = vmap(jacrev(lambda x: model.encode(x[None])[0][0]))(x)
    torch.testing.assert_close(model.encode(x)[1], jacobian.slogdet()[1], rtol=0, atol=1e-4)


def test_components_are_matched_whatever_their_order_sign_and_scale():
    rng, groups = np.random.default_rng(0), np.arange(4_000) % 2
    true = rng.normal(size=(4_000, 3))
    found = np.stack([np.exp(true[:, 2]), -true[:, 0], true[:, 1] ** 3], 1)
    each, columns = correlations(true, found, groups)
    np.testing.assert_allclose(each, [-1, 1, 1])
    np.testing.assert_array_equal(columns, [1, 2, 0])
    # What the domains alone have in common is no correlation.
    shift = 10 * groups[:, None]
    assert np.abs(correlations(true + shift, rng.normal(size=true.shape) + shift, groups)[0]).max() < 0.1


def test_enough_domains_find_the_components_and_two_do_not(tmp_path):
    """The evaluation in small, on a toy that so short a training can do."""
    config = IdentifiabilityConfig(
        components=3,
        domains=(2, 7),
        samples=20_000,
        held_out=2_200,
        steps=400,
        rate=1e-2,
        layers=6,
        hidden=32,
    )
    (two, seen), (enough, found) = (measure(config, domains, seed=1) for domains in config.domains)
    assert enough["mcc"] > 0.9 > 0.82 > two["mcc"]
    assert two["gap"] < 0.05  # what two domains show is explained all the same, by other components
    result = asdict(config) | {"runs": [two, enough]}
    plot(result, {2: seen, 7: found}, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 300
    assert f"| 7 | mean | {enough['mcc']:.3f} |" in table(result)
