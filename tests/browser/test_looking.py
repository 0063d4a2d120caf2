"""How the picture is looked at: closely, and beside the original."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_page import (
    PHONE,
    expect_edits,
    expect_picture,
    expect_width,
    photo_of_faces,
    slider,
)
from webapp.callbacks import FIRST_SEED

STAGE = "#stage .stage"


def closeness(page: Page) -> tuple[float, float, float]:
    """How many times as large as it fits the picture is, and where its left and upper edges lie, in pixels of
    the stage."""
    return tuple(
        page.locator(STAGE).evaluate(
            """(stage) => {
      const [picture, place] = [stage.querySelector(".stage-after"), stage.getBoundingClientRect()];
      const box = picture.getBoundingClientRect();
      return [box.width / place.width, box.left - place.left, box.top - place.top];
    }"""
        )
    )


def at(stage: Locator, across: float, down: float) -> tuple[float, float]:
    box = stage.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def expect_zoomed(page: Page, on: bool) -> None:
    expect(page.locator("#stage .stage-zoom")).to_have_attribute("aria-pressed", str(on).lower())


def test_the_picture_is_looked_at_pixel_by_pixel_and_moved_about(cartoon, visit):
    url, editor = cartoon
    page = visit(url)
    expect_width(page, 1024)
    stage = page.locator(STAGE)
    width = stage.bounding_box()["width"]
    x, y = at(stage, 0.25, 0.5)
    page.mouse.dblclick(x, y)
    expect_zoomed(page, True)
    zoom, left, above = closeness(page)
    assert abs(zoom * width - 1024) < 1  # a pixel of the picture is one of the screen
    assert abs(left + 0.25 * width * (zoom - 1)) < 1  # and what was clicked is where it was
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y - 30, steps=3)
    page.mouse.up()
    moved = closeness(page)
    assert abs(moved[1] - left + 60) < 2 and abs(moved[2] - above + 30) < 2
    slider(page, "age").press("End")  # edits are judged where one looks
    expect_edits(page, "→ 80")
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"age": 80})))
    assert closeness(page) == moved
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 900, y + 900, steps=3)
    page.mouse.up()
    assert closeness(page)[1:] == (0, 0)  # no further than its edge
    page.keyboard.press("z")
    expect_zoomed(page, False)
    assert closeness(page) == (1, 0, 0)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -500)
    expect_zoomed(page, True)
    page.mouse.wheel(0, 2000)
    expect_zoomed(page, False)
    page.locator("#stage .stage-zoom").click()
    page.keyboard.press("ArrowRight")
    expect_zoomed(page, True)
    zoom, left, _ = closeness(page)
    assert abs(left + width * ((zoom - 1) / 2 + 0.1)) < 1


def test_the_original_is_seen_while_the_picture_is_held(cartoon, visit, tmp_path):
    page = visit(cartoon[0])
    page.set_input_files(
        "#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300), (800, 300, 200))
    )
    expect_edits(page, "Your photo")
    page.get_by_label("In the photo").check(force=True)
    expect_width(page, 1200)
    before, box = page.locator("#stage .stage-before"), page.locator(".stage-faces button").nth(1)
    box.hover()
    page.mouse.down()
    expect(before).to_be_visible()
    expect(page.locator("#stage .stage-tag.left")).to_be_visible()
    page.mouse.up()
    expect(before).to_be_hidden()
    expect(box).not_to_have_attribute("aria-current", "true")  # it was held, not clicked
    box.click()
    expect(box).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("divided", [False, True])
def test_two_fingers_look_closely_and_one_scrolls(cartoon, visit, divided):
    page = visit(cartoon[0], **PHONE)
    if divided:
        page.locator("#stage .stage-compare").click()
    chrome, stage = page.context.new_cdp_session(page), page.locator(STAGE)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        chrome.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    def spread(*shares: float) -> None:
        for kind, share in zip(("touchStart", *["touchMove"] * len(shares)), shares, strict=False):
            touch(kind, at(stage, 0.5 - share, 0.5), at(stage, 0.5 + share, 0.5))
        touch("touchEnd")

    spread(0.1, 0.15, 0.2, 0.25)
    expect_zoomed(page, True)
    assert abs(closeness(page)[0] - 2.5) < 0.1
    spread(0.25, 0.15, 0.05)
    expect_zoomed(page, False)
    assert page.evaluate("[visualViewport.scale, scrollY]") == [1, 0]
    x, y = at(stage, 0.5, 0.8)
    for i in range(10):
        touch("touchMove" if i else "touchStart", (x, y - 15 * i))
    touch("touchEnd")
    page.wait_for_function("scrollY > 50")
    expect(page.locator("#stage .stage-before")).to_be_visible(visible=divided)


def test_all_sliders_are_reached_beside_the_picture(cartoon, visit):
    page = visit(cartoon[0], viewport={"width": 1440, "height": 620})
    for name in ("gender", "age", "yaw"):
        slider(page, name).scroll_into_view_if_needed()
        expect(slider(page, name)).to_be_in_viewport(ratio=1)
        expect(page.locator(STAGE)).to_be_in_viewport(ratio=1)
    group = page.get_by_role("button", name="Pose", exact=True)
    group.click()
    expect(slider(page, "yaw")).to_be_hidden()
    expect(slider(page, "age")).to_be_visible()
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    page.get_by_role("button", name="Look right").click()  # a closed group's sliders go on
    expect_edits(page, "Turn -4 → 25")
    page.reload()
    page.locator(f"{STAGE}.ready").wait_for()
    expect_edits(page, "Turn -4 → 25")
    expect(slider(page, "yaw")).to_be_hidden()  # as it was left
    group.press("Enter")
    expect(slider(page, "yaw")).to_be_visible()


def test_where_the_window_is_small_nothing_wraps_or_lies_upon_another(cartoon, visit, tmp_path):
    page = visit(cartoon[0], viewport={"width": 1280, "height": 800})
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, (300, 200, 300)))
    expect_edits(page, "Your photo")
    for code in ("en", "es", "zh"):
        if code != "en":
            page.locator(f"#languages [lang={code}]").click()
            expect(page.locator("html")).to_have_attribute("lang", code)
        expect(page.locator("#view")).to_be_visible()
        boxes = {name: page.locator(f"#{name}").bounding_box() for name in ("undo", "kind", "download")}
        assert len({box["y"] for box in boxes.values()}) == 1, code
        places = ("#view", "#stage .stage", "#undo", "#stage .stage-tools")
        view, stage, undo, tools = (page.locator(name).bounding_box() for name in places)
        assert stage["y"] + stage["height"] < view["y"] < view["y"] + view["height"] < undo["y"], code
        assert tools["x"] > stage["x"] and tools["height"] < 40, code
