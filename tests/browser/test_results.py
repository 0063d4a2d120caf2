"""What visitors take home: the strip of downloads, and several photos edited in one go."""

import io
import tempfile
import threading
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from dystyle.pictures import load_image
from tests.browser.conftest import wait_until
from tests.browser.test_page import decoded, download, expect_edits, open_mixture, slider
from webapp.callbacks import FIRST_SEED


def test_all_downloads_of_a_visit_lie_in_a_strip_and_go_into_one_zip(cartoon, visit):
    page = visit(cartoon[0])
    strip = page.locator(".results-files button")
    expect(page.locator(".results")).to_be_hidden()
    saved = dict([download(page)])
    expect(strip).to_have_count(1)
    expect(page.locator(".results-all")).to_be_hidden()
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    name, contents = download(page)
    saved[name] = contents
    expect(strip).to_have_count(2)
    assert download(page) == (name, contents)  # the same once more
    open_mixture(page)
    name, saved["dystyle-mix.png"] = download(page, "#mix-download")
    page.locator("#mix-row input[type=range]").press("Home")
    expect(page.locator("#mix-row input[type=range]")).to_have_value("0")
    name, saved["dystyle-mix-2.png"] = download(page, "#mix-download")  # another picture of the same name
    assert name == "dystyle-mix.png"
    page.get_by_role("tab", name="Edit", exact=True).click()
    expect(strip).to_have_count(4)

    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    expect(strip).to_have_count(4)
    with page.expect_download() as event:
        strip.nth(1).click()
    assert event.value.suggested_filename == "person-12_age-80.png"
    name, contents = download(page, ".results-all")
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        assert name == "dystyle.zip" and archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == saved


def photos(folder, *kinds: str) -> list[str]:
    """A photo each, "face.png" with a face of which the cartoon editor knows, "none.png" without."""
    paths = []
    for i, kind in enumerate(kinds):
        picture = np.full((300, 400, 3), 100 + i, np.uint8)
        if kind.startswith("face"):
            picture[50:250, 100:300] = (230, 20, 20)
        paths.append(folder / f"{i}-{kind}")
        if kind.startswith("notes"):
            paths[-1].write_text("Dear diary")
        else:
            Image.fromarray(picture).save(paths[-1], **({"quality": 100} if kind.endswith("jpg") else {}))
    return paths


def drop(page: Page, paths: list) -> None:
    files = [[path.name, list(path.read_bytes())] for path in paths]
    page.evaluate(
        """(files) => {
      const data = new DataTransfer();
      for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
      const options = { bubbles: true, cancelable: true, dataTransfer: data };
      document.querySelector("#stage").dispatchEvent(new DragEvent("drop", options));
    }""",
        files,
    )


def edited(editor, path, configuration) -> np.ndarray:
    face = editor.detect(path)[0]
    portrait = editor.synthesize(editor.edit(face.code, configuration))
    return editor.paste(portrait, face, load_image(path))


def test_several_photos_get_the_edit_of_the_page(cartoon, visit, tmp_path):
    url, editor = cartoon
    page = visit(url)
    paths = photos(tmp_path, "face.png", "none.png", "notes.txt", "face.webp", "face.png")
    drop(page, paths)
    rows, said = page.locator(".several-rows tr"), page.locator(".several-said")
    expect(said).to_have_text("Nothing is edited yet; move a slider, then edit them all.")
    expect(rows).to_have_count(5)  # they wait
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    page.get_by_label("Lock Turn").check()
    expect(slider(page, "yaw")).to_be_disabled()
    page.locator(".several-start").click()
    expect(page.locator(".several-count")).to_have_text("5 / 5")
    expect(said).to_have_text("")
    expect(rows.nth(0).locator("img")).to_be_visible()
    expect(rows.nth(1)).to_contain_text("No face was found in this picture")
    expect(rows.nth(2)).to_contain_text("is not a picture")
    expect(page.locator(".several-rows .refused")).to_have_count(2)
    expect_edits(page, f"Random person {FIRST_SEED} Age 32 → 80")  # the face on the page stays
    name, contents = download(page, ".several-zip")
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        assert name == "photos.zip" and archive.testzip() is None
        names = ["0-face_age-80.png", "3-face_age-80.webp", "4-face_age-80.png"]
        assert archive.namelist() == names
        for i in (0, 4):
            picture = decoded(archive.read(f"{i}-face_age-80.png"))
            assert (picture == edited(editor, paths[i], {"age": 80, "yaw": -4})).all()

    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    expect_edits(page, f"Random person {FIRST_SEED} Age 32 → 80")
    expect(page.locator(".several-count")).to_have_text("5 / 5")
    expect(rows.nth(0).locator("img")).to_be_visible()
    expect(rows.nth(1)).to_contain_text("No face was found in this picture")
    assert download(page, ".several-zip")[1] == contents
    found = [call for call in editor.calls if call[0] == "invert"]
    drop(page, paths[3:])  # two more, and what is done stays done
    expect(page.locator(".several-count")).to_have_text("7 / 7")
    now = [call for call in editor.calls if call[0] == "invert"]
    assert len(now) == len(found) + 3  # the faceless one is tried again
    page.locator(".several-clear").click()
    expect(page.locator(".several")).to_be_hidden()
    page.reload()
    page.locator("#stage .stage.ready").wait_for()
    expect(page.locator(".results")).to_be_hidden()  # the browser has said what it kept
    expect(page.locator(".several")).to_be_hidden()


def test_several_photos_can_be_cancelled_gone_on_with_and_edited_otherwise(
    cartoon, visit, tmp_path, monkeypatch
):
    url, editor = cartoon
    page = visit(url)
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")
    invert, busy, free = editor.invert, threading.Event(), threading.Event()

    def slow(*args, **more):
        busy.set()
        free.wait(30)
        return invert(*args, **more)

    monkeypatch.setattr(editor, "invert", slow)
    with page.expect_file_chooser() as chooser:
        page.locator(".several-choose").click()
    chooser.value.set_files(photos(tmp_path, "face.png", "face.png", "face.png"))
    wait_until(page, busy.is_set)
    slider(page, "smile").press("End")  # editing goes on; the photos get what was asked for
    expect_edits(page, "Smile")
    page.locator(".several-stop").click()
    expect(page.locator(".several-start")).to_be_visible()
    free.set()
    page.locator("#undo").click()
    expect(page.locator("#caption")).not_to_contain_text("Smile")
    page.locator(".several-start").click()
    expect(page.locator(".several-count")).to_have_text("3 / 3")
    slider(page, "age").press("Home")
    expect_edits(page, "→ 5")
    page.locator(".several-start").click()
    expect(page.locator(".several-zip")).to_be_visible()
    expect(page.locator(".several-count")).to_have_text("3 / 3")
    with zipfile.ZipFile(io.BytesIO(download(page, ".several-zip")[1])) as archive:
        assert archive.namelist() == [f"{i}-face_age-5.png" for i in range(3)]


def test_a_photo_that_the_server_fails_with_does_not_hold_up_the_others(
    cartoon, visit, tmp_path, monkeypatch
):
    page = visit(cartoon[0])
    slider(page, "age").press("End")
    expect_edits(page, "→ 80")

    def full(*args, **more):
        monkeypatch.undo()
        raise OSError("No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    drop(page, photos(tmp_path, "face.png", "face.png"))
    expect(page.locator(".several-count")).to_have_text("2 / 2")
    expect(page.locator(".several-rows tr").nth(0)).to_contain_text("could not be edited")
    expect(page.locator(".several-rows tr").nth(1)).to_contain_text("✓")
