"""The page's behaviour, with a cartoon editor behind it: fast, and every picture is known exactly."""

import asyncio
import base64
import functools
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, unquote

import av
import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client, handle_file
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from dystyle.editors import METHODS
from dystyle.errors import InputError
from dystyle.pictures import load_image
from tests.browser.conftest import choose, free_port, wait_until
from tests.browser.fake_editor import FakeEditor
from webapp import LAUNCH_OPTIONS, build_page
from webapp.callbacks import FIRST_SEED, FRAMES
from webapp.compare import OPEN, PIXELS, WAITING, Comparer
from webapp.language import LANGUAGES
from webapp.layout import SECOND_SEED
from webapp.stage import data_url
from webapp.visit import Visit

AFTER = ".stage-after"


def expect_picture(page: Page, expected: np.ndarray) -> None:
    """Wait for the page to show a picture: it is decoded first, so it can come a moment after its caption."""
    expect(page.locator(AFTER)).to_have_attribute("src", data_url(expected))


def slider(page: Page, name: str) -> Locator:
    return page.locator(f"#attribute-{name} input[type=range]")


def expect_width(page: Page, width: int) -> None:
    page.wait_for_function(f"document.querySelector('{AFTER}').naturalWidth === {width}")


def expect_edits(page: Page, text: str) -> None:
    expect(page.locator("#caption")).to_contain_text(text)


def download(page: Page, button: str = "#download") -> tuple[str, bytes]:
    """The name and contents of what a button saves."""
    with page.expect_download() as event:
        page.locator(button).click()
    return event.value.suggested_filename, Path(event.value.path()).read_bytes()


def decoded(contents: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(contents)))


def photo_of_faces(folder, *boxes) -> str:
    """A photo on which the cartoon editor sees a face in each box (x, y, size), the largest first."""
    photo = np.full((900, 1200, 3), 180, np.uint8)
    for x, y, size in boxes:
        photo[y : y + size, x : x + size] = (230, 20, 20)
    path = folder / "faces.png"
    Image.fromarray(photo).save(path)
    return str(path)


def test_only_moved_sliders_are_edited_and_reset_brings_the_start_back(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    expect(page.locator("#attributes input[type=range]")).to_have_count(len(editor.attributes))
    for name, row in editor.attributes.items():
        assert page.locator(f"#attribute-{name}").inner_text().startswith(row.label)
    code = editor.sample(FIRST_SEED)
    expect_picture(page, editor.synthesize(code))
    expect(slider(page, "age")).to_have_value("32")  # measured: 31.7
    expect(page.locator("#reset-all")).to_be_disabled()

    slider(page, "age").press("End")
    expect_edits(page, "Age 32 → 80")
    slider(page, "smile").press("Home")
    expect_edits(page, "→ 0")
    expect_picture(page, editor.synthesize(editor.edit(code, {"age": 80, "smile": 0})))
    expect(page.locator(".reset:enabled")).to_have_count(2)

    page.locator("#attribute-age .reset").click()
    expect(slider(page, "age")).to_have_value("32")
    expect(page.locator(".reset:enabled")).to_have_count(1)
    page.locator("#reset-all").click()
    expect_edits(page, "Move a slider")
    expect_picture(page, editor.synthesize(code))


def test_the_picture_follows_a_dragged_slider_and_is_full_size_after_it(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    expect_width(page, 1024)
    box = slider(page, "yaw").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2, steps=5)
    expect_width(page, 256)
    page.mouse.up()
    expect_width(page, 1024)
    yaw = float(slider(page, "yaw").input_value())
    assert yaw > 20
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"yaw": yaw})))


def test_a_slider_dragged_to_where_it_has_been_before_is_followed_again(cartoon, visit):
    url, editor = cartoon
    page, code = visit(url), editor.sample(FIRST_SEED)
    drag = "(slider) => { slider.value = 80; slider.dispatchEvent(new Event('input', { bubbles: true })); }"
    slider(page, "age").evaluate(drag)
    expect_width(page, 256)
    slider(page, "age").dispatch_event("pointerup")
    expect_edits(page, "Age 32 → 80")
    page.locator("#attribute-age .reset").click()
    expect_picture(page, editor.synthesize(code))
    slider(page, "age").evaluate(drag)  # its sketch is the one before, bit for bit
    expect_picture(page, editor.synthesize(editor.edit(code, {"age": 80})))


def test_typed_number_counts_from_enter_on(cartoon, visit):
    page = visit(cartoon[0])
    number = page.locator("#attribute-age input[type=number]")
    number.fill("61")
    number.press("Enter")
    expect_edits(page, "Age 32 → 61")
    expect(number).to_be_focused()


