"""What comes in from the network, before Gradio sees it: which hosts, routes, sizes and files are let in."""

import asyncio
import ipaddress
import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from gradio.route_utils import upload_fn
from gradio.routes import file_upload_statuses
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dystyle.errors import InputError
from webapp.files import LARGEST_FILE, Uploads
from webapp.visits import ADDRESSES, Visits

logger = logging.getLogger(__name__)

SHARE = 0.5  # of a processor, that one address may take outside of the queue
BURST, PATIENCE = 5, 30  # seconds of its share that an address may use at once, and that it may have to wait
FLOOD = 60  # seconds that an address is over its share, from which on its new connections are cut
WAITING = 64  # requests of one address that wait for its share; a page that opens sends some 40
# About what an answer takes, in seconds of a processor; uploads count by their bytes.
PAGE_COST, REFUSAL_COST, FILE_COST, UPLOAD_COST, BYTE_COST = 0.05, 0.005, 0.002, 0.02, 1e-8
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
NO_NAMES = frozenset({"", "0.0.0.0", "::"})
JSON_BYTES = 2**18  # of an event: sliders, names, an edit as text
MCP_BYTES = 2**25  # of a tool's call, which may hold a photo
DRAINED, DRAIN_SECONDS = 2**24, 5  # what is read of a refused request, in bytes, and how long
BODY_SECONDS = 30  # in which an event has to arrive
API = "/gradio_api"
# What the page and Gradio's clients ask for. Everything else of Gradio's is shut: direct calls without the
# queue, deep links, monitoring, lists of runs, proxies, recordings, reloading.
READ = re.compile(
    r"/(config/?|favicon\.ico|theme\.css|robots\.txt|manifest\.json|pwa_icon|(svelte|static|assets)/.+)?"
    rf"|{API}/(info/?|openapi\.json|app_id|theme\.css|startup-events|login_check/?|queue/data|upload_progress"
    r"|heartbeat/[\w-]{1,64}|call/(v2/)?\w+/[0-9a-f]{32}|file=(?!https?:).+)",
    re.IGNORECASE,
)
CALL = re.compile(rf"{API}/(queue/join|call/(v2/)?(?P<name>\w+)/?)")
TOLD = re.compile(rf"{API}/(cancel|reset/?)")  # about events that have been sent
EVENT = re.compile(rf"{API}/(queue|call|cancel|reset|heartbeat|upload_progress|startup-events)")
FILE = re.compile(rf"/(svelte|static|assets|favicon|pwa_icon|robots|theme)|{API}/(file=|theme)")
SESSION, UPLOAD_ID = re.compile(r"[\w-]{1,64}"), re.compile(r"[\w.-]{0,64}")
MCP, UPLOAD, PROGRESS = f"{API}/mcp", f"{API}/upload", f"{API}/upload_progress"
SERVED, HEARTBEAT = f"{API}/file=", f"{API}/heartbeat/"


