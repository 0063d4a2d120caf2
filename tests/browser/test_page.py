"""The page's behaviour, with a cartoon editor behind it: fast, and every picture is known exactly."""

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from dystyle.alignment import load_image
from dystyle.errors import InputError
from webapp.callbacks import FIRST_SEED
from webapp.stage import data_url

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


def download(page: Page) -> np.ndarray:
    with page.expect_download() as event:
        page.locator("#download").click()
    assert event.value.suggested_filename.endswith(".png")
    return np.array(Image.open(event.value.path()))


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
    assert np.array_equal(download(page), expected)


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
    page.get_by_label("In the photo").check(force=True)
    expect_width(page, 1200)
    portrait = editor.synthesize(editor.edit(smaller.code, {"mouth_open": 1}))
    assert np.array_equal(download(page), editor.paste(portrait, smaller, load_image(path)))

    slider(page, "mouth_open").press("Home")  # the photo follows, too
    expect_edits(page, "→ 0")
    page.get_by_label("Fast").check(force=True)  # fits again and keeps the edit
    expect_width(page, 1024)
    expect_edits(page, "→ 0")
    assert editor.last("invert") == ("fast", 1)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_layout_fits_its_screen(cartoon, visit, scheme):
    url, _ = cartoon
    page = visit(
        url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme=scheme
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    slider(page, "gender").scroll_into_view_if_needed()
    expect(page.locator(".stage")).to_be_in_viewport(ratio=0.9)  # the face stays in sight of the sliders
