"""What a hostile client may ask of the running page: raw HTTP, on the loopback only.

With DYSTYLE_WALK=real in the environment, `pytest tests/test_server.py -k walk` walks over the page with the
real editor instead of the cartoon one, and prints the most memory it had.
"""

import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.browser.conftest import ROOT, free_port
from tests.browser.fake_editor import FakeEditor
from webapp import LAUNCH_OPTIONS, build_page, doors, fair_queue, files
from webapp.doors import Allowance, TooMany
from webapp.server import Studio
from webapp.visit import LARGEST_SEED, LONGEST_EDIT
from webapp.visits import size

MEGABYTE = 2**20
API = "/gradio_api"
FILE = {"_type": "gradio.FileData"}
JSON = {"Content-Type": "application/json"}
EDITOR = [os.environ["DYSTYLE_WALK"]] if "DYSTYLE_WALK" in os.environ else []


def picture(kind: str = "PNG", faces: int = 1, **options) -> bytes:
    """A photo on which the cartoon editor sees faces."""
    pixels = np.full((400, 600, 3), 180, np.uint8)
    for i in range(faces):
        pixels[100:250, 50 + 300 * i : 200 + 300 * i] = (230, 20, 20)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


class Visitor:
    """Sends what a browser or a program sends, and what neither would.

    `address` is where the requests come from, as a proxy on this machine tells it.
    """

    def __init__(self, url: str, address: str = "127.0.0.1", session: str | None = None) -> None:
        self.http = httpx.Client(
            base_url=url,
            trust_env=False,
            verify=False,  # no certificates are read, which takes long
            timeout=300,
            headers={"X-Forwarded-For": address},
        )
        self.session = session or uuid.uuid4().hex
        self.events = {event["api_name"]: event for event in reversed(self.config["dependencies"])}
        self.components = {component["id"]: component for component in self.config["components"]}

    @property
    def config(self) -> dict:
        if url_config.get(str(self.http.base_url)) is None:
            url_config[str(self.http.base_url)] = self.http.get("/config").json()
        return url_config[str(self.http.base_url)]

    def join(self, name: str | int, data: list, **more) -> httpx.Response:
        index = name if isinstance(name, int) else self.events[name]["id"]
        asked = {"fn_index": index, "data": data, "session_hash": self.session} | more
        return self.http.post(f"{API}/queue/join", content=json.dumps(asked), headers=JSON)

    def outcome(self, event: str) -> tuple[bool, dict, list[str]]:
        """Whether an event succeeded, its output, and the messages that were shown meanwhile."""
        said = []
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "log":
                    said.append(message["log"])
                if message.get("msg") == "process_completed" and message["event_id"] == event:
                    return message["success"], message["output"], said
        raise AssertionError("The event was not answered.")

    def send(self, name: str | int, data: list, **more) -> tuple[bool, dict, list[str]]:
        joined = self.join(name, data, **more)
        assert joined.status_code == 200, joined.text
        return self.outcome(joined.json()["event_id"])

    def shown(self, name: str, output: dict) -> dict:
        """What an event has put into the page's components, by their HTML ids."""
        ids = [self.components[i]["props"].get("elem_id") for i in self.events[name]["outputs"]]
        return dict(zip(ids, output["data"], strict=True))

    def meet(self, link: str = "") -> tuple[dict, list[str]]:
        success, output, said = self.send("meet", [link, "", None, ""])
        assert success
        return self.shown("meet", output), said

    def values(self, name: str) -> list:
        """What an event takes, as it is on a page that nobody has touched."""
        return [self.components[i]["props"].get("value") for i in self.events[name]["inputs"]]

    def edit(self) -> tuple[dict, list[str]]:
        """Draw the face on the page anew."""
        success, output, said = self.send("edit", self.values("edit"))
        assert success
        return self.shown("edit", output), said

    def upload(self, contents: bytes, name: str = "photo.png") -> str:
        return self.http.post(f"{API}/upload", files={"files": (name, contents)}).json()[0]

    def open(self, path: str) -> httpx.Response:
        return self.join("open_photo", [None, "fast", {"path": path, "orig_name": "x.png", "meta": FILE}])


url_config: dict[str, dict] = {}


@contextmanager
def process(folder: Path, **settings: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The page as a process whose temporary files lie in `folder`."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPACE", "GRADIO", "DYSTYLE"))}
    served = subprocess.Popen(
        [sys.executable, "-m", "tests.browser.serve", str(port), *EDITOR],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(folder)} | settings,
        stdout=subprocess.DEVNULL,
        stderr=open(folder.parent / f"{folder.name}.log", "w"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: served.poll() is not None or answers(url), 300)
        assert served.poll() is None
        yield url, served
    finally:
        served.kill()
        served.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}{API}/startup-events", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "It has not happened."
        threading.Event().wait(0.02)


def memory(served: subprocess.Popen) -> float:
    """The most that a process has had in memory, in bytes."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@contextmanager
def here(editor: FakeEditor | None = None, **options) -> Iterator[tuple[str, FakeEditor, Studio]]:
    """The page in this process, so that a test can look behind it."""
    editor = editor or FakeEditor()
    demo = build_page(editor)
    _, url, _ = demo.launch(
        server_port=free_port(), prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS, **options
    )
    demo.visits = demo.app.state_holder
    try:
        yield url.rstrip("/"), editor, demo
    finally:
        demo.close(verbose=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen]]:
    with process(tmp_path_factory.mktemp("files")) as served:
        yield served


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture that is nobody's business, with a face."""
    path = tmp_path / "private.png"
    path.write_bytes(picture())
    path.chmod(0o600)
    return path


def said_of(response: httpx.Response) -> str:
    return response.json()["detail"]


# ------------------------------------------------------------------------------------------ files


