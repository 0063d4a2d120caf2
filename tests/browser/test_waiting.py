"""Until the page is there, its address says how far the start is, and what went wrong."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from dystyle.errors import InputError
from tests.browser.conftest import ROOT, free_port
from webapp import waiting
from webapp.progress import BUILD, FETCH, STEPS, Progress
from webapp.waiting import WaitingRoom

# The editor is there when a line comes in; if something stands on it, that is what went wrong.
PROGRAM = """
import sys
from dystyle import FaceEditor, InputError
from tests.browser.fake_editor import FakeEditor
from webapp import start

def from_pretrained(**settings):
    if sentence := sys.stdin.readline().strip():
        raise InputError(sentence)
    editor = FakeEditor()
    editor.warm_up = lambda *given, **more: None
    return editor

FaceEditor.from_pretrained = from_pretrained
start.main()
"""
WRONG = (
    "Cannot write to the cache folder /mnt (No space left on device); "
    "free some space there or set DYSTYLE_CACHE to another folder."
)
IN_CHINESE = re.compile("^无法写入缓存文件夹 /mnt（No space left on device）；")


@pytest.fixture
def starting() -> Iterator[tuple[str, subprocess.Popen]]:
    """A page that waits for its editor: its address, and its process."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"GRADIO_SERVER_PORT": str(port)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if f"port {port}" in line:
            break
    assert process.poll() is None
    yield f"http://127.0.0.1:{port}", process
    process.kill()
    process.communicate()


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def room(progress) -> Iterator[WaitingRoom]:
    with WaitingRoom("127.0.0.1", progress) as room:
        yield room


@pytest.fixture
def ask(room) -> Callable[..., httpx.Response]:
    with httpx.Client(base_url=f"http://127.0.0.1:{room.port}", trust_env=False) as client:
        yield lambda path, method="GET", **headers: client.request(method, path, headers=headers)


def release(process: subprocess.Popen, sentence: str = "") -> None:
    process.stdin.write(f"{sentence}\n")
    process.stdin.flush()


def watch(browser, url: str, **options) -> Page:
    page = browser.new_context(**options).new_page()
    page.goto(url)
    expect(page.locator(".current")).to_have_count(1)
    return page


def test_the_page_comes_up_by_itself(starting, browser):
    url, process = starting
    page = watch(browser, f"{url}/#edit=kept", locale="es-ES")
    expect(page.locator("html")).to_have_attribute("lang", "es")
    expect(page.locator(".current")).to_have_text("Preparación y apertura de los motores")
    assert 0 < page.locator("progress").evaluate("bar => bar.value") < 1
    assert not [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    release(process)
    page.locator(".stage.ready").wait_for()
    page.context.close()


def test_what_went_wrong_is_said_there_and_ends_the_start(starting, browser):
    url, process = starting
    page = watch(browser, url, locale="zh-CN", color_scheme="dark")
    release(process, WRONG)
    expect(page.locator("#error")).to_have_text(IN_CHINESE)
    expect(page.locator("progress")).to_be_hidden()
    assert process.wait() == 2
    assert process.stderr.read().splitlines()[-1] == WRONG
    page.context.close()


def test_without_anybody_there_the_start_ends_at_once(starting):
    _, process = starting
    release(process, WRONG)
    assert process.wait() == 2


def test_everything_but_the_progress_has_to_come_again(ask):
    for path in ("/", "/zh", "/es/", "/config", "/gradio_api/startup-events", "/favicon.ico"):
        answer = ask(path)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2", path
        assert answer.headers["cache-control"] == "no-store"
    answer = ask("/gradio_api/upload", "POST")
    assert answer.status_code == 503 and answer.json()["detail"].endswith(".")


@pytest.mark.parametrize(
    ("path", "liked", "language"),
    [("/", "zh-CN,en;q=0.9", "zh"), ("/", "fr,en", "en"), ("/es", "zh", "es"), ("/", "", "en")],
)
def test_it_speaks_the_browsers_language(ask, path, liked, language):
    assert f'<html lang="{language}">' in ask(path, **{"Accept-Language": liked}).text


def test_the_share_that_is_over_grows(progress, ask):
    seen = []
    for step, part in ((FETCH, 0), (FETCH, 0.5), (BUILD, 0), (BUILD, 0.9)):
        progress.tell(step, lambda part=part: part)
        said = ask("/en/starting").json()
        assert STEPS[said["step"]] == step and said["error"] == ""
        seen.append(said["share"])
    assert seen == sorted(set(seen)) and seen[0] == 0 and seen[-1] < 1


def test_its_doors_are_those_of_the_page(room, ask):
    assert ask("/", Host="evil.example").status_code == 421
    assert ask("/starting", Origin="https://evil.example").status_code == 403
    assert ask("/starting", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert ask("/").headers["x-frame-options"] == "SAMEORIGIN"
    room.allowance.take("127.0.0.1", 1000)  # far beyond its share
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{room.port}/", trust_env=False)
    assert ask("/").status_code == 429  # on a connection that was open before


def test_it_takes_the_first_free_port_and_gives_it_back(room, monkeypatch):
    monkeypatch.setattr(waiting, "INITIAL_PORT_VALUE", room.port)
    with WaitingRoom("127.0.0.1", Progress()) as other:
        assert other.port > room.port
    with WaitingRoom("127.0.0.1", Progress()) as again:
        assert again.port == other.port
    monkeypatch.setattr(waiting, "TRY_NUM_PORTS", 1)
    with pytest.raises(InputError, match="GRADIO_SERVER_PORT"):
        WaitingRoom("127.0.0.1", Progress())
    with pytest.raises(InputError, match="GRADIO_SERVER_NAME"):
        WaitingRoom("203.0.113.1", Progress())
