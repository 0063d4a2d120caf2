"""Read and write StyleGAN in its public formats: ours, rosinality's, pSp's and encoder4editing's, NVIDIA's.

What a network looks like (size, channels, depth of the mapping) is read off the shapes, then every key and
shape has to fit. Nothing in a file is executed.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dystyle.errors import InputError
from dystyle.generators.foreign_names import (
    Names,
    nvidia_discriminator,
    nvidia_generator,
    rosinality_discriminator,
    rosinality_generator,
    tensorflow_discriminator,
    tensorflow_generator,
)
from dystyle.generators.nvidia_pickle import TORCH_MAGIC, TensorFlowNetwork, read_pickle
from dystyle.generators.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from dystyle.generators.stylegan2 import DIM, Discriminator, StyleGAN2
from dystyle.torch_files import is_named, misfit, read_torch, unwrapped
from dystyle.weights import load, load_header, read_structure, resolve
from dystyle.weights import save as save_tensors

FORMATS = {
    StyleGAN2: "stylegan2",
    StyleGAN1: "stylegan1",
    Discriminator: "stylegan2_discriminator",
    StyleGAN1Discriminator: "stylegan1_discriminator",
}
_WHAT = "StyleGAN2, pSp or encoder4editing"
_NAMED = 8  # of a file's entries, in a message
# Of the first StyleGAN's options those that its networks here have no choice of.
_FIXED = {
    "use_wscale": True,
    "use_styles": True,
    "use_noise": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "const_input_layer": True,
    "normalize_latents": True,
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "mapping_lrmul": 0.01,
    "fused_scale": "auto",
    "blur_filter": [1, 2, 1],
    "mbstd_group_size": 4,
    "mbstd_num_features": 1,
    "label_size": 0,
    "num_channels": 3,
    "lod": 0,
}


def read_generator(name_or_path: str | os.PathLike[str], key: str | None = None) -> StyleGAN2:
    """The generator in any file that holds one, in float32, frozen, with `mean_w` and `std_w`.

    Our own files, and NVIDIA's of the first StyleGAN, hold a `StyleGAN1` instead.

    Args:
        key: which of the file's networks, such as "g" or "G"; None: the averaged one, "g_ema", "G_ema" or
            "Gs".

    Raises:
        InputError: the file is missing, damaged or no such file, or a key or shape does not fit.
    """
    path = resolve(name_or_path)
    if path.suffix == ".safetensors":
        return _read_own(path, StyleGAN2)
    if _is_nvidia(path):
        networks = read_pickle(path)
        found = _one_of(path, networks, key or ("Gs" if "Gs" in networks else "G_ema"))
        if isinstance(found, TensorFlowNetwork):
            _check_options(path, found)
            structure = _tensorflow_structure(path, found.tensors)
            model = _build(path, StyleGAN1, structure, found.tensors, tensorflow_generator)
        else:
            structure = _nvidia_structure(path, found.tensors, found.options)
            model = _build(path, StyleGAN2, structure, found.tensors, nvidia_generator)
        mean = model.mean_w.clone()
    else:
        checkpoint = read_torch(path, _WHAT)
        state = _decoder(path, checkpoint, key)
        model = _build(path, StyleGAN2, _rosinality_structure(path, state), state, rosinality_generator)
        mean = _mean_w(path, checkpoint)
    model.measure_w()
    if mean is not None:
        model.mean_w.copy_(mean)
    return model


def read_discriminator(name_or_path: str | os.PathLike[str]) -> Discriminator:
    """The discriminator in a file that holds one ("d" or "D"), in float32, frozen.

    Raises:
        InputError: as for `read_generator`.
    """
    path = resolve(name_or_path)
    if path.suffix == ".safetensors":
        return _read_own(path, Discriminator)
    if _is_nvidia(path):
        found = _one_of(path, read_pickle(path), "D")
        if isinstance(found, TensorFlowNetwork):
            _check_options(path, found)
            structure = _tensorflow_judge_structure(path, found.tensors)
            return _build(path, StyleGAN1Discriminator, structure, found.tensors, tensorflow_discriminator)
        state, options, names = found.tensors, found.options, nvidia_discriminator
    else:
        state, options, names = _state(path, read_torch(path, _WHAT), "d"), {}, rosinality_discriminator
    return _build(path, Discriminator, _discriminator_structure(path, state, options), state, names)


def save(network: StyleGAN2 | Discriminator, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write one network as safetensors, which `read_generator` and `read_discriminator` take."""
    tensors = {key: tensor.detach().cpu().float().numpy() for key, tensor in network.state_dict().items()}
    kind, structure = FORMATS[type(network)], json.dumps(network.structure)
    save_tensors(path, tensors, format=kind, structure=structure, **metadata)


