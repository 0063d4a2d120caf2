"""Drag sliders as several visitors at once: python -m tests.browser.load --clients 8 --seconds 120.

Needs Chromium and a machine with nothing else to do; starts `python app.py` by itself. First one visitor
drags alone, then all do. Every visitor edits another random person; at the end "Reset all" must bring back
the very picture each began with. Prints milliseconds from a slider's movement to the new preview.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro
from playwright.sync_api import Page, TimeoutError, sync_playwright

from tests.browser.conftest import CHROMIUM_OPTIONS, ROOT, free_port

DRAG = """async (seconds) => {
  const after = document.querySelector(".stage-after");
  const sliders = [...document.querySelectorAll("#attributes input[type=range]")].slice(0, 4);
  const times = [], end = performance.now() + 1000 * seconds;
  let late = 0;
  for (let i = 0; performance.now() < end; i++) {
    const slider = sliders[Math.floor(i / 12) % sliders.length];
    const [low, high] = [Number(slider.min), Number(slider.max)];
    const shown = after.src, began = performance.now();
    slider.value = low + (high - low) * (0.5 + 0.45 * Math.sin(i / 3 + i / 100));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    while (after.src === shown && performance.now() < began + 20000) await new Promise(requestAnimationFrame);
    if (after.src === shown) late++; else times.push(performance.now() - began);
    if (i % 12 === 11) slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
  }
  return { times, late };
}"""


@dataclass(frozen=True)
class LoadConfig:
    """Load the page.

    Attributes:
        clients: visitors who drag at once.
        seconds: how long all of them drag.
        alone: how long one drags before.
        json: a file for the result.
    """

    clients: int = 8
    seconds: float = 120
    alone: float = 15
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


def meet(browser, url: str, seed: int, faults: list[str]) -> tuple[Page, str]:
    """A visitor with random person number `seed`, and the picture of that person."""
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    recipe = json.dumps({"dystyle": 1, "seed": seed, "edits": {}}).replace('"', "%22").replace(" ", "")
    page.goto(f"{url}/#edit={recipe}")
    page.locator(".stage.ready").wait_for()
    return page, page.locator(".stage-after").get_attribute("src")


def drag(pages: list[Page], seconds: float, sample) -> tuple[list[float], int]:
    """All pages drag at once: latencies in milliseconds, and how many moves brought no picture."""
    for page in pages:
        page.evaluate(f"(seconds) => {{ window.dragging = ({DRAG})(seconds); }}", seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sample()
        time.sleep(min(10, max(0, end - time.monotonic())))
    found = [page.evaluate("() => window.dragging") for page in pages]
    return [t for one in found for t in one["times"]], sum(one["late"] for one in found)


def summary(times: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    return {"previews": len(times), "p50": round(p50), "p95": round(p95), "p99": round(p99)}


def load(config: LoadConfig) -> dict:
    port, faults, memory = free_port(), [], []
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
    try:
        wait_for(url, process)
        with sync_playwright() as playwright:
            binary = os.environ.get("DYSTYLE_CHROMIUM") or "/usr/bin/chromium"
            browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)
            visitors = [meet(browser, url, seed, faults) for seed in range(config.clients)]
            pages = [page for page, _ in visitors]
            alone, late_alone = drag(pages[:1], config.alone, lambda: None)
            together, late = drag(pages, config.seconds, lambda: memory.append(round(resident(process))))
            mixed = 0
            for page, first in visitors:
                page.locator("#reset-all").click()
                try:
                    page.wait_for_function(
                        "(first) => document.querySelector('.stage-after').src === first", arg=first
                    )
                except TimeoutError:
                    mixed += 1
            browser.close()
    finally:
        process.terminate()
        process.wait()
    return {
        "clients": config.clients,
        "seconds": config.seconds,
        "alone_ms": summary(alone),
        "together_ms": summary(together),
        "p95_over_alone_median": round(summary(together)["p95"] / summary(alone)["p50"], 1),
        "without_picture": late + late_alone,
        "console_errors": faults,
        "pictures_of_others": mixed,
        "memory_mb": memory,
    }


def main() -> None:
    config = tyro.cli(LoadConfig, prog="python -m tests.browser.load")
    result = load(config)
    print(json.dumps(result, indent=2))
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