def test_a_share_is_shown_in_percent(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    expect(page.locator("#attribute-smile label").first).to_contain_text("Smile (%)")
    number = page.locator("#attribute-smile input[type=number]")
    number.fill("55")
    number.press("Enter")
    expect_edits(page, "Smile 40 % → 55 %")
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"smile": 0.55})))
    expect(page.locator("#readout")).to_contain_text(re.compile(r"The picture reads: Smile \d+\s%"))
    expect(page.locator("#attribute-smile .reset")).to_have_text("↺ 40 %")
    number.fill("180")
    number.press("Enter")
    expect(page.locator(".toast-body")).to_contain_text("Smile 0 % – 100 %")
    expect_edits(page, "Smile 40 % → 100 %")
    expect(number).to_have_value("100")
    page.get_by_role("button", name="Serious").click()
    expect_edits(page, "Smile 40 % → 0 %")
    page.locator("#attribute-smile .reset").click()
    expect(number).to_have_value("40")


def test_presets_undo_redo_history_and_locks(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    code = editor.sample(FIRST_SEED)
    page.get_by_role("button", name="10 years older").click()
    expect_edits(page, "Age 32 → 42")
    page.get_by_role("button", name="Look right").click()
    expect_edits(page, "Turn -4 → 25")
    expect(page.locator("#history button")).to_have_count(3)
    page.keyboard.press("Control+z")
    expect(page.locator("#caption")).not_to_contain_text("Turn")
    expect(slider(page, "yaw")).to_have_value("-4")
    expect_picture(page, editor.synthesize(editor.edit(code, {"age": 42})))
    page.locator("#redo").click()
    expect_edits(page, "Turn -4 → 25")
    page.locator("#history button").first.click()
    expect_edits(page, "Move a slider")
    expect(page.locator("#undo")).to_be_disabled()

    page.get_by_label("Lock Age").check()
    expect(slider(page, "age")).to_be_disabled()
    page.get_by_role("button", name="10 years older").click()
    page.get_by_role("button", name="Smile", exact=True).click()
    expect_edits(page, "Smile 40 %")
    assert editor.last("edit") == {"age": 32, "smile": 1}  # held where it is
    expect(page.locator("#caption")).not_to_contain_text("Age")
    expect(page.locator("#history button")).to_have_count(2)  # what had been undone is forgotten


def test_two_edits_are_compared_by_pinning_one(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    page.locator("#pin").click()
    pinned = data_url(editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"age": 80})))
    expect(page.locator(".stage-before")).to_have_attribute("src", pinned)
    slider(page, "yaw").press("Home")
    expect_edits(page, "→ -40")
    expect(page.locator(".stage-before")).to_have_attribute("src", pinned)
    expect(page.locator(".stage-tag.left")).to_have_text("Pinned edit")


def test_a_link_restores_an_edit_of_a_person_and_of_a_photo(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url + "/#edit=" + quote('{"dystyle": 1, "seed": 5, "edits": {"age": 70}}'))
    expect_edits(page, "Random person 5 Age 32 → 70")

    path = photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    page.locator("#faces button.thumbnail-item").nth(1).click()
    expect_picture(page, editor.synthesize(editor.detect(path)[1].code))
    slider(page, "smile").press("Home")
    expect_edits(page, "→ 0")
    page.get_by_role("button", name="Link, saved face, animation and mark").click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator(".toast-body")).to_contain_text("Copied.")
    edit = unquote(page.evaluate("navigator.clipboard.readText()").partition("#edit=")[2])
    assert edit == page.locator("#recipe textarea").input_value()
    assert json.loads(edit)["edits"] == {"smile": 0} and json.loads(edit)["face"] == 1

    other = visit(url + "/#edit=" + quote(edit))
    expect(other.locator(".toast-body")).to_contain_text("choose that photo")
    other.set_input_files("#photo input[type=file]", path)
    expect_edits(other, "Your photo Smile")
    code = editor.detect(path)[1].code
    expect_picture(other, editor.synthesize(editor.edit(code, {"smile": 0})))

    page.locator("#recipe textarea").fill("{}")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".toast-body.warning")).to_contain_text("not an edit of this page")