class Refused(Exception):
    """A request that is not let in: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class TooMany(Refused):
    """One of more requests than an address may send; what it is still sending is not read."""

    def __init__(self) -> None:
        super().__init__(429, "Too many requests; please wait a minute.")


@dataclass(frozen=True)
class Hosts:
    """Under which names the page is reached, and who may show it in a frame.

    Attributes:
        public: the names by which visitors know the page, beside those of this machine's loopback.
        by_number: whether an IP address is a name, too: the page listens to the network. It is no danger, as
            only a name can be made to point to another machine.
        frames: origins whose pages may show this one in a frame.
    """

    public: frozenset[str] = frozenset()
    by_number: bool = False
    frames: tuple[str, ...] = ()

    @classmethod
    def of(cls, server_name: str) -> "Hosts":
        """For a server that listens at `server_name`; DYSTYLE_HOSTS and Spaces' own settings add names."""
        names = f"{os.environ.get('DYSTYLE_HOSTS', '')},{os.environ.get('SPACE_HOST', '')}".lower().split(",")
        local = server_name in LOOPBACK or server_name.startswith("127.")
        on_spaces = "SPACE_ID" in os.environ
        return cls(
            frozenset({server_name.lower(), *(name.strip() for name in names)} - LOOPBACK - NO_NAMES),
            not local,
            ("https://huggingface.co",) if on_spaces else (),
        )

    def know(self, host: str) -> bool:
        """Whether a request's Host names this page."""
        name = _name(host)
        if name in LOOPBACK or name in self.public:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or self.by_number
        except ValueError:
            return False

    def trust(self, origin: str, host: str) -> bool:
        """Whether a browser's request from a page of `origin` to `host` is the page's own."""
        if origin in self.frames:
            return True
        netloc = urlsplit(origin).netloc.lower()
        return netloc == host.lower() or (bool(netloc) and _name(netloc) in self.public)

    @property
    def headers(self) -> dict[str, str]:
        """Of every answer."""
        frames = " ".join(("'self'", *self.frames))
        return {
            "Content-Security-Policy": f"frame-ancestors {frames}; object-src 'none'; base-uri 'self'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        } | ({} if self.frames else {"X-Frame-Options": "SAMEORIGIN"})


def _name(host: str) -> str:
    """The name in a Host header, without the port; "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Body:
    """`receive` of a request, which can read on for a while.

    A client that is still sending when it is refused would otherwise find its connection closed, and not
    learn why.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive, self._ended = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._ended |= not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and forget up to `DRAINED` bytes."""

        async def read() -> None:
            left = DRAINED
            while left > 0 and not self._ended:
                left -= len((await self()).get("body", b""))

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), DRAIN_SECONDS)


class Allowance:
    """Lets addresses wait that take more than their share: of what is not in the queue, which has its own."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # when an address will have had its share of what it has taken
        self._waiting: Counter[str] = Counter()

    async def wait(self, address: str) -> None:
        """Wait until `address` may take more.

        Raises:
            TooMany: that would be too long, or too many of its requests wait already.
        """
        over = self._over(address)
        if over > PATIENCE or self._waiting[address] >= WAITING:
            raise TooMany
        if over > 0:
            self._waiting[address] += 1
            try:
                await asyncio.sleep(over)
            finally:
                self._waiting[address] -= 1
                if not self._waiting[address]:
                    del self._waiting[address]

    def floods(self, address: str) -> bool:
        """Whether `address` has sent so much that it is not worth an answer."""
        return self._over(address) > FLOOD

    def _over(self, address: str) -> float:
        """Seconds until `address` has had its share of what it has taken, less what it may use at once."""
        return self._until.get(address, 0.0) - time.monotonic() - BURST

    def take(self, address: str, seconds: float) -> None:
        """Note what an answer to `address` has taken."""
        now = time.monotonic()
        if len(self._until) > ADDRESSES:
            self._until = {name: until for name, until in self._until.items() if until > now}
        self._until[address] = max(now, self._until.get(address, 0.0)) + seconds / SHARE


@dataclass
class Entrance:
    """The outermost part of a server: who may ask, how often, and what every answer says.

    Attributes:
        hosts: under which names the page is reached.
        allowance: what each address has taken.
    """

    hosts: Hosts
    allowance: Allowance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        receive, send = Body(receive), self._with_headers(scope, send)
        try:
            await self.allowance.wait(_address(scope))
            self._check_sender(scope)
            await self.route(scope, receive, send)
        except Refused as refusal:
            headers = {"Connection": "close"}
            if not isinstance(refusal, TooMany):
                await receive.drain()
                headers = {}
            said = {"detail": refusal.sentence, "error": refusal.sentence}
            await JSONResponse(said, refusal.status, headers)(scope, receive, send)
        except ClientDisconnect:
            pass

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose sender may ask.

        Raises:
            Refused: it is not let in.
        """
        raise NotImplementedError

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.allowance.take(_address(scope), _cost(scope, message["status"]))
                headers = MutableHeaders(scope=message)
                headers.update(self.hosts.headers)
                if scope["path"].startswith(SERVED):
                    headers["Cache-Control"] = "private"
            await send(message)

        return sending

    def _check_sender(self, scope: Scope) -> None:
        headers = MutableHeaders(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.hosts.know(host):
            name = _name(host) or "nothing"
            raise Refused(421, f"This page is not known as {name[:100]!r}; DYSTYLE_HOSTS names its hosts.")
        if origin is not None and not self.hosts.trust(origin, host):
            raise Refused(403, "Requests from pages of other origins are refused.")
        crossing = headers.get("sec-fetch-site") == "cross-site" and origin not in self.hosts.frames
        if crossing and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "Requests from pages of other origins are refused.")
        forwarded = headers.get("x-forwarded-host", host).split(",")
        if not all(self.hosts.know(name.strip()) for name in forwarded):
            del headers["x-forwarded-host"]  # Gradio would build addresses from it


@dataclass
class Doors(Entrance):
    """Lets in what the page and its API need.

    Attributes:
        app: Gradio's.
        pages: paths of the page in its languages.
        endpoints: names of the API's.
        uploads, visits: which files may be used, and what is noted of visitors.
        mcp: whether the API's endpoints are MCP tools, too.
    """

    app: ASGIApp
    pages: frozenset[str]
    endpoints: frozenset[str]
    uploads: Uploads
    visits: Visits
    mcp: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        await super().__call__(scope, receive, send)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if self.mcp and (path == MCP or path.startswith(f"{MCP}/")):
            body = await self._body(scope, receive, MCP_BYTES)
            if body and next(_files(_json(body)), None) is not None:
                raise Refused(403, "Tools take photos as data URLs.")
            return await self.app(scope, _replay(body, receive), send)
        if method in ("GET", "HEAD") and (path in self.pages or READ.fullmatch(path)):
            # There are no deep links, and the page's languages have paths of their own.
            dropped = ("deep_link", "page") if path in self.pages else ("deep_link",)
            asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            scope["query_string"] = urlencode([pair for pair in asked if pair[0] not in dropped]).encode()
            if path.startswith(SERVED) and not self.uploads.may_see(path[len(SERVED) :], _address(scope)):
                raise Refused(403, "This file is not yours, or is gone.")
            if path == PROGRESS and not UPLOAD_ID.fullmatch(dict(asked).get("upload_id", "")):
                raise Refused(400, "This is not the name of an upload.")
            if path.startswith(HEARTBEAT):
                return await self._heartbeat(path.removeprefix(HEARTBEAT), scope, receive, send)
            return await self.app(scope, receive, send)
        if method == "POST" and path == UPLOAD:
            return await self._upload(scope, receive, send)
        call = CALL.fullmatch(path)
        known = call and (call["name"] is None or call["name"] in self.endpoints)
        if method == "POST" and (known or TOLD.fullmatch(path)):
            body = await self._body(scope, receive, JSON_BYTES)
            event = _json(body)
            if call:
                body = await self._call(scope, event)
                MutableHeaders(scope=scope)["content-length"] = str(len(body))
            return await self.app(scope, _replay(body, receive), send)
        raise Refused(404, "There is nothing here.")

    async def _body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        """A whole request's body."""
        too_large = Refused(413, f"A request may have {most // 1024} kB.")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise too_large

        async def read() -> bytes:
            parts, held = [], 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                held += len(parts[-1])
                if held > most:
                    raise too_large
                if not message.get("more_body"):
                    return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, "The request did not arrive in time.") from None

    async def _call(self, scope: Scope, event: Any) -> bytes:
        """An event as it is handed on: with files that its session may use, and only the path in them."""
        if not isinstance(event, dict):
            raise Refused(400, "This is not an event.")
        address, session = _address(scope), event.get("session_hash")
        if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
            raise Refused(400, "This is not the name of a session.")
        if session:
            self.visits.came_from(session, address)
        given = event if "/call/v2/" in scope["path"] else event.get("data")
        try:
            for file in list(_files(given)):
                accepted = await self.uploads.accept(dict(file), session, address)
                file.clear()
                file.update(accepted)
        except InputError as error:
            raise Refused(403, str(error)) from None
        return json.dumps(event).encode()

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive files as Gradio does, each into a folder that nobody can guess, and nothing of it stays if
        the visitor goes away meanwhile."""
        request = Request(scope, receive)
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_FILE + JSON_BYTES:
            raise Refused(413, f"An upload says its length, which may be {LARGEST_FILE // 2**20} MB.")
        upload_id = request.query_params.get("upload_id", "")
        if not UPLOAD_ID.fullmatch(upload_id):
            raise Refused(400, "This is not the name of an upload.")
        self.allowance.take(_address(scope), UPLOAD_COST)
        place = self.uploads.place()
        try:
            paths, *_ = await upload_fn(
                request,
                str(place),
                LARGEST_FILE,
                upload_id,
                upload_progress=file_upload_statuses if upload_id else None,
            )
            for path in paths:
                self.uploads.add(path, _address(scope))
            await JSONResponse(paths)(scope, receive, send)
            return
        except MultiPartException as error:
            refusal = Refused(413 if "exceeded" in error.message else 400, error.message)
        except ClientDisconnect:
            refusal = None
        except Exception as error:  # Gradio's parser raises nearly anything on what is no upload
            logger.info("An upload was refused: %r", error)
            refusal = Refused(400, "This is not an upload.")
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        if refusal is not None:
            raise refusal

    async def _heartbeat(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The connection that the page keeps while it is open."""
        self.visits.open[session] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.visits.open[session] -= 1
            if not self.visits.open[session]:
                del self.visits.open[session]


def _cost(scope: Scope, status: int) -> float:
    """What a request takes outside of the queue, in seconds."""
    if status >= 400:
        return REFUSAL_COST
    if scope["path"] == UPLOAD:
        return BYTE_COST * int(Headers(scope=scope).get("content-length", "0"))
    if EVENT.match(scope["path"]):
        return 0.0
    return FILE_COST if FILE.match(scope["path"]) else PAGE_COST


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "This is not JSON.") from None


def _files(value: Any) -> Iterator[dict]:
    """All that Gradio could take for a file in an event's data."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "path" in value:
            yield value
        elif isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for a request whose body has been read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving
