"""The browser demo: `python -m dystyle.page`, which `python app.py` starts, too.

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

import importlib.util
import sys

if importlib.util.find_spec("gradio") is None:
    print("The page needs Gradio and more; pip install 'dystyle[page]'.", file=sys.stderr)
    sys.exit(2)

from webapp.start import open_page, serve_page

__all__ = ["open_page", "serve_page"]

if __name__ == "__main__":
    serve_page(open_page())
