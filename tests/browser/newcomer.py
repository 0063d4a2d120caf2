"""A newcomer's path, timed: `python app.py`, then python -m tests.browser.newcomer.

Three actions lead from a photo to the downloaded edit: choose the photo, press a preset, press Download. They
follow one another as soon as what they need is to be seen, and each visit is a new visitor's.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.conftest import CHROMIUM_OPTIONS, ROOT


@dataclass(frozen=True)
class NewcomerConfig:
    """Measure the path.

    Attributes:
        url: where the page answers.
        photo: of a face.
        visits: so many newcomers, one after the other; the medians are printed. The first one of a page that
            has just been started waits for engines to be opened.
    """

    url: str = "http://127.0.0.1:7860"
    photo: Path = ROOT / "webapp" / "examples" / "astronaut.jpg"
    visits: int = 5


def walk(browser: Browser, config: NewcomerConfig) -> dict[str, float]:
    """Seconds from the choice of the photo to what each action brings."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()
    page.goto(config.url)
    page.locator("#stage .stage.ready").wait_for(timeout=60_000)
    picture, before = (
        page.locator("#stage .stage-after"),
        page.locator("#stage .stage-after").get_attribute("src"),
    )
    began = time.perf_counter()
    page.set_input_files("#photo input[type=file]", config.photo)  # 1
    expect(picture).not_to_have_attribute("src", before)
    seen, portrait = time.perf_counter(), picture.get_attribute("src")
    page.get_by_role("button", name="10 years older", exact=True).click()  # 2
    expect(page.locator("#caption")).to_contain_text("→")
    expect(picture).not_to_have_attribute("src", portrait)
    edited = time.perf_counter()
    with page.expect_download() as event:
        page.locator("#download").click()  # 3
    event.value.path()
    ends = {"first result": seen, "edited": edited, "downloaded": time.perf_counter()}
    context.close()
    return {what: end - began for what, end in ends.items()}


def main() -> None:
    config = tyro.cli(NewcomerConfig, prog="python -m tests.browser.newcomer")
    binary = os.environ.get("DYSTYLE_CHROMIUM") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)
        walks = [walk(browser, config) for _ in range(config.visits)]
        browser.close()
    medians = {what: round(float(np.median([each[what] for each in walks])), 2) for what in walks[0]}
    print(
        json.dumps(
            {"actions": 3, "seconds": medians, "first visit": {k: round(v, 2) for k, v in walks[0].items()}}
        )
    )


if __name__ == "__main__":
    main()