def test_a_face_is_saved_and_opened_again(cartoon, visit, tmp_path):
    url, editor = cartoon
    path, saved = photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200)), tmp_path / "anna.safetensors"
    page, other = visit(url), visit(url)
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    page.locator("#faces button.thumbnail-item").nth(1).click()
    code = editor.detect(path)[1].code
    expect_picture(page, editor.synthesize(code))
    for each in (page, other):
        each.get_by_role("button", name="Link, saved face, animation and mark").click()
    page.get_by_label("with the photo").check()
    name, contents = download(page, "#save-face")
    assert name == "face.safetensors" and Path(path).read_bytes() in contents
    saved.write_bytes(contents)
    editor.calls.clear()
    with other.expect_file_chooser() as chooser:
        other.locator("#saved-face").click()
    chooser.value.set_files(saved)
    expect_edits(other, "Your photo")
    expect_picture(other, editor.synthesize(code))
    slider(other, "age").press("End")
    expect_edits(other, "Your photo Age 32 → 80")
    choose(other, "In the photo")
    expect_width(other, 1200)
    assert "invert" not in dict(editor.calls)
    # The edit goes by the photo that the face was found in, and by which face of it.
    assert json.loads(other.locator("#recipe textarea").input_value())["face"] == 1
    drop = """(contents) => {
      const files = new DataTransfer();
      files.items.add(new File([contents], "anna.safetensors"));
      const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
      document.querySelector("#photo button").dispatchEvent(event);
    }"""
    other.evaluate(drop, "Dear diary")
    expect(other.locator(".toast-body")).to_contain_text("'anna.safetensors' is not a face's file")
    expect_edits(other, "Your photo Age 32 → 80")
    page.locator("#random").click()
    expect_edits(page, "Random person")
    page.locator("#save-face").click()
    expect(page.locator(".toast-body")).to_contain_text("There is no photo on the page")


@pytest.mark.parametrize("kind", ["MP4", "GIF"])
def test_animation_runs_from_the_unedited_to_the_edited_face_and_back(cartoon, visit, tmp_path, kind):
    page = visit(cartoon[0])
    slider(page, "yaw").press("End")
    expect_edits(page, "→ 40")
    page.get_by_role("button", name="Link, saved face, animation and mark").click()
    choose(page, kind)
    page.locator("#animate").click()
    expect(page.locator("#film [data-name]")).to_be_visible()  # it is looked at before it is saved
    name, contents = download(page, "#save-film")
    assert name == f"person-12_yaw+40.{kind.lower()}" and b"A person generated by AI" in contents
    with av.open(io.BytesIO(contents)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 2 * (FRAMES - 1)
    middle = np.abs(frames[FRAMES - 1] - frames[0]).mean()
    assert middle > 2 * np.abs(frames[1] - frames[0]).mean()
    assert np.abs(frames[FRAMES] - frames[FRAMES - 2]).mean() < middle / 4  # back the way it came


def test_how_it_works_draws_the_attention_of_the_edit_on_the_page(cartoon, visit):
    page = visit(cartoon[0])
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    slider(page, "smile").press("End")
    expect_edits(page, "→ 1")
    page.get_by_role("tab", name="How it works").click()
    expect(page.locator(".experts .lit")).to_have_text(["Age", "Smile"])
    assert page.locator("svg.attention rect").count() == 2 * 2 + 2 * 11
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_text("What it must not be used for")).to_be_visible()


