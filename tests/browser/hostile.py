"""A hostile client: python -m tests.browser.hostile URL.

Asks for what costs most, and for what is not its own, from one address, as a proxy on this machine tells it.
`tests.browser.load --hostile` runs it beside the others; when it is ended, it prints how it was answered.
"""

import itertools
import json
import random
import signal
import socket
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from io import BytesIO

import httpx
import numpy as np
from PIL import Image

ADDRESS = "198.51.100.1"
API = "/gradio_api"
JSON = {"Content-Type": "application/json"}
SIDE = 8000  # 64 megapixels


class Hostile:
    """Its attacks, each of which is one round of a thread of its own; `answers` counts HTTP statuses."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.http = httpx.Client(
            base_url=url, trust_env=False, timeout=60, headers={"X-Forwarded-For": ADDRESS}
        )
        config = self.http.get("/config").json()
        self.events = {event["api_name"]: event for event in reversed(config["dependencies"])}
        self.count = len(config["dependencies"])
        noise = np.random.default_rng(0).integers(0, 255, (SIDE // 40, SIDE // 40, 3), np.uint8)
        buffer = BytesIO()
        Image.fromarray(noise).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=30)
        self.photo = buffer.getvalue()

    def ask(self, what: str, method: str, path: str, **content) -> httpx.Response | None:
        try:
            answer = self.http.request(method, path, **content)
        except httpx.HTTPError as error:
            self.answers[f"{what} {type(error).__name__}"] += 1
            return None
        self.answers[f"{what} {answer.status_code}"] += 1
        return answer

    def join(self, name: str, data: list, session: str) -> httpx.Response | None:
        asked = {"fn_index": self.events[name]["id"], "data": data, "session_hash": session}
        return self.ask(name, "POST", f"{API}/queue/join", content=json.dumps(asked), headers=JSON)

    def fresh_visits(self) -> None:
        """Meets people under ever new names, and fetches none of the pictures."""
        link = json.dumps({"dystyle": 1, "seed": random.randrange(10**5), "edits": {}})
        self.join("meet", [link, "", None, ""], uuid.uuid4().hex)

    def empty_events(self) -> None:
        """Moves sliders of visits that there are none of."""
        self.join("preview", [None] * len(self.events["preview"]["inputs"]), uuid.uuid4().hex)

    def large_photos(self) -> None:
        """Has photos of 64 megapixels opened."""
        sent = self.ask("upload", "POST", f"{API}/upload", files={"files": ("x.jpg", self.photo)})
        if sent is not None and sent.status_code == 200:
            photo = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
            self.join("open_photo", [None, random.choice(("fast", "balanced")), photo], uuid.uuid4().hex)

    def pages(self) -> None:
        """Loads the page and its description."""
        self.ask("page", "GET", random.choice(("/", "/zh", "/config", f"{API}/info", f"{API}/openapi.json")))

    def trespassing(self) -> None:
        """Asks for files, addresses and routes that are not for it, with bodies that are too large."""
        path = random.choice(("/etc/passwd", "http://127.0.0.1:1/x.png", "x" * 10**7))
        self.join("open_photo", [None, "fast", {"path": path}], "x")
        self.ask("run", "POST", f"{API}/run/open_photo", content=b"{}")
        self.ask("file", "GET", f"{API}/file=/etc/passwd")

    def broken_uploads(self) -> None:
        """Begins an upload and goes away."""
        address = (self.http.base_url.host, self.http.base_url.port)
        head = f"POST {API}/upload HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {ADDRESS}\r\n"
        head += "Content-Length: 60000000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        try:
            with socket.create_connection(address) as connection:
                connection.sendall((head + part).encode() + bytes(10**6))
            self.answers["upload broken off"] += 1
        except OSError as error:
            self.answers[f"upload broken off {type(error).__name__}"] += 1

    def run(self, stop: threading.Event) -> None:
        attacks = (
            self.fresh_visits,
            self.empty_events,
            self.large_photos,
            self.pages,
            self.trespassing,
            self.broken_uploads,
        )

        def attack(round_: Callable[[], None]) -> None:
            for _ in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
                round_()

        threads = [threading.Thread(target=attack, args=(round_,)) for round_ in attacks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    hostile = Hostile(sys.argv[1])
    print("begins", flush=True)
    hostile.run(stop)
    print(json.dumps(dict(sorted(hostile.answers.items()))))


if __name__ == "__main__":
    main()
