"""The browser demo: `python -m dystyle.page`, which `python app.py` starts, too.

Its program, `webapp`, builds on this package and is started by its name; what can be set is listed in
`webapp.start`.
"""

import importlib.util
import runpy
import sys


def main() -> None:
    """Serve the page until the process is ended."""
    if importlib.util.find_spec("gradio") is None:
        print("The page needs Gradio and more; pip install 'dystyle[page]'.", file=sys.stderr)
        sys.exit(2)
    runpy.run_module("webapp", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
