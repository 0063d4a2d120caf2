"""Start the page: load the editor, build the page, serve it. `python app.py` and `python -m dystyle.page` do.

Environment variables, all optional:
    GRADIO_SERVER_NAME, GRADIO_SERVER_PORT   the address, http://127.0.0.1:7860 without them
    GRADIO_MCP_SERVER=True                   offer the API's endpoints as MCP tools (needs `gradio[mcp]`)
    DYSTYLE_HOSTS                            the names by which visitors know the page, see SECURITY.md
    DYSTYLE_PHOTO_URLS=1                     fetch photos that are given as public addresses of the web
    DYSTYLE_ENCODER                          fast (without it), e4e, or the path of a checkpoint
    DYSTYLE_BACKEND                          what runs the engines: auto (without it), onnx, openvino, torch
    DYSTYLE_URL                              with DYSTYLE_BACKEND=serve, the address of that server's engines
    DYSTYLE_DEVICE                           auto (without it: a GPU if there is one), cpu or cuda
    DYSTYLE_GPU_SECONDS                      what a refinement asks of ZeroGPU, see `webapp.zero_gpu`
    DYSTYLE_C2PA_CERTIFICATE, DYSTYLE_C2PA_KEY   sign what is saved, see `dystyle.provenance`
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dystyle import FaceEditor
from dystyle.engines.hardware import has_torch
from dystyle.errors import InputError
from dystyle.generators.facts import DEFAULT
from dystyle.memory import share_freed_memory
from dystyle.weights import WEIGHTS, resolve
from webapp import zero_gpu
from webapp.progress import BUILD, FETCH, Progress
from webapp.visit import FULL, PREVIEW

if TYPE_CHECKING:
    from webapp.server import Studio

logger = logging.getLogger(__name__)


def load_editor(progress: Progress) -> FaceEditor:
    """Load the editor; its engines are not open yet.

    Raises:
        InputError: the generator cannot be had, or a setting is wrong.
    """
    progress.tell(FETCH, WEIGHTS["random_face"].arrived)
    resolve(DEFAULT)
    progress.tell(BUILD)
    settings = {"backend": "auto", "encoder": "fast", "device": "auto", "url": None}
    chosen = {name: os.environ.get(f"DYSTYLE_{name.upper()}") or usual for name, usual in settings.items()}
    if zero_gpu.here():
        chosen["device"] = "cpu"
    return FaceEditor.from_pretrained(**chosen)


@contextmanager
def loading(progress: Progress) -> Iterator[tuple[Future, Future]]:
    """The editor, and then its engines, which open at the side: Gradio's import and the page take as long.

    In the end everything has run once, so that the first visitor does not wait for it.
    """
    share_freed_memory()
    with ThreadPoolExecutor(1) as pool:
        editor = pool.submit(load_editor, progress)

        def warm_up() -> None:
            editor.result().warm_up((FULL, PREVIEW), lambda share, _: progress.tell(BUILD, lambda: share))

        yield editor, pool.submit(warm_up)


def build(editor: Future, engines: Future) -> "Studio":
    """The page, ready to be served; what went wrong at the side goes wrong here."""
    from webapp.page import build_page

    if zero_gpu.here() and has_torch():
        engines.result()
        return build_page(editor.result().with_refiner(zero_gpu.lent_refiner()))
    page = build_page(editor.result())
    engines.result()
    return page


def open_page() -> "Studio":
    """The page with the editor behind it, ready to be served.

    Raises:
        InputError: as `load_editor`.
    """
    with loading(Progress()) as opening:
        return build(*opening)


def main() -> None:
    """Serve the page where the environment says, until the process is ended; before, how far its start is."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    for name in ("webapp", "dystyle"):
        logging.getLogger(name).setLevel(logging.INFO)
    usual = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    server_name = os.environ.get("GRADIO_SERVER_NAME", usual)
    started, progress = time.monotonic(), Progress()
    logger.info("Starting; the first start fetches the generator and builds the engines")
    try:
        with loading(progress) as opening:
            from webapp.page import LAUNCH_OPTIONS
            from webapp.server import serve
            from webapp.waiting import WaitingRoom

            with WaitingRoom(server_name, progress) as room:
                logger.info("How far it is stands at port %d of %s", room.port, server_name)
                page = build(*opening)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logger.info("Ready after %.1f s", time.monotonic() - started)
    serve(page, server_name=server_name, server_port=room.port, **LAUNCH_OPTIONS)
