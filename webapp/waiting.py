"""What browsers are shown at the page's address until the page itself is there: how its start goes.

A small server of its own, behind the same checks and limits. It answers every page with 503 and a small one
that looks at `starting` now and then, and loads anew as soon as the real page is what answers.
"""

import errno
import socket
import threading
from functools import partial
from pathlib import Path
from types import TracebackType

import uvicorn
from gradio.http_server import INITIAL_PORT_VALUE, TRY_NUM_PORTS
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import Receive, Scope, Send

from dystyle.errors import InputError
from webapp.doors import Allowance, Entrance, Hosts, Refused
from webapp.language import ENGLISH, LANGUAGES, Language
from webapp.progress import STEPS, Progress
from webapp.server import Turnstile

HERE = Path(__file__).parent
PAGE = (HERE / "waiting.html").read_text(encoding="utf-8")
ICON = (HERE / "icon.svg").read_text(encoding="utf-8").strip()
STARTING = "/starting"  # the progress as JSON, below any path
AGAIN = 2  # seconds after which a program may ask again
TOLD_SECONDS = 3  # for a browser that waits to ask once more, and learn what went wrong


class WaitingRoom(Entrance):
    """Serves how the start goes, from a thread, at the address that the page will have.

    A context manager: when it is left, the port is free for the page.

    Args:
        server_name: where to listen, a host's name or number.
        progress: of the start.

    Attributes:
        port: the first free one, as Gradio chooses it: from GRADIO_SERVER_PORT, or 7860, on.

    Raises:
        InputError: nothing can listen there.
    """

    def __init__(self, server_name: str, progress: Progress) -> None:
        super().__init__(Hosts.of(server_name), Allowance())
        self._progress, self._error = progress, ""
        self._asked, self._told = False, threading.Event()
        self._socket = _listen(server_name)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(self, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        config.load()
        config.http_protocol_class = partial(Turnstile, allowance=self.allowance)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "WaitingRoom":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, InputError):
            self._error = str(error)
            if self._asked:
                self._told.wait(TOLD_SECONDS)
        self._server.should_exit = True
        self._thread.join()

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = _language(scope)
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused(503, "DyStyle Studio is starting; please try again in a minute.")
        if scope["path"].endswith(STARTING):
            error, self._asked = self._error, True
            said = {
                "step": self._progress.step,
                "share": round(self._progress.share, 3),
                "error": text.sentence(error),
            }
            await JSONResponse(said, headers={"Cache-Control": "no-store"})(scope, receive, send)
            if error:
                self._told.set()
            return
        headers = {"Cache-Control": "no-store", "Retry-After": str(AGAIN), "Vary": "Accept-Language"}
        await HTMLResponse(_page(text), 503, headers)(scope, receive, send)


def _listen(server_name: str) -> socket.socket:
    host = server_name.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(INITIAL_PORT_VALUE, INITIAL_PORT_VALUE + TRY_NUM_PORTS):
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or error
                raise InputError(
                    f"The page cannot be served at {server_name}, port {port} ({reason}); "
                    "set GRADIO_SERVER_NAME or GRADIO_SERVER_PORT to another one."
                ) from error
    raise InputError(
        f"All ports from {INITIAL_PORT_VALUE} to {port} are in use; set GRADIO_SERVER_PORT to another one."
    )


def _language(scope: Scope) -> Language:
    """That of the page's path, else the one that the browser likes best, if the page has it."""
    paths = scope["path"].split("/")
    liked = Headers(scope=scope).get("accept-language", "")[:2].lower()
    found = [language for language in LANGUAGES if language.code in paths]
    found += [language for language in LANGUAGES if language.code == liked]
    return found[0] if found else ENGLISH


def _page(text: Language) -> str:
    steps = "".join(f"<li>{text(step)}</li>" for step in STEPS)
    filled = text.fill(PAGE).replace("[[code]]", text.code).replace("[[steps]]", steps)
    return filled.replace("[[icon]]", ICON)
