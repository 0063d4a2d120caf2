"""A headless Chromium, and the page served in two ways: with a cartoon editor, and as `python app.py`."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.fake_editor import FakeEditor
from webapp import LAUNCH_OPTIONS, build_page

ROOT = Path(__file__).parents[2]
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What Gradio says of requests that were still open when the page was left or reloaded.
LEFT = re.compile("signal is aborted|Connection errored out")

expect.set_options(timeout=30_000)  # milliseconds: a busy machine may need them


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def choose(page: Page, label: str) -> None:
    """Click a radio button as a person does: one that has come to rest. Gradio takes back what is chosen
    within the frame that first draws it, as in an accordion just opened."""
    radio = page.get_by_label(label, exact=True)
    page.locator("label", has=radio).click()
    expect(radio).to_be_checked()


def wait_until(page: Page, true: Callable[[], bool]) -> None:
    """Wait for something that is not to be seen on the page."""
    for _ in range(600):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("It has not come to that.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """DYSTYLE_CHROMIUM names the binary; otherwise the system's, or else the one Playwright installed."""
    binary = os.environ.get("DYSTYLE_CHROMIUM")
    if binary is None and Path("/usr/bin/chromium").exists():
        binary = "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest):
    """Open an address as a new visitor; afterwards, the page must have loaded nothing from other places and
    logged no error. DYSTYLE_SCREENSHOTS names a folder for what each page looked like in the end."""
    contexts, faults = [], []

    def open_page(url: str, **options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        own = (url.split("/#")[0], "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(own) or faults.append(r.url))
        page.on("console", lambda m: m.type == "error" and not LEFT.search(m.text) and faults.append(m.text))
        page.on("pageerror", lambda error: LEFT.search(str(error)) or faults.append(str(error)))
        page.goto(url)
        page.locator(".stage.ready").wait_for(timeout=60_000)
        return page

    yield open_page
    for i, context in enumerate(contexts):
        if folder := os.environ.get("DYSTYLE_SCREENSHOTS"):
            name = re.sub(r"\W+", "-", request.node.name)
            context.pages[0].screenshot(path=Path(folder, f"{name}-{i}.png"))
        context.close()
    assert not faults


@pytest.fixture(scope="session")
def cartoon() -> Iterator[tuple[str, FakeEditor]]:
    """The page with the cartoon editor: its address and the editor behind it."""
    editor = FakeEditor()
    demo = build_page(editor)
    port = free_port()
    demo.launch(server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield f"http://127.0.0.1:{port}", editor
    demo.close()


@pytest.fixture(scope="session")
def app(tmp_path_factory) -> Iterator[str]:
    """The address of `python app.py`, run from a folder that holds just what is pushed to a Space."""
    port = free_port()
    space = tmp_path_factory.mktemp("space") / "folder"
    subprocess.run([sys.executable, "export/space.py", "--out", space], cwd=ROOT, check=True)
    process = subprocess.Popen(
        [sys.executable, "-u", "app.py"],
        cwd=space,
        env=os.environ | {"GRADIO_SERVER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log, answering = [], threading.Event()

    def follow() -> None:
        for line in process.stdout:
            log.append(line)
            if "Running on" in line:
                answering.set()
        answering.set()  # the program ended

    reader = threading.Thread(target=follow)
    reader.start()
    answering.wait(timeout=900)
    if process.poll() is not None:
        pytest.fail("app.py ended: " + "".join(log))
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    reader.join()
    assert "Traceback" not in "".join(log)