def test_presets_pressed_in_quick_succession_all_apply(cartoon, visit, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    edit, busy, free = editor.edit, threading.Event(), threading.Event()

    def slow(*args, **more):
        busy.set()
        free.wait(30)
        return edit(*args, **more)

    monkeypatch.setattr(editor, "edit", slow)
    page.locator("#preset-0").click()
    busy.wait(30)  # the first one is being drawn
    page.locator("#preset-0").click()
    page.locator("#preset-5").click()
    expect(slider(page, "age")).to_have_value("52")  # the sliders do not wait for the drawing
    free.set()
    expect_edits(page, "Age 32 → 52")
    expect_edits(page, "Turn -4 → 25")
    expect_picture(page, editor.synthesize(edit(editor.sample(FIRST_SEED), {"age": 52, "yaw": 25})))


def open_mixture(page: Page) -> None:
    page.get_by_role("tab", name="Mix", exact=True).click()
    expect(page.locator("#mix-stage .stage.ready")).to_be_visible()


def test_a_preset_counts_although_a_typed_number_is_still_being_corrected(cartoon, visit, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    synthesize, drawing, free = editor.synthesize, threading.Event(), threading.Event()

    def slow(*args, **more):
        drawing.set()
        free.wait(30)
        return synthesize(*args, **more)

    number = page.locator("#attribute-age input[type=number]")
    monkeypatch.setattr(editor, "synthesize", slow)
    for typed, start, older in (("3", 32, 15), ("", 32, 25)):
        free.clear()
        drawing.clear()
        number.fill(typed)
        number.press("Enter")
        if typed:
            wait_until(page, drawing.is_set)
        page.get_by_role("button", name="10 years older").click()
        expect(number).to_have_value(str(older))
        free.set()
        expect_edits(page, f"Age {start} → {older}")
        expect(number).to_have_value(str(older))
        page.get_by_role("button", name="Look right").click()
        expect_edits(page, "Turn -4 → 25")
        expect_edits(page, f"Age {start} → {older}")
        expect(number).to_have_value(str(older))


def test_faces_are_mixed_truncated_and_stripped_of_noise(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    open_mixture(page)
    after = page.locator("#mix-stage .stage-after")
    first = editor.edit(editor.sample(FIRST_SEED), {"age": 80})

    def expect_mixture(seed: int, row: int, truncation: float = 1.0, off: int = 0) -> np.ndarray:
        code = editor.truncate(editor.mix(first, editor.sample(seed), row), truncation)
        expected = editor.synthesize(code, noise=dict.fromkeys(editor.noise_layers[:off], 0))
        expect(after).to_have_attribute("src", data_url(expected))
        return expected

    expect_mixture(SECOND_SEED, 8)
    page.locator("#other input").fill("11")
    page.locator("#other input").press("Enter")
    expect(page.locator(".parents figcaption")).to_have_text(["Random person 12", "Random person 11"])
    page.locator("#mix-row input[type=range]").press("Home")
    expect_mixture(11, 0)
    page.locator("#mix-row input[type=range]").press("ArrowRight")
    expect_mixture(11, 1)  # age and pose are the first face's, the colours the second's
    page.get_by_role("button", name="Details").click()
    page.locator("#truncation input[type=range]").hover()  # it has come to rest, see `choose`
    page.locator("#truncation input[type=range]").press("ArrowLeft")
    expect_mixture(11, 1, 0.95)
    page.get_by_label("4", exact=True).uncheck()
    expect_mixture(11, 1, 0.95, off=1)
    page.locator("#noise-switch").click()
    expect_mixture(11, 1, 0.95)
    page.locator("#noise-switch").click()
    expected = expect_mixture(11, 1, 0.95, off=3)
    name, contents = download(page, "#mix-download")
    assert name == "dystyle-mix.png" and np.array_equal(decoded(contents), expected)
    assert b"age = 80, mixed with random person 11 from row 1 on, truncation = 0.95" in contents
    page.locator("#other-random").click()
    expect(page.locator(".parents figcaption").last).not_to_have_text("Random person 11")


def test_a_face_is_mixed_with_that_of_a_second_photo(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url)
    open_mixture(page)
    after, names = page.locator("#mix-stage .stage-after"), page.locator(".parents figcaption")
    path = photo_of_faces(tmp_path, (300, 200, 300))
    page.set_input_files("#mix-controls input[type=file]", path)
    expect(names).to_have_text(["Random person 12", "Your second photo"])
    mixed = editor.mix(editor.sample(FIRST_SEED), editor.detect(path)[0].code, 8)
    expected = editor.synthesize(mixed)
    expect(after).to_have_attribute("src", data_url(expected))
    _, contents = download(page, "#mix-download")
    assert np.array_equal(decoded(contents), expected)
    assert b"mixed with the face of another photo from row 8 on" in contents

    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    open_mixture(page)
    expect(names).to_have_text(["Random person 12", "Your second photo"])
    expect(after).to_have_attribute("src", data_url(expected))
    page.locator("#other-random").click()
    expect(names.last).to_contain_text("Random person")
    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    open_mixture(page)
    expect(names).to_have_text(["Random person 12", f"Random person {SECOND_SEED}"])
    page.set_input_files("#mix-controls input[type=file]", path)
    expect(names.last).to_have_text("Your second photo")

    (tmp_path / "notes.jpg").write_text("Dear diary")
    page.set_input_files("#mix-controls input[type=file]", tmp_path / "notes.jpg")
    expect(page.locator(".toast-body")).to_contain_text("is not a picture")
    expect(names).to_have_text(["Random person 12", "Your second photo"])
    page.reload()  # the good one is still what the browser keeps
    page.locator("#stage .stage.ready").wait_for()
    open_mixture(page)
    expect(names).to_have_text(["Random person 12", "Your second photo"])
    expect(after).to_have_attribute("src", data_url(expected))
    page.locator("#mix-edit").click()  # and the mixture is edited like any face
    expect_edits(page, "A saved face Move a slider")
    picture = page.locator("#stage .stage-after")
    expect(picture).to_have_attribute("src", data_url(expected))
    slider(page, "age").press("End")
    expect_edits(page, "A saved face Age 32 → 80")
    expect(picture).to_have_attribute("src", data_url(editor.synthesize(editor.edit(mixed, {"age": 80}))))
    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    expect_edits(page, "A saved face Age 32 → 80")


def open_comparison(page: Page) -> None:
    page.get_by_role("tab", name="Compare", exact=True).click()
    expect(page.locator("#compared b")).to_be_visible()


def test_methods_are_compared_on_the_edit_of_the_page(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    slider(page, "yaw").press("End")
    expect_edits(page, "→ 40")
    open_comparison(page)
    expect(page.locator("#compared")).to_contain_text("Turn -4 → 40")
    page.get_by_label("GANSpace").uncheck()
    page.get_by_label("StyleSpace").press("Space")
    page.locator("#compare-start").click()
    cards = page.locator(".compared li")
    expect(cards.locator("img")).to_have_count(4)
    expect(cards.locator("h3")).to_have_text(
        ["Unedited", "DyStyle", METHODS["interfacegan"].title, "StyleSpace"]
    )
    code = editor.sample(FIRST_SEED)
    codes = [code]
    for name in ("dystyle", "interfacegan", "stylespace"):
        codes.append(editor.with_method(name).edit(code, {"yaw": 40}, lambda *a: None))
    for card, edited in zip(cards.all(), codes, strict=True):
        picture = cv2.resize(editor.synthesize(edited), (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)
        assert card.locator("img").get_attribute("src") == data_url(picture)
    expect(cards.nth(1)).to_contain_text("Turn → 40")
    expect(cards.nth(1).get_by_role("img", name="not reached")).to_be_visible()  # the cartoon reads -4.2
    expect(page.locator("#compare-cancel")).to_be_hidden()


def test_a_comparison_starts_with_an_edit_of_its_own_and_can_be_cancelled(cartoon, visit, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    open_comparison(page)
    expect(page.locator("#compared")).to_contain_text("Age 32 → 42")  # nothing was edited
    with_method = editor.with_method

    def endless(method):
        other = with_method(method)

        def edit(code, configuration, progress, face=None):
            while True:
                progress(0.5, "Looking for the strength")
                threading.Event().wait(0.02)

        other.edit = other.edit if method == "dystyle" else edit
        return other

    monkeypatch.setattr(Comparer, "_method", lambda self, name: endless(name))
    page.locator("#compare-start").click()
    expect(page.locator(".compared img")).to_have_count(2)
    page.locator("#compare-cancel").click()
    expect(page.locator(".toast-body")).to_contain_text("Cancelled")
    expect(page.locator(".compared img")).to_have_count(2)
    monkeypatch.undo()
    page.get_by_label("DyStyle", exact=True).uncheck()
    page.get_by_label("GANSpace").uncheck()
    page.locator("#compare-start").click()
    expect(page.locator(".toast-body").last).to_contain_text("two methods or more")


def test_one_method_of_one_visitor_runs_at_a_time_and_few_wait(cartoon):
    _, editor = cartoon
    comparer, seen = Comparer(editor), Visit.of_seed(editor, 3)
    waited, running, most = threading.Event(), [], []

    def progress(fraction: float, message: str) -> None:
        if message.startswith("Waiting"):
            return waited.set()
        running.append(message)
        most.append(len(running))
        waited.wait()
        running.pop()

    ask = functools.partial(comparer.edit, "interfacegan", seen, {"age": 60}, progress)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) == 4
    with ExitStack() as places:
        for _ in range(WAITING + 1):
            places.enter_context(comparer.place())
        with pytest.raises(InputError, match="Several visitors"), comparer.place():
            pass
    with comparer.place():
        pass


def test_few_methods_stay_open(cartoon):
    _, editor = cartoon
    comparer, seen = Comparer(editor), Visit.of_seed(editor, 3)
    for name in METHODS:
        comparer.edit(name, seen, {"age": 60}, lambda *a: None)
    assert list(comparer._opened) == list(METHODS)[-OPEN:]


def test_inversion_can_be_cancelled(cartoon, visit, tmp_path, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    first = page.locator(AFTER).get_attribute("src")

    def endless(photo, refine="fast", index=0, progress=None):
        while True:
            progress(0.5, "Refining the face")
            threading.Event().wait(0.02)

    monkeypatch.setattr(editor, "invert", endless)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (100, 100, 400)))
    page.locator("#cancel").click()
    expect(page.locator(".toast-body")).to_contain_text("Cancelled")
    expect(page.locator("#photo img")).to_have_count(0)
    expect(page.locator(AFTER)).to_have_attribute("src", first)


def test_random_people_come_back_by_their_number(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    first = page.locator(AFTER).get_attribute("src")
    page.locator("#random").click()
    expect(page.locator(AFTER)).not_to_have_attribute("src", first)
    page.locator("#seed input").fill("11")
    page.locator("#seed input").press("Enter")
    expect_edits(page, "Random person 11")
    expect_picture(page, editor.synthesize(editor.sample(11)))


def test_download_holds_the_edited_portrait_exactly(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    slider(page, "pitch").press("Home")
    expect_edits(page, "→ -25")
    expected = editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"pitch": -25}))
    name, contents = download(page)
    assert name == "person-12_pitch-25.png" and np.array_equal(decoded(contents), expected)
    assert b"trainedAlgorithmicMedia" in contents and b"pitch = -25" in contents
    for label, kind in (("JPEG", "JPEG"), ("WebP", "WEBP")):
        choose(page, label)
        image = Image.open(io.BytesIO(download(page)[1]))
        assert image.format == kind and np.abs(np.asarray(image).astype(int) - expected).mean() < 3


def test_photo_with_two_faces_is_edited_where_it_was_clicked(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url)
    path = photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    expect(page.locator("#faces button.thumbnail-item")).to_have_count(2)
    smaller = editor.detect(path)[1]
    page.locator("#faces button.thumbnail-item").nth(1).click()
    expect_picture(page, editor.synthesize(smaller.code))
    slider(page, "mouth_open").press("End")
    expect_edits(page, "→ 1")
    choose(page, "In the photo")
    expect_width(page, 1200)
    portrait = editor.synthesize(editor.edit(smaller.code, {"mouth_open": 1}))
    assert np.array_equal(decoded(download(page)[1]), editor.paste(portrait, smaller, load_image(path)))

    slider(page, "mouth_open").press("Home")  # the photo follows, too
    expect_edits(page, "→ 0")
    choose(page, "Balanced")  # fits again and keeps the edit
    expect_edits(page, "→ 0")
    wait_until(page, lambda: editor.last("invert") == ("balanced", 1))


def test_comparing_shows_the_unedited_portrait(cartoon, visit):
    url, _ = cartoon
    page = visit(url)
    expect(page.locator(".stage-before")).to_be_hidden()
    page.locator(".stage-compare").click()
    expect(page.locator(".stage-before")).to_be_visible()
    page.locator(".stage-split").press("ArrowRight")
    assert page.locator(".stage").evaluate("e => e.style.getPropertyValue('--split')") == "50.1%"


@pytest.mark.parametrize("kind", ["text", "empty", "huge", "faceless"])
def test_unusable_pictures_are_refused_in_one_sentence_and_nothing_changes(cartoon, visit, tmp_path, kind):
    url, editor = cartoon
    path = tmp_path / "holiday.jpg"
    if kind == "text":
        path.write_text("Dear diary")
    elif kind == "empty":
        path.touch()
    else:
        Image.new("L", (20_000, 100) if kind == "huge" else (300, 300), 99).save(path)
    with pytest.raises(InputError) as refusal:
        editor.invert(path)
    page = visit(url)
    slider(page, "age").press("Home")
    expect_edits(page, "Age 32 → 5")
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"age": 5})))
    shown = page.locator(AFTER).get_attribute("src")

    page.set_input_files("#photo input[type=file]", str(path))
    sentence = str(refusal.value).replace(str(path), path.name)
    expect(page.locator(".toast-body")).to_contain_text(sentence)
    expect(page.locator("#photo img")).to_have_count(0)
    expect(slider(page, "age")).to_have_value("5")
    expect(page.locator(AFTER)).to_have_attribute("src", shown)
    slider(page, "age").press("End")
    expect_edits(page, "Age 32 → 80")


