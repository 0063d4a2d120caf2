"""The README's pictures of the page: `python app.py`, then python -m tests.browser.screenshots."""

import os
from dataclasses import dataclass
from pathlib import Path

import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import CHROMIUM_OPTIONS, ROOT

DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}


@dataclass(frozen=True)
class ScreenshotConfig:
    """Take the pictures.

    Attributes:
        url: where `python app.py` answers.
        out: the folder for page-desktop.jpg, page-how.jpg, page-mix.jpg, page-compare.jpg, page-dark.jpg,
            page-chinese.jpg, page-phone.jpg.
    """

    url: str = "http://127.0.0.1:7860"
    out: Path = ROOT / "docs" / "images"


def meet(browser: Browser, url: str, **options) -> Page:
    page = browser.new_context(**(DESKTOP | options)).new_page()
    page.set_default_timeout(180_000)
    page.goto(url)
    page.locator(".stage.ready").wait_for()
    return page


def press(page: Page, button: str, edits: int) -> None:
    """Press a button and wait for so many attributes to be edited and drawn."""
    shown = page.locator(".stage-after").get_attribute("src")
    page.locator(button).first.click()
    page.wait_for_function("n => document.querySelectorAll('.reset:not(:disabled)').length >= n", arg=edits)
    page.wait_for_function("s => document.querySelector('.stage-after').src !== s", arg=shown)


def take(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # for what is still fading
    page.screenshot(path=path, type="jpeg", quality=82)


def main() -> None:
    config = tyro.cli(ScreenshotConfig, prog="python -m tests.browser.screenshots")
    config.out.mkdir(parents=True, exist_ok=True)
    binary = os.environ.get("DYSTYLE_CHROMIUM") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_OPTIONS)
        page = meet(browser, config.url)
        page.set_input_files("#photo input[type=file]", ROOT / "webapp" / "examples" / "astronaut.jpg")
        page.locator("#view").wait_for()
        press(page, "#preset-0", edits=1)
        press(page, "#preset-5", edits=2)
        page.locator(".stage-compare").click()
        take(page, config.out / "page-desktop.jpg")
        page.get_by_role("tab", name="How it works").click()
        page.locator("svg.attention").wait_for()
        take(page, config.out / "page-how.jpg")
        page.get_by_role("tab", name="Mix").click()
        page.locator("#mix-stage .stage.ready").wait_for()
        take(page, config.out / "page-mix.jpg")
        page.get_by_role("tab", name="Compare").click()
        page.locator("#compared b").wait_for()
        page.get_by_label("StyleSpace").check()
        page.locator("#compare-start").click()
        page.wait_for_function("document.querySelectorAll('.compared img').length === 5")
        take(page, config.out / "page-compare.jpg")
        for name, address, options in (
            ("dark", config.url, {"color_scheme": "dark"}),
            ("chinese", f"{config.url}/zh", {}),
            ("phone", config.url, PHONE),
        ):
            page = meet(browser, address, **options)
            press(page, "#preset-0", edits=1)
            take(page, config.out / f"page-{name}.jpg")
        browser.close()


if __name__ == "__main__":
    main()