def test_a_visitor_opens_what_this_visitor_uploaded_and_no_other_file(server, private):
    url, _ = server
    visitor, other = Visitor(url), Visitor(url)
    own = visitor.upload(picture())
    success, output, said = visitor.send("open_photo", [None, "fast", {"path": own, "meta": FILE}])
    assert success and not said and visitor.shown("open_photo", output)["caption"].startswith("<b>Your photo")

    near = Path(own).parents[1] / "somewhere.png"
    near.write_bytes(picture())  # in Gradio's own folder, but nobody has uploaded it
    refused = [visitor.open(str(path)) for path in (private, near, near.with_name("missing.png"))]
    refused += [visitor.open(f"{Path(own).parent}/../{Path(own).parent.name}/{Path(own).name}")]
    refused += [other.open(own), Visitor(url, session="").open(own)]
    refused += [visitor.join("open_photo_1", [None, "fast", {"path": str(private)}])]
    # What could be taken for a file in an event that expects none.
    inputs = visitor.events["edit"]["inputs"]
    refused += [visitor.join("edit", [{"path": str(private), "meta": FILE}] * len(inputs))]
    refused += [visitor.join("edit", [[{"a": {"path": str(private)}}]] * len(inputs))]
    photo = {"path": str(private), "meta": FILE}
    refused += [other.http.post(f"{API}/call/measure", json={"data": [photo, 0]})]
    refused += [other.http.post(f"{API}/call/measure/", json={"data": [photo | {"path": own}, 0]})]
    refused += [other.http.post(f"{API}/call/v2/measure", json={"photo": photo, "face": 0})]
    # One answer to all of them: it does not even tell whether there is such a file.
    assert {(answer.status_code, said_of(answer)) for answer in refused} == {
        (403, "This file was not uploaded by you, or is gone; upload it again.")
    }
    for address in (
        private,
        near.with_name("missing.png"),
        "/etc/passwd",
        f"{own}/../../../../../etc/passwd",
    ):
        assert visitor.http.get(f"{API}/file={quote(str(address))}").status_code == 403


def test_a_photo_that_cannot_be_opened_brings_back_no_file_but_the_visitors_own(server):
    visitor = Visitor(server[0])
    success, output, said = visitor.send(
        "open_photo", [None, "fast", {"path": visitor.upload(b"Dear diary", "a.png"), "orig_name": "a.png"}]
    )
    assert success and said == ["'a.png' is not a picture; use JPEG, PNG or WebP."]
    assert visitor.shown("open_photo", output)["photo"] is None
    for photo in ({"url": "file:///etc/passwd"}, {"url": "/etc/passwd", "meta": FILE}, {}):
        success, output, said = visitor.send("open_photo", [None, "fast", photo])
        assert success and said == ["This is not a photo; choose a picture file."]


def carrying() -> bytes:
    """A cut-out with a face, and with all that a PNG carries."""
    photo, alpha = Image.open(io.BytesIO(picture())), np.full((400, 600), 255, np.uint8)
    alpha[:60], alpha[380:, 550:] = 90, 0
    photo.putalpha(Image.fromarray(alpha))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x010F], exif[0x0112] = "Maker", 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo.save(buffer, "PNG", exif=exif, dpi=(300, 300), icc_profile=profile)
    return buffer.getvalue()


def by_page(visitor: Visitor, photo: bytes, kind: str, mark: bool) -> tuple[bytes, list[str]]:
    """The photo with its face pasted back, as the page gives it, and what was said."""
    success, _, _ = visitor.send("open_photo", [None, "fast", {"path": visitor.upload(photo), "meta": FILE}])
    assert success
    names = [visitor.components[i]["props"].get("elem_id") for i in visitor.events["download_1"]["inputs"]]
    chosen = {"view": "whole", "kind": kind, "mark": mark}
    values = [chosen.get(n, v) for n, v in zip(names, visitor.values("download_1"), strict=True)]
    assert chosen.keys() <= set(names)
    success, output, said = visitor.send("download_1", values)
    assert success
    return visitor.http.get(f"{API}/file={output['data'][0]['path']}").content, said


def by_api(visitor: Visitor, photo: bytes, kind: str, mark: bool) -> tuple[bytes, list[str]]:
    """The same from the API."""
    given = {"path": visitor.upload(photo), "meta": FILE}
    success, output, said = visitor.send("edit_photo", [given, {}, "fast", 0, True, kind, mark])
    assert success, output
    return visitor.http.get(f"{API}/file={output['data'][0]['path']}").content, said


@pytest.mark.parametrize("door", [by_page, by_api])
def test_a_photo_comes_back_with_all_that_its_file_carried(server, door):
    photo = carrying()  # once: its profile has the second in which it is made
    before = Image.open(io.BytesIO(photo))
    contents, said = door(Visitor(server[0]), photo, "png", False)
    after = Image.open(io.BytesIO(contents))
    assert after.mode == "RGBA" and said == []
    one, other = np.array(before), np.array(after)
    assert np.array_equal(one[..., 3], other[..., 3]) and (one != other)[100:250, 50:200].any()
    one[100:250, 50:200] = other[100:250, 50:200]
    assert np.array_equal(one, other)
    assert after.getexif()[0x010F] == "Maker" and after.info["icc_profile"] == before.info["icc_profile"]
    assert np.allclose(after.info["dpi"], 300, atol=0.1) and b"Edited by AI" in after.info["xmp"]
    # The corner of the mark is transparent.
    marked = np.array(Image.open(io.BytesIO(door(Visitor(server[0]), photo, "png", True)[0])))
    assert (marked[380:, 550:, 3] == 255).any() and np.array_equal(marked[:350], other[:350])


@pytest.mark.parametrize("door", [by_page, by_api])
def test_what_of_a_photo_is_lost_is_told(server, door):
    pixels = np.array(Image.open(io.BytesIO(picture())))[..., ::-1].astype(np.uint16) * 257
    blob = cv2.imencode(".png", pixels)[1].tobytes()
    contents, said = door(Visitor(server[0]), blob, "jpeg", False)
    assert said == ["The photo has more than 8 bits a channel, of which 8 are kept."]
    assert contents[:2] == b"\xff\xd8"


