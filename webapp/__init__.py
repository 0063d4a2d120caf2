"""The browser page: layout, callbacks and per-visitor state. Everything about models is in `dystyle`."""

from webapp import files  # first: it says where Gradio puts files

__all__ = ["LAUNCH_OPTIONS", "build_page", "files", "serve"]


def __getattr__(name: str):
    """What needs Gradio, which takes seconds to import, when it is asked for."""
    if name in ("LAUNCH_OPTIONS", "build_page"):
        from webapp import page as module
    elif name == "serve":
        from webapp import server as module
    else:
        raise AttributeError(f"module 'webapp' has no attribute '{name}'")
    return getattr(module, name)
