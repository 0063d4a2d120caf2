"""Where the public formats of StyleGAN2 keep what the networks here hold: names, shapes, reversed kernels.

rosinality is https://github.com/rosinality/stylegan2-pytorch, whose generator is also the `decoder.*` of pSp
and encoder4editing; nvidia is stylegan2-ada-pytorch and the StyleGAN2 configurations of stylegan3.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from dystyle.generators.stylegan2 import FILTER, Discriminator, StyleGAN2
from dystyle.ops import setup_filter


@dataclass(frozen=True)
class Entry:
    """One tensor of a format.

    Attributes:
        key: its name in the network here.
        shape: there; apart from dimensions of size 1 it is the shape here.
        flipped: its kernel is stored the other way round.
    """

    key: str
    shape: tuple[int, ...]
    flipped: bool


class Names:
    """A network in a format.

    Attributes:
        entries: by the names there.
        filters: the resampling filters that the format keeps beside the weights, by the names there.
    """

    def __init__(self, network: nn.Module) -> None:
        self._shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        self.entries: dict[str, Entry] = {}
        self.filters: dict[str, Tensor] = {}

    def add(self, there: str, here: str, ones: int = 0, after: int = 0, flipped: bool = False) -> None:
        """A tensor with `ones` dimensions of size 1 before (negative: taken away) and `after` behind."""
        shape = (1,) * ones + self._shapes[here][max(-ones, 0) :] + (1,) * after
        self.entries[there] = Entry(here, shape, flipped)

    def layer(self, there: str, here: str) -> None:
        """A layer's weight and its bias, if it has one."""
        for name in ("weight", "bias"):
            if f"{here}.{name}" in self._shapes:
                self.add(f"{there}.{name}", f"{here}.{name}")

    def filter(self, there: str, gain: float = 1) -> None:
        self.filters[there] = setup_filter(FILTER, gain=gain)


def rosinality_generator(network: StyleGAN2) -> Names:
    """`g_ema`, `g`, `decoder.*`."""
    names = Names(network)
    for index in range(len(network.mapping.layers)):
        names.layer(f"style.{index + 1}", f"mapping.layers.{index}")
    names.add("input.input", "blocks.b4.const")
    for level, size in enumerate(network.sizes):
        for layer in ("conv0", "conv1") if level else ("conv1",):
            number = 2 * level - (layer == "conv0")
            here, there = f"blocks.b{size}.{layer}", f"convs.{number - 1}" if level else "conv1"
            # The convolution that doubles is a transposed one there, and its kernel is kept for that.
            names.add(f"{there}.conv.weight", f"{here}.weight", ones=1, flipped=layer == "conv0")
            names.layer(f"{there}.conv.modulation", f"{here}.affine")
            names.add(f"{there}.noise.weight", f"{here}.noise_strength")
            names.add(f"{there}.activate.bias", f"{here}.bias")
            names.add(f"noises.noise_{number}", f"{here}.noise")
        here, there = f"blocks.b{size}.to_rgb", f"to_rgbs.{level - 1}" if level else "to_rgb1"
        names.add(f"{there}.conv.weight", f"{here}.weight", ones=1)
        names.layer(f"{there}.conv.modulation", f"{here}.affine")
        names.add(f"{there}.bias", f"{here}.bias", ones=1, after=2)
        if level:
            names.filter(f"convs.{2 * level - 2}.conv.blur.kernel", gain=4)
            names.filter(f"to_rgbs.{level - 1}.upsample.kernel", gain=4)
    return names


def rosinality_discriminator(network: Discriminator) -> Names:
    """`d`."""
    names = Names(network)
    names.add("convs.0.0.weight", "from_rgb.weight")
    names.add("convs.0.1.bias", "from_rgb.bias")
    for index, block in enumerate(network.blocks, 1):
        here, there = f"blocks.{block}", f"convs.{index}"
        names.add(f"{there}.conv1.0.weight", f"{here}.conv0.weight")
        names.add(f"{there}.conv1.1.bias", f"{here}.conv0.bias")
        names.filter(f"{there}.conv2.0.kernel")
        names.add(f"{there}.conv2.1.weight", f"{here}.conv1.weight")
        names.add(f"{there}.conv2.2.bias", f"{here}.conv1.bias")
        names.filter(f"{there}.skip.0.kernel")
        names.add(f"{there}.skip.1.weight", f"{here}.skip.weight")
    names.add("final_conv.0.weight", "conv.weight")
    names.add("final_conv.1.bias", "conv.bias")
    names.layer("final_linear.0", "fc")
    names.layer("final_linear.1", "out")
    return names


def nvidia_generator(network: StyleGAN2) -> Names:
    """`G_ema`, `G`."""
    names = Names(network)
    _nvidia_mapping(names, network)
    names.add("mapping.w_avg", "mean_w")
    for size in network.sizes:
        here, there = f"blocks.b{size}", f"synthesis.b{size}"
        names.filter(f"{there}.resample_filter")
        if size == 4:
            names.add(f"{there}.const", f"{here}.const", ones=-1)
        for layer in ("conv0", "conv1") if size > 4 else ("conv1",):
            names.add(f"{there}.{layer}.weight", f"{here}.{layer}.weight", flipped=layer == "conv0")
            names.add(f"{there}.{layer}.bias", f"{here}.{layer}.bias")
            names.layer(f"{there}.{layer}.affine", f"{here}.{layer}.affine")
            names.add(f"{there}.{layer}.noise_const", f"{here}.{layer}.noise", ones=-2)
            names.add(f"{there}.{layer}.noise_strength", f"{here}.{layer}.noise_strength", ones=-1)
            names.filter(f"{there}.{layer}.resample_filter")
        names.layer(f"{there}.torgb", f"{here}.to_rgb")
        names.layer(f"{there}.torgb.affine", f"{here}.to_rgb.affine")
    return names


def nvidia_discriminator(network: Discriminator) -> Names:
    """`D`."""
    names = Names(network)
    layers = {f"b{network.size}.fromrgb": "from_rgb", "b4.conv": "conv"}
    for block in network.blocks:
        names.filter(f"{block}.resample_filter")
        layers |= {f"{block}.{layer}": f"blocks.{block}.{layer}" for layer in ("conv0", "conv1", "skip")}
    for there, here in layers.items():
        names.layer(there, here)
        names.filter(f"{there}.resample_filter")
    names.layer("b4.fc", "fc")
    names.layer("b4.out", "out")
    if network.c_dim:
        _nvidia_mapping(names, network)
    return names


def _nvidia_mapping(names: Names, network: StyleGAN2 | Discriminator) -> None:
    if network.c_dim:
        names.layer("mapping.embed", "mapping.embed")
    for index in range(len(network.mapping.layers)):
        names.layer(f"mapping.fc{index}", f"mapping.layers.{index}")