def test_uploads_of_the_same_file_are_each_visitors_own(server):
    one, other = Visitor(server[0]), Visitor(server[0])
    paths = [visitor.upload(picture()) for visitor in (one, other)]
    assert paths[0] != paths[1]
    for visitor, path in zip((one, other), paths, strict=True):
        assert visitor.open(path).status_code == 200
    # Programs may leave out the session's name, and use a file for several calls.
    path = one.upload(picture())
    for _ in range(2):
        asked = {"data": [{"path": path, "meta": FILE}, 0]}
        event = one.http.post(f"{API}/call/measure", json=asked).json()["event_id"]
        assert '"age": 31.7' in one.http.get(f"{API}/call/measure/{event}").text


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another server on the loopback: its address, and what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            redirected = self.path == "/redirect.png"
            self.send_response(302 if redirected else 200)
            if redirected:
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/private.png")
            self.end_headers()
            if not redirected:
                self.wfile.write(picture() if self.path != "/large.png" else bytes(3 * MEGABYTE))

        do_HEAD = do_GET

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_port}", asked
        other.shutdown()


def test_addresses_of_the_web_are_not_fetched(server, elsewhere):
    address, asked = elsewhere
    visitor = Visitor(server[0])
    photo = {"path": f"{address}/photo.png", "meta": FILE}
    inputs = visitor.events["edit"]["inputs"]
    for answer in (
        visitor.open(photo["path"]),
        visitor.open(photo["path"].replace("http", "HTTP")),
        visitor.join("edit", [photo] * len(inputs)),
        visitor.http.post(f"{API}/call/measure", json={"data": [photo, 0]}),
    ):
        assert (answer.status_code, said_of(answer)) == (
            403,
            "Photos are not fetched from the web here; upload the file.",
        )
    for path in (f"file={photo['path']}", f"file={photo['path'].upper()}", f"proxy={photo['path']}"):
        assert visitor.http.get(f"{API}/{path}").status_code in (403, 404)
    assert asked == []


def test_addresses_of_the_web_can_be_allowed_but_private_ones_are_not(elsewhere, monkeypatch):
    address, asked = elsewhere
    port = address.rpartition(":")[2]
    monkeypatch.setenv("DYSTYLE_PHOTO_URLS", "1")
    monkeypatch.setattr(files, "LARGEST_FILE", 2 * MEGABYTE)
    with here() as (url, *_):
        visitor = Visitor(url)
        for host in (
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
            "10.0.0.1",
            "169.254.169.254",
            "2130706433",
        ):
            assert visitor.open(f"http://{host}:{port}/photo.png").status_code == 403
        assert asked == []

        async def public_address(host: str) -> str:  # the page's own look-up, where photos.example is public
            return "127.0.0.1" if host == "photos.example" else await looked_up(host)

        looked_up = files.public_address
        monkeypatch.setattr(files, "public_address", public_address)
        assert visitor.open(f"http://photos.example:{port}/redirect.png").status_code == 403
        assert visitor.open(f"http://photos.example:{port}/large.png").status_code == 403
        assert asked == ["/redirect.png", "/large.png"]
        joined = visitor.open(f"http://photos.example:{port}/photo.png")
        success, output, said = visitor.outcome(joined.json()["event_id"])
        assert success and visitor.shown("open_photo", output)["caption"].startswith("<b>Your photo")


def remaining(folder: Path) -> list[str]:
    # Not `rglob`, which stumbles over folders that are deleted meanwhile.
    found = (Path(inside, name) for inside, _, names in os.walk(folder) for name in names)
    return [str(path.relative_to(folder)) for path in found]


def test_no_file_outlives_the_server(tmp_path):
    folder = tmp_path / "files"
    old, new = (folder / f"dystyle-page-{age}" / "cache" / "photo.png" for age in ("old", "new"))
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(old, (0, 0))
    with process(folder) as (url, served):
        visitor = Visitor(url)
        wait_until(lambda: not old.exists())  # what a killed server has left
        assert new.exists()
        new.unlink()
        started = set(remaining(folder))  # the page's examples
        visitor.send("open_photo", [None, "fast", {"path": visitor.upload(picture(faces=2)), "meta": FILE}])
        before = set(remaining(folder))
        assert before > started
        # An upload that is given up in its middle leaves nothing.
        with socket.create_connection(("127.0.0.1", visitor.http.base_url.port)) as connection:
            head = f"POST {API}/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
            part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            head += f"Content-Type: multipart/form-data; boundary=x\r\n\r\n{part}"
            connection.sendall(head.encode() + bytes(MEGABYTE))
            wait_until(lambda: set(remaining(folder)) > before)
        wait_until(lambda: set(remaining(folder)) == before)
        # A picture is downloaded, and no link to the visit's state is written.
        values = ["whole" if value == "portrait" else value for value in visitor.values("download_1")]
        assert "whole" in values
        success, output, said = visitor.send("download_1", values)
        assert success and visitor.http.get(f"{API}/file={output['data'][0]['path']}").content[1:4] == b"PNG"
        asked = {"session_hash": visitor.session}
        assert visitor.http.get(f"{API}/deep_link", params=asked).status_code == 404
        served.send_signal(signal.SIGTERM)
        served.wait(60)
    assert remaining(folder) == []
    assert {path.name for path in folder.iterdir()} == {"dystyle-page-old", "dystyle-page-new"}


def test_files_are_swept_by_age_and_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(files, "FOLDER", tmp_path / f"{files.PREFIX}x")
    names = ("kept", "old", "first", "second")
    paths = {name: files.FOLDER / "cache" / name / "photo.png" for name in names}
    for i, path in enumerate(paths.values()):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(10))
        os.utime(path, (time.time() - 50 + i,) * 2)
    os.utime(paths["old"], (0, 0))
    os.utime(paths["kept"], (0, 0))
    stranger = tmp_path / "other-program"
    stranger.write_bytes(b"x")
    os.utime(stranger, (0, 0))
    files.sweep({str(paths["kept"])}, most=100)
    assert [name for name in names if paths[name].exists()] == ["kept", "first", "second"]
    files.sweep({str(paths["kept"])}, most=15)
    assert [name for name in names if paths[name].exists()] == ["kept", "second"] and stranger.exists()


