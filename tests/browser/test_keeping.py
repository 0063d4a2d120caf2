"""Nothing that a visitor does is lost: by reloads and restarts, by people in one photo, by long work."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Page, expect

from dystyle.errors import InputError
from dystyle.faces import REFINE
from dystyle.pictures import load_image
from tests.browser.conftest import choose, free_port, wait_until
from tests.browser.fake_editor import FakeEditor
from tests.browser.test_page import (
    AFTER,
    decoded,
    download,
    expect_edits,
    expect_picture,
    expect_width,
    photo_of_faces,
    slider,
)
from webapp import LAUNCH_OPTIONS, build_page
from webapp.callbacks import FIRST_SEED
from webapp.keeping import Kept, noted_values
from webapp.visit import MOST_PEOPLE, Visit
from webapp.visits import Visits

TWO = ((300, 200, 300), (800, 300, 200))
SIX = tuple((60 + 370 * (i % 3), 80 + 420 * (i // 3), 300 - 30 * i) for i in range(6))


class Line:
    """The connection between browser and server, which can be cut: a proxy of its own on this machine."""

    def __init__(self, server: int) -> None:
        self.port, self._server = free_port(), server
        self._loop = asyncio.new_event_loop()
        self._open, self._streams = True, set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        asyncio.run_coroutine_threadsafe(start, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            return writer.transport.abort()
        there, back = await asyncio.open_connection("127.0.0.1", self._server)
        self._streams |= {writer, back}

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(2**16):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
        self._streams -= {writer, back}

    def cut(self) -> None:
        self._open = False
        for stream in list(self._streams):
            self._loop.call_soon_threadsafe(stream.transport.abort)

    def mend(self) -> None:
        self._open = True

    def end(self) -> None:
        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.cut()
        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def line(cartoon) -> Iterator[Line]:
    line = Line(int(cartoon[0].rsplit(":", 1)[1]))
    yield line
    line.end()


def expect_welcome(page: Page) -> None:
    expect(page.locator(".toast-body")).to_contain_text("everything is as you left it")


def come_back(page: Page) -> None:
    page.reload()
    page.locator(".stage.ready").wait_for()


def edit_photo(page: Page, path: str) -> None:
    """Three entries in the history, of which the second one is on the page, and a lock."""
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    page.get_by_label("Lock Turn").check()
    expect(slider(page, "yaw")).to_be_disabled()
    slider(page, "smile").press("Home")
    expect_edits(page, "→ 0")
    page.locator("#undo").click()
    expect(page.locator("#caption")).not_to_contain_text("Smile")


def expect_the_same(page: Page, editor: FakeEditor, path: str) -> None:
    expect_edits(page, "Your photo Age 32 → 80")
    expect(page.locator("#photo img")).to_be_visible()
    expect(page.locator("#history img")).to_have_count(3)
    expect(page.locator("#history button").nth(1)).to_have_attribute("aria-current", "step")
    expect(slider(page, "age")).to_have_value("80")
    expect(slider(page, "yaw")).to_be_disabled()
    expect_picture(page, editor.synthesize(editor.edit(editor.detect(path)[0].code, {"age": 80, "yaw": -4})))
    page.locator("#redo").click()
    expect_edits(page, "→ 0")


def test_a_reload_and_the_other_language_bring_photo_edits_and_history_back(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    edit_photo(page, path)
    come_back(page)
    expect_welcome(page)
    expect_the_same(page, editor, path)
    choose(page, "In the photo")
    expect_width(page, 1200)
    page.locator("#languages [lang=zh]").click()
    expect(page).to_have_url(url + "/zh")
    expect(page.locator("#caption")).to_contain_text("你的照片 年龄 32 → 80")
    expect(page.locator("#history img")).to_have_count(3)
    expect(page.locator(".toast-body")).to_contain_text("欢迎回来")


def test_a_random_person_and_a_saved_face_come_back_too(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url + '/#edit={"dystyle": 1, "seed": 5, "edits": {"age": 70}}')
    expect_edits(page, "Random person 5 Age 32 → 70")
    slider(page, "smile").press("Home")
    expect_edits(page, "→ 0")
    come_back(page)  # the link has done its work: what became of it is more
    expect_edits(page, "Random person 5 Age 32 → 70 · Smile")
    path, face = photo_of_faces(tmp_path, *TWO), tmp_path / "anna.safetensors"
    editor.invert(path, index=1).save(face, path)
    page.set_input_files("input[type=file][accept='.safetensors']", face)
    expect_edits(page, "Your photo")
    slider(page, "age").press("Home")
    expect_edits(page, "→ 5")
    come_back(page)
    expect_edits(page, "Your photo Age 32 → 5")
    choose(page, "In the photo")
    expect_width(page, 1200)


def test_the_face_before_comes_back_too(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    expect(page.locator("#back")).to_be_hidden()
    edit_photo(page, path)
    expect(page.locator("#back")).to_be_hidden()  # nobody was edited before
    page.locator("#random").click()
    expect_edits(page, "Random person")
    slider(page, "age").press("Home")
    expect_edits(page, "→ 5")
    page.locator("#back").click()
    expect_welcome(page)
    expect_the_same(page, editor, path)
    page.locator("#back").click()
    expect_edits(page, "Random person")
    expect_edits(page, "→ 5")


def test_a_photo_that_the_browser_has_lost_is_asked_for_and_the_edit_applied(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    edit_photo(page, path)
    page.evaluate("sessionStorage.removeItem('photo')")
    for _ in range(2):  # the edit waits, however often the page is reloaded
        come_back(page)
        expect_edits(page, f"Random person {FIRST_SEED}")
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo Age 32 → 80")


def test_a_browser_that_keeps_nothing_shows_the_page_all_the_same(cartoon, browser):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script("""
      Object.defineProperty(window, "sessionStorage", { get() { throw new Error("not allowed"); } });
      Object.defineProperty(window, "indexedDB", { get() { throw new Error("not allowed"); } });""")
    page = context.new_page()
    page.goto(cartoon[0])
    expect_edits(page, f"Random person {FIRST_SEED}")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    come_back(page)
    expect_edits(page, f"Random person {FIRST_SEED} Move a slider")
    context.close()


def test_a_new_visitor_meets_nobody_elses_photo(cartoon, visit, tmp_path):
    url, _ = cartoon
    page = visit(url)
    edit_photo(page, photo_of_faces(tmp_path, *TWO))
    other = page.context.new_page()  # another tab of the same browser
    other.goto(url)
    expect_edits(other, f"Random person {FIRST_SEED}")


@pytest.mark.parametrize("seconds", [4, 60])
def test_a_lost_connection_in_the_middle_of_an_edit(line, cartoon, browser, tmp_path, seconds):
    _, editor = cartoon
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, path = context.new_page(), photo_of_faces(tmp_path, *TWO)
    page.goto(f"http://127.0.0.1:{line.port}")
    page.locator(".stage.ready").wait_for()
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    line.cut()
    slider(page, "smile").press("Home")  # is on its way when the line is cut
    page.wait_for_timeout(1000 * seconds)
    line.mend()
    expect_welcome(page)
    expect_edits(page, "Your photo Age 32 → 80 · Smile")
    code = editor.detect(path)[0].code
    expect_picture(page, editor.synthesize(editor.edit(code, {"age": 80, "smile": 0})))
    context.close()


def test_a_restart_of_the_server(browser, tmp_path):
    editor, port = FakeEditor(), free_port()
    path = photo_of_faces(tmp_path, *TWO)

    def start():
        page = build_page(editor)
        page.launch(server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
        return page

    server = start()
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}")
    page.locator(".stage.ready").wait_for()
    edit_photo(page, path)
    server.close()
    slider(page, "gender").press("End")
    server = start()
    try:
        expect_welcome(page)
        expect_edits(page, "Your photo Age 32 → 80 · Gender")
        code = editor.detect(path)[0].code
        edits = {"age": 80, "gender": 1, "yaw": -4}
        expect_picture(page, editor.synthesize(editor.edit(code, edits)))
    finally:
        context.close()
        server.close()


def test_a_visit_that_has_expired_comes_back_with_the_next_edit(cartoon, visit, tmp_path, monkeypatch):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    edit_photo(page, path)
    find = Visits.__getitem__

    def expired(self, session):
        monkeypatch.undo()
        self.session_data.clear()
        return find(self, session)

    monkeypatch.setattr(Visits, "__getitem__", expired)
    slider(page, "gender").press("End")
    expect_welcome(page)
    expect_edits(page, "Your photo Age 32 → 80 · Gender")


def test_nothing_is_edited_before_somebody_is_met(cartoon, browser, monkeypatch):
    url, editor = cartoon
    met, sample = threading.Event(), editor.sample

    def slow(*args):
        met.wait(30)
        return sample(*args)

    monkeypatch.setattr(editor, "sample", slow)
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#attributes")).to_have_js_property("inert", True)
    page.keyboard.press("r")
    page.locator("#undo").dispatch_event("click")
    met.set()
    expect_edits(page, f"Random person {FIRST_SEED} Move a slider")
    expect(page.locator("#attributes")).to_have_js_property("inert", False)
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    context.close()


def test_what_a_browser_kept_is_checked():
    editor = FakeEditor()
    kept = Kept.of(Visit.of_seed(editor, 5))
    visit = Visit.of_seed(editor, 5)
    visit.remember(visit.start, visit.unedited)
    good = json.loads(Kept.of(visit).to_json(None))
    assert Kept.from_json(json.dumps(good)) == Kept.of(visit) != kept
    person = good["people"][0]
    bad = [
        {},
        [],
        None,
        {"people": []},
        {"people": [person] * (MOST_PEOPLE + 2)},
        {"people": [person | {"position": 1}]},
        {"people": [person | {"position": -1}]},
        {"people": [person | {"history": [{"age": float("nan")}]}]},
        {"people": [person | {"history": [{}] * 31}]},
        {"people": [person | {"seed": -1}]},
        {"people": [person | {"quality": "best", "photo": "x", "face": 0}]},
        {"people": [person | {"edits": "x" * 200_000}]},
    ]
    for text in [json.dumps(each) for each in bad] + ["", "{", 5, None]:
        with pytest.raises(InputError, match="cannot be read"):
            Kept.from_json(text)
    kept = Kept.of(visit)
    visit.start = visit.start | {"yaw": 7}  # another version of the page reads her otherwise
    noted = json.dumps({"age": 900, "beauty": 1, "yaw": kept.start["yaw"]})
    assert noted_values(noted, kept, visit, editor.attributes) == {"age": 80, "yaw": 7}
    for text in ("", "[]", '{"age": "old"}', '{"age": null}', None):
        assert noted_values(text, kept, visit, editor.attributes) == {}


def test_six_people_of_whom_three_are_edited(cartoon, visit, tmp_path):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *SIX)
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")
    faces = editor.detect(path)
    choose(page, "In the photo")
    expect_width(page, 1200)
    boxes = page.locator(".stage-faces button")
    expect(boxes).to_have_count(6)
    edits = {0: ("age", "End", 80), 2: ("yaw", "Home", -40), 5: ("smile", "End", 1)}
    for i, (name, key, value) in edits.items():
        boxes.nth(i).click()
        expect(boxes.nth(i)).to_have_attribute("aria-current", "true")
        expect_edits(page, "Move a slider")
        slider(page, name).press(key)
        expect_edits(page, f"→ {value}")
    expect(page.locator(".stage-faces .edited")).to_have_count(3)
    page.locator("#faces button.thumbnail-item").nth(0).click()  # as it was left, and where it was looked at
    expect_edits(page, "Your photo Age 32 → 80")
    expect(page.locator("#history button")).to_have_count(2)
    expected = load_image(path)
    for i, (name, _, value) in ((i, edits[i]) for i in (2, 5, 0)):
        portrait = editor.synthesize(editor.edit(faces[i].code, {name: value}))
        expected = editor.paste(portrait, faces[i], expected)
    name, contents = download(page)
    assert name == "photo_3-people.png" and (decoded(contents) == expected).all()
    assert b"age = 80, person 3 of the photo: yaw = -40" in contents

    come_back(page)
    expect_welcome(page)
    choose(page, "In the photo")
    expect(page.locator(".stage-faces .edited")).to_have_count(3)
    assert (decoded(download(page)[1]) == expected).all()
    boxes.nth(2).click()
    expect_edits(page, "Turn -4 → -40")
    expect(page.locator("#history img")).to_have_count(2)


def test_more_people_than_can_be_held_get_a_sentence():
    editor = FakeEditor()
    visits = []
    for seed in range(MOST_PEOPLE + 1):
        visit = Visit.of_seed(editor, seed)
        visit.face = editor._face(seed, 0, 0, 9, 9)
        for age in (5, 80):
            visit.remember(visit.start | {"age": age}, visit.unedited)
        visits.append(visit)
    left = {}
    for visit in visits[:-1]:
        visit.join(left)
        left = visit.leave(editor)
    visits[-1].join(left)
    with pytest.raises(InputError, match="16 people"):
        visits[-1].leave(editor)
    assert len(visits[-1].left) == MOST_PEOPLE


class Slow:
    """Lets inversions in another quality than "fast" last until they are released."""

    def __init__(self, editor: FakeEditor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.running = threading.Event(), []
        invert = editor.invert

        def slow(photo, refine="fast", index=0, progress=None):
            if refine == REFINE[0]:
                return invert(photo, refine, index, progress)
            self.running.append(refine)
            try:
                while not self.free.wait(0.02):
                    progress(0.4, "Refining the face")
            finally:
                self.running.remove(refine)
            return invert(photo, refine, index, progress)

        monkeypatch.setattr(editor, "invert", slow)


def test_edits_made_while_a_face_is_refined_are_carried_over(cartoon, visit, tmp_path, monkeypatch):
    url, editor = cartoon
    page, path = visit(url), photo_of_faces(tmp_path, *TWO)
    slow = Slow(editor, monkeypatch)
    choose(page, "Balanced")
    page.set_input_files("#photo input[type=file]", path)
    expect_edits(page, "Your photo")  # at once, and finer later
    expect(page.locator("#progress")).to_contain_text("Refining the face")
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    slider(page, "smile").press("Home")
    expect_edits(page, "→ 0")
    expect(page.locator("#cancel")).to_be_visible()
    shown = page.locator(AFTER).bounding_box()
    slow.free.set()
    expect(page.locator("#cancel")).to_be_hidden()
    assert page.locator(AFTER).bounding_box() == shown  # nothing has jumped
    expect_edits(page, "Your photo Age 32 → 80 · Smile")
    expect(page.locator("#history button")).to_have_count(3)
    expect(slider(page, "age")).to_have_value("80")
    assert editor.last("invert") == ("balanced", 0)


def test_another_quality_or_photo_takes_the_place_of_a_running_fit(cartoon, visit, tmp_path, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    slow = Slow(editor, monkeypatch)
    page.set_input_files("#photo input[type=file]", photo_of_faces(tmp_path, *TWO))
    expect_edits(page, "Your photo")
    choose(page, "Balanced")
    expect(page.locator("#progress")).to_contain_text("Refining")
    choose(page, "Precise")
    wait_until(page, lambda: slow.running == ["precise"])
    choose(page, "Fast")
    wait_until(page, lambda: not slow.running)
    choose(page, "Precise")
    wait_until(page, lambda: slow.running == ["precise"])
    page.locator("#random").click()
    expect_edits(page, "Random person")
    wait_until(page, lambda: not slow.running)
    expect(page.locator(".toast-body")).to_have_count(0)


def test_a_long_fit_holds_nobody_up_and_who_waits_sees_it_and_can_leave(
    cartoon, visit, tmp_path, monkeypatch
):
    url, editor = cartoon
    one, other = visit(url), visit(url)
    slow = Slow(editor, monkeypatch)
    path = photo_of_faces(tmp_path, *TWO)
    one.set_input_files("#photo input[type=file]", path)
    expect_edits(one, "Your photo")
    choose(one, "Precise")
    wait_until(one, lambda: slow.running == ["precise"])
    other.set_input_files("#photo input[type=file]", path)
    expect_edits(other, "Your photo")
    expect(other.locator("#work")).to_be_hidden()
    slider(other, "age").press("End")
    expect_edits(other, "→ 80")
    choose(other, "Balanced")
    expect(other.locator("#progress")).to_contain_text("queue: 1/1")
    other.locator("#cancel").click()
    expect(other.locator(".toast-body")).to_contain_text("Cancelled")
    expect(other.locator("#work")).to_be_hidden()
    expect(other.get_by_label("Fast", exact=True)).to_be_checked()
    choose(other, "Balanced")
    expect(other.locator("#progress")).to_contain_text("queue: 1/1")  # the place before was given up
    other.locator("#cancel").click()
    expect(other.get_by_label("Fast", exact=True)).to_be_checked()
    slow.free.set()
    expect(one.locator("#work")).to_be_hidden()
    expect_edits(other, "Your photo Age 32 → 80")
    assert slow.running == []


def test_an_animation_can_be_cancelled(cartoon, visit, monkeypatch):
    url, editor = cartoon
    page = visit(url)
    slider(page, "yaw").press("End")
    expect_edits(page, "→ 40")
    page.get_by_role("button", name="Link, saved face, animation and mark").click()
    edit, drawn, free = editor.edit, [], threading.Event()

    def slow(*args, **more):
        drawn.append(args)
        free.wait(0.3)
        return edit(*args, **more)

    monkeypatch.setattr(editor, "edit", slow)
    page.locator("#animate").click()
    expect(page.locator("#progress")).to_contain_text("Drawing")
    page.locator("#cancel").click()
    expect(page.locator(".toast-body")).to_contain_text("Cancelled")
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#film [data-name]")).to_have_count(0)
    seen = len(drawn)
    page.wait_for_timeout(1000)
    assert 0 < len(drawn) <= seen + 1 < 17


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("200", "80"),
        ("-7", "5"),
        ("1e9", "80"),
        ("", "40"),
        ("61.4", "61"),
        ("-", "40"),
        ("0", "5"),
        ("61", "61"),
    ],
)
def test_a_typed_number_leaves_slider_caption_and_picture_together(cartoon, visit, typed, shown):
    url, editor = cartoon
    page = visit(url)
    number = page.locator("#attribute-age input[type=number]")
    number.fill("40")
    number.press("Enter")
    expect_edits(page, "→ 40")
    number.select_text()
    number.press_sequentially(typed, delay=60) if typed else number.press("Delete")
    number.press("Enter")
    expect_edits(page, f"Age 32 → {shown}")
    expect(number).to_have_value(shown)
    expect(slider(page, "age")).to_have_value(shown)
    expect_picture(page, editor.synthesize(editor.edit(editor.sample(FIRST_SEED), {"age": int(shown)})))
    said = page.locator(".toast-body")
    if typed in ("200", "-7", "1e9", "0"):
        expect(said).to_contain_text("This is as far as it goes: Age 5 – 80.")
    else:
        expect(said).to_have_count(0)
