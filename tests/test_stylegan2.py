"""StyleGAN2 against its public formats (see `stylegan2_formats`), and what training and editing need."""

import argparse
import os
import pickle
import sys

import numpy as np
import pytest
import stylegan2_formats as formats
import torch
from torch.nn import functional as F

from dystyle import FaceEditor, InputError, edit
from dystyle.generators.checkpoints import read_discriminator, read_generator, save, write_rosinality
from dystyle.generators.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from dystyle.generators.stylegan2 import Discriminator, StyleGAN2
from dystyle.pictures import load_image, save_picture

# Sizes, channels and depth of two networks whose channels shrink and do not.
SHAPES = [(32, 512, 48, 2), (16, 64, 64, 8)]


@pytest.fixture(scope="module", autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _codes(model: StyleGAN2, count: int = 3) -> torch.Tensor:
    return torch.randn(count, model.rows(), 512, generator=torch.Generator().manual_seed(5))


def _close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= 2e-5 * expected.abs().max()


def _write_rosinality(path, size=32, base=512, most=48, layers=2, average=None):
    g, d = (
        formats.rosinality_state(size, base, most, layers),
        formats.rosinality_discriminator(size, base, most),
    )
    torch.save({"g_ema": g, "d": d, "latent_avg": average, "args": argparse.Namespace(size=size)}, path)
    return g, d


def _write_nvidia(path, c_dim=0, clamp=2.0, protocol=4, source="raise SystemExit", change=lambda state: None):
    g = formats.nvidia_generator(32, 512, 48, 2, c_dim)
    d = formats.nvidia_discriminator(32, 512, 48, c_dim)
    change(g)
    path.write_bytes(formats.nvidia_pickle({"G_ema": g, "D": d}, clamp, source, protocol))
    return g, d


@pytest.mark.parametrize("shape", SHAPES)
def test_rosinality(tmp_path, shape):
    average = torch.randn(512)
    g, d = _write_rosinality(tmp_path / "a.pt", *shape, average=average)
    model, discriminator = read_generator(tmp_path / "a.pt"), read_discriminator(tmp_path / "a.pt")
    z, codes = torch.randn(3, 512), _codes(model)
    _close(model.map(z), formats.rosinality_map(g, z))
    expected = formats.rosinality_images(g, codes)
    for size, image in zip(model.sizes, expected, strict=True):
        _close(model(codes, size), image)
    _close(discriminator(expected[-1]), formats.rosinality_logits(d, expected[-1]))
    assert torch.equal(model.mean_w, average) and 0 < model.std_w.min()
    write_rosinality(tmp_path / "b.pt", model, d=discriminator)
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert torch.equal(written.pop("latent_avg"), average)
    for name, state in {"g_ema": g, "d": d}.items():
        assert written[name].keys() == state.keys()
        assert all(torch.equal(written[name][key], tensor) for key, tensor in state.items())


def test_decoder_of_an_encoders_checkpoint(tmp_path):
    g = formats.rosinality_state(32, 512, 48, 8)
    state = {f"decoder.{key}": tensor for key, tensor in g.items()} | {"encoder.x": torch.zeros(1)}
    average = torch.randn(512)
    torch.save({"state_dict": state, "latent_avg": average.repeat(18, 1), "opts": {}}, tmp_path / "e4e.pt")
    model = read_generator(tmp_path / "e4e.pt")
    codes = _codes(model)
    _close(model(codes), formats.rosinality_images(g, codes)[-1])
    torch.testing.assert_close(model.mean_w, average)


def test_older_files_without_noise_and_names_of_several_devices_are_read(tmp_path):
    g, d = formats.rosinality_state(32, 512, 48, 2), formats.rosinality_discriminator(32, 512, 48)
    old = {key: tensor for key, tensor in g.items() if not key.startswith("noises.")}
    wrapped = {f"module.{key}": tensor for key, tensor in old.items()}
    torch.save({"g_ema": wrapped, "d": {f"module.{key}": t for key, t in d.items()}}, tmp_path / "a.pt")
    encoders = {f"module.decoder.{key}": tensor for key, tensor in old.items()}
    torch.save({"state_dict": encoders | {"module.encoder.x": torch.zeros(1)}}, tmp_path / "e4e.pt")
    model, decoder = read_generator(tmp_path / "a.pt"), read_generator(tmp_path / "e4e.pt")
    assert read_discriminator(tmp_path / "a.pt").size == 32
    noises = [f"blocks.b{size}.{layer}.noise" for size in model.sizes for layer in ("conv0", "conv1")][1:]
    drawn = [model.state_dict()[key] for key in noises]
    pooled = torch.cat([noise.flatten() for noise in drawn])
    assert abs(pooled.mean()) < 0.1 and abs(pooled.std() - 1) < 0.1
    assert all(torch.equal(model.state_dict()[key], decoder.state_dict()[key]) for key in noises)
    codes, filled = _codes(model), {f"noises.noise_{i}": noise for i, noise in enumerate(drawn)}
    _close(model(codes), formats.rosinality_images(old | filled, codes)[-1])
    torch.save({"g_ema": g | {"noises.noise_3": torch.zeros(1, 1, 4, 4)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="'noises.noise_3' has the shape"):
        read_generator(tmp_path / "a.pt")


def test_bare_weights_are_called_that(tmp_path):
    torch.save(formats.rosinality_state(32, 512, 48, 2), tmp_path / "a.pt")
    for read, name in ((read_generator, "g_ema"), (read_discriminator, "d")):
        with pytest.raises(InputError, match=f"bare weights; save them .* {{'{name}': weights}}") as caught:
            read(tmp_path / "a.pt")
        assert len(str(caught.value)) < 100 + len(str(tmp_path))
    torch.save({f"x{i}": i for i in range(500)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"no 'g_ema'; it holds x0, .*, x7, \.\.\.\."):
        read_generator(tmp_path / "a.pt")


@pytest.mark.parametrize(("c_dim", "protocol"), [(0, 3), (3, 4)])
def test_nvidia(tmp_path, c_dim, protocol):
    g, d = _write_nvidia(tmp_path / "a.pkl", c_dim, clamp=2.0, protocol=protocol)
    model, discriminator = read_generator(tmp_path / "a.pkl"), read_discriminator(tmp_path / "a.pkl")
    z, codes = torch.randn(3, 512), _codes(model)
    labels = torch.eye(3)[[0, 2, 1]] if c_dim else None
    _close(model.map(z, labels), formats.nvidia_map(g, "mapping.", z, labels))
    expected = formats.nvidia_images(g, codes, clamp=2.0)
    for size, image in zip(model.sizes, expected, strict=True):
        _close(model(codes, size), image)
    images = torch.randn(4, 3, 32, 32)
    labels = None if labels is None else labels[[0, 1, 2, 0]]
    _close(discriminator(images, labels), formats.nvidia_logits(d, images, labels, clamp=2.0, group=2))
    assert torch.equal(model.mean_w, g["mapping.w_avg"])


@pytest.mark.parametrize(
    "network", [StyleGAN2(16, 256, 24, clamp=256.0), Discriminator(16, 256, 24, c_dim=2)]
)
def test_own_files(tmp_path, network):
    save(network, tmp_path / "a.safetensors", note="kept")
    read, other = (read_generator, read_discriminator)[:: 1 if isinstance(network, StyleGAN2) else -1]
    loaded = read(tmp_path / "a.safetensors")
    assert loaded.structure == network.structure
    assert all(torch.equal(t, loaded.state_dict()[key]) for key, t in network.state_dict().items())
    with pytest.raises(InputError, match="holds no"):
        other(tmp_path / "a.safetensors")


def test_config_f_at_1024(tmp_path):
    g, _ = _write_rosinality(tmp_path / "f.pt", 1024, 32768, 512, 8)
    model = read_generator(tmp_path / "f.pt")
    assert model.structure == StyleGAN2().structure
    codes = _codes(model, 1)
    _close(model(codes, 64), formats.rosinality_images({k: t for k, t in g.items()}, codes)[4])


def _drop(key):
    return lambda state: state.pop(key)


def _put(key, *shape):
    return lambda state: state.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("synthesis.b8.conv0.affine.bias", _drop("synthesis.b8.conv0.affine.bias")),
        ("synthesis.b16.conv1.weight", _put("synthesis.b16.conv1.weight", 32, 31, 3, 3)),
        ("synthesis.b16.skip.weight", _put("synthesis.b16.skip.weight", 32, 48, 1, 1)),
        ("synthesis.b8.conv0.resample_filter", _put("synthesis.b8.conv0.resample_filter", 4, 4)),
        ("mapping.fc1.weight", _put("mapping.fc1.weight", 512, 256)),
    ],
)
def test_nvidia_misfits_are_refused_by_name(tmp_path, key, harm):
    _write_nvidia(tmp_path / "a.pkl", change=harm)
    with pytest.raises(InputError, match=f"'{key}'"):
        read_generator(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("convs.3.noise.weight", _drop("convs.3.noise.weight")),
        ("convs.2.conv.weight", _put("convs.2.conv.weight", 1, 32, 48, 5, 5)),
        ("to_rgbs.7.conv.weight", _put("to_rgbs.7.conv.weight", 1, 3, 16, 1, 1)),
        ("convs.0.conv.blur.kernel", _put("convs.0.conv.blur.kernel", 4, 4)),
        ("input.input", _drop("input.input")),
    ],
)
def test_rosinality_misfits_are_refused_by_name(tmp_path, key, harm):
    g, _ = _write_rosinality(tmp_path / "a.pt")
    harm(g)
    torch.save({"g_ema": g}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"'{key}'"):
        read_generator(tmp_path / "a.pt")


def test_wrong_discriminator_and_missing_networks_are_named(tmp_path):
    g, d = _write_rosinality(tmp_path / "a.pt")
    d["final_linear.0.weight"] = torch.zeros(48, 48)
    torch.save({"d": d, "g": g}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"'final_linear\.0\.weight' has the shape \(48, 48\)"):
        read_discriminator(tmp_path / "a.pt")
    with pytest.raises(InputError, match="no 'g_ema'; it holds d, g"):
        read_generator(tmp_path / "a.pt")
    assert read_generator(tmp_path / "a.pt", "g").size == 32


class Attack:
    """Unpickled the usual way, this calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, print])
@pytest.mark.parametrize("where", ["pickle", "network", "checkpoint", "storage"])
def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path, capsys, function, where):
    mark = tmp_path / "ran"
    attack = Attack(function, f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')")
    inner = pickle.dumps(attack, protocol=2)
    if where == "pickle":
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": attack}))
    elif where == "network":
        state = formats.nvidia_generator(8, 64, 8, 1, 0)
        clean = formats.nvidia_pickle({"G_ema": state}, 256.0, "source", 4)
        # The attack stands where the first network would.
        (tmp_path / "a.pkl").write_bytes(clean.replace(b"\x94", b"\x94" + inner[2:-1] + b"0", 1))
    elif where == "checkpoint":
        torch.save({"g_ema": attack}, tmp_path / "a.pkl")
    else:
        nested = Attack(torch.storage._load_from_bytes, inner)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": nested}))
    with pytest.raises(InputError, match="refused|damaged"):
        read_generator(tmp_path / "a.pkl")
    assert not mark.exists() and capsys.readouterr().out == ""


def test_source_in_a_pickle_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    _write_nvidia(tmp_path / "a.pkl", source=f"open({str(mark)!r}, 'w')")
    read_generator(tmp_path / "a.pkl")
    assert not mark.exists()


@pytest.mark.parametrize(
    "harm", [lambda b: b[: len(b) // 2], lambda b: b"\x80\x04N.", lambda b: b"", lambda b: b"no"]
)
def test_damaged_pickles_are_refused(tmp_path, harm):
    _write_nvidia(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(harm((tmp_path / "a.pkl").read_bytes()))
    with pytest.raises(InputError, match="damaged"):
        read_generator(tmp_path / "a.pkl")


@pytest.fixture
def tiny() -> StyleGAN2:
    model = StyleGAN2(16, 128, 16, mapping_layers=2)
    for name, parameter in model.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    model.measure_w(512)
    return model


def test_forms_agree(tiny):
    codes = _codes(tiny)
    expected = tiny(codes)
    tiny.form = "grouped"
    _close(tiny(codes), expected)


def test_styles_are_readable_and_settable_in_every_layer(tiny):
    codes = _codes(tiny)
    styles, image = tiny.styles(codes), tiny(codes)
    assert len(styles) == 3 * len(tiny.sizes) - 1
    torch.testing.assert_close(tiny(styles), image)
    for name, style in styles.items():
        # A style scales its channel's weights: twice the one is as good as twice the other.
        index = int(style.abs().mean(0).argmax())
        changed = dict(styles)
        changed[name] = style * torch.where(torch.arange(style.shape[1]) == index, 2.0, 1.0)
        actual = tiny(changed)
        assert (actual - image).abs().max() > 1e-4, name
        weight = tiny.get_submodule(f"blocks.{name}").weight
        with torch.no_grad():
            weight[:, index] *= 2
            _close(actual, tiny(styles))
            weight[:, index] /= 2
    with pytest.raises(InputError, match=r"'b8\.conv0'"):
        tiny({name: style for name, style in styles.items() if name != "b8.conv0"})


def test_rows_that_reach_a_picture(tiny):
    codes = torch.randn(2, 18, 512, requires_grad=True)
    for size in tiny.sizes:
        (gradient,) = torch.autograd.grad(tiny(codes, size).square().sum(), codes)
        reached = gradient.abs().sum((0, 2)) > 0
        assert reached.tolist() == [row < tiny.rows(size) for row in range(18)]


def test_truncation_and_its_cutoff(tiny):
    w = torch.randn(3, 512)
    torch.testing.assert_close(tiny.truncate(w, 1), w)
    torch.testing.assert_close(tiny.truncate(w, 0), tiny.mean_w.expand(3, -1))
    cut = tiny.truncate(w, 0.3, cutoff=4)
    assert cut.shape == (3, tiny.rows(), 512)
    torch.testing.assert_close(cut[:, :4], (tiny.mean_w + 0.3 * (w - tiny.mean_w))[:, None].expand(-1, 4, -1))
    assert torch.equal(cut[:, 4:], w[:, None].expand(-1, tiny.rows() - 4, -1))


def test_style_mixing(tiny):
    first, second = torch.randn(2, 3, 512)
    mixed = tiny.mix(first, second, torch.tensor([0, 3, 6]))
    for index, row in enumerate((0, 3, 6)):
        assert (mixed[index, :row] == first[index]).all() and (mixed[index, row:] == second[index]).all()
    assert torch.equal(tiny.mix(first, second, 3)[1], mixed[1])


def test_noise(tiny):
    w = tiny.map(torch.randn(2, 512))
    assert torch.equal(tiny(w), tiny(w)) and torch.equal(tiny(w, noise="none"), tiny(w, noise="none"))
    assert not torch.equal(tiny(w, noise="random"), tiny(w, noise="random"))
    for block in tiny.blocks.values():
        block.conv1.noise.zero_()
        if hasattr(block, "conv0"):
            block.conv0.noise.zero_()
    assert torch.equal(tiny(w), tiny(w, noise="none"))


def test_a_fresh_network_neither_explodes_nor_dies():
    """Equalised learning rate: everything is about as large as the input; blurring takes a little."""
    model, discriminator = StyleGAN2(64, 4096, 128), Discriminator(64, 4096, 128)
    w = model.map(torch.randn(64, 512))
    assert 0.3 < w.std() < 2
    for size in model.sizes:
        assert 0.2 < model.features(w[:8], size).square().mean().sqrt() < 2
    for block in discriminator.blocks.values():
        x = torch.randn(2, block.conv0.weight.shape[1], 16, 16)
        assert 0.2 < block(x).square().mean().sqrt() < 2


def test_gradients_of_gradients():
    """R1 and path length against differences of first derivatives, in float64."""
    model = StyleGAN2(8, 64, 8, mapping_layers=1).double()
    discriminator = Discriminator(8, 64, 8, c_dim=2, mapping_layers=1).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    z, labels = torch.randn(4, 512, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0]]

    def r1() -> torch.Tensor:
        x = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)
        return gradient.square().sum()

    def path_length() -> torch.Tensor:
        w = model.map(z)
        image = model(w, noise="none")
        (gradient,) = torch.autograd.grad((image * images).sum(), w, create_graph=True)
        return (gradient.square().sum(1).sqrt() - 0.1).square().sum()

    for penalty, network in ((r1, discriminator), (path_length, model)):
        parameters = [p for p in network.parameters() if p.ndim > 1]
        gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
        direction = [torch.randn_like(p) for p in parameters]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
        values = []
        for step in (1e-6, -2e-6):
            for p, d in zip(parameters, direction, strict=True):
                p.data.add_(d, alpha=step)
            values.append(penalty().item())
        assert abs(float(slope) - (values[0] - values[1]) / 2e-6) < 1e-5 * abs(float(slope))


def test_wrong_arguments_are_refused(tiny):
    for arguments in ({"size": 32}, {"size": 12}, {"noise": "much"}):
        with pytest.raises(InputError):
            tiny(torch.randn(1, 512), **arguments)
    with pytest.raises(InputError, match=r"\(1, 3, 512\)"):
        tiny(torch.randn(1, 3, 512))
    with pytest.raises(InputError, match="2048"):
        StyleGAN2(2048)
    with pytest.raises(InputError, match="2 classes"):
        StyleGAN2(8, 64, 8, c_dim=2).map(torch.randn(1, 512))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of 32 px, and what is in it."""
    path = tmp_path_factory.mktemp("generator") / "small.pt"
    g, _ = _write_rosinality(path, average=torch.zeros(512))
    return path, g


@pytest.mark.parametrize("backend", ["onnx", "torch", "openvino"])
def test_drops_into_the_editor(small, backend):
    """The exported graph, batch of any size, shows what the file means."""
    path, g = small
    editor = FaceEditor.from_pretrained(generator=path, backend=backend)
    assert editor.sizes == (32,)
    w = formats.rosinality_map(g, torch.from_numpy(np.random.default_rng(7).standard_normal((1, 512), "f4")))
    code = editor.sample(7, truncation=0.5)
    np.testing.assert_allclose(code, (0.5 * w).expand(18, -1), atol=1e-5)
    code = editor.edit(code, {"age": 60, "smile": 1.0})
    codes = np.stack((code, editor.sample(8), editor.sample(9)))
    for batch in (codes[:1], codes):
        expected = formats.rosinality_images(g, torch.from_numpy(batch))[-1]
        expected = (expected * 127.5 + 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        pictures = editor.backend.run(editor._generator.graph(32), batch)[0]
        # Rounding, and on some CPUs OpenVINO's bfloat16.
        assert np.abs(pictures - expected).mean() < (3 if backend == "openvino" else 0.3)
        assert backend == "openvino" or np.abs(pictures - expected).max() < 0.6
    assert np.array_equal(editor.synthesize(code), editor.synthesize(code, 32))
    with pytest.raises(InputError, match="size = 256"):
        editor.synthesize(code, 256)


def test_a_photo_drives_it_through_the_same_calls(astronaut, tmp_path, monkeypatch):
    """The fast encoder's W+ code of a photo, edited, in Python and on the command line."""
    path, g = tmp_path / "generator.pt", _write_rosinality(tmp_path / "generator.pt", size=64)[0]
    editor = FaceEditor.from_pretrained(backend="onnx", generator=path)
    face = editor.invert(astronaut, refine="fast")
    default = FaceEditor.from_pretrained(backend="onnx")
    default._descent = ()  # it looks at the default generator's pictures
    np.testing.assert_array_equal(face.code, default.invert(astronaut, "fast").code)
    code = editor.edit(face.code, {"age": 60})
    expected = formats.rosinality_images(g, torch.from_numpy(code[None]))[-1][0].permute(1, 2, 0).numpy()
    portrait = editor.synthesize(code, face=face)
    assert np.abs(portrait - (expected * 127.5 + 127.5).clip(0, 255)).max() < 0.6
    assert editor.paste(portrait, face, astronaut).shape == astronaut.shape
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    save_picture(astronaut, photo)
    arguments = (photo, "--generator", path, "--set", "age=60", "--backend", "onnx", "--out", out)
    monkeypatch.setattr(sys, "argv", ["dystyle.edit", *map(str, arguments)])
    edit.main()
    np.testing.assert_array_equal(load_image(out), portrait)


def test_tuned_weights_reach_the_engine(small):
    """Pivotal tuning hands over weights by name; demodulation follows them."""
    path, _ = small
    code, name = np.zeros((1, 18, 512), np.float32), "blocks.b32.conv0.weight"
    engines, reference = (FaceEditor.from_pretrained(generator=path, backend=b) for b in ("onnx", "torch"))
    model = read_generator(path)
    assert model.tunable.fullmatch(name)
    tuned = {name: model.get_parameter(name).square().numpy()}
    graph = engines._generator.graph(32)
    pictures = [editor.backend.run(graph, code, tuned)[0].astype(int) for editor in (engines, reference)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.abs(pictures[0] - engines.backend.run(graph, code)[0]).max() > 20


def test_generators_that_cannot_edit_are_refused(tmp_path):
    save(StyleGAN2(8, 64, 8, c_dim=2), tmp_path / "classes.safetensors")
    save(Discriminator(8, 64, 8), tmp_path / "d.safetensors")
    for name, message in (("classes", "2 classes"), ("d", "no StyleGAN2 generator")):
        with pytest.raises(InputError, match=message):
            FaceEditor.from_pretrained(generator=tmp_path / f"{name}.safetensors")


def test_the_first_stylegan(tmp_path):
    """The whole synthesis once more, in plain PyTorch, and from its file."""
    model = StyleGAN1(16, 128, 16, mapping_layers=2)
    for name, parameter in model.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            torch.nn.init.normal_(parameter)
    codes, x, blur = _codes(model), None, torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16

    def convolve(x, conv):
        return F.conv2d(x, conv.weight / conv.weight[0].numel() ** 0.5, padding=conv.weight.shape[2] // 2)

    for level, block in enumerate(model.blocks.values()):
        if x is None:
            x = block.const.repeat(3, 1, 1, 1)
        else:
            x = convolve(x.repeat_interleave(2, 2).repeat_interleave(2, 3), block.conv0)
            x = F.conv2d(x, blur.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
        for index, layer in enumerate((block.layer0, block.layer1)):
            x = convolve(x, block.conv1) if index else x
            x = x + layer.noise * layer.noise_strength[:, None, None] + layer.bias[:, None, None]
            x = torch.where(x < 0, 0.2 * x, x)
            variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
            style = codes[:, 2 * level + index] @ layer.affine.weight.T / 512**0.5 + layer.affine.bias
            scale, shift = style[:, :, None, None].chunk(2, 1)
            x = (x - mean) / (variance + 1e-8).sqrt() * (1 + scale) + shift
        _close(model.features(codes, block.size), x)
        _close(model(codes, block.size), convolve(x, block.to_rgb) + block.to_rgb.bias[:, None, None])
    save(model, tmp_path / "a.safetensors")
    loaded = read_generator(tmp_path / "a.safetensors")
    assert isinstance(loaded, StyleGAN1) and torch.equal(loaded(codes), model(codes))


def test_a_size_of_the_first_stylegan_fades_in(tmp_path):
    """Generator: between the enlarged picture of half the size and its own, in a straight line."""
    model, codes = StyleGAN1(16, 128, 16, mapping_layers=2), torch.randn(3, 512)
    for size in (8, 16):
        below, own = model(codes, size // 2), model(codes, size)
        for alpha in (0, 0.25, 1):
            mixed = (1 - alpha) * below.repeat_interleave(2, 2).repeat_interleave(2, 3) + alpha * own
            torch.testing.assert_close(model(codes, size, alpha=alpha), mixed)
    assert torch.equal(model(codes, 16, alpha=0)[:, :, ::2, ::2], model(codes, 8))


def test_a_size_of_the_first_discriminator_fades_in(tmp_path):
    """At 0 the halved pictures count alone, at 1 the block of their size; they mix before the next one."""
    model, images = StyleGAN1Discriminator(16, 128, 16), torch.randn(4, 3, 16, 16)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    halved = F.avg_pool2d(images, 2)
    torch.testing.assert_close(model(images, alpha=0), model(halved))
    with pytest.raises(InputError, match=r"from 8 to 16, not \(4, 3, 32, 32\)"):
        model(torch.zeros(4, 3, 32, 32))

    def layer(x, conv):
        weight = conv.weight / conv.weight[0].numel() ** 0.5
        return F.conv2d(x, weight, padding=weight.shape[2] // 2)

    def act(x, bias):
        return formats.act(x + bias.view(-1, *[1] * (x.ndim - 2)))

    for alpha in (0.25, 1):
        x, blur = None, torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        for size, seen in ((16, images), (8, halved)):
            block, from_rgb = model.blocks[f"b{size}"], model.from_rgb[f"b{size}"]
            own = act(layer(seen, from_rgb), from_rgb.bias)
            x = own if x is None else alpha * x + (1 - alpha) * own
            x = act(layer(x, block.conv0), block.conv0.bias)
            x = F.conv2d(x, blur.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
            x = act(F.avg_pool2d(layer(x, block.conv1), 2), block.bias)
        x = act(layer(formats.deviation(x, 4), model.conv), model.conv.bias).flatten(1)
        x = act(x @ model.fc.weight.T / x.shape[1] ** 0.5, model.fc.bias)
        _close(model(images, alpha=alpha), x @ model.out.weight.T / x.shape[1] ** 0.5 + model.out.bias)
    save(model, tmp_path / "d.safetensors")
    loaded = read_discriminator(tmp_path / "d.safetensors")
    assert type(loaded) is StyleGAN1Discriminator and torch.equal(loaded(images), model(images))


def _write_tensorflow(path, size=128, change=lambda state: None, protocol=4, **options):
    g = formats.tensorflow_generator(size, 1024, 24, 3)
    d = formats.tensorflow_discriminator(size, 1024, 24)
    change(g)
    path.write_bytes(formats.tensorflow_pickle(g, d, protocol, **options))
    return g, d


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_first_stylegans_own_files(tmp_path, protocol):
    """At 128 px, where its doubling convolution becomes another one."""
    path = tmp_path / "a.pkl"
    g, d = _write_tensorflow(path, protocol=protocol, use_wscale=True, resolution=128)
    model, discriminator = read_generator(path), read_discriminator(path)
    assert type(model) is StyleGAN1 and type(discriminator) is StyleGAN1Discriminator
    z, codes = torch.randn(3, 512), _codes(model)
    _close(model.map(z), formats.tensorflow_map(g, z))
    expected = formats.tensorflow_images(g, codes)
    for size, image in zip(model.sizes, expected, strict=True):
        _close(model(codes, size), image)
    images = torch.randn(4, 3, 128, 128)
    _close(discriminator(images), formats.tensorflow_logits(d, images))
    assert np.array_equal(model.mean_w, g["dlatent_avg"]) and 0 < model.std_w.min()
    assert read_generator(path, "G").mean_w.abs().max() == 0


def test_the_first_stylegan_runs_as_an_engine(tmp_path):
    g, _ = _write_tensorflow(tmp_path / "a.pkl", 32)
    editor = FaceEditor.from_pretrained(generator=tmp_path / "a.pkl", backend="onnx")
    code = editor.sample(7, truncation=0.5)
    expected = formats.tensorflow_images(g, torch.from_numpy(code[None]))[-1][0].permute(1, 2, 0).numpy()
    assert np.abs(editor.synthesize(code) - (expected * 127.5 + 127.5).clip(0, 255)).max() < 0.6


def test_other_networks_of_the_first_stylegan_are_refused(tmp_path):
    path, key = tmp_path / "a.pkl", "synthesis/8x8/Conv1/Noise/weight"
    _write_tensorflow(path, 8, lambda state: state.pop(key))
    with pytest.raises(InputError, match=f"'{key}' is missing"):
        read_generator(path)
    _write_tensorflow(path, 8, lambda state: state.update({key: np.zeros((24, 1), np.float32)}))
    with pytest.raises(InputError, match=f"'{key}' has the shape"):
        read_generator(path)
    for option, value in (("lod", 1.5), ("fused_scale", True), ("blur_filter", [1, 3, 3, 1])):
        _write_tensorflow(path, 8, **{option: value})
        with pytest.raises(InputError, match=f"has {option} = "):
            read_generator(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"dnnlib.tflib.network", b"dnnlib.tflib.nothing"))
    with pytest.raises(InputError, match="names 'dnnlib.tflib.nothing.Network'"):
        read_generator(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_generator(path)
