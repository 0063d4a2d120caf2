"""How much a server of `python -m dystyle.serve` bears: python -m tests.serve_load --clients 32 --seconds 60.

Each client asks for an edited person of 1024 px, and for the next one when it has come. A client that is told
to come back later does so; what fails in any other way is counted.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tyro


@dataclass(frozen=True)
class LoadConfig:
    """Load a server.

    Attributes:
        url: the server's address.
        clients: that ask at once.
        seconds: for which they do; answers that come later do not count.
    """

    url: str = "http://127.0.0.1:8000"
    clients: int = 32
    seconds: float = 60.0


def measure(config: LoadConfig) -> dict[str, float]:
    """Requests a second, their median and 95th percentile in seconds, those put off, and those failed."""
    until = time.monotonic() + config.seconds
    took: list[float] = []
    put_off, failed, lock = [0], [0], threading.Lock()

    def ask(client: int) -> None:
        rng = np.random.default_rng(client)
        while (start := time.monotonic()) < until:
            wanted = {"seed": int(rng.integers(1000)), "edits": {"age": float(rng.integers(10, 70))}}
            body = json.dumps(wanted | {"kind": "jpeg"}).encode()
            kind = {"Content-Type": "application/json"}
            try:
                request = urllib.request.Request(f"{config.url}/edit_person", body, kind)
                with urllib.request.urlopen(request, timeout=120) as answer:
                    answer.read()
            except urllib.error.HTTPError as error:
                with lock:
                    (put_off if error.code == 503 else failed)[0] += 1
                time.sleep(float(error.headers.get("Retry-After", 1)))
                continue
            except OSError:
                with lock:
                    failed[0] += 1
                continue
            if (end := time.monotonic()) <= until:
                with lock:
                    took.append(end - start)

    with ThreadPoolExecutor(config.clients) as pool:
        list(pool.map(ask, range(config.clients)))
    median, slow = np.percentile(took, (50, 95)) if took else (0.0, 0.0)
    rate = len(took) / config.seconds
    return {"rate": rate, "median": median, "slow": slow, "put off": put_off[0], "failed": failed[0]}


if __name__ == "__main__":
    found = measure(tyro.cli(LoadConfig, prog="python -m tests.serve_load", description=__doc__))
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
