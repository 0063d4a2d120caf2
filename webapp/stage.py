"""The picture in the middle of the page: the edited image, its "before" and the divider between them."""

import base64
import io
import time
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from webapp.language import Language

HERE = Path(__file__).parent
SCRIPTS = ("stage.js", "zoom.js", "brush.js")
TEMPLATE = """
<figure class="stage">
  <img class="stage-after" alt="{{The edited picture}}">
  <img class="stage-before" alt="{{The picture before editing}}">
  <div class="stage-faces" role="group" aria-label="{{Choose a face}}"></div>
  <canvas class="stage-mask" width="256" height="256" tabindex="0" role="application"
    aria-label="{{Paint what no edit may touch; arrow keys move the brush, space paints, shift draws}}">
  </canvas>
  <span class="stage-pen" aria-hidden="true"></span>
  <span class="stage-line" aria-hidden="true"></span>
  <span class="stage-tag left">{{Before}}</span><span class="stage-tag right">{{After}}</span>
  <input class="stage-split" type="range" min="0" max="100" value="50" step="0.1"
    aria-label="{{Divider between before and after, in percent}}">
  <div class="stage-tools">
    <button class="stage-zoom" type="button" aria-pressed="false" aria-label="1:1, {{Full size}}"
      title="{{Full size; also by wheel, two fingers or a double click}}">1:1</button>
    <button class="stage-brush" type="button" aria-pressed="false"
      title="{{Paint what no edit may touch: a hat, a hand}}">
      <svg viewBox="0 0 24 24" aria-hidden="true"><path
        d="M20 4 10 14M8.5 13.5c-3 0-2 4-5 5 3 1.5 7.5 1 7.5-2.5a2.5 2.5 0 0 0-2.5-2.5z"/></svg>
      <span>{{Protect}}</span>
    </button>
    <button class="stage-compare" type="button" aria-pressed="false" title="{{Before and after}}">
      <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3v18M9 8l-4 4 4 4M15 8l4 4-4 4"/></svg>
      <span>{{Before and after}}</span>
    </button>
  </div>
</figure>
<div class="brush-tools" role="group" aria-label="{{Protect}}" hidden>
  <button class="brush-erase" type="button" aria-pressed="false">{{Erase}}</button>
  <input class="brush-size" type="range" min="2" max="30" value="9"
    aria-label="{{Brush size}}" title="{{Brush size}}">
  <button class="brush-back" type="button" disabled>↶ {{Undo}}</button>
  <button class="brush-clear" type="button" disabled>{{Clear}}</button>
  <button class="brush-done" type="button">{{Done}}</button>
</div>
"""


def build_stage(elem_id: str, text: Language, tag: str = "") -> gr.HTML:
    """A component that shows `after`, and `before` left of a divider once "Before and after" is pressed.

    Both are data URLs, and `tag` names what is left of the divider ("Before" where nothing is given). `faces`
    has the `boxes` of the people in it, left, top, width and height in percent, and who of them is `shown`
    and `edited`; a click on a box is a click on the component, with the person's index. An update may carry
    any, the others stay. A new `turn` shows the pictures in place of a sketch, also where they are the same.
    The visitor's own are how closely it is looked at, and that `before` is all there is to see while the
    picture is held; see `zoom.js`. Where there is something to be `protected`, with a `visit`'s name and its
    `mask`, the visitor may paint: what becomes of it is an input of the component, as its value, with the
    visit's name before it; see `brush.js`.

    Pictures travel inside the page's own messages, so a visitor's face is never written to the server's disk
    for display.
    """
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return gr.HTML(
        html_template=text.fill(TEMPLATE),
        js_on_load=script,
        apply_default_css=False,
        before="",
        after="",
        tag=tag,
        faces={},
        turn=0,
        protected={},
        elem_id=elem_id,
    )


def build_sketch(elem_id: str, stage: gr.HTML) -> gr.HTML:
    """What a stage shows while a slider moves, a data URL as `after`, until its next picture. A new `turn`
    shows it also where it is the sketch before, which a picture has followed since.

    It goes another way than the stage's pictures, as of two quick updates of one component Gradio keeps the
    second one only. A sketch that no picture follows is a click on this component: its slider's release was
    lost, or the sketch was drawn after what the release had asked for.
    """
    script = (HERE / "sketch.js").read_text(encoding="utf-8").replace("[[stage]]", stage.elem_id)
    return gr.HTML(
        html_template="<i></i>", js_on_load=script, after="", turn=0, visible="hidden", elem_id=elem_id
    )


def new_turn() -> int:
    """A number that the one before was not."""
    return time.monotonic_ns() % 2**50


def data_url(image: np.ndarray) -> str:
    """Encode uint8 (H, W, 3) as a JPEG data URL without visible loss."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
