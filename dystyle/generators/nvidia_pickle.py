"""Read the networks in NVIDIA's pickles (stylegan, stylegan2-ada-pytorch, stylegan3) and run nothing in them.

Such a pickle holds each network as its attributes and the source code of its class, or of the function that
builds it, which the original loader executes. Here the source stays a string. The pickle may name only what
is listed in `_vocabulary`, all of it inert; a file that names anything else is refused before it is called.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dystyle.errors import InputError

_PLAIN = (bool, int, float, str, type(None))
# How a PyTorch file without an archive around it begins; tensors in a pickle are of that kind.
TORCH_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_MOST = 10_000  # tensors or attributes of a network, of which StyleGAN2 has some hundreds


class Network:
    """What a pickle says about a module.

    Attributes:
        tensors: parameters and buffers by their names, with those of the modules in it.
        options: its plain attributes, by names such as "synthesis.b8.conv0.conv_clamp".
    """

    def __init__(self, description: dict) -> None:
        state = description["state"]
        tensors = {**state["_parameters"], **state["_buffers"]}
        self.tensors: dict[str, Tensor] = {key: t for key, t in tensors.items() if t is not None}
        self.options = {key: value for key, value in state.items() if isinstance(value, _PLAIN)}
        self._add_parts(state["_modules"], ".")

    def _add_parts(self, parts: dict[str, "Network"], dot: str) -> None:
        for name, part in parts.items():
            self.tensors |= {f"{name}{dot}{key}": tensor for key, tensor in part.tensors.items()}
            self.options |= {f"{name}{dot}{key}": value for key, value in part.options.items()}
            if max(len(self.tensors), len(self.options)) > _MOST:  # parts that hold each other twice
                raise pickle.UnpicklingError(f"more than {_MOST} tensors or attributes")


class TensorFlowNetwork(Network):
    """What a pickle of the first StyleGAN says about one, by names such as "synthesis/8x8/Conv1/weight".

    Attributes:
        tensors: its variables, in TensorFlow's order of dimensions.
        options: the arguments it was built with, and variables that are single numbers, such as "lod".
    """

    def __setstate__(self, state: dict) -> None:
        self.tensors, self.options = {}, dict(state["static_kwargs"])
        for key, value in state["variables"]:
            if isinstance(value, _PLAIN):
                self.options[key] = value
            else:
                self.tensors[key] = value.tensor
        self._add_parts(state.get("components", {}), "/")


def _vocabulary() -> dict[str, Callable]:
    """What a pickle may name; made anew for every file, which then cannot change it for the next one."""

    class Described(Network):
        pass

    class Listed(TensorFlowNetwork):
        pass

    class EasyDict(dict):
        pass

    class Kind:  # numpy.dtype
        def __init__(self, code: str, *_: object) -> None:
            self.code = code

        def __setstate__(self, state: tuple) -> None:
            self.order = state[1]

        def numbers(self, data: bytes) -> np.ndarray:
            if self.code[0] not in "fiub":
                raise pickle.UnpicklingError(f"NumPy values of the kind {self.code}")
            kind = np.dtype(self.code).newbyteorder(self.order if self.order in "<>" else "=")
            return np.frombuffer(data, kind).astype(kind.newbyteorder("="))

    def scalar(kind: Kind, data: bytes) -> int | float | bool:
        return kind.numbers(data)[0].item()

    class Array:  # numpy.ndarray
        def __init__(self, *_: object) -> None:
            pass

        def __setstate__(self, state: tuple) -> None:
            _, shape, kind, columns_first, data = state
            numbers = kind.numbers(data).reshape(shape, order="F" if columns_first else "C")
            self.tensor = torch.from_numpy(np.ascontiguousarray(numbers))

    def array(data: bytes, kind: Kind, shape: tuple, order: str) -> Array:
        made = Array()
        made.__setstate__((1, shape, kind, order == "F", data))
        return made

    def storage(data: bytes) -> torch.TypedStorage:
        if not data.startswith(TORCH_MAGIC):  # an archive could be packed
            raise pickle.UnpicklingError("a storage of another kind")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def tensor(stored: torch.TypedStorage, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
        empty, numbers = torch.empty(0, dtype=stored.dtype), stored._untyped_storage
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= numbers.nbytes() // empty.element_size() and 0 not in size:
            raise pickle.UnpicklingError("a tensor larger than its numbers")
        return empty.set_(numbers, offset, size, stride)

    def parameter(data: Tensor, *_: object) -> Tensor:
        return data

    return {
        "torch_utils.persistence._reconstruct_persistent_obj": Described,
        "torch.storage._load_from_bytes": storage,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter,
        "dnnlib.tflib.network.Network": Listed,
        "dnnlib.util.EasyDict": EasyDict,
        "collections.OrderedDict": OrderedDict,
        "builtins.set": set,
        "numpy.dtype": Kind,
        "numpy.ndarray": Array,
    } | {
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray.scalar": scalar,
            "multiarray._reconstruct": Array,
            "numeric._frombuffer": array,
        }.items()
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self._known = _vocabulary()

    def find_class(self, module: str, name: str) -> Callable:
        if f"{module}.{name}" not in self._known:
            raise InputError(f"it names '{module}.{name}'")
        return self._known[f"{module}.{name}"]


def _check_memo(file: io.BufferedIOBase) -> None:
    """Python makes room for every object up to the highest number that a pickle gives one."""
    for count, (operation, number, _) in enumerate(pickletools.genops(file)):
        if "PUT" in operation.name and number > count:
            raise pickle.UnpicklingError(f"object number {number} of {count}")


def read_pickle(path: Path) -> dict[str, Network]:
    """The networks of a pickle by name: "G", "D", "G_ema", which the first StyleGAN's call "Gs".

    Raises:
        InputError: the file is damaged, no such pickle, or would run code.
    """
    try:
        with path.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            contents = _Unpickler(file).load()
        if isinstance(contents, tuple):
            contents = dict(zip(("G", "D", "Gs"), contents, strict=True))
        networks = {key: value for key, value in contents.items() if isinstance(value, Network)}
    except InputError as error:
        raise InputError(
            f"'{path}' was refused: {error}, which has no place in a pickle of stylegan, "
            "stylegan2-ada-pytorch or stylegan3, and might run code."
        ) from error
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"'{path}' is damaged or no pickle of stylegan, stylegan2-ada-pytorch or stylegan3; fetch it "
            "again."
        ) from error
    return networks
