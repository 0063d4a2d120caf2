"""Where the public formats of StyleGAN keep what the networks here hold: names, shapes, reversed kernels.

rosinality is https://github.com/rosinality/stylegan2-pytorch, whose generator is also the `decoder.*` of pSp
and encoder4editing; nvidia is stylegan2-ada-pytorch and the StyleGAN2 configurations of stylegan3; tensorflow
is https://github.com/NVlabs/stylegan, the first StyleGAN.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from dystyle.generators.stylegan1 import StyleGAN1, StyleGAN1Discriminator
from dystyle.generators.stylegan2 import FILTER, Discriminator, StyleGAN2
from dystyle.ops import setup_filter
from dystyle.ops.bias_act import ACTIVATIONS

GAIN = ACTIVATIONS["lrelu"].gain
FUSED = 128  # px from which TensorFlow's StyleGAN doubles and convolves in one


@dataclass(frozen=True)
class Entry:
    """One tensor of a format.

    Attributes:
        key: its name in the network here.
        shape: there; apart from dimensions of size 1, and their order, it is the shape here.
        flipped: its kernel is stored the other way round.
        order: which dimension there each one here is; None: the same.
        factor: what is to be multiplied with what stands there.
    """

    key: str
    shape: tuple[int, ...]
    flipped: bool = False
    order: tuple[int, ...] | None = None
    factor: float = 1.0


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

    def turn(self, there: str, here: str, factor: float = 1.0, flipped: bool = False) -> None:
        """TensorFlow's weight of a layer (in, out), or of a convolution (height, width, in, out)."""
        shape, order = self._shapes[here], (3, 2, 0, 1) if len(self._shapes[here]) == 4 else (1, 0)
        turned = tuple(shape[order.index(dimension)] for dimension in range(len(order)))
        self.entries[there] = Entry(here, turned, flipped, order, factor)

    def scale(self, there: str, here: str, factor: float) -> None:
        self.entries[there] = Entry(here, self._shapes[here], factor=factor)

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


def tensorflow_generator(network: StyleGAN1) -> Names:
    """`Gs`, `G`.

    He's gain of root 2 is there the weights', when they are used; here it is the activation's, and in the
    synthesis nobody's.
    """
    names, largest = Names(network), network.size
    names.add("dlatent_avg", "mean_w")
    for index in range(len(network.mapping.layers)):
        here, there = f"mapping.layers.{index}", f"mapping/Dense{index}"
        names.turn(f"{there}/weight", f"{here}.weight")
        names.scale(f"{there}/bias", f"{here}.bias", 1 / GAIN)
    for level, size in enumerate(network.sizes):
        here, there = f"blocks.b{size}", f"synthesis/{size}x{size}"
        layers = ("Conv0_up", "Conv1") if level else ("Const", "Conv")
        if level:
            # From 128 px on it is a transposed convolution there, whose kernel is the other way round.
            names.turn(f"{there}/Conv0_up/weight", f"{here}.conv0.weight", GAIN, flipped=size >= FUSED)
        else:
            names.add(f"{there}/Const/const", f"{here}.const")
        names.turn(f"{there}/{layers[1]}/weight", f"{here}.conv1.weight", GAIN)
        for index, layer in enumerate(layers):
            own = f"{here}.layer{index}"
            names.add(f"{there}/{layer}/bias", f"{own}.bias")
            names.add(f"{there}/{layer}/Noise/weight", f"{own}.noise_strength")
            names.add(f"synthesis/noise{2 * level + index}", f"{own}.noise")
            names.turn(f"{there}/{layer}/StyleMod/weight", f"{own}.affine.weight")
            names.add(f"{there}/{layer}/StyleMod/bias", f"{own}.affine.bias")
        colours = f"synthesis/ToRGB_lod{(largest // size).bit_length() - 1}"
        names.turn(f"{colours}/weight", f"{here}.to_rgb.weight")
        names.add(f"{colours}/bias", f"{here}.to_rgb.bias")
    return names


def tensorflow_discriminator(network: StyleGAN1Discriminator) -> Names:
    """`D`, whose activations have no gain there."""
    names, layers = Names(network), {"4x4/Conv": "conv", "4x4/Dense0": "fc"}
    for name in network.from_rgb:
        lod = (network.size // int(name[1:])).bit_length() - 1
        layers[f"FromRGB_lod{lod}"] = f"from_rgb.{name}"
    for name in network.blocks:
        size = name[1:]
        layers[f"{size}x{size}/Conv0"] = f"blocks.{name}.conv0"
        names.turn(f"{size}x{size}/Conv1_down/weight", f"blocks.{name}.conv1.weight")
        names.scale(f"{size}x{size}/Conv1_down/bias", f"blocks.{name}.bias", 1 / GAIN)
    for there, here in layers.items():
        names.turn(f"{there}/weight", f"{here}.weight")
        names.scale(f"{there}/bias", f"{here}.bias", 1 / GAIN)
    names.turn("4x4/Dense1/weight", "out.weight")
    names.add("4x4/Dense1/bias", "out.bias")
    return names


def _nvidia_mapping(names: Names, network: StyleGAN2 | Discriminator) -> None:
    if network.c_dim:
        names.layer("mapping.embed", "mapping.embed")
    for index in range(len(network.mapping.layers)):
        names.layer(f"mapping.fc{index}", f"mapping.layers.{index}")
