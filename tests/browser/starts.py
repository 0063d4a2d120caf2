"""How soon the page can be used: python -m tests.browser.starts --runs 5.

Needs Chromium; starts `python app.py` by itself, once so that engines are built, then as often as asked. Each
time a browser that has never been there visits it as soon as it is ready, and moves a slider. Prints medians,
in seconds; with --first, every start has an empty cache, into which DYSTYLE_WHEEL or the package index gives
the generator.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import tyro
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import CHROMIUM_OPTIONS, ROOT, free_port

MOVE = """async () => {
  const after = document.querySelector(".stage-after");
  const slider = document.querySelector("#attribute-age input[type=range]");
  const began = performance.now();
  const changed = new Promise((done) => {
    new MutationObserver(done).observe(after, { attributeFilter: ["src"] });
  });
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await changed;
  return (performance.now() - began) / 1000;
}"""


@dataclass(frozen=True)
class StartsConfig:
    """Start the page again and again.

    Attributes:
        runs: counted starts.
        first: begin with an empty cache each time.
        json: a file for the result.
    """

    runs: int = 5
    first: bool = False
    json: Path | None = None


@contextmanager
def served(port: int, **settings: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=os.environ | {"GRADIO_SERVER_PORT": str(port)} | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, statuses: tuple[int, ...], process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code in statuses:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.02)
    raise SystemExit("app.py ended")


def start_once(browser: Browser, **settings: str) -> dict[str, float]:
    """Seconds of one start, from the new process on and from the visit on."""
    port = free_port()
    url, began = f"http://127.0.0.1:{port}", time.perf_counter()
    with served(port, **settings) as process:
        wait_for(url, (200, 503), process)
        answering = time.perf_counter() - began
        wait_for(url, (200,), process)
        ready = time.perf_counter() - began
        with browser.new_context() as context:
            page = context.new_page()
            page.set_default_timeout(120_000)
            visited = time.perf_counter()
            page.goto(url)
            page.locator(".stage.ready").wait_for()
            loaded = time.perf_counter() - visited
            moved = page.evaluate(MOVE)
            previewed = time.perf_counter()
    return {
        "process to its first answer": answering,
        "process to the page": ready,
        "process to the first edited preview": previewed - began,
        "visit to the first picture": loaded,
        "visit to the first edited preview": previewed - visited,
        "slider to the first edited preview": moved,
    }


def measure(config: StartsConfig) -> dict[str, float]:
    with sync_playwright() as playwright, ExitStack() as stack:
        binary = os.environ.get("DYSTYLE_CHROMIUM") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)

        def settings() -> dict[str, str]:
            folder = stack.enter_context(tempfile.TemporaryDirectory()) if config.first else ""
            return {"DYSTYLE_CACHE": folder} if folder else {}

        if not config.first:
            start_once(browser)
        runs = [start_once(browser, **settings()) for _ in range(config.runs)]
        browser.close()
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def main() -> None:
    config = tyro.cli(StartsConfig, prog="python -m tests.browser.starts")
    result = {"first" if config.first else "later": measure(config), "runs": config.runs}
    print(json.dumps(result, indent=2))
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
