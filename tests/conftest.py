"""What several test files share."""

import numpy as np
import pytest
from skimage import data

from dystyle import FaceEditor


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A public-domain photo of a face (NASA), (512, 512, 3) uint8."""
    return data.astronaut()


@pytest.fixture(scope="session")
def editor() -> FaceEditor:
    """On ONNX Runtime, which computes in float32 everywhere."""
    return FaceEditor.from_pretrained(backend="onnx")


@pytest.fixture(scope="session")
def reference() -> FaceEditor:
    """The same on the PyTorch backend."""
    return FaceEditor.from_pretrained(backend="torch")
