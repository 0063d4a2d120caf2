"""The page as a process of its own: python -m tests.browser.serve PORT [real], with the cartoon editor or the
real one."""

import sys

from tests.browser.fake_editor import FakeEditor
from webapp import LAUNCH_OPTIONS, build_page, serve

if __name__ == "__main__":
    port, *real = sys.argv[1:]
    if real:
        from webapp.start import open_page  # and with it all that runs engines

        page = open_page()
    else:
        page = build_page(FakeEditor())
    serve(page, server_port=int(port), mcp_server=True, **LAUNCH_OPTIONS)
