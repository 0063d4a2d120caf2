"""The generator against the wheel's own graph, run by OpenVINO in float32."""

import numpy as np
import openvino
import pytest
import torch

from dystyle.errors import InputError
from dystyle.generators.mobile_stylegan import MobileStyleGAN, inverse_haar
from dystyle.weights import resolve


@pytest.fixture(scope="module")
def generator() -> MobileStyleGAN:
    return MobileStyleGAN.from_files(resolve("mobile_stylegan"), resolve("preview_heads"))


@pytest.fixture(scope="module")
def reference():
    """(mapping, synthesis) of the wheel: arrays in, arrays out."""
    core = openvino.Core()
    return [
        core.compile_model(
            resolve("random_face") / f"{network}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        for network in ("MappingNetwork", "SynthesisNetwork")
    ]


def test_same_pictures_as_the_published_graph(generator, reference):
    mapping, synthesis = reference
    z = np.random.default_rng(3).standard_normal((8, 512)).astype(np.float32)
    w = generator.map(z)
    with torch.no_grad():
        # One batch in W+ form: rows and batch must not mix.
        pictures = generator(torch.from_numpy(w)[:, None].expand(-1, 18, -1)).numpy()
    for index in range(8):
        np.testing.assert_allclose(w[index], mapping(z[index : index + 1])[0][0], atol=1e-4)
        assert np.abs(pictures[index] - synthesis(w[index : index + 1])[0][0]).max() < 1e-3


def test_w_plus_rows_reach_the_layers_they_name(generator):
    codes = generator.mean_w.expand(1, 18, 512).clone().requires_grad_(True)
    generator(codes, 256).sum().backward()
    reached = codes.grad.abs().sum((0, 2)) > 0
    # Both images of 256 px and the features below them: row 0 to 15; the last two have no counterpart.
    assert reached.tolist() == [True] * 16 + [False] * 2
    codes.grad = None
    generator.features(codes, 64).sum().backward()
    assert (codes.grad.abs().sum((0, 2)) > 0).tolist() == [True] * 9 + [False] * 9


def test_previews_look_like_the_full_picture(generator):
    codes = torch.from_numpy(generator.map(np.random.default_rng(5).standard_normal((4, 512), np.float32)))
    codes = generator.truncate(codes, 0.7)
    with torch.no_grad():
        full = generator(codes)
        for size in (128, 256):
            small = torch.nn.functional.adaptive_avg_pool2d(full, size)
            assert (generator(codes, size) - small).square().mean().sqrt() * 127.5 < 22


def test_truncation_ends_at_the_mean(generator):
    w = torch.randn(3, 512)
    assert torch.equal(generator.truncate(w, 0), generator.mean_w.expand(3, -1))
    torch.testing.assert_close(generator.truncate(w, 1), w)


def test_inverse_haar_keeps_energy():
    x = torch.randn(2, 12, 5, 5)
    torch.testing.assert_close(inverse_haar(x).square().sum(), x.square().sum())


def test_unknown_size_is_refused(generator):
    with pytest.raises(InputError, match="128, 256, 1024"):
        generator(generator.mean_w[None], 512)