def test_uploads_from_one_address_push_out_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ADDRESS_BYTES", 25)
    monkeypatch.setattr(files, "UPLOAD_BYTES", 55)
    uploads = files.Uploads()
    paths = [tmp_path / str(i) for i in range(8)]
    for path, address in zip(paths, "abbbbcdd", strict=True):
        path.write_bytes(bytes(10))
        uploads.add(str(path), address)
    assert [path.exists() for path in paths] == [False, False, False, True, True, True, True, True]


# ----------------------------------------------------------------------------- queue, visits, memory


def test_no_event_goes_round_the_queue(server):
    visitor = Visitor(server[0])
    events = visitor.config["dependencies"]
    assert all(event["queue"] for event in events)
    for event in events:
        for route in ("run", "api"):
            answer = visitor.http.post(
                f"{API}/{route}/{event['api_name']}", json={"data": [], "session_hash": visitor.session}
            )
            assert answer.status_code == 404
    assert visitor.http.post(f"{API}/run/predict", json={"data": [], "fn_index": 1}).status_code == 404
    for index in (-1, 10**6, None, "x"):
        assert visitor.join(index if isinstance(index, int) else 0, [], fn_index=index).status_code in (
            400,
            422,
        )


def test_requests_under_fresh_names_take_nobodys_visit():
    with here() as (url, _, demo):
        visitor, greedy = Visitor(url), Visitor(url, address="192.0.2.1")
        visitor.meet()
        for i in range(250):
            visitor.session, own = f"fresh-{i}", visitor.session
            event = visitor.join("cancel", [None]).json()["event_id"]
            wait_until(lambda event=event: event not in demo._queue.event_ids_to_events)  # or it becomes full
            visitor.session = own
        greedy.session = "fresh"
        assert greedy.edit()[0]["kept"] == "lost"  # the page comes back by what its browser kept
        assert list(demo.visits.session_data) == [visitor.session]
        # More visits from elsewhere than there is room for.
        demo.visits.most = 20 * MEGABYTE
        for i in range(10):
            greedy.session = f"greedy-{i}"
            greedy.meet()
        shown, said = visitor.edit()
        assert not said and shown["stage"]["props"]["after"].startswith("data:image/jpeg")
        greedy.session = "greedy-0"
        assert greedy.edit()[0]["kept"] == "lost"


def test_visits_hold_as_many_bytes_as_they_may(caplog):
    caplog.set_level("INFO", "webapp.visits")
    with here() as (_, _, demo):
        visits, state = demo.visits, next(b for b in demo.blocks.values() if type(b).__name__ == "State")
        visits.most = 10 * MEGABYTE + 1000

        def come(session: str, address: str, megabytes: int) -> None:
            visits.came_from(session, address)
            visits[session][state._id] = {"photo": np.zeros(megabytes * MEGABYTE, np.uint8)}

        for i in range(4):
            come(f"polite-{i}", f"192.0.2.{i}", 1)
        visits.open["greedy-0"] = 1
        for i in range(8):
            come(f"greedy-{i}", "198.51.100.1", 1)
        greedy = [session for session in visits.session_data if session.startswith("greedy")]
        assert len(visits.session_data) == 10 and all(f"polite-{i}" in visits for i in range(4))
        assert greedy == [f"greedy-{i}" for i in (0, 3, 4, 5, 6, 7)]  # an open page is not idle
        assert "10 visits from 5 addresses hold 10 MB" in caplog.messages[-1]
        come("polite-0", "192.0.2.0", 11)  # a large photo stays, whatever else has to go
        assert list(visits.session_data) == ["polite-0"]
        visits["stranger"], visits["other"]  # looked at, but never visiting
        assert len(visits.session_data) == 1
        visits.delete_state("polite-0")
        assert visits.bytes == 0 and not visits.session_data


def test_bytes_of_a_visit_are_counted_once():
    with here() as (_, editor, _):
        face = editor.detect(np.full((100, 100, 3), (230, 20, 20), np.uint8))[0]
    arrays = face.code.nbytes + face.portrait.nbytes + face.quad.nbytes + face.box.nbytes
    assert size([face, face.portrait, [face.portrait[:10]], {"same": face}]) == arrays + len(
        "same" + face.refine
    )


def test_nobody_waits_for_all_that_another_has_asked():
    with here() as (url, editor, _):
        greedy = [Visitor(url, address="198.51.100.1") for _ in range(3)]
        polite = Visitor(url, address="192.0.2.1")
        for visitor in (*greedy, polite):
            visitor.meet()
        started, free, asked = threading.Event(), threading.Event(), []
        sample = editor.sample

        def slow(seed, *args):
            asked.append(seed)
            started.set()
            free.wait(30)
            return sample(seed, *args)

        editor.sample = slow
        greedy[0].join("meet_number", [1000])
        started.wait(30)
        for i in range(40):
            answer = greedy[i % 3].join("meet_number", [2000 + i])
            assert answer.status_code == (200 if i < fair_queue.ADDRESS_SIZE else 503)
        events = [polite.join("meet_number", [3000 + i]) for i in range(2)]
        assert [event.status_code for event in events] == [200, 200]
        free.set()
        polite.outcome(events[-1].json()["event_id"])
        # The one that was running, then turn by turn.
        assert asked.index(3000) <= 2 and asked.index(3001) <= 5


