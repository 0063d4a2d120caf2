"""The browser page: layout and callbacks wired together."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from webapp.callbacks import Callbacks
from webapp.layout import Layout
from webapp.theme import THEME

if TYPE_CHECKING:
    from dystyle import FaceEditor

HERE = Path(__file__).parent
FILE_SECONDS = 3600  # uploads and downloads are deleted when they are this old
QUEUE_SIZE = 64  # more waiting requests than this are turned away
SAVE = """(file) => {
  if (!file) return;
  Object.assign(document.createElement("a"), { href: file.url, download: file.orig_name }).click();
}"""

# What `demo.launch` needs beside the address.
LAUNCH_OPTIONS = {
    "theme": THEME,
    "css_paths": HERE / "style.css",
    "js": (HERE / "page.js").read_text(),
    "favicon_path": str(HERE / "icon.svg"),
    "footer_links": ["api"],
    "max_file_size": "64mb",
    "ssr_mode": False,
}


def build_page(editor: "FaceEditor") -> gr.Blocks:
    """Build the page around an editor that all visitors share; what is a visitor's own is in a `Visit`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # the page reports to nobody
    with gr.Blocks(
        title="DyStyle Studio", fill_width=True, delete_cache=(FILE_SECONDS // 4, FILE_SECONDS)
    ) as demo:
        layout = Layout(editor.attributes)
        _wire(demo, layout, Callbacks(editor, layout))
    return demo.queue(max_size=QUEUE_SIZE)


def _wire(demo: gr.Blocks, layout: Layout, callbacks: Callbacks) -> None:
    sliders = list(layout.sliders.values())
    resets = list(layout.resets.values())
    shown = [layout.visit, layout.stage, layout.caption, layout.reset_all, *resets, *sliders]
    everything = [*shown, layout.photo, layout.faces, layout.seed, layout.view]
    on_stage = {"show_progress": "full", "show_progress_on": layout.stage}
    # Drawing waits for drawing and fitting for fitting, so a long fit never holds up a moving slider.
    fitting = {"outputs": everything, "concurrency_id": "fit", "concurrency_limit": 1, **on_stage}
    drawing = {"concurrency_id": "draw", "concurrency_limit": 1}
    meeting = {"outputs": everything, **drawing, **on_stage}

    demo.load(callbacks.meet, api_visibility="private", **meeting)
    layout.random.click(callbacks.meet_someone, api_visibility="private", **meeting)
    layout.seed.submit(callbacks.meet_number, layout.seed, api_name="random_person", **meeting)

    # The file is handed over untouched (preprocess=False): what is wrong with it is said in our words.
    photo = [layout.visit, layout.quality, layout.photo]
    layout.photo.input(callbacks.open_photo, photo, preprocess=False, api_name="open_photo", **fitting)
    layout.examples.load_input_event.then(
        callbacks.open_photo, photo, preprocess=False, api_visibility="private", **fitting
    )
    layout.faces.select(
        callbacks.choose_face, [layout.visit, layout.quality], api_visibility="private", **fitting
    )
    layout.quality.input(
        callbacks.change_quality,
        [layout.visit, layout.quality, *sliders],
        api_visibility="private",
        **fitting,
    )

    # A half-typed number may be out of a slider's range (preprocess=False): it is no mistake yet.
    edits = [layout.visit, layout.view, *sliders]
    gr.on(
        [slider.input for slider in sliders],
        callbacks.preview,
        edits,
        layout.stage,
        preprocess=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        **drawing,
    )
    gr.on(
        [slider.release for slider in sliders] + [layout.view.input],
        callbacks.edit,
        edits,
        shown,
        trigger_mode="always_last",
        show_progress="hidden",
        api_name="edit",
        **drawing,
    )
    for names, button in [([name], button) for name, button in layout.resets.items()] + [
        (list(layout.sliders), layout.reset_all)
    ]:
        button.click(
            functools.partial(callbacks.reset, names),
            edits,
            shown,
            show_progress="hidden",
            api_visibility="private",
            **drawing,
        )
    layout.download.click(
        callbacks.download, edits, layout.file, show_progress="minimal", api_name="download", **drawing
    ).success(None, layout.file, js=SAVE)
