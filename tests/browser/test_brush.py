"""The brush: what is painted stays the photo's own, whatever is edited, and comes back with the face."""

import base64
import json
import zlib

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from dystyle.errors import InputError
from dystyle.faces import InvertedFace
from tests.browser.conftest import choose, wait_until
from tests.browser.test_keeping import come_back, expect_welcome
from tests.browser.test_looking import STAGE, at, closeness, expect_zoomed
from tests.browser.test_page import (
    PHONE,
    decoded,
    download,
    expect_edits,
    expect_picture,
    photo_of_faces,
    slider,
)
from webapp import brush
from webapp.keeping import Kept
from webapp.stage import data_url

TWO = ((300, 200, 300), (800, 300, 200))


def open_photo(page: Page, path: str) -> None:
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")


def protected(page: Page) -> np.ndarray | None:
    """The mask that the browser keeps of the face on the page."""
    return brush.from_text(Kept.from_json(page.evaluate("sessionStorage.getItem('record')")).shown.protected)


def paint(page: Page, *shares: tuple[float, float]) -> None:
    """Drag the mouse over the picture; the places are in shares of it."""
    stage = page.locator(STAGE)
    page.mouse.move(*at(stage, *shares[0]))
    page.mouse.down()
    for share in shares[1:]:
        page.mouse.move(*at(stage, *share), steps=4)
    page.mouse.up()


def test_what_is_painted_stays_the_photos_own_and_comes_back(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    expect(page.locator("#stage .stage-brush")).to_be_hidden()  # there is no photo
    open_photo(page, path)
    code, face = editor.edit(editor.detect(path)[0].code, {"age": 80}), editor.detect(path)[0]
    page.get_by_role("button", name="Protect").click()
    paint(page, (0.2, 0.3), (0.5, 0.3))
    wait_until(page, lambda: protected(page) is not None)
    mask = protected(page)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() / 256 - 0.3) < 0.02 and 0.13 < columns.min() / 256 < columns.max() / 256 < 0.57
    kept = editor.synthesize(code, face=face.protect(mask))
    assert not np.array_equal(kept, editor.synthesize(code))
    expect_picture(page, kept)

    come_back(page)
    expect_welcome(page)
    expect_picture(page, kept)
    assert (decoded(download(page)[1]) == kept).all()
    page.get_by_role("button", name="Link, saved face, animation and mark").click()
    saved = tmp_path / "anna.safetensors"
    saved.write_bytes(download(page, "#save-face")[1])
    assert (InvertedFace.load(saved).protected == mask).all()
    choose(page, "Precise")  # the face is found again
    wait_until(page, lambda: editor.last("invert") == ("precise", 0))
    slider(page, "smile").press("End")
    expect_picture(page, editor.synthesize(editor.edit(code, {"smile": 1}), face=face.protect(mask)))

    page.get_by_role("button", name="Protect").click()
    paint(page, (0.8, 0.8), (0.9, 0.8))
    wait_until(page, lambda: protected(page)[200].any())
    page.keyboard.press("Control+z")  # of the strokes, while there are some
    wait_until(page, lambda: not protected(page)[200].any())
    assert (protected(page) == mask).all()
    page.get_by_role("button", name="Erase").click()
    paint(page, (0.2, 0.3), (0.5, 0.3))
    wait_until(page, lambda: protected(page) is None)
    page.locator("#stage .brush-back").click()
    wait_until(page, lambda: protected(page) is not None)
    page.locator("#stage .brush-clear").click()
    wait_until(page, lambda: protected(page) is None)
    page.keyboard.press("Escape")
    expect(page.locator("#stage .stage-mask")).to_be_hidden()
    expect_picture(page, editor.synthesize(editor.edit(code, {"smile": 1})))

    page.set_input_files("input[type=file][accept='.safetensors']", saved)
    expect_edits(page, "A saved face")
    slider(page, "age").press("End")
    expect_picture(page, kept)


