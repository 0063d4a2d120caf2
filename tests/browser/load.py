"""Drag sliders as several visitors at once: python -m tests.browser.load --clients 8 --seconds 120.

Needs Chromium and a machine with nothing else to do; starts `python app.py` by itself. First one visitor
drags alone, then all do. As visitors bring machines of their own, only the first has a browser here; the
others send what their browsers would send, each from an address of its own. Every visitor edits another
random person; at the end resetting must bring back the very picture each began with. Prints milliseconds
from a slider's movement to the new preview. With --hostile, all drag once more beside a hostile client.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro
from playwright.sync_api import TimeoutError, sync_playwright

from tests.browser.conftest import CHROMIUM_OPTIONS, ROOT, free_port

DRAG = """async (seconds) => {
  const after = document.querySelector(".stage-after");
  const sliders = [...document.querySelectorAll("#attributes input[type=range]")].slice(0, 4);
  const times = [], end = performance.now() + 1000 * seconds;
  // Waiting for the picture itself: a look at every frame would take the cores from the page.
  const changed = (limit) => new Promise((done) => {
    const observer = new MutationObserver(() => finish(true)), timer = setTimeout(() => finish(false), limit);
    const finish = (is) => { observer.disconnect(); clearTimeout(timer); done(is); };
    observer.observe(after, { attributes: true, attributeFilter: ["src"] });
  });
  let late = 0;
  for (let i = 0; performance.now() < end; i++) {
    const slider = sliders[Math.floor(i / 12) % sliders.length];
    const [low, high, before] = [Number(slider.min), Number(slider.max), slider.value];
    slider.value = low + (high - low) * (0.5 + 0.45 * Math.sin(i / 3 + i / 100));
    if (slider.value === before) continue;  // the slider's steps are coarser: it has not moved
    const began = performance.now(), picture = changed(20000);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    if (await picture) times.push(performance.now() - began); else late++;
    if (i % 12 === 11) slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  }
  return { times, late };
}"""


@dataclass(frozen=True)
class LoadConfig:
    """Load the page.

    Attributes:
        clients: visitors who drag at once.
        browsers: how many of them drag in Chromium.
        seconds: how long all of them drag.
        alone: how long one drags before.
        hostile: drag for as long again, with `tests.browser.hostile` beside.
        json: a file for the result.
    """

    clients: int = 8
    browsers: int = 1
    seconds: float = 120
    alone: float = 15
    hostile: bool = False
    json: Path | None = None


def resident(process: subprocess.Popen) -> float:
    """A process's resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def wait_for(url: str, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            return httpx.get(url, trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(1)
    raise SystemExit("app.py ended")


def address(seed: int) -> dict[str, str]:
    """Where a visitor comes from, as a proxy would tell it."""
    return {"X-Forwarded-For": f"192.0.2.{seed + 1}"}


@contextmanager
def attack(url: str, answers: dict) -> Iterator[None]:
    """A hostile client that leaves the processor to the others; `answers` counts what it was answered."""
    command = ["nice", "-n", "19", sys.executable, "-m", "tests.browser.hostile", url]
    hostile = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        hostile.stdout.readline()  # it begins
        yield
    finally:
        hostile.terminate()
        told, _ = hostile.communicate(timeout=300)
        answers.update(json.loads(told))


def recipe(seed: int) -> str:
    """The unedited random person number `seed`, as in the page's links."""
    return json.dumps({"dystyle": 1, "seed": seed, "edits": {}})


class InBrowser:
    """A visitor in Chromium, with random person number `seed`."""

    def __init__(self, browser, url: str, seed: int, faults: list[str]) -> None:
        self.page = browser.new_context(extra_http_headers=address(seed)).new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda m: m.type == "error" and faults.append(m.text))
        self.page.on("pageerror", lambda error: faults.append(str(error)))
        self.page.goto(f"{url}/#edit={recipe(seed)}".replace('"', "%22").replace(" ", ""))
        self.page.locator(".stage.ready").wait_for()
        self.first = self.page.locator(".stage-after").get_attribute("src")

    def begin(self, seconds: float) -> None:
        self.page.evaluate(f"(seconds) => {{ window.dragging = ({DRAG})(seconds); }}", seconds)

    def times(self) -> tuple[list[float], int]:
        """Of what has begun: latencies in milliseconds, and how many moves brought no picture."""
        found = self.page.evaluate("() => window.dragging")
        return found["times"], found["late"]

    def resets(self) -> bool:
        """Whether resetting brings back the first picture."""
        self.page.locator("#reset-all").click()
        shown = "(first) => document.querySelector('.stage-after').src === first"
        try:
            self.page.wait_for_function(shown, arg=self.first)
        except TimeoutError:
            return False
        return True