def test_failing_engine_gives_a_message_and_a_working_page(cartoon, visit, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    monkeypatch.setattr(editor, "broken", True)
    slider(page, "age").press("End")
    expect(page.locator(".toast-body").first).to_contain_text("please try again")
    monkeypatch.undo()
    slider(page, "smile").press("End")
    expect_edits(page, "Age 32 → 80")


def test_pictures_follow_where_the_browser_never_decodes_them(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    page.evaluate("() => { HTMLImageElement.prototype.decode = () => new Promise(() => {}); }")
    slider(page, "age").press("End")
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"age": 80})))


def test_visitors_edit_people_of_their_own(cartoon, visit, tmp_path):
    url, editor = cartoon
    one, other = visit(url), visit(url)
    path = photo_of_faces(tmp_path, (100, 100, 400))
    one.set_input_files("#photo input[type=file]", path)
    expect_edits(one, "Your photo")
    slider(other, "age").press("End")
    expect_edits(other, f"Random person {FIRST_SEED} Age 32 → 80")
    slider(one, "age").press("Home")
    expect_edits(one, "Your photo Age 32 → 5")
    code = editor.detect(path)[0].code
    expect_picture(one, editor.synthesize(editor.edit(code, {"age": 5})))


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_layout_fits_its_screen(cartoon, visit, scheme):
    url, _ = cartoon
    page = visit(url, **PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator("#toolbar button:not(#undo, #redo)").all():
        assert button.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), button.inner_text()
    for button in page.locator("#undo, #redo").all():  # of which the sign is shown, and all of it
        whole = button.evaluate("""e => {
          const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), sign = new Range();
          while (!walker.nextNode().data.trim());
          const text = walker.currentNode, start = text.data.search(/\\S/);
          sign.setStart(text, start), sign.setEnd(text, start + 1);
          const [inner, outer] = [sign.getBoundingClientRect(), e.getBoundingClientRect()];
          return inner.width > 0 && outer.left < inner.left && inner.right < outer.right; }""")
        assert whole, button.inner_text()
    small = page.evaluate("""() => [...document.querySelectorAll("#tabs *")]
      .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
      .filter((e) => parseFloat(getComputedStyle(e).fontSize) < 12).map((e) => e.textContent)""")
    assert not small
    slider(page, "gender").scroll_into_view_if_needed()
    expect(page.locator(".stage")).to_be_in_viewport(ratio=0.9)  # the face stays in sight of the sliders


