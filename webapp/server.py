"""Gradio's server behind the page's own doors."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import gradio as gr
from gradio.routes import App, ORJSONResponse
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from webapp.doors import Doors, Hosts
from webapp.fair_queue import FairQueue
from webapp.files import SWEEP_SECONDS, Uploads, remove_all, sweep
from webapp.visits import Visits

logger = logging.getLogger(__name__)


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

    def launch(self, *args, server_name: str | None = None, **options):
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

        app = _App(self, Hosts.of(server_name), uploads, visits)
        return super().launch(
            *args, server_name=server_name, _app=app, app_kwargs={"lifespan": lifespan}, **options
        )


class _App(App):
    def __init__(self, blocks: Studio, hosts: Hosts, uploads: Uploads, visits: Visits) -> None:
        super().__init__(
            default_response_class=ORJSONResponse,
            openapi_url=None,
            exception_handlers={TypeError: _other_inputs},
        )
        self._behind = blocks, hosts, uploads, visits
        self.state_holder = visits

    def build_middleware_stack(self) -> ASGIApp:
        blocks, hosts, uploads, visits = self._behind
        pages = frozenset(path for name, *_ in blocks.pages for path in (f"/{name}", f"/{name}/"))
        events = blocks.fns.values()
        endpoints = frozenset(event.api_name for event in events if event.api_visibility == "public")
        mcp = blocks.mcp_server_obj is not None
        return Doors(super().build_middleware_stack(), pages, endpoints, hosts, uploads, visits, mcp)


def _other_inputs(_: Request, error: TypeError) -> JSONResponse:
    """Of Gradio's routes, those that take an endpoint's inputs by their names stumble over wrong ones."""
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
