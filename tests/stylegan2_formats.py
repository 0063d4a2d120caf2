"""StyleGAN in its public formats, written down a second time: key names and shapes, and what they mean.

Plain PyTorch, none of the project's code: random files for the readers, and the pictures they stand for.
"""

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNEL = FIR.outer(FIR) / 64


def channels(size: int, base: int, most: int) -> dict[int, int]:
    return {4 << i: min(base // (4 << i), most) for i in range(size.bit_length() - 2)}


def fir(x: Tensor, gain: float, before: int, after: int, up: int = 1) -> Tensor:
    """Insert zeros, pad, blur."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up, w * up)
    y[:, :, ::up, ::up] = x
    y = F.pad(y, (before, after, before, after))
    return F.conv2d(y, (KERNEL * gain).to(x).expand(c, 1, 4, 4), groups=c)


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, convolve) -> Tensor:
    """One picture after the other, each with its own weights."""
    pictures = []
    for one, s in zip(x, style, strict=True):
        w = weight * s[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        pictures.append(convolve(one[None], w))
    return torch.cat(pictures)


def act(x: Tensor, gain: float = 2**0.5) -> Tensor:
    return torch.where(x < 0, 0.2 * x, x) * gain


def dense(x: Tensor, state: dict, key: str, lr: float = 1.0) -> Tensor:
    weight = state[f"{key}.weight"]
    return x @ weight.T * (lr / weight.shape[1] ** 0.5) + state[f"{key}.bias"] * lr


# --- rosinality's stylegan2-pytorch ------------------------------------------------------------------------


def rosinality_state(size: int, base: int, most: int, layers: int, seed: int = 0) -> dict[str, Tensor]:
    """`g_ema` of random numbers."""
    g, table, state = torch.Generator().manual_seed(seed), channels(size, base, most), {}

    def put(key: str, *shape: int, mean: float = 0.0, scale: float = 1.0) -> None:
        state[key] = mean + scale * torch.randn(shape, generator=g)

    def conv(key: str, c_in: int, c_out: int, kernel: int) -> None:
        put(f"{key}.conv.weight", 1, c_out, c_in, kernel, kernel)
        put(f"{key}.conv.modulation.weight", c_in, 512, scale=0.5)
        put(f"{key}.conv.modulation.bias", c_in, mean=1.0, scale=0.1)

    def styled(key: str, c_in: int, c_out: int) -> None:
        conv(key, c_in, c_out, 3)
        put(f"{key}.noise.weight", 1, scale=0.3)
        put(f"{key}.activate.bias", c_out, scale=0.3)

    for i in range(1, layers + 1):
        put(f"style.{i}.weight", 512, 512, scale=100.0)
        put(f"style.{i}.bias", 512, scale=10.0)
    put("input.input", 1, table[4], 4, 4)
    styled("conv1", table[4], table[4])
    conv("to_rgb1", table[4], 3, 1)
    put("to_rgb1.bias", 1, 3, 1, 1, scale=0.1)
    put("noises.noise_0", 1, 1, 4, 4)
    for i, s in enumerate(list(table)[1:]):
        styled(f"convs.{2 * i}", table[s // 2], table[s])
        state[f"convs.{2 * i}.conv.blur.kernel"] = KERNEL * 4
        styled(f"convs.{2 * i + 1}", table[s], table[s])
        conv(f"to_rgbs.{i}", table[s], 3, 1)
        put(f"to_rgbs.{i}.bias", 1, 3, 1, 1, scale=0.1)
        state[f"to_rgbs.{i}.upsample.kernel"] = KERNEL * 4
        put(f"noises.noise_{2 * i + 1}", 1, 1, s, s)
        put(f"noises.noise_{2 * i + 2}", 1, 1, s, s)
    return state


def rosinality_map(state: dict, z: Tensor) -> Tensor:
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(1, 1 + sum(key.startswith("style.") for key in state) // 2):
        x = act(dense(x, state, f"style.{i}", 0.01))
    return x


def rosinality_images(state: dict, w_plus: Tensor) -> list[Tensor]:
    """The skip images of all sizes, with the file's own noise."""

    def styled(key: str, x: Tensor, w: Tensor, noise: str, up: bool) -> Tensor:
        style = dense(w, state, f"{key}.conv.modulation")

        def convolve(x: Tensor, weight: Tensor) -> Tensor:
            if not up:
                return F.conv2d(x, weight, padding=1)
            return fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 4, 1, 1)

        weight = state[f"{key}.conv.weight"][0]
        x = modulated(x, weight / weight[0].numel() ** 0.5, style, True, convolve)
        x = x + state[f"{key}.noise.weight"] * state[f"noises.{noise}"]
        return act(x + state[f"{key}.activate.bias"][:, None, None])

    def to_rgb(key: str, x: Tensor, w: Tensor, skip: Tensor | None) -> Tensor:
        weight = state[f"{key}.conv.weight"][0]
        style = dense(w, state, f"{key}.conv.modulation")
        out = modulated(x, weight / weight.shape[1] ** 0.5, style, False, F.conv2d) + state[f"{key}.bias"]
        return out if skip is None else out + fir(skip, 4, 2, 1, up=2)

    x = state["input.input"].expand(len(w_plus), -1, -1, -1)
    x = styled("conv1", x, w_plus[:, 0], "noise_0", False)
    images = [to_rgb("to_rgb1", x, w_plus[:, 1], None)]
    for i in range(sum(key.endswith("upsample.kernel") for key in state)):
        x = styled(f"convs.{2 * i}", x, w_plus[:, 2 * i + 1], f"noise_{2 * i + 1}", True)
        x = styled(f"convs.{2 * i + 1}", x, w_plus[:, 2 * i + 2], f"noise_{2 * i + 2}", False)
        images.append(to_rgb(f"to_rgbs.{i}", x, w_plus[:, 2 * i + 3], images[-1]))
    return images


def rosinality_discriminator(size: int, base: int, most: int, seed: int = 1) -> dict[str, Tensor]:
    """`d` of random numbers."""
    g, table = torch.Generator().manual_seed(seed), channels(size, base, most)
    shapes = {"convs.0.0.weight": (table[size], 3, 1, 1), "convs.0.1.bias": (table[size],)}
    for i, s in enumerate(list(table)[:0:-1], 1):
        shapes |= {
            f"convs.{i}.conv1.0.weight": (table[s], table[s], 3, 3),
            f"convs.{i}.conv1.1.bias": (table[s],),
            f"convs.{i}.conv2.0.kernel": (4, 4),
            f"convs.{i}.conv2.1.weight": (table[s // 2], table[s], 3, 3),
            f"convs.{i}.conv2.2.bias": (table[s // 2],),
            f"convs.{i}.skip.0.kernel": (4, 4),
            f"convs.{i}.skip.1.weight": (table[s // 2], table[s], 1, 1),
        }
    last = table[4]
    shapes |= {"final_conv.0.weight": (last, last + 1, 3, 3), "final_conv.1.bias": (last,)}
    shapes |= {"final_linear.0.weight": (last, 16 * last), "final_linear.0.bias": (last,)}
    shapes |= {"final_linear.1.weight": (1, last), "final_linear.1.bias": (1,)}
    return {
        key: KERNEL.clone() if key.endswith("kernel") else torch.randn(shape, generator=g)
        for key, shape in shapes.items()
    }


def rosinality_logits(state: dict, images: Tensor) -> Tensor:
    def conv(x: Tensor, key: str, padding: int = 0, stride: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight / weight[0].numel() ** 0.5, padding=padding, stride=stride)

    def bias(x: Tensor, key: str) -> Tensor:
        return act(x + state[f"{key}.bias"][:, None, None])

    x = bias(conv(images, "convs.0.0"), "convs.0.1")
    for i in range(1, 1 + sum(key.endswith("skip.0.kernel") for key in state)):
        y = bias(conv(x, f"convs.{i}.conv1.0", padding=1), f"convs.{i}.conv1.1")
        y = bias(conv(fir(y, 1, 2, 2), f"convs.{i}.conv2.1", stride=2), f"convs.{i}.conv2.2")
        x = (y + conv(fir(x, 1, 1, 1), f"convs.{i}.skip.1", stride=2)) / 2**0.5
    x = bias(conv(deviation(x, 4), "final_conv.0", padding=1), "final_conv.1").flatten(1)
    return dense(act(dense(x, state, "final_linear.0")), state, "final_linear.1")


def deviation(x: Tensor, group: int) -> Tensor:
    n, c, h, w = x.shape
    y = x.view(min(group, n), -1, c, h, w)
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat((x, y.repeat(min(group, n))[:, None, None, None].expand(n, 1, h, w)), 1)


# --- NVIDIA's stylegan2-ada-pytorch ------------------------------------------------------------------------


def nvidia_generator(
    size: int, base: int, most: int, layers: int, c_dim: int, seed: int = 2
) -> dict[str, Tensor]:
    """Parameters and buffers of `G_ema`, random."""
    g, table, state = torch.Generator().manual_seed(seed), channels(size, base, most), {}

    def put(key: str, *shape: int, mean: float = 0.0, scale: float = 1.0) -> None:
        state[key] = mean + scale * torch.randn(shape, generator=g)

    if c_dim:
        put("mapping.embed.weight", 512, c_dim)
        put("mapping.embed.bias", 512)
    for i in range(layers):
        put(f"mapping.fc{i}.weight", 512, 1024 if c_dim and not i else 512, scale=100.0)
        put(f"mapping.fc{i}.bias", 512, scale=10.0)
    put("mapping.w_avg", 512, scale=0.3)
    for s, c in table.items():
        block = f"synthesis.b{s}"
        state[f"{block}.resample_filter"] = KERNEL.clone()
        if s == 4:
            put(f"{block}.const", c, 4, 4)
        for layer, c_in in (("conv0", table.get(s // 2)), ("conv1", c), ("torgb", c)):
            if c_in is None:
                continue
            here, kernel = f"{block}.{layer}", 1 if layer == "torgb" else 3
            put(f"{here}.weight", 3 if layer == "torgb" else c, c_in, kernel, kernel)
            put(f"{here}.bias", 3 if layer == "torgb" else c, scale=0.3)
            put(f"{here}.affine.weight", c_in, 512, scale=0.5)
            put(f"{here}.affine.bias", c_in, mean=1.0, scale=0.1)
            if layer != "torgb":
                put(f"{here}.noise_const", s, s)
                put(f"{here}.noise_strength", scale=0.3)
                state[f"{here}.resample_filter"] = KERNEL.clone()
    return state


def nvidia_map(state: dict, prefix: str, z: Tensor | None, c: Tensor | None) -> Tensor:
    parts = [] if z is None else [z]
    parts += [] if c is None else [dense(c, state, f"{prefix}embed")]
    x = torch.cat([p * (p.square().mean(1, keepdim=True) + 1e-8).rsqrt() for p in parts], 1)
    for i in range(sum(key.startswith(f"{prefix}fc") and key.endswith("bias") for key in state)):
        x = act(dense(x, state, f"{prefix}fc{i}", 0.01))
    return x


def nvidia_images(state: dict, w_plus: Tensor, clamp: float) -> list[Tensor]:
    """The skip images of all sizes, noise_mode="const". A layer that doubles: filter first, then convolve."""

    def conv(key: str, x: Tensor, w: Tensor, up: bool) -> Tensor:
        x = fir(x, 4, 3, 2, up=2) if up else F.pad(x, (1, 1, 1, 1))

        def convolve(x: Tensor, weight: Tensor) -> Tensor:
            # A convolution where it doubles, else a correlation.
            return F.conv2d(x, weight.flip(2, 3) if up else weight)

        x = modulated(x, state[f"{key}.weight"], dense(w, state, f"{key}.affine"), True, convolve)
        x = x + state[f"{key}.noise_const"] * state[f"{key}.noise_strength"]
        return act(x + state[f"{key}.bias"][:, None, None]).clamp(-clamp, clamp)

    def to_rgb(key: str, x: Tensor, w: Tensor) -> Tensor:
        style = dense(w, state, f"{key}.affine") / x.shape[1] ** 0.5
        x = modulated(x, state[f"{key}.weight"], style, False, F.conv2d)
        return (x + state[f"{key}.bias"][:, None, None]).clamp(-clamp, clamp)

    x, images = state["synthesis.b4.const"].expand(len(w_plus), -1, -1, -1), []
    for level in range(sum(key.endswith("conv1.weight") for key in state)):
        block, row = f"synthesis.b{4 << level}", 2 * level
        if level:
            x = conv(f"{block}.conv0", x, w_plus[:, row - 1], True)
        x = conv(f"{block}.conv1", x, w_plus[:, row], False)
        own = to_rgb(f"{block}.torgb", x, w_plus[:, row + 1])
        images.append(own + fir(images[-1], 4, 2, 1, up=2) if level else own)
    return images


def nvidia_discriminator(size: int, base: int, most: int, c_dim: int, seed: int = 3) -> dict[str, Tensor]:
    """Parameters and buffers of `D`, random."""
    g, table = torch.Generator().manual_seed(seed), channels(size, base, most)
    shapes = {f"b{size}.fromrgb": (table[size], 3, 1)}
    for s in list(table)[:0:-1]:
        shapes[f"b{s}.conv0"] = (table[s], table[s], 3)
        shapes[f"b{s}.conv1"], shapes[f"b{s}.skip"] = (
            (table[s // 2], table[s], 3),
            (table[s // 2], table[s], 1),
        )
    last = table[4]
    shapes["b4.conv"] = (last, last + 1, 3)
    state = {f"b{s}.resample_filter": KERNEL.clone() for s in table if s > 4}
    for key, (c_out, c_in, kernel) in shapes.items():
        state[f"{key}.weight"] = torch.randn(c_out, c_in, kernel, kernel, generator=g)
        state[f"{key}.resample_filter"] = KERNEL.clone()
        if not key.endswith("skip"):
            state[f"{key}.bias"] = torch.randn(c_out, generator=g)
    linear = {"b4.fc": (last, 16 * last), "b4.out": (last if c_dim else 1, last)}
    if c_dim:
        linear |= {"mapping.embed": (last, c_dim), **{f"mapping.fc{i}": (last, last) for i in range(8)}}
    for key, shape in linear.items():
        state[f"{key}.weight"] = torch.randn(shape, generator=g) * (
            100 if ".fc" in key and "b4" not in key else 1
        )
        state[f"{key}.bias"] = torch.randn(shape[0], generator=g)
    return state


def nvidia_logits(state: dict, images: Tensor, c: Tensor | None, clamp: float, group: int) -> Tensor:
    def conv(x: Tensor, key: str, down: int = 1, gain: float = 1.0) -> Tensor:
        weight = state[f"{key}.weight"]
        before = weight.shape[2] // 2 + (down > 1)
        x = fir(x, 1, before, before) if down > 1 else F.pad(x, (before,) * 4)
        x = F.conv2d(x, weight / weight[0].numel() ** 0.5, stride=down)
        if f"{key}.bias" not in state:
            return x * gain
        limit = clamp * gain
        return act(x + state[f"{key}.bias"][:, None, None], 2**0.5 * gain).clamp(-limit, limit)

    size = images.shape[-1]
    x = conv(images, f"b{size}.fromrgb")
    while size > 4:
        skip = conv(x, f"b{size}.skip", down=2, gain=0.5**0.5)
        x = skip + conv(conv(x, f"b{size}.conv0"), f"b{size}.conv1", down=2, gain=0.5**0.5)
        size //= 2
    x = conv(deviation(x, group), "b4.conv").flatten(1)
    x = dense(act(dense(x, state, "b4.fc")), state, "b4.out")
    if c is None:
        return x
    return (x * nvidia_map(state, "mapping.", None, c)).sum(1, keepdim=True) / x.shape[1] ** 0.5


class Persistent:
    """A module as NVIDIA's pickles hold it: its attributes and its source, for a function to run."""

    def __init__(self, name: str, tensors: dict[str, Tensor], clamp: float, source: str) -> None:
        own = {key: t for key, t in tensors.items() if "." not in key}
        buffers = ("noise_const", "resample_filter", "w_avg")
        self.name, self.source = name, source
        self.state = {
            "training": False,
            "_parameters": OrderedDict(
                (key, torch.nn.Parameter(t)) for key, t in own.items() if key not in buffers
            ),
            "_buffers": OrderedDict((key, t) for key, t in own.items() if key in buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "weight_gain": 1 / np.sqrt(np.float64(9)),
            "conv_clamp": clamp,
            "group_size": 2,
            "_init_kwargs": sys.modules["dnnlib.util"].EasyDict(activation="lrelu"),
        }
        children = dict.fromkeys(key.split(".")[0] for key in tensors if "." in key)
        if name == "DiscriminatorEpilogue":
            children["mbstd"] = None
        self.state["_modules"] = OrderedDict(
            (
                child,
                Persistent(
                    "DiscriminatorEpilogue" if child == "b4" and name == "Discriminator" else "Layer",
                    {
                        key.removeprefix(f"{child}."): t
                        for key, t in tensors.items()
                        if key.startswith(f"{child}.")
                    },
                    clamp,
                    source,
                ),
            )
            for child in children
        )

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.name}
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return function, ({**meta, "state": self.state},)


@contextmanager
def nvidia_modules() -> Iterator[type]:
    """While it lasts, the names in NVIDIA's pickles can be pickled; gives their class of dictionaries."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("only the name is pickled")

    class EasyDict(dict):
        pass

    modules = {"torch_utils": types.ModuleType("torch_utils"), "dnnlib": types.ModuleType("dnnlib")}
    for module, thing in (
        ("torch_utils.persistence", _reconstruct_persistent_obj),
        ("dnnlib.util", EasyDict),
    ):
        modules[module] = types.ModuleType(module)
        thing.__module__, thing.__qualname__ = module, thing.__name__
        setattr(modules[module], thing.__name__, thing)
    sys.modules.update(modules)
    try:
        yield EasyDict
    finally:
        for module in modules:
            del sys.modules[module]


def nvidia_pickle(networks: dict[str, dict[str, Tensor]], clamp: float, source: str, protocol: int) -> bytes:
    """A pickle of `G_ema` and `D`, whose classes' source is `source`."""
    with nvidia_modules() as easy_dict:
        classes = {"D": "Discriminator"}
        contents = {
            key: Persistent(classes.get(key, "Generator"), tensors, clamp, source)
            for key, tensors in networks.items()
        }
        contents |= {"training_set_kwargs": easy_dict(path="faces.zip"), "augment_pipe": None}
        return pickle.dumps(contents, protocol=protocol)


# --- NVIDIA's stylegan, in TensorFlow ----------------------------------------------------------------------


def tensorflow_generator(
    size: int, base: int, most: int, layers: int, seed: int = 4
) -> dict[str, np.ndarray]:
    """Variables of `Gs`, random; those of its parts by "mapping/..." and "synthesis/..."."""
    rng, table, state = np.random.default_rng(seed), channels(size, base, most), {}

    def put(key: str, *shape: int, mean: float = 0.0, scale: float = 1.0) -> None:
        state[key] = np.float32(mean + scale * rng.standard_normal(shape))

    put("dlatent_avg", 512)
    for i in range(layers):
        put(f"mapping/Dense{i}/weight", 512, 512, scale=100.0)
        put(f"mapping/Dense{i}/bias", 512, scale=30.0)
    for level, (s, c) in enumerate(table.items()):
        block, names = f"synthesis/{s}x{s}", ("Conv0_up", "Conv1") if level else ("Const", "Conv")
        for index, name in enumerate(names):
            if name == "Const":
                put(f"{block}/Const/const", 1, c, 4, 4, mean=1.0)
            else:
                put(f"{block}/{name}/weight", 3, 3, table[s // 2] if name == "Conv0_up" else c, c)
            put(f"{block}/{name}/Noise/weight", c)
            put(f"{block}/{name}/bias", c)
            put(f"{block}/{name}/StyleMod/weight", 512, 2 * c)
            put(f"{block}/{name}/StyleMod/bias", 2 * c)
            put(f"synthesis/noise{2 * level + index}", 1, 1, s, s)
        lod = f"synthesis/ToRGB_lod{len(table) - 1 - level}"
        put(f"{lod}/weight", 1, 1, c, 3)
        put(f"{lod}/bias", 3)
    return state


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


def _he(weight: np.ndarray, gain: float = 2**0.5) -> Tensor:
    """He's constant, by which a weight is multiplied when it is used."""
    return _tensor(weight) * (gain / np.prod(weight.shape[:-1]) ** 0.5)


def _tf_conv(x: Tensor, weight: np.ndarray, gain: float = 2**0.5) -> Tensor:
    return F.conv2d(x, _he(weight, gain).permute(3, 2, 0, 1), padding=weight.shape[0] // 2)


def _tf_up(x: Tensor, weight: np.ndarray) -> Tensor:
    """Doubling and a convolution; from 128 px on a transposed convolution with the kernel at four places."""
    if x.shape[-1] < 64:
        return _tf_conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight)
    padded = F.pad(_he(weight).permute(2, 3, 0, 1), (1, 1, 1, 1))
    kernel = padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]
    return F.conv_transpose2d(x, kernel, stride=2, padding=1)


def _tf_blur(x: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def _tf_bias(x: Tensor, bias: np.ndarray) -> Tensor:
    return x + _tensor(bias).view(-1, *[1] * (x.ndim - 2))


def tensorflow_map(state: dict, z: Tensor) -> Tensor:
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(sum(key.startswith("mapping/") for key in state) // 2):
        x = x @ _he(state[f"mapping/Dense{i}/weight"]) * 0.01 + 0.01 * _tensor(
            state[f"mapping/Dense{i}/bias"]
        )
        x = act(x, 1)
    return x


def tensorflow_images(state: dict, w_plus: Tensor) -> list[Tensor]:
    """The pictures of all sizes, with the file's own noise."""

    def finish(x: Tensor, key: str, row: int) -> Tensor:
        grain = _tensor(state[f"synthesis/noise{row}"]) * _tensor(state[f"{key}/Noise/weight"])[:, None, None]
        x = act(_tf_bias(x + grain, state[f"{key}/bias"]), 1)
        x = x - x.mean((2, 3), keepdim=True)
        x = x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
        style = w_plus[:, row] @ _he(state[f"{key}/StyleMod/weight"], 1) + _tensor(
            state[f"{key}/StyleMod/bias"]
        )
        scale, shift = style.view(len(x), 2, -1, 1, 1).unbind(1)
        return x * (scale + 1) + shift

    sizes, x, images = sum("ToRGB" in key for key in state) // 2, None, []
    for level in range(sizes):
        block = f"synthesis/{4 << level}x{4 << level}"
        if level:
            x = finish(_tf_blur(_tf_up(x, state[f"{block}/Conv0_up/weight"])), f"{block}/Conv0_up", 2 * level)
        else:
            x = finish(
                _tensor(state[f"{block}/Const/const"]).expand(len(w_plus), -1, -1, -1), f"{block}/Const", 0
            )
        name = f"{block}/{'Conv1' if level else 'Conv'}"
        x = finish(_tf_conv(x, state[f"{name}/weight"]), name, 2 * level + 1)
        lod = f"synthesis/ToRGB_lod{sizes - 1 - level}"
        images.append(_tf_bias(_tf_conv(x, state[f"{lod}/weight"], 1), state[f"{lod}/bias"]))
    return images


def tensorflow_discriminator(size: int, base: int, most: int, seed: int = 5) -> dict[str, np.ndarray]:
    """Variables of `D`, random."""
    rng, table = np.random.default_rng(seed), channels(size, base, most)
    last, shapes = table[4], {}
    for level, (s, c) in enumerate(reversed(table.items())):
        shapes[f"FromRGB_lod{level}"] = (1, 1, 3, c)
        if s > 4:
            shapes[f"{s}x{s}/Conv0"], shapes[f"{s}x{s}/Conv1_down"] = (3, 3, c, c), (3, 3, c, table[s // 2])
    shapes |= {"4x4/Conv": (3, 3, last + 1, last), "4x4/Dense0": (16 * last, last), "4x4/Dense1": (last, 1)}
    state = {}
    for key, shape in shapes.items():
        state[f"{key}/weight"] = np.float32(rng.standard_normal(shape))
        state[f"{key}/bias"] = np.float32(rng.standard_normal(shape[-1]))
    return state


def tensorflow_logits(state: dict, images: Tensor) -> Tensor:
    def conv(x: Tensor, key: str) -> Tensor:
        return act(_tf_bias(_tf_conv(x, state[f"{key}/weight"]), state[f"{key}/bias"]), 1)

    size = images.shape[-1]
    x = conv(images, "FromRGB_lod0")
    while size > 4:
        x = _tf_conv(_tf_blur(conv(x, f"{size}x{size}/Conv0")), state[f"{size}x{size}/Conv1_down/weight"])
        x = act(_tf_bias(F.avg_pool2d(x, 2), state[f"{size}x{size}/Conv1_down/bias"]), 1)
        size //= 2
    x = conv(deviation(x, 4), "4x4/Conv").flatten(1)
    x = act(_tf_bias(x @ _he(state["4x4/Dense0/weight"]), state["4x4/Dense0/bias"]), 1)
    return x @ _he(state["4x4/Dense1/weight"], 1) + _tensor(state["4x4/Dense1/bias"])


def tensorflow_pickle(
    generator: dict, discriminator: dict, protocol: int, lod: float = 0.0, **options
) -> bytes:
    """A pickle of the tuple (G, D, Gs); of G all variables are 0."""

    class Network:
        def __init__(self, name: str, variables: dict, **parts: "Network") -> None:
            self.state = {"version": 3, "name": name, "static_kwargs": options, "components": parts}
            self.state |= {"build_module_src": "raise SystemExit", "build_func_name": f"{name}_style"}
            self.state["variables"] = [("lod", np.float32(lod)), *variables.items()]

        def __getstate__(self) -> dict:
            return self.state

    def split(variables: dict) -> "Network":
        parts = {
            part: {
                key.removeprefix(f"{part}/"): v for key, v in variables.items() if key.startswith(f"{part}/")
            }
            for part in ("synthesis", "mapping")
        }
        own = {"dlatent_avg": variables["dlatent_avg"]}
        return Network("G", own, **{part: Network(part, found) for part, found in parts.items()})

    names = ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")
    Network.__module__, Network.__qualname__ = names[-1], "Network"
    sys.modules.update({name: types.ModuleType(name) for name in names})
    sys.modules[names[-1]].Network = Network
    try:
        blank = {key: np.zeros_like(value) for key, value in generator.items()}
        contents = (split(blank), Network("D", discriminator), split(generator))
        return pickle.dumps(contents, protocol=protocol)
    finally:
        for name in names:
            del sys.modules[name]
