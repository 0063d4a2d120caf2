"""Start the page: load the editor, build the page, serve it. `python app.py` and `python -m dystyle.page` do.

Environment variables, all optional:
    GRADIO_SERVER_NAME, GRADIO_SERVER_PORT   the address, http://127.0.0.1:7860 without them
    GRADIO_MCP_SERVER=True                   offer the API's endpoints as MCP tools (needs `gradio[mcp]`)
    DYSTYLE_HOSTS                            the names by which visitors know the page, see SECURITY.md
    DYSTYLE_PHOTO_URLS=1                     fetch photos that are given as public addresses of the web
    DYSTYLE_ENCODER                          fast (without it), e4e, or the path of a checkpoint
    DYSTYLE_BACKEND                          what runs the engines: auto (without it), onnx, openvino, torch
    DYSTYLE_DEVICE                           auto (without it: a GPU if there is one), cpu or cuda
    DYSTYLE_GPU_SECONDS                      what a refinement asks of ZeroGPU, see `webapp.zero_gpu`
    DYSTYLE_C2PA_CERTIFICATE, DYSTYLE_C2PA_KEY   sign what is saved, see `dystyle.provenance`
"""

import logging
import os
import sys
import time
from collections.abc import Callable

from dystyle import FaceEditor
from dystyle.engines.hardware import has_torch
from dystyle.errors import InputError
from dystyle.generators.facts import DEFAULT
from dystyle.memory import share_freed_memory
from dystyle.weights import resolve
from webapp import zero_gpu
from webapp.page import LAUNCH_OPTIONS, build_page
from webapp.server import Studio, serve
from webapp.visit import FULL, PREVIEW
from webapp.waiting import BUILD, FETCH, SET_UP, WaitingRoom

logger = logging.getLogger(__name__)


def load_editor(tell: Callable[[str], None]) -> FaceEditor:
    """Load the editor and run everything once, so that the first visitor does not wait for it.

    Args:
        tell: is told what is being done, steps of `webapp.waiting`.

    Raises:
        InputError: the generator cannot be had, or a setting is wrong.
    """
    share_freed_memory()
    tell(FETCH)
    resolve(DEFAULT)
    tell(BUILD)
    settings = {"backend": "auto", "encoder": "fast", "device": "auto"}
    chosen = {name: os.environ.get(f"DYSTYLE_{name.upper()}") or usual for name, usual in settings.items()}
    if zero_gpu.here():
        chosen["device"] = "cpu"
    editor = FaceEditor.from_pretrained(**chosen)
    editor.warm_up((FULL, PREVIEW))
    if zero_gpu.here() and has_torch():
        editor = editor.with_refiner(zero_gpu.lent_refiner())
    return editor


def open_page(tell: Callable[[str], None] = lambda step: None) -> Studio:
    """The page with the editor behind it, ready to be served; arguments and errors as of `load_editor`."""
    editor = load_editor(tell)
    tell(SET_UP)
    return build_page(editor)


def main() -> None:
    """Serve the page where the environment says, until the process is ended; before, how far its start is."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    for name in ("webapp", "dystyle"):
        logging.getLogger(name).setLevel(logging.INFO)
    usual = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    server_name = os.environ.get("GRADIO_SERVER_NAME", usual)
    started = time.monotonic()
    logger.info("Starting; the first start fetches the generator and builds the engines")
    try:
        with WaitingRoom(server_name) as room:
            logger.info("How far it is stands at port %d of %s", room.port, server_name)
            page = open_page(room.tell)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logger.info("Ready after %.1f s", time.monotonic() - started)
    serve(page, server_name=server_name, server_port=room.port, **LAUNCH_OPTIONS)
