"""Start the page: load the editor, build the page, serve it."""

import logging
import os
import sys
import time

from dystyle import FaceEditor
from dystyle.engines.hardware import has_torch
from dystyle.errors import InputError
from dystyle.memory import share_freed_memory
from webapp import zero_gpu
from webapp.page import LAUNCH_OPTIONS, build_page
from webapp.server import Studio, serve
from webapp.visit import FULL, PREVIEW

logger = logging.getLogger(__name__)


def load_editor() -> FaceEditor:
    """Load the editor and run everything once, so that the first visitor does not wait for it."""
    started = time.monotonic()
    share_freed_memory()
    logger.info("Loading the editor; the first start fetches the generator and builds the engines")
    try:
        settings = {"backend": "auto", "encoder": "fast", "device": "auto"}
        chosen = {
            name: os.environ.get(f"DYSTYLE_{name.upper()}") or usual for name, usual in settings.items()
        }
        if zero_gpu.here():
            chosen["device"] = "cpu"
        editor = FaceEditor.from_pretrained(**chosen)
        editor.warm_up((FULL, PREVIEW))
        if zero_gpu.here() and has_torch():
            editor = editor.with_refiner(zero_gpu.lent_refiner())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logger.info("Ready after %.1f s", time.monotonic() - started)
    return editor


def open_page() -> Studio:
    """The page with the editor behind it, ready to be served; what happens is logged from here on."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    for name in ("webapp", "dystyle"):
        logging.getLogger(name).setLevel(logging.INFO)
    return build_page(load_editor())


def serve_page(page: Studio) -> None:
    """Serve the page where the environment says, until the process is ended."""
    address = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    serve(page, server_name=os.environ.get("GRADIO_SERVER_NAME", address), **LAUNCH_OPTIONS)