def write_rosinality(
    path: Path, g_ema: StyleGAN2, g: StyleGAN2 | None = None, d: Discriminator | None = None
) -> None:
    """Write a checkpoint (.pt) of rosinality's stylegan2-pytorch, with `latent_avg`.

    That format has no limits of magnitude: a network with `clamp` loses them.

    Raises:
        InputError: the networks have classes, which the format has not.
    """
    checkpoint: dict[str, object] = {}
    for name, network in {"g_ema": g_ema, "g": g, "d": d}.items():
        if network is None:
            continue
        if network.c_dim:
            raise InputError("rosinality's format has no class labels; save the network as safetensors.")
        table = rosinality_discriminator if name == "d" else rosinality_generator
        names, own = table(network), network.state_dict()
        state = {
            there: (own[entry.key].flip(2, 3) if entry.flipped else own[entry.key]).reshape(entry.shape)
            for there, entry in names.entries.items()
        }
        checkpoint[name] = {key: tensor.float().cpu() for key, tensor in (state | names.filters).items()}
    torch.save(checkpoint | {"latent_avg": g_ema.mean_w.cpu().clone()}, path)


def _read_own(path: Path, wanted: type) -> StyleGAN2 | Discriminator:
    shapes, metadata = load_header(path)
    kind = next((kind for kind, name in FORMATS.items() if name == metadata.get("format")), None)
    if kind is None or not issubclass(kind, wanted):
        raise InputError(f"'{path}' holds no {wanted.__name__} (its format is {metadata.get('format')}).")
    structure = read_structure(path, metadata)
    expected = _outline(path, kind, structure, len(shapes)).state_dict()
    given = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    if wrong := misfit(given, expected):
        raise InputError(f"The {kind.__name__} in '{path}' does not fit: {wrong}.")
    model = kind(**structure)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in load(path)[0].items()})
    return model.eval().requires_grad_(False)


def _outline(path: Path, kind: type, structure: Mapping[str, object], tensors: int) -> nn.Module:
    """A network of this structure without memory for its tensors, of which there are so many in the file.

    Raises:
        InputError: there is no network of such a structure.
    """
    layers, clamp, group = (structure.get(name) for name in ("mapping_layers", "clamp", "group"))
    try:
        if not all(value is None or isinstance(value, (int, float)) for value in (layers, clamp, group)):
            raise TypeError("a text where a number belongs")
        if layers is not None and not 0 <= layers <= tensors:
            raise ValueError(f"{layers} layers from {tensors} tensors")
        with torch.device("meta"):
            return kind(**structure)
    except InputError as error:
        raise InputError(f"The {kind.__name__} in '{path}' does not fit: {error}") from error
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' is damaged: there is no {kind.__name__} as it describes.") from error


