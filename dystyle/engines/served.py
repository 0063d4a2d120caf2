"""Engines of a server: `python -m dystyle.serve`, or another of the Open Inference Protocol.

The other one needs the models that `python export/build_engines.py --layout triton` writes.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

import numpy as np

from dystyle.engines.protocol import LENGTH, pack, unpack
from dystyle.errors import InputError

SECONDS = 120.0  # until an answer has to be there
PAUSES = (0.1, 0.4, 1.6, 3.2)  # seconds before the next try, where a server is busy or parts of it restart
AGAIN = (500, 502, 503, 504)  # answers after which there is a next try
WEIGHT = "weights."  # how inputs that stand in for a generator's weights are called


class ServedBackend:
    """Runs engines on a server; safe to share between threads. A `Backend`.

    Args:
        url: the server's address, for example http://127.0.0.1:8000.

    Raises:
        InputError: that is no address, or nobody answers there.
    """

    precision = "fp32"

    def __init__(self, url: str | None) -> None:
        self.url = (url or "").rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InputError("backend='serve' needs the server's url, for example http://127.0.0.1:8000.")
        self._ask("v2/health/ready")

    def run(
        self,
        name: str,
        x: np.ndarray,
        weights: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray,
    ) -> list[np.ndarray]:
        """See `Backend.run`.

        Raises:
            InputError: the server cannot be reached, is busy, or has no such model.
        """
        if ":" in name:
            raise InputError("A server runs its own encoder and generator; leave these options out.")
        more = {f"{WEIGHT}{key}": np.float32(weight) for key, weight in (weights or {}).items()}
        outputs = self._infer(name, {"input": x, **others, **more})
        return [outputs[key] for key in sorted(outputs)]

    def edit(self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor") -> np.ndarray:
        """See `Backend.edit`; errors as `run`."""
        return self._edit("editor", codes, configuration, editor)["edited"]

    def attention(
        self, codes: np.ndarray, configuration: dict[str, float], editor: str = "editor"
    ) -> np.ndarray:
        """See `Backend.attention`; errors as `run`."""
        return self._edit("attention", codes, configuration, editor)["attention"].swapaxes(0, 1)

    def release_memory(self) -> None:
        """The server's memory is its own."""

    def _edit(
        self, model: str, codes: np.ndarray, configuration: dict[str, float], editor: str
    ) -> dict[str, np.ndarray]:
        if editor != "editor":
            raise InputError("A server runs its own editor; leave method at 'dystyle'.")
        targets = np.tile(np.float32(list(configuration.values())), (len(codes), 1))
        inputs = {"codes": np.float32(codes), "targets": targets}
        return self._infer("-".join((model, *configuration)), inputs)

    def _infer(self, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        body, length = pack("inputs", inputs, {"parameters": {"binary_data_output": True}})
        answer, headers = self._ask(f"v2/models/{model}/infer", body, {LENGTH: str(length)})
        return unpack("outputs", answer, headers.get(LENGTH))[0]

    def _ask(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None):
        """The answer and its headers. All that is asked for can be asked again."""
        request = urllib.request.Request(f"{self.url}/{path}", body, dict(headers or {}))
        request.add_header("Content-Type", "application/octet-stream")
        for pause in (*PAUSES, None):
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    return answer.read(), answer.headers
            except urllib.error.HTTPError as error:
                said = _sentence(error)
                if error.code not in AGAIN or pause is None:
                    raise InputError(f"The server at {self.url} says: {said}") from error
            except (OSError, http.client.HTTPException) as error:
                if pause is None:
                    raise InputError(f"The server at {self.url} does not answer ({error}).") from error
            time.sleep(pause)
        raise AssertionError  # the last try has no pause


def _sentence(error: urllib.error.HTTPError) -> str:
    """What an answer says went wrong: the protocol's, or whatever it is."""
    text = error.read(10_000).decode(errors="replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:300] or f"{error.code} {error.reason}."