def test_each_face_keeps_its_own_and_keys_paint_too(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    open_photo(page, path)
    page.get_by_role("button", name="Protect").press("Enter")
    expect(page.locator("#stage .stage-mask")).to_be_focused()
    found = Axe().run(page).response["violations"]
    assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    for key in ("Space", "ArrowUp", "ArrowUp", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    wait_until(page, lambda: protected(page) is not None and len(set(np.nonzero(protected(page))[0])) > 40)
    mask = protected(page)
    assert mask[128, 128] and not mask[105, 128] and mask[94, 128] and not mask[128, 160]
    page.locator("#faces button.thumbnail-item").nth(1).click()
    expect_edits(page, "Move a slider")
    expect(page.locator("#stage .stage-mask")).to_be_hidden()
    expect(page.locator("#stage .protecting")).to_have_count(0)
    assert protected(page) is None
    page.locator("#faces button.thumbnail-item").nth(0).click()
    expect(page.locator("#stage .stage")).to_have_class("stage ready protectable protecting")
    page.get_by_role("button", name="Protect").click()
    shown = page.locator("#stage .stage-mask").evaluate(
        "(m) => [...m.getContext('2d').getImageData(0, 0, 256, 256).data].filter((_, i) => i % 4 === 3)"
    )
    assert ((np.array(shown).reshape(256, 256) > 127) == mask).all()
    choose(page, "In the photo")
    expect(page.locator("#stage .stage-brush")).to_be_hidden()
    expect(page.locator("#stage .stage-mask")).to_be_hidden()
    whole = editor.paste(
        editor.synthesize(
            editor.edit(editor.detect(path)[0].code, {"age": 80}), face=editor.detect(path)[0].protect(mask)
        ),
        editor.detect(path)[0],
        decoded(open(path, "rb").read()),
    )
    expect(page.locator(f"{STAGE} .stage-after")).to_have_attribute("src", data_url(whole))


def test_a_finger_paints_and_two_look_closely(cartoon, visit, tmp_path):
    page = visit(cartoon[0], **PHONE)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, *TWO))
    expect_edits(page, "Your photo")
    page.get_by_role("button", name="Protect").tap()
    for button in page.locator("#stage .brush-tools > *").all():
        expect(button).to_be_in_viewport(ratio=1)
        box = button.bounding_box()
        assert box["height"] >= 43.5 and box["width"] >= 43.5
    chrome, stage = page.context.new_cdp_session(page), page.locator(STAGE)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        chrome.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    for i in range(6):
        touch("touchMove" if i else "touchStart", at(stage, 0.5, 0.7 - 0.1 * i))
    touch("touchEnd")
    wait_until(page, lambda: protected(page) is not None)
    mask = protected(page)
    assert mask[60:170, 128].all() and page.evaluate("scrollY") == 0
    touch("touchStart", at(stage, 0.4, 0.5))
    for i in range(5):
        two = at(stage, 0.4 - 0.05 * i, 0.5), at(stage, 0.6 + 0.05 * i, 0.5)
        touch("touchMove" if i else "touchStart", *two)
    touch("touchEnd")
    expect_zoomed(page, True)
    assert closeness(page)[0] > 2
    assert (protected(page) == mask).all()
    page.get_by_role("button", name="Done").tap()
    expect(page.locator("#stage .brush-tools")).to_be_hidden()


def test_masks_of_strangers_are_checked():
    rng = np.random.default_rng(0)
    for mask in (rng.random((256, 256)) > 0.5, np.eye(256, dtype=bool)):
        assert (brush.from_text(brush.to_text(mask)) == mask).all()
        assert len(brush.to_text(mask)) < brush.LONGEST
    assert brush.from_text("") is None and brush.to_text(None) == ""
    bombs = [zlib.compress(bytes(n)) for n in (0, brush.BYTES - 1, brush.BYTES + 1, 2**24)]
    cut = base64.b64encode(zlib.compress(bytes(brush.BYTES))[:-1])
    for text in ("?", "AAAA", "ä", "A" * 2**17, cut.decode(), *(base64.b64encode(b).decode() for b in bombs)):
        with pytest.raises(InputError, match="paint it again"):
            brush.from_text(text)
    person = {"dystyle": 1, "photo": "x", "face": 0, "quality": "fast", "edits": {}}
    person |= {"history": [{}], "position": 0, "locked": [], "protected": "AAAA"}
    with pytest.raises(InputError, match="cannot be read"):
        Kept.from_json(json.dumps({"people": [person], "start": {}}))
