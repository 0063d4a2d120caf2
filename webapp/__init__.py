"""The browser page: layout, callbacks and per-visitor state. Everything about models is in `dystyle`."""

from webapp.page import LAUNCH_OPTIONS, build_page

__all__ = ["LAUNCH_OPTIONS", "build_page"]
