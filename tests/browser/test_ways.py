"""Ways in and out of the page: paste, drop, camera, presets, shortcuts, fingers."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, choose
from tests.browser.test_page import PHONE, expect_edits, expect_picture, photo_of_faces, slider
from webapp.callbacks import FIRST_SEED
from webapp.layout import EXAMPLES

HAND_OVER = """([kind, where, name, type, bytes]) => {
  const data = new DataTransfer(), file = new File([new Uint8Array(bytes)], name, { type });
  data.items.add(file);
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent("paste", { ...options, clipboardData: data })
    : new DragEvent(kind, { ...options, dataTransfer: data });
  document.querySelector(where).dispatchEvent(event);
}"""


def hand_over(
    page: Page, kind: str, where: str, contents: bytes, name: str = "a.png", mime: str = "image/png"
):
    page.evaluate(HAND_OVER, [kind, where, name, mime, list(contents)])


@pytest.mark.parametrize(
    ("kind", "where"), [("paste", "#about, body"), ("drop", "#stage"), ("drop", "#attributes")]
)
def test_a_photo_is_pasted_or_dropped_anywhere_also_in_place_of_another(
    cartoon, visit, tmp_path, kind, where
):
    url, editor = cartoon
    page = visit(url)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (100, 100, 200)))
    expect_edits(page, "Your photo")
    path = photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    with open(path, "rb") as file:
        hand_over(page, kind, where, file.read())
    expect(page.locator("#faces button.thumbnail-item")).to_have_count(2)
    expect_picture(page, editor.synthesize(editor.detect(path)[0].code))


def test_a_click_on_the_filled_box_chooses_another_photo(cartoon, visit, tmp_path):
    page = visit(cartoon[0])
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (100, 100, 200)))
    expect_edits(page, "Your photo")
    with page.expect_file_chooser() as chooser:
        page.locator("#photo img").click()
    chooser.value.set_files(photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200)))
    expect(page.locator("#faces button.thumbnail-item")).to_have_count(2)
    expect(page.locator("#attribute-age .lock label")).to_have_attribute("title", "Lock Age")


def test_what_the_browser_takes_for_no_picture_is_answered_by_us(cartoon, visit, tmp_path):
    page = visit(cartoon[0])
    page.set_input_files(
        "#photo input[type=file]", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Dear diary"}
    )
    expect(page.locator(".toast-body")).to_contain_text("'notes.txt' is not a picture")
    expect_edits(page, f"Random person {FIRST_SEED}")
    buffer = io.BytesIO()  # a photo whose type the browser does not know is one all the same
    Image.fromarray(np.full((300, 300, 3), (230, 20, 20), np.uint8)).save(buffer, "PNG")
    hand_over(page, "drop", "#stage", buffer.getvalue(), "photo.unknown", "")
    expect_edits(page, "Your photo")


def test_a_camera_that_is_denied_gives_a_sentence_and_the_way_back(cartoon, browser, tmp_path):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(cartoon[0])
    page.locator("#stage .stage.ready").wait_for()
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    expect(page.locator(".toast-body").first).to_contain_text("There is no camera that this page may use")
    expect(page.get_by_text("or click to choose")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("or click to choose").click()
    chooser.value.set_files(photo_of_faces(tmp_path, (100, 100, 200)))
    expect_edits(page, "Your photo")
    context.close()


def test_presets_go_on_from_the_face_as_it_is(cartoon, visit):
    page = visit(cartoon[0])
    mouth = slider(page, "mouth_open").input_value()
    page.get_by_role("button", name="Serious").click()
    expect_edits(page, "Open mouth")
    expect(slider(page, "mouth_open")).to_have_value("0")
    page.get_by_role("button", name="Smile", exact=True).click()
    expect(slider(page, "mouth_open")).to_have_value(mouth)  # no longer held shut
    expect_edits(page, "→ 1")
    expect(page.locator("#caption")).not_to_contain_text("Open mouth")
    slider(page, "mouth_open").press("End")
    expect_edits(page, "Open mouth")
    page.get_by_role("button", name="Smile", exact=True).click()
    expect(slider(page, "mouth_open")).to_have_value("100")  # a mouth that was opened stays so


def test_presets_go_as_much_of_their_way_as_is_wanted(cartoon, visit):
    page = visit(cartoon[0])
    choose(page, "50 %")
    page.get_by_role("button", name="10 years older").click()
    expect_edits(page, "Age 32 → 37")
    page.get_by_role("button", name="Look right").click()
    expect_edits(page, "Turn -4 → 11")  # half of the way to 25, on the slider's steps
    choose(page, "100 %")
    page.get_by_role("button", name="Look right").click()
    expect_edits(page, "Turn -4 → 25")


def test_an_edit_is_kept_as_a_preset_of_ones_own(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    keep, own = page.locator(".own-add"), page.locator(".own-list button")
    expect(keep).to_be_hidden()  # nothing is edited
    expect(page.locator(".own-name")).to_be_hidden()
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    slider(page, "smile").press("End")
    expect_edits(page, "→ 1")
    keep.click()
    page.keyboard.type("Happy <b>granny")
    page.keyboard.press("Enter")
    expect(own.first).to_have_text("Happy <b>granny")
    expect(keep).to_be_focused()
    page.locator("#random").click()
    expect(page.locator("#caption")).to_contain_text("Move a slider")
    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    page.get_by_label("Lock Smile").check()
    expect(slider(page, "smile")).to_be_disabled()
    choose(page, "50 %")
    half = (float(slider(page, "age").input_value()) + 80) / 2
    own.first.click()
    expect(page.locator("#attribute-age input[type=number]")).to_have_value(str(int(half + 0.5)))
    expect(page.locator("#caption")).to_contain_text("Age")
    expect(page.locator("#caption")).not_to_contain_text("Smile")
    page.get_by_role("button", name="Remove Happy").click()
    expect(own).to_have_count(0)


def test_shortcuts_and_their_sheet(cartoon, visit, tmp_path):
    page = visit(cartoon[0])
    page.set_input_files(
        "#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    )
    expect_edits(page, "Your photo")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    page.keyboard.press("b")
    expect(page.locator(".stage-before")).to_be_visible()
    page.keyboard.press("r")
    expect_edits(page, "Move a slider")
    page.keyboard.press("Control+z")
    expect_edits(page, "→ 80")
    page.keyboard.press("Control+Shift+z")
    expect_edits(page, "Move a slider")
    page.keyboard.press("n")
    expect(page.locator("#faces button.thumbnail-item").nth(1)).to_have_class(re.compile("selected"))
    expect(page.locator("#caption")).to_contain_text("Move a slider")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    expect(page.locator("#shortcuts dd")).to_contain_text(["Undo", "Paint with the brush", "Shortcuts"])
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.locator("#help").click()
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.locator("#seed input").press("b")  # typing is typing
    expect(page.locator(".stage-before")).to_be_visible()


def touch(page: Page, *points: tuple[float, float]) -> None:
    """A finger that goes from the first point to the last."""
    chrome = page.context.new_cdp_session(page)
    steps = [("touchStart", points[0]), *(("touchMove", point) for point in points[1:])]
    for kind, (x, y) in steps:
        chrome.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        page.wait_for_timeout(16)
    chrome.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_fingers_scroll_over_sliders_and_move_them_by_their_thumbs(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url, **PHONE)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300)))
    expect_edits(page, "Your photo")
    box, toolbar = slider(page, "yaw").bounding_box(), page.locator("#toolbar").bounding_box()
    assert box["y"] + box["height"] <= toolbar["y"]  # in view, and nothing lies over it
    for button in ("#undo", "#download"):
        expect(page.locator(button)).to_be_in_viewport(ratio=1)
    y = box["y"] + box["height"] / 2
    for share in (0.2, 0.45, 0.9):
        x = box["x"] + share * box["width"]
        touch(page, *((x, y - 15 * i) for i in range(10)))
        page.wait_for_timeout(200)
        assert page.evaluate("scrollY") > 50
        expect(slider(page, "yaw")).to_have_value("-4")
        page.evaluate("scrollTo(0, 0)")
    expect_edits(page, "Move a slider")
    x = box["x"] + 15 + (box["width"] - 30) * (40 - 4) / 80
    touch(page, *((x + 20 * i, y) for i in range(6)))
    expect(page.locator("#caption")).to_contain_text("Turn -4 →")
    assert float(slider(page, "yaw").input_value()) > 10


def test_on_a_phone_targets_are_large_enough_for_fingers(cartoon, visit, tmp_path):
    page = visit(cartoon[0], **PHONE)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300)))
    expect_edits(page, "Your photo")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    for tab, here in (("Edit", "#view"), ("Mix", "#mix-stage .stage.ready"), ("Compare", "#compared b")):
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(here)).to_be_visible()
        assert not small_targets(page), tab


def small_targets(page: Page) -> list[str]:
    targets = "button, a[href], .segments label, .lock input, label:has([type=checkbox])"
    return page.evaluate(
        """(targets) => [...document.querySelectorAll(targets)]
      .filter((e) => e.checkVisibility() && !e.closest("footer, [aria-hidden=true]"))
      .map((e) => [e.id || e.className || e.textContent, e.getBoundingClientRect()])
      .filter(([, box]) => box.width > 1 && box.height > 1 && (box.width < 43.5 || box.height < 43.5))
      .map(([what, box]) => `${what} ${box.width} x ${box.height}`)""",
        targets,
    )


def test_a_photo_its_edits_and_its_views_move_nothing_else(cartoon, visit, tmp_path):
    page = visit(cartoon[0])
    expect_edits(page, "Move a slider")

    def places() -> dict[str, dict]:
        ids = ("stage", "caption", "history", "undo", "download", "attributes", "attribute-age", "preset-0")
        return {name: page.locator(f"#{name}").bounding_box() for name in ids}

    first = places()
    page.set_input_files(
        "#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    )
    expect_edits(page, "Your photo")
    assert places() == first
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    expect(page.locator("#readout")).to_contain_text("Age")
    assert places() == first
    choose(page, "In the photo")
    expect(page.locator(".stage-faces button")).to_have_count(2)
    assert places() == first


def test_an_example_is_opened_with_its_edit_by_one_click(cartoon, visit, monkeypatch):
    url, editor = cartoon
    face = editor._face(3, 0, 0, 400, 400)
    monkeypatch.setattr(editor, "detect", lambda photo: [face])  # who sees nobody on a photograph
    page = visit(url)
    examples = page.locator("#examples .gallery-item")
    expect(examples).to_have_count(len(EXAMPLES))
    assert {file.stem for file in (ROOT / "webapp" / "examples").glob("*.jpg")} == EXAMPLES.keys()
    page.get_by_label(re.compile("25 years on")).click()
    expect_edits(page, "Your photo Age 32 → 57")
    expect_picture(page, editor.synthesize(editor.edit(face.code, {"age": 57})))
    page.locator("#undo").click()
    expect_edits(page, "Move a slider")
    page.get_by_label(re.compile("Turned")).click()
    expect_edits(page, "Your photo Turn -4 → 20")
    page.get_by_label(re.compile("Bearded")).click()  # of which this editor knows nothing
    expect_edits(page, "Your photo Move a slider")