def _build(path: Path, kind: type, structure: dict, state: Mapping[str, Tensor], table: Callable):
    """A network of this structure with the tensors of a foreign format, all of which have to fit."""
    names: Names = table(_outline(path, kind, structure, len(state)))
    wanted = {there: torch.empty(entry.shape, device="meta") for there, entry in names.entries.items()}
    given = {key: tensor for key, tensor in state.items() if key not in names.filters}
    noise = [there for there, entry in names.entries.items() if entry.key.endswith(".noise")]
    drawn = [] if given.keys() & noise else noise  # older files have none: as the reference does, it is drawn
    wanted = {there: expected for there, expected in wanted.items() if there not in drawn}
    if wrong := misfit(given, wanted):
        raise InputError(f"The {kind.__name__} in '{path}' does not fit: {wrong}.")
    # Tensors can repeat a number, or share their numbers, without end.
    if sum(tensor.numel() * tensor.element_size() for tensor in given.values()) > path.stat().st_size:
        raise InputError(f"The {kind.__name__} in '{path}' is larger than its file, which is damaged.")
    for key, expected in names.filters.items():
        actual = state.get(key, expected)
        if misfit({key: actual}, {key: expected}) or not torch.allclose(actual.float(), expected):
            raise InputError(
                f"The {kind.__name__} in '{path}' does not fit: '{key}' is not the filter 1 3 3 1."
            )
    chance = torch.Generator().manual_seed(0)  # the same file is the same generator
    given |= {there: torch.randn(names.entries[there].shape, generator=chance) for there in drawn}
    model = kind(**structure)
    loaded = model.state_dict()
    for there, entry in names.entries.items():
        tensor = given[there].float() * entry.factor
        tensor = tensor if entry.order is None else tensor.permute(entry.order)
        tensor = tensor.reshape(loaded[entry.key].shape)
        loaded[entry.key] = tensor.flip(2, 3) if entry.flipped else tensor
    model.load_state_dict(loaded)
    return model.eval().requires_grad_(False)


def _is_nvidia(path: Path) -> bool:
    """Whether a file is a plain pickle, and not what PyTorch writes."""
    with path.open("rb") as file:
        start = file.read(len(TORCH_MAGIC))
    return start[:1] == b"\x80" and start != TORCH_MAGIC


def _one_of(path: Path, entries: Mapping[str, object], key: str):
    if key in entries:
        return entries[key]
    if any("." in name and isinstance(value, Tensor) for name, value in entries.items()):
        raise InputError(f"'{path}' holds bare weights; save them under a name, as {{'{key}': weights}}.")
    held = [*list(entries)[:_NAMED], *["..."][: len(entries) > _NAMED]]
    raise InputError(f"'{path}' holds no '{key}'; it holds {', '.join(held) or 'no network'}.")


def _state(path: Path, checkpoint: Mapping[str, object], key: str) -> dict[str, Tensor]:
    state = _one_of(path, checkpoint, key)
    if not is_named(state):
        raise InputError(f"'{key}' in '{path}' is no dictionary with named weights.")
    return unwrapped(state)


def _decoder(path: Path, checkpoint: Mapping[str, object], key: str | None) -> dict[str, Tensor]:
    """The generator of a checkpoint of rosinality, or of pSp and encoder4editing."""
    if key is not None or "state_dict" not in checkpoint:
        return _state(path, checkpoint, key or "g_ema")
    state = _state(path, checkpoint, "state_dict")
    return {name.removeprefix("decoder."): t for name, t in state.items() if name.startswith("decoder.")}


def _mean_w(path: Path, checkpoint: Mapping[str, object]) -> Tensor | None:
    mean = checkpoint.get("latent_avg")
    if mean is not None and (not isinstance(mean, Tensor) or mean.ndim > 2 or mean.shape[-1:] != (DIM,)):
        raise InputError(f"'latent_avg' in '{path}' has to be a tensor of the shape ({DIM},).")
    # Encoders' checkpoints repeat it for every row of W+.
    return None if mean is None else mean.float().reshape(-1, DIM).mean(0)


def _shape(path: Path, state: Mapping[str, object], key: str, ndim: int) -> torch.Size:
    tensor = state.get(key)
    if not isinstance(tensor, Tensor) or tensor.ndim != ndim:
        raise InputError(f"'{path}' holds no StyleGAN2 that fits: '{key}' is missing or has another shape.")
    return tensor.shape


