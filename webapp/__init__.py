"""The browser page: layout, callbacks and per-visitor state. Everything about models is in `dystyle`."""

from webapp import files  # isort: skip  # first: it says where Gradio puts files
from webapp.page import LAUNCH_OPTIONS, build_page
from webapp.server import serve

__all__ = ["LAUNCH_OPTIONS", "build_page", "files", "serve"]
