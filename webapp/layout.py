"""What is on the page and where; `callbacks.py` says what happens there, `style.css` how it looks."""

from collections.abc import Mapping
from pathlib import Path

import gradio as gr

from dystyle.attributes import Attribute
from webapp.stage import build_stage
from webapp.visit import step

HERE = Path(__file__).parent
PORTRAIT, WHOLE = "Portrait", "In the photo"  # the two views of a result
LARGEST_SEED = 2**31 - 1
IDLE_SECONDS = 2 * 3600  # a visit is forgotten this long after its last finished edit
GROUPS = {
    "Pose": ("yaw", "pitch"),
    "Expression": ("smile", "mouth_open", "eyes_closed"),
    "Looks": ("age", "gender", "eyeglasses", "black_hair", "mustache", "beard"),
}


class Layout:
    """The page's components, created inside the current `gr.Blocks`."""

    def __init__(self, attributes: Mapping[str, Attribute]) -> None:
        self.visit = gr.State(None, time_to_live=IDLE_SECONDS)
        gr.HTML((HERE / "header.html").read_text(), elem_id="header")
        with gr.Row(elem_id="workbench"):
            with gr.Column(elem_id="source", elem_classes="card", min_width=0):
                self._source()
            with gr.Column(elem_id="result", elem_classes="card", min_width=0):
                self._result()
            with gr.Column(elem_id="attributes", elem_classes="card", min_width=0):
                self.sliders: dict[str, gr.Slider] = {}
                self.resets: dict[str, gr.Button] = {}
                for title, rows in _grouped(attributes).items():
                    self._group(title, rows)
        # Callbacks take the values in the attributes' own order, whatever the order on the page.
        self.sliders = {name: self.sliders[name] for name in attributes}

    def _source(self) -> None:
        """Where the face comes from."""
        self.photo = gr.Image(
            label="Your photo",
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            buttons=[],
            height=230,
            elem_id="photo",
        )
        self.faces = gr.Gallery(
            label="Choose a face",
            columns=4,
            height="auto",
            allow_preview=False,
            buttons=[],
            interactive=False,
            visible=False,
            elem_id="faces",
        )
        self.quality = gr.Radio(
            [("Fast", "fast"), ("Balanced", "balanced"), ("Precise", "precise")],
            value="balanced",
            label="Quality",
            info="Fast is a rough guess. Balanced keeps the likeness, in seconds. "
            "Precise keeps details, too, in up to a minute.",
            elem_id="quality",
            elem_classes="segments",
        )
        self.examples = gr.Examples(
            [[str(path)] for path in sorted((HERE / "examples").glob("*.jpg"))],
            self.photo,
            label="Or try one of these",
            elem_id="examples",
        )
        with gr.Row(elem_id="someone"):
            self.random = gr.Button("Random person", elem_id="random", min_width=0, scale=3)
            self.seed = gr.Number(
                value=None,
                label="Person number",
                precision=0,
                placeholder="No.",
                show_label=False,
                container=False,
                minimum=0,
                maximum=LARGEST_SEED,
                min_width=0,
                scale=2,
                elem_id="seed",
            )

    def _result(self) -> None:
        """The edited picture and what can be done with it."""
        self.stage = build_stage("stage")
        self.caption = gr.HTML(elem_id="caption")
        with gr.Row(elem_id="toolbar"):
            self.view = gr.Radio(
                [PORTRAIT, WHOLE],
                value=PORTRAIT,
                label="View",
                show_label=False,
                container=False,
                visible=False,
                elem_id="view",
                elem_classes="segments",
            )
            self.reset_all = gr.Button("Reset all", interactive=False, min_width=0, elem_id="reset-all")
            self.download = gr.Button("Download", variant="primary", min_width=0, elem_id="download")
            self.file = gr.File(visible=False)

    def _group(self, title: str, rows: list[Attribute]) -> None:
        gr.HTML(f"<h2>{title}</h2>", elem_classes="group-title")
        for row in rows:
            unit = {"": "", "degrees": " (°)"}.get(row.unit, f" ({row.unit})")
            with gr.Column(elem_classes="attribute", elem_id=f"attribute-{row.name}", min_width=0):
                self.sliders[row.name] = gr.Slider(
                    row.low,
                    row.high,
                    value=row.denormalise(0.0),
                    step=step(row),
                    label=row.label + unit,
                    buttons=[],
                    min_width=0,
                )
                self.resets[row.name] = gr.Button("↺", size="sm", interactive=False, elem_classes="reset")


def _grouped(attributes: Mapping[str, Attribute]) -> dict[str, list[Attribute]]:
    """Sort attributes into the groups of the page; those that no group names make up a last one."""
    named = [name for names in GROUPS.values() for name in names]
    groups = GROUPS | {"More": [name for name in attributes if name not in named]}
    rows = {
        title: [attributes[name] for name in names if name in attributes] for title, names in groups.items()
    }
    return {title: members for title, members in rows.items() if members}
