"""The compiled ops of `cuda_ext`, built on first use into the user's cache."""

from cuda_ext import build
from dystyle.weights import cache_folder


def load() -> frozenset[str]:
    """The kinds of device that have compiled ops, "cpu" or "cuda"; see `cuda_ext.build.load`."""
    return build.load(cache_folder())
