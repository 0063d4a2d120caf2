"""Start the browser demo: `python app.py`. Hugging Face Spaces runs this file too.

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

from dystyle import FaceEditor
from dystyle.errors import InputError
from dystyle.memory import share_freed_memory
from webapp import LAUNCH_OPTIONS, build_page, serve, zero_gpu
from webapp.visit import FULL, PREVIEW

logger = logging.getLogger("app")


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
        if zero_gpu.here():
            editor = editor.with_refiner(zero_gpu.lent_refiner())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logger.info("Ready after %.1f s", time.monotonic() - started)
    return editor


logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
for name in ("app", "webapp", "dystyle"):
    logging.getLogger(name).setLevel(logging.INFO)
demo = build_page(load_editor())

if __name__ == "__main__":
    address = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    serve(demo, server_name=os.environ.get("GRADIO_SERVER_NAME", address), **LAUNCH_OPTIONS)
