"""Gradio's server behind the page's own doors."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.routes import App, ORJSONResponse
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from webapp.doors import Allowance, Doors, Hosts
from webapp.fair_queue import FairQueue
from webapp.files import SWEEP_SECONDS, Uploads, remove_all, sweep
from webapp.visits import Visits

logger = logging.getLogger(__name__)

# Work of these kinds takes its time, and each waits for its own kind only; see `page.py`.
OPEN, FIT, FILM = LONG_LANES = ("open", "fit", "film")
FIRST = 8192  # bytes of a connection that are looked at before anything is made of it
FORWARDED = re.compile(rb"\r\nx-forwarded-for:([^\r]*)", re.IGNORECASE)


class Studio(gr.Blocks):
    """Blocks whose server lets in what the page and its API need, and nothing else.

    Every event waits in a `FairQueue`; what a visitor leaves is bounded, see `Visits` and `Uploads`.
    """

    def open_queue(self) -> None:
        """Let all events wait in the queue; to be called when the page is complete."""
        self.queue(api_open=False)
        self._queue = FairQueue(self)
        for event in self.fns.values():
            event.queue = True

    def give_up(self, request: gr.Request) -> None:
        """Let nothing long of a visitor's wait for its turn; see `FairQueue.give_up`."""
        self._queue.give_up(request.session_hash, LONG_LANES)

    def launch(self, *args, server_name: str | None = None, prevent_thread_lock: bool = False, **options):
        """As Gradio's, with the doors before it. DYSTYLE_HOSTS names the hosts by which visitors know the
        page, DYSTYLE_PHOTO_URLS=1 allows photos from public addresses of the web."""
        server_name = server_name or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        kept = {path for block in self.blocks.values() for path in getattr(block, "keep_in_cache", ())}
        uploads = Uploads(frozenset(kept), os.environ.get("DYSTYLE_PHOTO_URLS") == "1")
        visits = Visits()

        @asynccontextmanager
        async def lifespan(_: App) -> AsyncIterator[None]:
            task = asyncio.create_task(_tidy(uploads, visits))
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        allowance = Allowance()
        app = _App(self, Hosts.of(server_name), uploads, visits, allowance)
        options |= {"server_name": server_name, "_app": app, "app_kwargs": {"lifespan": lifespan}}
        launched = super().launch(*args, prevent_thread_lock=True, **options)
        if self.server is not None:  # uvicorn asks for the class of each new connection
            self.server.config.http_protocol_class = partial(Turnstile, allowance=allowance)
        if not prevent_thread_lock:
            self.block_thread()
        return launched


class Turnstile(asyncio.BufferedProtocol):
    """A connection before its first request: that of an address which floods the page is cut, with as little
    work as can be; any other one goes to uvicorn.

    Args:
        allowance: knows who floods. options: uvicorn's for a connection.
    """

    def __init__(self, allowance: Allowance, config: Config, server_state: ServerState, **options) -> None:
        self._allowance, self._config, self._state = allowance, config, server_state
        self._options, self._buffer = options, bytearray(FIRST)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)  # uvicorn shuts down what is in there

    def connection_lost(self, _: Exception | None) -> None:
        self._state.connections.discard(self)

    def get_buffer(self, _: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self._state.connections.discard(self)
        data = bytes(self._buffer[:count])
        if self._allowance.floods(self._address(data)):
            self._transport.abort()
            return
        protocol = AutoHTTPProtocol(config=self._config, server_state=self._state, **self._options)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def shutdown(self) -> None:
        self._transport.close()

    def _address(self, data: bytes) -> str:
        """Where the first request comes from; as uvicorn's middleware finds it, if a proxy tells."""
        address, *_ = self._transport.get_extra_info("peername")
        proxies = self._config.loaded_app.trusted_hosts
        told = b", ".join(FORWARDED.findall(data, 0, max(0, data.find(b"\r\n\r\n")))).decode("latin-1")
        return proxies.get_trusted_client_address(told)[0] if told and address in proxies else address


class _App(App):
    def __init__(
        self, blocks: Studio, hosts: Hosts, uploads: Uploads, visits: Visits, allowance: Allowance
    ) -> None:
        super().__init__(
            default_response_class=ORJSONResponse,
            openapi_url=None,
            exception_handlers={TypeError: _other_inputs, RequestValidationError: _other_inputs},
        )
        self._behind = blocks, hosts, uploads, visits, allowance
        self.state_holder = visits

    def build_middleware_stack(self) -> ASGIApp:
        blocks, hosts, uploads, visits, allowance = self._behind
        pages = frozenset(path for name, *_ in blocks.pages for path in (f"/{name}", f"/{name}/"))
        events = blocks.fns.values()
        endpoints = frozenset(event.api_name for event in events if event.api_visibility == "public")
        mcp = blocks.mcp_server_obj is not None
        app = super().build_middleware_stack()
        return Doors(app, pages, endpoints, hosts, uploads, visits, allowance, mcp)


def _other_inputs(_: Request, error: Exception) -> JSONResponse:
    """Wrong inputs of an endpoint: Gradio's routes that take them by their names stumble over them, and
    FastAPI repeats a body that it refuses, which fails where JSON has no word for what is in it."""
    logger.info("A request was not understood: %s", error)
    return JSONResponse({"detail": "This endpoint takes other inputs."}, 422)


async def _tidy(uploads: Uploads, visits: Visits) -> None:
    while True:
        await asyncio.to_thread(sweep, uploads.own)
        uploads.forget()
        visits.tell()
        await asyncio.sleep(SWEEP_SECONDS)


def serve(page: Studio, **options) -> None:
    """Serve the page until the process is ended; SIGTERM deletes its files, as the interrupt key does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        page.launch(**options)
    finally:
        page.close(verbose=False)
        remove_all()