def test_the_page_speaks_chinese_to_who_reads_it_and_can_be_switched(cartoon, visit, tmp_path):
    url, _ = cartoon
    page = visit(url, locale="zh-CN")
    expect(page).to_have_url(re.compile("/zh$"))
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    slider(page, "age").press("End")
    expect_edits(page, "年龄 32 → 80")
    page.get_by_role("button", name="链接、保存的人脸、动画和标记").click()
    known = {"DyStyle", "Studio", "PNG", "JPEG", "WebP", "MP4", "GIF", "AI", "dystyle", "seed", "edits"}
    known |= {"ms", "age", "MP", "InterFaceGAN", "GANSpace", "StyleSpace", "StyleFlow"}
    for tab, drawn in (("编辑", "#caption b"), ("混合", ".parents"), ("对比", "#compared b")):
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator(drawn)).to_be_visible()
        assert set(re.findall(r"[A-Za-z]{2,}", page.locator("#tabs").inner_text())) <= known
    page.locator("#compare-start").click()
    expect(page.locator(".compared img")).to_have_count(4)
    assert set(re.findall(r"[A-Za-z]{2,}", page.locator("#compare-results").inner_text())) <= known
    page.get_by_role("tab", name="编辑", exact=True).click()
    (tmp_path / "notes.jpg").write_text("Dear diary")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "notes.jpg"))
    expect(page.locator(".toast-body")).to_contain_text("不是图片")
    page.locator("#languages [lang=en]").click()
    expect_edits(page, "Age 32 → 80")  # the edit comes along


def test_every_language_says_all_that_the_others_say():
    chinese, *others = LANGUAGES[1:]
    assert {language.code for language in LANGUAGES} == {"en", "es", "zh"}
    for other in others:
        assert other.words.keys() == chinese.words.keys() and other.messages.keys() == chinese.messages.keys()
        for english, said in other.words.items():
            assert re.findall(r"{.*?}", english) == re.findall(r"{.*?}", said)
    for language in LANGUAGES:
        assert all(
            re.compile(pattern).groups >= said.count("\\") for pattern, said in language.messages.items()
        )
    titles = {method.title for method in METHODS.values()}
    assert {title for title in titles if " " in title} <= chinese.words.keys()  # others are names


def test_a_visitor_who_reads_spanish_is_spoken_to_in_spanish(cartoon, visit):
    page = visit(cartoon[0], locale="es-ES")
    expect(page).to_have_url(re.compile("/es$"))
    expect(page.locator("html")).to_have_attribute("lang", "es")
    page.get_by_role("button", name="10 años más").click()
    expect(page.get_by_role("button", name="Suelta aquí una foto")).to_be_visible()  # as it is to be seen
    expect_edits(page, "Persona al azar 12 Edad 32 → 42")
    found = Axe().run(page).response["violations"]
    assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    page.locator("#languages [lang=en]").click()
    expect_edits(page, "Random person 12 Age 32 → 42")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_no_serious_violation(cartoon, visit, look):
    options = PHONE if look == "phone" else {"color_scheme": look}
    page = visit(cartoon[0], **options)
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    slider(page, "smile").press("End")
    expect_edits(page, "→ 1")
    page.get_by_role("button", name="Link, saved face, animation and mark").click()
    page.locator(".stage-compare").click()
    for tab in ("About", "How it works", "Compare", "Mix", "Edit"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in serious]


def test_endpoints_are_tools_for_mcp_clients():
    editor = FakeEditor()
    demo = build_page(editor)
    _, url, _ = demo.launch(
        server_port=free_port(), prevent_thread_lock=True, quiet=True, mcp_server=True, **LAUNCH_OPTIONS
    )

    async def use() -> tuple[set[str], str, str]:
        address = f"{url}gradio_api/mcp/"
        async with streamablehttp_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            names = {tool.name for tool in (await session.list_tools()).tools}
            edited = await session.call_tool("edit_person", {"seed": 3, "edits": {"age": 60}})
            refused = await session.call_tool("edit_person", {"seed": 3, "edits": {"beauty": 1}})
        assert refused.isError and not edited.isError
        image = next(content for content in edited.content if content.type == "image")
        return names, image.data, refused.content[0].text

    try:
        with ThreadPoolExecutor(1) as pool:  # Playwright's event loop runs in this thread
            names, data, refusal = pool.submit(asyncio.run, use()).result()
    finally:
        demo.close()
    assert names == {"attributes", "measure", "save_face", "edit_photo", "edit_person", "mix_people"}
    expected = editor.synthesize(editor.edit(editor.sample(3), {"age": 60}))
    assert np.array_equal(decoded(base64.b64decode(data)), expected)
    assert "There is no attribute 'beauty'" in refusal


def test_endpoints_for_programs(cartoon, tmp_path):
    url, editor = cartoon
    client = Client(url, verbose=False, download_files=tmp_path)
    assert client.predict(api_name="/attributes")["age"]["high"] == 80
    person = client.predict(seed=3, edits={"age": 60}, kind="png", mark=False, api_name="/edit_person")
    expected = editor.synthesize(editor.edit(editor.sample(3), {"age": 60}))
    assert np.array_equal(np.array(Image.open(person)), expected)
    mixed = client.predict(seed=3, other=4, row=1, truncation=0.5, noise=0, api_name="/mix_people")
    code = editor.truncate(editor.mix(editor.sample(3), editor.sample(4), 1), 0.5)
    expected = editor.synthesize(code, noise=dict.fromkeys(editor.noise_layers, 0))
    assert np.array_equal(np.array(Image.open(mixed)), expected)
    photo = handle_file(photo_of_faces(tmp_path, (300, 200, 300)))
    whole = client.predict(photo=photo, edits={"smile": 1}, paste=True, kind="webp", api_name="/edit_photo")
    assert Image.open(whole).size == (1200, 900)
    assert client.predict(photo=photo, face=0, api_name="/measure")["age"] == 31.7
    face = handle_file(client.predict(photo=photo, keep=True, api_name="/save_face"))
    again = client.predict(photo=face, edits={"smile": 1}, paste=True, kind="webp", api_name="/edit_photo")
    assert Path(again).read_bytes() == Path(whole).read_bytes()
    with pytest.raises(Exception, match="There is no attribute 'beauty'"):
        client.predict(seed=3, edits={"beauty": 1}, api_name="/edit_person")
    names = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    own = {"attributes", "measure", "save_face", "edit_photo", "edit_person", "mix_people"}
    assert names.keys() == {f"/{name}" for name in own}


def test_the_page_says_what_the_picture_reads_beside_what_was_asked(cartoon, visit, tmp_path, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    measure = FakeEditor.measure
    read = {"age": 63.84, "pitch": 12.9}
    monkeypatch.setattr(FakeEditor, "measure", lambda self, image: measure(self, image) | read)
    slider(page, "age").press("End")
    expect_edits(page, "Age 32 → 80")
    said = "The picture reads: Age 63.8 · Also changed: Tilt"
    expect(page.locator("#readout")).to_have_text(said)
    share = page.locator("#attribute-age").evaluate("e => Number(e.style.getPropertyValue('--read'))")
    assert abs(share - (63.84 - 5) / 75) < 1e-3
    open_comparison(page)
    page.locator("#compare-start").click()
    expect(page.locator(".compared li").nth(1)).to_contain_text("Age → 80")
    expect(page.locator(".compared li").nth(1)).to_contain_text("63.8")  # the same number
    page.get_by_role("tab", name="Edit", exact=True).click()
    page.locator("#reset-all").click()
    expect(page.locator("#readout")).to_have_text("")
    expect(page.locator(".attribute.read")).to_have_count(0)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300)))
    expect_edits(page, "Your photo")
    monkeypatch.setattr(FakeEditor, "distance", lambda self, image, other: 0.437)
    read["pitch"] = -9.0
    slider(page, "yaw").press("End")
    expect(page.locator("#readout")).to_contain_text("Likeness to your photo: fair · Also changed: Tilt")
    expect(page.locator("#readout span")).to_have_attribute("title", re.compile("^0.44 by dlib's face recog"))