class Busy(FakeEditor):
    """Inverts until it is let go, like a refinement: it reports its progress step by step.

    Until `held` is set it is in the middle of a step, where it cannot be stopped; `begun` are the qualities
    that were asked for, `most` how many ran at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.running = self.most = 0
        self.held, self.let_go = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def invert(self, photo, refine="fast", index=0, progress=None):
        with self._lock:
            self.begun.append(refine)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            while not self.let_go.wait(0.01):
                self.held.wait(60)
                progress(0.5, "Refining")
            return super().invert(photo, refine, index, progress)
        finally:
            with self._lock:
                self.running -= 1


def cancel(visitor: Visitor, name: str, event: str) -> None:
    asked = {"session_hash": visitor.session, "fn_index": visitor.events[name]["id"], "event_id": event}
    assert visitor.http.post(f"{API}/cancel", json=asked).status_code == 200


def test_a_cancelled_call_stops_and_keeps_its_place_until_it_has(capfd):
    with here(Busy()) as (url, editor, demo):
        one, two, last = Visitor(url), Visitor(url), Visitor(url)
        photos = {visitor: {"path": visitor.upload(picture()), "meta": FILE} for visitor in (one, two, last)}

        def join(visitor: Visitor, quality: str = "precise") -> str:
            data = [photos[visitor], {}, quality, 0, False, "png", False]
            return visitor.join("edit_photo", data).json()["event_id"]

        running = join(one)
        wait_until(lambda: editor.begun == ["precise"])
        others = [join(one, "balanced"), join(two, "balanced")]
        cancel(one, "edit_photo", others[0])  # one that waits, which leaves that alone that runs
        assert demo._queue.event_ids_to_events[running].alive
        cancel(one, "edit_photo", running)
        success, *_ = one.outcome(running)  # the client need not wait for the end of the step
        assert success and editor.begun == ["precise"]
        assert last.send("edit_person", [3, {}, "png", False])[0]  # the queue goes on meanwhile
        assert editor.begun == ["precise"] and editor.running == 1
        editor.held.set()
        wait_until(lambda: len(editor.begun) == 2)
        # A client that goes away without a word.
        with two.http.stream("GET", f"{API}/queue/data", params={"session_hash": two.session}) as stream:
            next(stream.iter_lines())
        wait_until(lambda: not editor.running)
        editor.let_go.set()
        assert last.outcome(join(last, "fast"))[0]
        assert editor.begun == ["precise", "balanced", "fast"] and editor.most == 1
        wait_until(lambda: not demo._queue.event_ids_to_events and not any(demo._queue.active_jobs))
    assert "Traceback" not in capfd.readouterr().err


def test_an_address_that_floods_is_cut_and_others_are_served(monkeypatch):
    for name, seconds in {"BURST": 1, "PATIENCE": 0, "FLOOD": 3}.items():
        monkeypatch.setattr(doors, name, seconds)
    monkeypatch.setattr(doors, "time", SimpleNamespace(monotonic=lambda: 0.0))  # however slow this machine is
    with here() as (url, _, _):
        address = urlsplit(url).hostname, urlsplit(url).port

        def ask(visitor: str) -> bytes:
            """The status line that a new connection gets."""
            head = f"GET /nothing HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {visitor}\r\n\r\n"
            with socket.create_connection(address) as connection, suppress(ConnectionError):
                connection.sendall(head.encode())
                return connection.makefile("rb").readline()
            return b""

        answers = [ask("198.51.100.1") for _ in range(500)]
        statuses = [answer.split()[1] if answer else b"cut" for answer in answers]
        assert list(dict.fromkeys(statuses)) == [b"404", b"429", b"cut"]  # one after the other
        assert statuses.count(b"cut") > 20
        assert ask("192.0.2.1").split()[1] == b"404"


def test_no_more_than_some_requests_of_an_address_wait(monkeypatch):
    monkeypatch.setattr(doors, "WAITING", 2)

    async def ask() -> list:
        allowance = Allowance()
        allowance.take("a", (doors.BURST + 10) * doors.SHARE)  # the next would have to wait ten seconds
        asked = [asyncio.create_task(allowance.wait("a")) for _ in range(3)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await allowance.wait("b")  # has nothing to do with it
        with pytest.raises(asyncio.TimeoutError):  # there is room again
            await asyncio.wait_for(allowance.wait("a"), 0.01)
        return [task.exception() for task in done]

    with ThreadPoolExecutor(1) as pool:  # Playwright's loop may run in this thread
        (refusal,) = pool.submit(asyncio.run, ask()).result()
    assert isinstance(refusal, TooMany)


def test_results_that_nobody_fetches_are_dropped(monkeypatch):
    monkeypatch.setattr(fair_queue, "UNREAD", 5)
    monkeypatch.setattr(fair_queue, "UNREAD_SECONDS", 0)
    with here() as (url, editor, demo):
        for i in range(20):
            visitor = Visitor(url, session=f"absent-{i}")
            event = visitor.join("meet", ["", "", None, ""]).json()["event_id"]
            wait_until(lambda event=event: event not in demo._queue.event_ids_to_events)
        assert len(demo._queue.pending_messages_per_session) <= 6
        reader = Visitor(url)
        assert reader.meet()[0]["stage"]


# ----------------------------------------------------------------------------------- hosts, headers


def test_only_the_pages_own_names_and_origins_are_answered(server):
    url, _ = server
    visitor = Visitor(url)
    ask = visitor.http
    port = ask.base_url.port
    event = {"fn_index": visitor.events["meet"]["id"], "data": ["", "", None, ""], "session_hash": "x"}
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "",
        "[",
        "localhost.",
    ):
        answer = ask.get("/config", headers={"Host": host})
        assert answer.status_code in (400, 421) and "evil" not in str(answer.headers), host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
        assert ask.get("/config", headers={"Host": host}).status_code == 200
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost.evil.example:{port}",
        "http://localhost:1",
        "http://127.0.0.1:1",
    ):
        foreign = {"Origin": origin}
        preflight = foreign | {"Access-Control-Request-Method": "POST"}
        for answer in (
            ask.get("/", headers=foreign),
            ask.post(f"{API}/queue/join", json=event, headers=foreign),
            ask.post(f"{API}/upload", files={"files": ("x.png", b"x")}, headers=foreign),
            ask.post(f"{API}/mcp/", json=call, headers=foreign | accept),
            ask.options(f"{API}/queue/join", headers=preflight),
        ):
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    crossing = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask.get(f"{API}/queue/data?session_hash=x", headers=crossing).status_code == 403
    assert ask.get("/", headers=crossing | {"Sec-Fetch-Mode": "navigate"}).status_code == 200
    own = {"Origin": f"http://127.0.0.1:{port}"}
    assert ask.post(f"{API}/mcp/", json=call, headers=own | accept).status_code == 200
    assert ask.post(f"{API}/queue/join", json=event, headers=own).status_code == 200
    assert "evil" not in ask.get("/config", headers={"X-Forwarded-Host": "evil.example"}).text


def test_the_public_name_is_a_setting(monkeypatch):
    monkeypatch.setenv("DYSTYLE_HOSTS", "faces.example, www.faces.example")
    with here() as (url, *_):
        for host, status in (("faces.example", 200), ("WWW.faces.example:80", 200), ("evil.example", 421)):
            assert httpx.get(url, headers={"Host": host}, trust_env=False).status_code == status
        # A proxy may name this machine as the host, while the browser knows the public name.
        for origin, status in (("https://faces.example", 200), ("https://evil.example", 403)):
            assert httpx.get(url, headers={"Origin": origin}, trust_env=False).status_code == status


def test_no_other_page_shows_this_one_in_a_frame_but_spaces_does(server, monkeypatch):
    headers = Visitor(server[0]).http.get("/").headers
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("frame-ancestors 'self';")
    refused = Visitor(server[0]).http.get("/nothing").headers
    assert refused["X-Frame-Options"] == "SAMEORIGIN"
    from webapp.doors import Hosts

    monkeypatch.setenv("SPACE_ID", "somebody/studio")
    monkeypatch.setenv("SPACE_HOST", "somebody-studio.hf.space")
    hosts = Hosts.of("0.0.0.0")
    assert "X-Frame-Options" not in hosts.headers
    assert "'self' https://huggingface.co;" in hosts.headers["Content-Security-Policy"]
    assert (
        hosts.know("somebody-studio.hf.space")
        and hosts.know("10.1.2.3:7860")
        and not hosts.know("x.hf.space")
    )
    assert hosts.trust("https://somebody-studio.hf.space", "10.1.2.3:7860")
    assert hosts.trust("https://huggingface.co", "somebody-studio.hf.space")
    assert not hosts.trust("https://other.hf.space", "somebody-studio.hf.space")


# ----------------------------------------------------------------------------------- sizes, values


def recipe(**changes: object) -> str:
    return json.dumps({"dystyle": 1, "seed": 5, "edits": {"age": 70}} | changes)


@pytest.mark.parametrize(
    "link",
    [
        recipe(seed=0).replace("0", "1e400", 1),
        recipe(edits={"age": 0}).replace("0", "1e400"),
        recipe(edits={"age": 0}).replace("0", "9" * 400),
        recipe(seed=0).replace("0", "9" * 400, 1),
        recipe(seed=-1),
        recipe(seed=LARGEST_SEED + 1),
        recipe(seed=None, photo="x", face=0).replace("0}", "1e400}"),
        recipe(seed=None, photo="x", face=-1, quality="fast"),
        recipe(seed=None, photo="x", face=0, quality="x" * 99),
        recipe(edits={"a" * 5000: 1}),
        recipe(edits={"a": 1}).replace('"a"', f'"{"a" * LONGEST_EDIT}"'),
        recipe(edits={"age": None}),
        recipe(edits=[]),
        "[" * LONGEST_EDIT,
        "%E0%A4%A",
    ],
)
def test_an_edit_that_is_none_gets_one_sentence_and_the_page_a_face(server, link):
    visitor = Visitor(server[0])
    shown, said = visitor.meet(link)
    assert said == ["This is not an edit of this page; copy it again as a link or as JSON."]
    assert shown["stage"]["props"]["after"].startswith("data:image/jpeg")
    success, _, said = visitor.send("apply", [None, link])
    assert success and said == ["This is not an edit of this page; copy it again as a link or as JSON."]


def test_numbers_and_edits_of_programs_are_checked(server):
    visitor = Visitor(server[0])
    for name, data in (
        ("edit_person", [-1, {}, "png", False]),
        ("edit_person", [1e400, {}, "png", False]),
        ("edit_person", ["x", {}, "png", False]),
        ("edit_person", [3, {"age": "60"}, "png", False]),
        ("edit_person", [3, ["age"], "png", False]),
        ("edit_person", [3, {"age": 1e400}, "png", False]),
        ("edit_person", [3, {"a" * 9999: 1}, "png", False]),
        ("mix_people", [3, 4, 19, 1, 1, "png", False]),
        ("mix_people", [3, 4, 1, 1e400, 1, "png", False]),
        ("mix_people", [3, 4, 1, 1.5, 1, "png", False]),
        ("mix_people", [3, 4, 1, 1, 1e9, "png", False]),
        ("mix_people", [3, 4, 1, 1, 1, "gif", False]),
        ("mix_people", [3, 4, 1, 1, 1, None, False]),
        ("mix_people", [3, 4, 1, 1, 1, "png", "no"]),
    ):
        success, output, _ = visitor.send(name, data)
        assert not success and output["error"].endswith(".") and len(output["error"]) < 300, (name, data)


def test_what_is_wrong_with_a_call_is_said_before_its_work_and_without_the_servers_folders(tmp_path, capfd):
    with here() as (url, editor, _):
        visitor = Visitor(url)

        def said(name: str, *data) -> str:
            """The error that a call ends with."""
            success, output, _ = visitor.send(name, list(data))
            assert not success
            return output["error"]

        def photo(contents: bytes, name: str = "anna.png") -> dict:
            return {"path": visitor.upload(contents, name), "meta": FILE}

        usual, good = [{}, "fast", 0, False, "png", False], photo(picture())
        assert said("edit_photo", None, *usual) == "Give a photo."
        edits = "Give attributes by their names with numbers, for example {'age': 60}."
        for wrong, sentence in (
            ({"age": "60"}, "'60' is not a value for age; give a number from 5 to 80."),
            ({"age": None}, "'None' is not a value for age; give a number from 5 to 80."),
            ({"age": [60]}, "'[60]' is not a value for age; give a number from 5 to 80."),
            ({"age": 500}, "age = 500 is out of range; give a number from 5 to 80."),
            ({"beauty": 1}, f"There is no attribute 'beauty'; choose from {', '.join(editor.attributes)}."),
            ("age=60", edits),
            ('{"age": 60}', edits),
            ([60], edits),
        ):
            assert said("edit_photo", good, wrong, *usual[1:]) == sentence
            assert said("edit_person", 3, wrong, "png", False) == sentence
        for wrong in ("anna.png", 5, [], [good], True, {"url": "anna.png"}):
            joined = visitor.join("edit_photo", [wrong, *usual])
            assert (joined.status_code, said_of(joined)) == (400, "This event takes other inputs.")
        whole = "takes a whole number from 0 to"
        for at, value, sentence in (
            (1, "slow", "'quality' takes one of fast, balanced, precise."),
            (1, None, "'quality' takes one of fast, balanced, precise."),
            (2, None, f"'face' {whole} 255."),
            (2, "0", f"'face' {whole} 255."),
            (2, -1, f"'face' {whole} 255."),
            (2, 0.5, f"'face' {whole} 255."),
            (3, "no", "'paste' takes true or false."),
            (4, "gif", "'kind' takes one of png, jpeg, webp, avif, tiff."),
            (5, 1, "'mark' takes true or false."),
        ):
            changed = [value if i == at else data for i, data in enumerate(usual)]
            assert said("edit_photo", good, *changed) == sentence
        assert said("measure", good, None) == f"'face' {whole} 255."
        assert said("edit_person", None, {}, "png", False) == f"'seed' {whole} {LARGEST_SEED}."
        assert not any(name in ("invert", "edit") for name, _ in editor.calls)  # no work was begun

        broken, huge = picture()[:300], picture().replace(b"IHDR\0\0\2", b"IHDR\0\xff\2")
        for contents, name in (
            (b"Dear diary", "a.png"),
            (b"", "b.png"),
            (broken, "c.png"),
            (huge, "d.png"),
            (b"{}", "e.safetensors"),
        ):
            for call, more in (("edit_photo", usual), ("measure", [0]), ("save_face", ["fast", 0, False])):
                sentence = said(call, photo(contents, name), *more)
                assert sentence.endswith(".") and str(files.FOLDER) not in sentence and "/" not in sentence
        assert "Traceback" not in capfd.readouterr().err


def test_a_face_is_saved_and_edited_again_without_being_found_again():
    with here() as (url, editor, _):
        visitor = Visitor(url)
        contents, edits = picture(faces=2), {"age": 70}
        photo = {"path": visitor.upload(contents), "meta": FILE}

        def result(name: str, *data) -> bytes:
            success, output, _ = visitor.send(name, list(data))
            assert success, output
            return visitor.http.get(f"{API}/file={output['data'][0]['path']}").content

        for keep in (False, True):
            face = result("save_face", photo, "balanced", 1, keep)
            assert (contents in face) is keep
            saved = {"path": visitor.upload(face, "anna.safetensors"), "meta": FILE}
            for paste in (False, True)[: 1 + keep]:
                expected = result("edit_photo", photo, edits, "balanced", 1, paste, "png", False)
                editor.calls.clear()
                assert result("edit_photo", saved, edits, "fast", 0, paste, "png", False) == expected
                assert "invert" not in dict(editor.calls)
            if not keep:
                success, output, _ = visitor.send("edit_photo", [saved, edits, "fast", 0, True, "png", False])
                assert not success and "holds no photo to paste into" in output["error"]


def test_what_json_has_no_word_for_is_refused_like_any_other_body(server):
    visitor = Visitor(server[0])
    for body in ('{"x": 1e400}', '{"x": NaN, "session_hash": "x"}', "{}"):
        answer = visitor.http.post(f"{API}/call/measure", content=body, headers=JSON)
        assert (answer.status_code, said_of(answer)) == (422, "This endpoint takes other inputs.")


def test_large_requests_are_refused_unread(server):
    url, served = server
    visitor = Visitor(url)
    many = json.dumps({"fn_index": 1, "data": ["x" * (70 * MEGABYTE)], "session_hash": "x"})
    for path in ("queue/join", "call/measure", "call/v2/measure", "cancel", "reset", "mcp/"):
        parts = (many[i : i + MEGABYTE].encode() for i in range(0, len(many), MEGABYTE))
        for content in (many, parts):  # with its length, and without
            try:
                answer = visitor.http.post(f"{API}/{path}", content=content, headers=JSON)
                assert answer.status_code == 413
            except (httpx.ReadError, httpx.WriteError):  # closed before all had been sent
                pass
    deep = "[" * 100_000 + "]" * 100_000
    assert visitor.http.post(f"{API}/queue/join", content=deep, headers=JSON).status_code == 400
    photo = bytes(65 * MEGABYTE)
    assert visitor.http.post(f"{API}/upload", files={"files": ("x.png", photo)}).status_code == 413
    assert (
        visitor.http.post(
            f"{API}/upload", content=b"x", headers={"Content-Type": "multipart/form-data"}
        ).status_code
        == 400
    )
    assert visitor.http.post(f"{API}/upload", content=b"x").status_code == 400
    assert memory(served) < 1500 * MEGABYTE


# ------------------------------------------------------------------------------------------- walk


def routes(of: list, prefix: str = "") -> Iterator[tuple[str, str]]:
    """All methods and paths of an application, those of its parts, too."""
    for route in of:
        path = prefix + getattr(route, "path", "")
        if inner := getattr(route, "routes", None) or getattr(route, "original_router", None):
            yield from routes(getattr(inner, "routes", inner), path)
        for method in getattr(route, "methods", None) or ("GET", "POST"):
            yield method, path


OPEN = {
    *(
        "/",
        "/zh",
        "/es",
        "/zh/",
        "/es/",
        "/config",
        "/config/",
        "/favicon.ico",
        "/theme.css",
        "/robots.txt",
        "/manifest.json",
    ),
    *("/pwa_icon", "/svelte/{}", "/static/{}", "/assets/{}"),
    *(f"{API}/{name}" for name in ("info", "info/", "openapi.json", "app_id", "theme.css", "startup-events")),
    *(
        f"{API}/{name}"
        for name in ("login_check", "login_check/", "queue/data", "queue/join", "cancel", "reset")
    ),
    *(f"{API}/{name}" for name in ("reset/", "upload", "upload_progress", "heartbeat/{}", "file={}")),
    *(f"{API}/call/{name}" for name in ("{}", "{}/", "{}/{}", "v2/{}", "v2/{}/", "v2/{}/{}")),
}


def filled(path: str, value: str) -> str:
    parts = path.replace("{", "\0{").split("\0")
    return "".join(value + part.partition("}")[2] if part.startswith("{") else part for part in parts)


def pattern(path: str) -> str:
    return filled(path, "{}")


def test_walk_every_route_that_is_not_needed_is_shut_and_none_leaks(server, private, elsewhere):
    url, served = server
    address, asked = elsewhere
    victim, visitor = Visitor(url, address="192.0.2.1"), Visitor(url)
    victim.meet()
    own = victim.upload(picture())
    victim.outcome(victim.open(own).json()["event_id"])
    with here(mcp_server=True) as (_, _, demo):
        table = sorted({(method, path) for method, path in routes(demo.app.routes) if path})
    assert len(table) > 60 and (("POST", f"{API}/queue/join") in table)
    secrets = (private.read_bytes()[30:90], b"root:x:0")
    folder = Path(own).parent
    foreign = (str(private), f"../../../../..{private}", own, f"{folder}/../{folder.name}/photo.png")
    values = (*foreign, f"{address}/private.png", uuid.uuid4().hex, "meet", "measure", "x")
    names = ("session_hash", "upload_id", "deep_link", "page", "path", "url", "event_id")
    for method, path in table:
        for value in values if "{" in path else values[:1]:
            target = filled(path, quote(value, safe="/"))
            query = dict.fromkeys(names, value)
            bodies = [None]
            if method in ("POST", "PUT", "PATCH", "DELETE"):
                photo = {"path": value, "meta": FILE, "url": value}
                bodies = [
                    b"x" * (10 * MEGABYTE),
                    b"[]",
                    b"{}",
                    b"\xff",
                    json.dumps({"data": [photo], "photo": photo}),
                ]
            for body in bodies:
                try:
                    with visitor.http.stream(
                        method, target, params=query, content=body, headers=JSON | {"Connection": "close"}
                    ) as answer:
                        first = next(answer.iter_bytes(), b"")
                except httpx.TransportError:  # closed before all of a large body was sent
                    assert body and len(body) > MEGABYTE
                    continue
                assert answer.status_code < 500, (method, target, body and body[:20], first[:200])
                assert not any(secret in first for secret in secrets), (method, target)
                if pattern(path) not in OPEN and not path.startswith(f"{API}/mcp"):
                    assert answer.status_code in (404, 405), (method, target)
    assert asked == []
    print(f"The page had {memory(served) / MEGABYTE:.0f} MB at most.")
    assert memory(served) < 1500 * MEGABYTE
    assert victim.edit()[1] == []  # the victim's visit is still there


WRONG = (None, "x", -1, 1e400, True, [], {}, {"a": [None]}, [["x"]])


def test_walk_every_event_refuses_foreign_files_and_survives_wrong_types(server, private, elsewhere):
    url, served = server
    address, asked = elsewhere
    victim = Visitor(url, address="192.0.2.1")
    victim.meet()
    own = victim.upload(picture())
    victim.outcome(victim.open(own).json()["event_id"])
    visitor = Visitor(url)
    names = {event["id"]: event["api_name"] for event in visitor.config["dependencies"]}
    assert len(names) > 100
    told, large = [], "x" * (10 * MEGABYTE)
    for index, event in enumerate(visitor.config["dependencies"]):
        count = len(event["inputs"])
        for i, path in enumerate((str(private), f"{address}/private.png", own)):
            photo = {"path": path, "meta": FILE}, {"path": path}, [[{"photo": {"path": path}}]]
            assert visitor.join(event["id"], [photo[(index + i) % 3]] * max(count, 1)).status_code == 403
        assert visitor.join(event["id"], [large]).status_code == 413
        if not event["backend_fn"]:
            assert visitor.join(event["id"], [None] * count).status_code == 400
            continue
        waiting = []
        for wrong in (WRONG[index % 9], WRONG[(index + 4) % 9]):
            joined = visitor.join(event["id"], [wrong] * count, event_data={"index": wrong, "value": wrong})
            if joined.status_code == 400:
                assert said_of(joined) == "This event takes other inputs."
                continue
            assert joined.status_code == 200
            waiting.append(visitor.outcome(joined.json()["event_id"]))
        told += [json.dumps(outcome) for outcome in waiting]
    for outcome in told:
        assert not any(
            part in outcome for part in (str(private), str(ROOT), "Traceback", "site-packages", own)
        )
    assert asked == []
    print(f"The page had {memory(served) / MEGABYTE:.0f} MB at most.")
    assert memory(served) < 1500 * MEGABYTE
    assert victim.edit()[1] == []


def test_tools_take_no_foreign_files(server, private, elsewhere):
    url, _ = server
    address, asked = elsewhere
    victim, visitor = Visitor(url), Visitor(url)
    own = victim.upload(picture())

    def call(name: str, **arguments: object) -> httpx.Response:
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        asked["params"] = {"name": name, "arguments": arguments}
        accept = {"Accept": "application/json, text/event-stream"}
        return visitor.http.post(f"{API}/mcp/", json=asked, headers=accept)

    def told(answer: httpx.Response) -> dict:
        return json.loads(answer.text.partition("data: ")[2] or "{}").get("result", {})

    for path in (str(private), own, f"{address}/private.png"):
        for photo in (path, f"file://{path}", {"path": path, "meta": FILE}):
            answer = call("measure", photo=photo, face=0)
            assert answer.status_code == 403 or told(answer)["isError"], photo
            assert "31.7" not in answer.text
    assert asked == []
    data = "data:image/png;base64," + base64.b64encode(picture()).decode()
    answer = told(call("measure", photo=data, face=0))
    assert not answer["isError"] and "31.7" in answer["content"][0]["text"]
