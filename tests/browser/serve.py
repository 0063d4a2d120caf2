"""The page with the cartoon editor, as a process of its own: python -m tests.browser.serve PORT."""

import sys

from tests.browser.fake_editor import FakeEditor
from webapp import LAUNCH_OPTIONS, build_page, serve

if __name__ == "__main__":
    serve(build_page(FakeEditor()), server_port=int(sys.argv[1]), mcp_server=True, **LAUNCH_OPTIONS)