class OverHttp:
    """A visitor whose browser runs elsewhere: sends the page's events and waits for what they bring."""

    def __init__(self, url: str, seed: int) -> None:
        self.http = httpx.Client(
            base_url=f"{url}/gradio_api", trust_env=False, timeout=120, headers=address(seed)
        )
        config = httpx.get(f"{url}/config", trust_env=False).json()
        self.events = {event["api_name"]: event for event in reversed(config["dependencies"])}
        self.session, self.thread = uuid.uuid4().hex, ThreadPoolExecutor(1)
        components = {component["id"]: component for component in config["components"]}
        self.inputs = self.events["preview"]["inputs"]
        (self.sketch,) = self.events["preview"]["outputs"]
        drawn = self.events["edit"]["outputs"]
        self.stage = next(i for i in drawn if components[i]["props"].get("elem_id") == "stage")
        met = self.send("meet", [recipe(seed), "", None, ""])
        self.values = {i: components[i]["props"].get("value") for i in self.inputs}
        self.values |= {i: met[i]["value"] for i in self.inputs if "value" in (met.get(i) or {})}
        sliders = [i for i in self.inputs if components[i]["type"] == "slider"][:4]
        self.sliders = [(i, components[i]["props"]) for i in sliders]
        self.first = met[self.stage]["props"]["after"]

    def send(self, name: str, data: list) -> dict[int, dict]:
        """What an event sets, by component."""
        asked = {"fn_index": self.events[name]["id"], "data": data, "session_hash": self.session}
        event = self.http.post("/queue/join", json=asked).raise_for_status().json()["event_id"]
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed" and message["event_id"] == event:
                    if not message["success"]:
                        raise RuntimeError(f"'{name}' failed: {message['output']}")
                    return dict(zip(self.events[name]["outputs"], message["output"]["data"], strict=True))
        raise RuntimeError(f"'{name}' was not answered.")

    def draw(self, name: str, values: dict, where: int) -> str:
        return self.send(name, [values[i] for i in self.inputs])[where]["props"]["after"]

    def begin(self, seconds: float) -> None:
        self.dragging = self.thread.submit(self._drag, time.monotonic() + seconds)

    def _drag(self, end: float) -> list[float]:
        times, moved = [], dict(self.values)
        for i in itertools.count():
            slider, row = self.sliders[i // 12 % len(self.sliders)]
            share = 0.5 + 0.45 * math.sin(i / 3 + i / 100)
            value = row["minimum"] + (row["maximum"] - row["minimum"]) * share
            value = round(value / row["step"]) * row["step"]
            if value == moved[slider]:
                continue
            moved[slider], began = value, time.monotonic()
            if began > end:
                return times
            self.draw("preview", moved, self.sketch)
            times.append(1000 * (time.monotonic() - began))
            if i % 12 == 11:
                self.draw("edit", moved, self.stage)

    def times(self) -> tuple[list[float], int]:
        return self.dragging.result(), 0

    def resets(self) -> bool:
        return self.draw("edit", self.values, self.stage) == self.first


def drag(visitors: list[InBrowser | OverHttp], seconds: float, sample) -> tuple[list[list[float]], int]:
    """All drag at once: latencies in milliseconds of each, and how many moves brought no picture."""
    for visitor in visitors:
        visitor.begin(seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sample()
        time.sleep(min(10, max(0, end - time.monotonic())))
    found = [visitor.times() for visitor in visitors]
    return [times for times, _ in found], sum(late for _, late in found)


def summary(visitors: list[list[float]]) -> dict[str, float]:
    times = list(itertools.chain.from_iterable(visitors))
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    return {"previews": len(times), "p50": round(p50), "p95": round(p95), "p99": round(p99)}


def load(config: LoadConfig) -> dict:
    port, faults, memory, hostile, answers = free_port(), [], [], {}, {}
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
    try:
        wait_for(url, process)
        with sync_playwright() as playwright:
            binary = os.environ.get("DYSTYLE_CHROMIUM") or "/usr/bin/chromium"
            browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)
            visitors = [InBrowser(browser, url, seed, faults) for seed in range(config.browsers)]
            visitors += [OverHttp(url, seed) for seed in range(config.browsers, config.clients)]
            (alone,), late_alone = drag(visitors[:1], config.alone, lambda: None)
            together, late = drag(visitors, config.seconds, lambda: memory.append(round(resident(process))))
            if config.hostile:
                with attack(url, answers):
                    beside, unanswered = drag(
                        visitors, config.seconds, lambda: memory.append(round(resident(process)))
                    )
                ratio = summary(beside)["p95"] / summary(together)["p95"]
                hostile = {"ms": summary(beside), "without_picture": unanswered, "answers": answers}
                hostile["p95_over_usual"] = round(ratio, 2)
            mixed = sum(not visitor.resets() for visitor in visitors)
            browser.close()
    finally:
        process.terminate()
        process.wait()
    in_browsers, over_http = together[: config.browsers], together[config.browsers :]
    result = {
        "clients": config.clients,
        "seconds": config.seconds,
        "alone_ms": summary([alone]),
        "in_browsers_ms": summary(in_browsers),
        "over_http_ms": summary(over_http) if over_http else None,
    }
    return result | {
        "p95_over_alone_median": round(result["in_browsers_ms"]["p95"] / result["alone_ms"]["p50"], 1),
        "without_picture": late + late_alone,
        "console_errors": faults,
        "pictures_of_others": mixed,
        "memory_mb": memory,
        "hostile": hostile,
    }


def main() -> None:
    config = tyro.cli(LoadConfig, prog="python -m tests.browser.load")
    result = load(config)
    print(json.dumps(result, indent=2))
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
