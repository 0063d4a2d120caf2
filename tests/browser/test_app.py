"""The real thing: `python app.py` in a browser, from a random person and from a photo to the download."""

from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import choose

ASTRONAUT = Path(__file__).parents[2] / "webapp" / "examples" / "astronaut.jpg"
MINUTE = 60_000  # in the browser's milliseconds: a slow machine may need most of it


def edit_and_download(page: Page, name: str, key: str) -> np.ndarray:
    """Send one slider to an end of its range and fetch the result."""
    shown = page.locator(".stage-after").get_attribute("src")
    page.locator(f"#attribute-{name} input[type=range]").press(key)
    expect(page.locator(f"#attribute-{name} .reset")).to_be_enabled(timeout=MINUTE)
    expect(page.locator(".stage-after")).not_to_have_attribute("src", shown)
    with page.expect_download(timeout=MINUTE) as event:
        page.locator("#download").click()
    return np.array(Image.open(event.value.path()))


def test_a_random_person_and_a_photo_are_edited_and_saved(app, visit):
    page = visit(app)
    with page.expect_download(timeout=MINUTE) as event:
        page.locator("#download").click()
    unedited = np.array(Image.open(event.value.path()))
    older = edit_and_download(page, "age", "End")
    assert unedited.shape == older.shape == (1024, 1024, 3)
    assert np.abs(older.astype(int) - unedited).mean() > 2

    page.set_input_files("#photo input[type=file]", str(ASTRONAUT))
    expect(page.locator("#caption")).to_contain_text("Your photo", timeout=5 * MINUTE)
    choose(page, "In the photo")
    page.wait_for_function("document.querySelector('.stage-after').naturalWidth === 512", timeout=MINUTE)
    photo = np.array(Image.open(ASTRONAUT))
    whole = edit_and_download(page, "smile", "Home")
    assert whole.shape == photo.shape
    assert np.array_equal(whole[-50:], photo[-50:])  # far from her face nothing changes
    assert np.abs(whole[50:200, 150:300].astype(int) - photo[50:200, 150:300]).mean() > 1