def _numbers(state: Mapping[str, object], pattern: str) -> list[int]:
    """The numbers in the keys of this pattern, in which # stands for a number."""
    pattern = re.escape(pattern).replace(r"\#", r"(\d{1,4})")
    return [int(match[1]) for key in state if (match := re.fullmatch(pattern, key))]


def _channels(size: int, first: int, last: int) -> dict[str, int]:
    """The structure's part that says how wide it is, from the channels at 4 px and at the full size."""
    return {"size": size, "channel_base": last * size, "channel_max": first}


def _rosinality_structure(path: Path, state: Mapping[str, Tensor]) -> dict:
    doublings = min(9, len(_numbers(state, "to_rgbs.#.bias")))  # 9: too large
    last = f"to_rgbs.{doublings - 1}" if doublings else "to_rgb1"
    first, last = _shape(path, state, "input.input", 4)[1], _shape(path, state, f"{last}.conv.weight", 5)[2]
    layers = len(_numbers(state, "style.#.weight"))
    return {**_channels(4 << doublings, first, last), "mapping_layers": layers}


def _nvidia_structure(path: Path, state: Mapping[str, Tensor], options: Mapping[str, object]) -> dict:
    size = max(_numbers(state, "synthesis.b#.conv1.weight"), default=4)
    first = _shape(path, state, "synthesis.b4.const", 3)[0]
    last = _shape(path, state, f"synthesis.b{size}.torgb.weight", 4)[1]
    return {
        **_channels(size, first, last),
        **_labels(path, state),
        "clamp": options.get("synthesis.b4.conv1.conv_clamp"),
    }


def _check_options(path: Path, network: TensorFlowNetwork) -> None:
    """Raises:
    InputError: a network of the first StyleGAN is of another kind, or its training broke off while it grew.
    """
    for name, value in network.options.items():
        wanted = _FIXED.get(name.rpartition("/")[2], value)
        if value != wanted:
            raise InputError(f"The StyleGAN1 in '{path}' has {name} = {value}, where only {wanted} is read.")


def _tensorflow_structure(path: Path, state: Mapping[str, Tensor]) -> dict:
    size = max(_numbers(state, "synthesis/#x#/Conv1/weight"), default=4)
    first = _shape(path, state, "synthesis/4x4/Const/const", 4)[1]
    last = _shape(path, state, "synthesis/ToRGB_lod0/weight", 4)[2]
    return {**_channels(size, first, last), "mapping_layers": len(_numbers(state, "mapping/Dense#/weight"))}


def _tensorflow_judge_structure(path: Path, state: Mapping[str, Tensor]) -> dict:
    size = max(_numbers(state, "#x#/Conv0/weight"), default=4)
    first = _shape(path, state, "4x4/Conv/weight", 4)[3]
    return _channels(size, first, _shape(path, state, "FromRGB_lod0/weight", 4)[3])


def _labels(path: Path, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Classes and depth of NVIDIA's mapping network."""
    classes = _shape(path, state, "mapping.embed.weight", 2)[1] if "mapping.embed.weight" in state else 0
    return {"c_dim": classes, "mapping_layers": len(_numbers(state, "mapping.fc#.weight"))}


def _discriminator_structure(path: Path, state: Mapping[str, Tensor], options: Mapping[str, object]) -> dict:
    if "b4.conv.weight" not in state:
        size = 4 << min(9, len(_numbers(state, "convs.#.skip.1.weight")))
        first = _shape(path, state, "final_conv.0.weight", 4)[0]
        return _channels(size, first, _shape(path, state, "convs.0.0.weight", 4)[0])
    size = max(_numbers(state, "b#.conv0.weight"), default=4)
    first, last = (
        _shape(path, state, "b4.conv.weight", 4)[0],
        _shape(path, state, f"b{size}.fromrgb.weight", 4)[0],
    )
    return {
        **_channels(size, first, last),
        **_labels(path, state),
        "clamp": options.get("b4.conv.conv_clamp"),
        "group": options.get("b4.mbstd.group_size", 4),
    }
