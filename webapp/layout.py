"""What is on the page and where; `callbacks.py` says what happens there, `style.css` how it looks."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import gradio as gr

from dystyle.attributes import Attribute, Group
from dystyle.editors import METHODS
from dystyle.editors.search import MOST_LOOKS
from dystyle.faces import ENDING, REFINE
from webapp.language import Language
from webapp.readings import times
from webapp.stage import build_sketch, build_stage
from webapp.visit import LARGEST_SEED, LONGEST_EDIT

HERE = Path(__file__).parent
PORTRAIT, WHOLE = "portrait", "whole"  # the two views of a result
IDLE_SECONDS = 3600  # a visit is forgotten this long after its last finished edit
SECOND_SEED = 5  # the second face of a mixture, at first
COMPARED = ("dystyle", "interfacegan", "ganspace")  # the methods that are ticked at first
# Clicks on the history's pictures, as Gradio's event.
PICK = """element.addEventListener("click", (event) => {
  const step = event.target.closest("button");
  if (step) trigger("click", { index: Number(step.dataset.index) });
});"""


class Value(gr.Slider):
    """A slider that hands typed numbers over as they are: none at all, or one out of its range, is no mistake
    yet. What counts then is said by `Visit.targets`.
    """

    times = 1  # how large one is on the slider

    def get_block_name(self) -> str:
        return "slider"  # for the browser it is gr.Slider

    def preprocess(self, payload: object) -> float | None:
        if payload is None:
            return None
        if type(payload) in (int, float) and math.isfinite(payload):
            return payload if self.times == 1 else payload / self.times
        raise gr.Error(f"'{self.label}' takes a number.", print_exception=False)

    def postprocess(self, value: float | None) -> float:
        return super().postprocess(value if value is None else round(value * self.times, 4))


class Percent(Value):
    """A slider in percent of a value that is a share; its range and step are percents, too."""

    times = 100


# Where the picture's readings lie on the sliders.
MARK = """watch("marks", () => {
  for (const row of document.querySelectorAll("#attributes .attribute")) {
    const mark = props.marks?.[row.id.slice("attribute-".length)];
    row.classList.toggle("read", mark !== undefined);
    row.style.setProperty("--read", mark ?? 0);
  }
});"""

# What has been downloaded; `results.js` fills it.
RESULTS = """<div class="results" role="group" aria-label="{{Downloads}}" hidden>
  <div class="results-files"></div>
  <button class="results-all" type="button">{{All as a zip}}</button>
</div>"""

# Photos that are edited one after the other; `several.js` fills it.
SEVERAL = """<button class="several-choose" type="button">{{Edit several photos}}</button>
<input type="file" multiple accept="image/*" hidden>
<section class="several" aria-label="{{Several photos}}" hidden data-done="{{done}}"
  data-unedited="{{Nothing is edited yet; move a slider, then edit them all.}}"
  data-most="{{These are 100 photos; edit the others after them.}}"
  data-broken="{{This photo could not be edited; please try again.}}">
  <div><b>{{Several photos}}</b><span class="several-count" aria-live="polite"></span></div>
  <progress class="several-progress" aria-label="{{Several photos}}" value="0"></progress>
  <p class="several-said" role="status"></p>
  <div class="several-table" tabindex="0" role="region" aria-label="{{Several photos}}">
    <table><tbody class="several-rows"></tbody></table>
  </div>
  <div>
    <button class="several-start" type="button">{{Edit them all}}</button>
    <button class="several-stop" type="button">{{Cancel}}</button>
    <button class="several-zip" type="button" hidden>{{All as a zip}}</button>
    <button class="several-clear" type="button">{{Clear}}</button>
  </div>
</section>"""

# What the server says about the visit is kept in the browser; one that has expired comes back from there.
KEEP = """watch("value", () => {
  if (props.value === "lost") window.keeping.lost();
  else if (props.value) window.keeping.keep(props.value);
});"""


@dataclass(frozen=True)
class Preset:
    """A ready-made edit of the face as it is: values to `add` to the sliders, or to bring them `to`, and what
    to `free`: attributes that an edit before may hold below where they started."""

    label: str
    add: Mapping[str, float] = field(default_factory=dict)
    to: Mapping[str, float] = field(default_factory=dict)
    free: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """Of all attributes that it may move."""
        return {*self.add, *self.to, *self.free}

    def suits(self, rows: Mapping[str, Attribute]) -> bool:
        """Whether an editor with these attributes can do it."""
        return self.names <= rows.keys()

    def applied(self, start: Mapping[str, float], rows: Mapping[str, Attribute]) -> dict[str, float]:
        """All attributes' values after this edit of an unedited face, within their ranges."""
        wanted = {name: start[name] + more for name, more in self.add.items()} | dict(self.to)
        bounded = {name: min(max(value, rows[name].low), rows[name].high) for name, value in wanted.items()}
        return {**start, **bounded}


PRESETS = (
    Preset("10 years older", add={"age": 10}),
    Preset("10 years younger", add={"age": -10}),
    Preset("Smile", to={"smile": 1}, free=("mouth_open",)),
    Preset("Serious", to={"smile": 0, "mouth_open": 0}),
    Preset("Look left", to={"yaw": -25}),
    Preset("Look right", to={"yaw": 25}),
    Preset("Face the camera", to={"yaw": 0, "pitch": 0}),
    Preset("Glasses", to={"eyeglasses": 1}),
)


# What the examples are opened with, by their file in `examples`: an astronaut (NASA, public domain), and
# random people, called by their number, at truncation 0.8.
EXAMPLES = {
    "person-251": Preset("25 years on", add={"age": 25}),
    "person-224": Preset("Smiling", to={"smile": 1}),
    "person-265": Preset("In glasses", to={"eyeglasses": 1}),
    "person-309": Preset("Eyes shut", to={"eyes_closed": 1}),
    "astronaut": Preset("Solemn", to={"smile": 0, "mouth_open": 0}),
    "person-312": Preset("Bearded", to={"beard": 1}),
    "person-227": Preset("Turned", to={"yaw": 20}),
    "person-225": Preset("Grown up", add={"age": 20}),
}

STRENGTHS = (25, 50, 75, 100)  # of presets, in percent: of the way that they go
# Presets of the visitor's own; `presets.js` fills it.
OWN_PRESETS = """<span class="own-list" data-remove="{{Remove}}"></span>
<button class="own-add" type="button">+ {{Keep this edit}}</button>
<span class="own-form" hidden>
  <input class="own-name" maxlength="30" aria-label="{{Name of the preset}}"
    placeholder="{{Name of the preset}}">
  <button class="own-save" type="button">{{Keep}}</button>
</span>"""


class Layout:
    """The page's components in one language, created inside the current `gr.Blocks`."""

    def __init__(
        self,
        attributes: Mapping[str, Attribute],
        text: Language,
        noise_layers: Sequence[str] = (),
        qualities: Sequence[str] = REFINE,
    ) -> None:
        self.text, self.attributes, self.noise_layers = text, attributes, noise_layers
        self.qualities = qualities
        self.visit = gr.State(None, time_to_live=IDLE_SECONDS)
        self.asked = gr.State(None, time_to_live=IDLE_SECONDS)  # when the visit's face was to be found anew
        self.kept = gr.HTML(html_template="<i></i>", js_on_load=KEEP, visible="hidden", elem_id="kept")
        header = _fill("header.html", text).replace("[[code]]", text.code).replace("[[links]]", text.links())
        gr.HTML(header, elem_id="header")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(text("Edit"), elem_id="tab-edit"):
                with gr.Row(elem_id="workbench"):
                    with gr.Column(elem_id="source", elem_classes="card", min_width=0):
                        self._source()
                    with gr.Column(elem_id="result", elem_classes="card", min_width=0):
                        self._result()
                    with gr.Column(elem_id="attributes", elem_classes="card", min_width=0):
                        self._attributes()
            with gr.Tab(text("Mix"), elem_id="tab-mix") as self.mixing:
                self._mix()
            with gr.Tab(text("Compare"), elem_id="tab-compare") as self.comparison:
                self._compare()
            with gr.Tab(text("How it works"), elem_id="tab-how") as self.how:
                self.explanation = gr.HTML(elem_id="explanation")
            with gr.Tab(text("About"), elem_id="tab-about"):
                gr.HTML(_fill(f"about.{text.code}.html", text), elem_id="about")

    def _source(self) -> None:
        """Where the face comes from."""
        text = self.text
        self.photo = gr.Image(
            label=text("Your photo"),
            placeholder=text("Drop a photo here, paste one,\nor click to choose"),
            sources=["upload", "webcam", "clipboard"],
            type="filepath",
            buttons=[],
            height=210,
            elem_id="photo",
        )
        self.no_camera = gr.Button(visible="hidden", elem_id="no-camera")
        self.faces = gr.Gallery(
            label=text("Choose a face"),
            columns=4,
            height="auto",
            allow_preview=False,
            buttons=[],
            interactive=False,
            visible=False,
            elem_id="faces",
        )
        titles = {"fast": text("Fast"), "balanced": text("Balanced"), "precise": text("Precise")}
        self.quality = gr.Radio(
            [(titles[quality], quality) for quality in self.qualities],
            value="fast",
            visible=len(self.qualities) > 1,
            label=text("Quality"),
            info=text(
                "Fast keeps your photo wherever nothing is edited. Balanced refines the face first, in "
                "seconds. Precise fits the generator to it, in up to a minute, and redraws all of it."
            ),
            elem_id="quality",
            elem_classes="segments",
        )
        self.examples = gr.Examples(
            [[str(HERE / "examples" / f"{name}.jpg")] for name in EXAMPLES],
            self.photo,
            label=text("Or try one of these"),
            elem_id="examples",
        )
        edits = "".join(f"<li>{text(preset.label)}</li>" for preset in EXAMPLES.values())
        gr.HTML(f"<ol>{edits}</ol>", visible="hidden", elem_id="example-edits")  # `page.js` says them
        with gr.Row(elem_id="someone"):
            self.random = gr.Button(text("Random person"), elem_id="random", min_width=0, scale=3)
            self.seed = gr.Number(
                value=None,
                label=text("Person number"),
                precision=0,
                placeholder=text("No."),
                show_label=False,
                container=False,
                minimum=0,
                maximum=LARGEST_SEED,
                min_width=0,
                scale=2,
                elem_id="seed",
            )
        self.back = gr.Button(text("Back to the face before"), size="sm", min_width=0, elem_id="back")
        self.saved_face = gr.UploadButton(
            text("Open a saved face"), file_types=[ENDING], size="sm", min_width=0, elem_id="saved-face"
        )

        gr.HTML(text.fill(SEVERAL), elem_id="several")
        self.next_photo = gr.Button(visible="hidden", elem_id="several-next")
        self.another, self.another_said = gr.File(visible=False), gr.Textbox(visible=False)

    def _result(self) -> None:
        """The edited picture and what can be done with it."""
        text = self.text
        self.stage = build_stage("stage", text)
        self.sketch = build_sketch("sketch", self.stage)
        with gr.Column(elem_id="work", min_width=0):
            self.progress = gr.HTML(elem_id="progress")
            self.cancel = gr.Button(text("Cancel"), size="sm", min_width=0, elem_id="cancel")
        self.caption = gr.HTML(elem_id="caption", html_template='<div aria-live="polite">${value}</div>')
        self.readout = gr.HTML(
            html_template='<div aria-live="polite">${said}</div>',
            js_on_load=MARK,
            said="",
            marks={},
            elem_id="readout",
        )
        self.history = gr.HTML(elem_id="history", js_on_load=PICK)
        with gr.Row(elem_id="toolbar"):
            self.view = gr.Radio(
                [(text("Portrait"), PORTRAIT), (text("In the photo"), WHOLE)],
                value=PORTRAIT,
                label=text("View"),
                show_label=False,
                container=False,
                visible=False,
                elem_id="view",
                elem_classes="segments",
            )
            self.undo = gr.Button("↶ " + text("Undo"), interactive=False, min_width=0, elem_id="undo")
            self.redo = gr.Button("↷ " + text("Redo"), interactive=False, min_width=0, elem_id="redo")
            self.pin = gr.Button(text("Pin this edit"), min_width=0, elem_id="pin")
            self.reset_all = gr.Button(text("Reset all"), interactive=False, min_width=0, elem_id="reset-all")
            self.kind = _kind(text, "kind")
            self.download = gr.Button(text("Download"), variant="primary", min_width=0, elem_id="download")
            self.file = gr.File(visible=False)
        gr.HTML(text.fill(RESULTS), elem_id="results")
        with gr.Accordion(text("Link, saved face, animation and mark"), open=False, elem_id="more"):
            self._more()

    def _more(self) -> None:
        """Passing the edit on, and other ways to save it."""
        text = self.text
        self.recipe = gr.Textbox(
            label=text("This edit as text"),
            info=text("Paste a link or text here and press Apply to restore an edit on the same photo."),
            lines=2,
            max_lines=3,
            max_length=3 * LONGEST_EDIT,  # as a link, in which most signs are three
            elem_id="recipe",
        )
        with gr.Row(elem_classes="tools"):
            self.copy_link = gr.Button(text("Copy link"), size="sm", min_width=0, elem_id="copy-link")
            self.copy_text = gr.Button(text("Copy text"), size="sm", min_width=0, elem_id="copy-text")
            self.apply = gr.Button(text("Apply"), size="sm", min_width=0, elem_id="apply")
        with gr.Row(elem_classes="tools"):
            self.save_face = gr.Button(text("Save this face"), size="sm", min_width=0, elem_id="save-face")
            self.with_photo = gr.Checkbox(
                label=text("with the photo"),
                info=text("A saved face opens without waiting; with the photo, it can be put back there."),
                elem_id="with-photo",
            )
        with gr.Row(elem_classes="tools"):
            self.sweep = gr.Dropdown(
                [(text("The whole edit"), "")]
                + [(text(row.label), name) for name, row in self.attributes.items()],
                value="",
                label=text("Animation"),
                info=text("Of an attribute: through all of its range."),
                filterable=False,
                min_width=0,
                elem_id="sweep",
            )
            self.film_kind = gr.Radio(
                [("MP4", "mp4"), ("GIF", "gif")],
                value="mp4",
                label=text("Film format"),
                show_label=False,
                container=False,
                elem_id="film-kind",
                elem_classes="segments",
            )
            self.animate = gr.Button(text("Make animation"), size="sm", min_width=0, elem_id="animate")
            self.save_film = gr.Button(
                text("Download animation"), size="sm", visible=False, min_width=0, elem_id="save-film"
            )
        self.film = gr.HTML(elem_id="film")
        self.mark = gr.Checkbox(
            label=text("Draw a visible “AI” mark into saved pictures"),
            info=text("Every file says in its metadata that it was edited by AI, with or without the mark."),
            elem_id="mark",
        )

    def _mix(self) -> None:
        """The face on the page crossed with another."""
        text = self.text
        with gr.Row(elem_id="mix"):
            with gr.Column(elem_id="mix-controls", elem_classes="card", min_width=0):
                self.mixed_faces = gr.HTML(elem_id="mixed-faces")
                with gr.Row(elem_id="mix-someone"):
                    self.other_random = gr.Button(
                        text("Another second face"), min_width=0, scale=3, elem_id="other-random"
                    )
                    self.other = gr.Number(
                        value=SECOND_SEED,
                        label=text("Number of the second face"),
                        precision=0,
                        placeholder=text("No."),
                        show_label=False,
                        container=False,
                        minimum=0,
                        maximum=LARGEST_SEED,
                        min_width=0,
                        scale=2,
                        elem_id="other",
                    )
                self.second = gr.State(None, time_to_live=IDLE_SECONDS)  # the face of a second photo
                self.second_photo = gr.UploadButton(
                    text("Choose a second photo"),
                    file_types=["image"],
                    size="sm",
                    min_width=0,
                    elem_id="second-photo",
                )
                self.row = Value(
                    0,
                    18,
                    value=8,
                    step=1,
                    label=text("Taken from the first face"),
                    info=text("First pose and shape, then features, at last the colours, too."),
                    buttons=[],
                    elem_id="mix-row",
                )
                with gr.Accordion(text("Details"), open=False, elem_id="mix-details"):
                    self.truncation = Value(
                        0,
                        1,
                        value=1,
                        step=0.05,
                        label=text("Distance from the average"),
                        info=text("1 leaves the face as it is, 0 gives the mean of all faces."),
                        buttons=[],
                        elem_id="truncation",
                    )
                    shown = bool(self.noise_layers)
                    self.noise = gr.CheckboxGroup(
                        [(_layer_label(layer), layer) for layer in self.noise_layers],
                        value=list(self.noise_layers),
                        label=text("Chance details by their size"),
                        info=text("Such as single hairs. Sizes are in pixels."),
                        visible=shown,
                        elem_id="noise",
                    )
                    self.noise_switch = gr.Button(
                        text("All on or off"), size="sm", min_width=0, visible=shown, elem_id="noise-switch"
                    )
            with gr.Column(elem_id="mix-result", elem_classes="card", min_width=0):
                self.mix_stage = build_stage("mix-stage", text, text("First face"))
                self.mix_sketch = build_sketch("mix-sketch", self.mix_stage)
                with gr.Row(elem_classes="tools"):
                    self.mix_kind = _kind(text, "mix-kind")
                    self.mix_download = gr.Button(
                        text("Download"), variant="primary", min_width=0, elem_id="mix-download"
                    )
                    self.mix_edit = gr.Button(text("Edit this face"), min_width=0, elem_id="mix-edit")

    def _compare(self) -> None:
        """The same edit by several methods."""
        text = self.text
        with gr.Column(elem_id="compare", elem_classes="card", min_width=0):
            with gr.Row(elem_id="compare-choice"):
                with gr.Column(min_width=240):
                    presets = [
                        (text(preset.label), str(i))
                        for i, preset in enumerate(PRESETS)
                        if preset.suits(self.attributes)
                    ]
                    self.compared_edit = gr.Dropdown(
                        [(text("The edit on the page"), ""), *presets],
                        value="",
                        label=text("Edit"),
                        filterable=False,
                        elem_id="compared-edit",
                    )
                    self.compared = gr.HTML(
                        elem_id="compared", html_template='<div aria-live="polite">${value}</div>'
                    )
                with gr.Column(min_width=240, scale=2):
                    self.methods = gr.CheckboxGroup(
                        [(text(method.title), name) for name, method in METHODS.items()],
                        value=list(COMPARED),
                        label=text("Methods"),
                        info=text(
                            "DyStyle takes the values as they are. All others search for the strength that "
                            "reaches them and look at up to {n} pictures.",
                            n=MOST_LOOKS,
                        ),
                        elem_id="methods",
                    )
                    with gr.Row(elem_classes="tools"):
                        self.compare = gr.Button(
                            text("Compare"), variant="primary", min_width=0, elem_id="compare-start"
                        )
                        self.stop = gr.Button(text("Cancel"), min_width=0, elem_id="compare-cancel")
                        self.compare_progress = gr.HTML(elem_id="compare-progress")
            self.results = gr.HTML(elem_id="compare-results")

    def _attributes(self) -> None:
        """Presets, then one row for each attribute, in groups."""
        known = self.attributes.keys()
        self.presets: list[tuple[Preset, gr.Button]] = []
        with gr.Row(elem_id="presets"):
            for i, preset in enumerate(PRESETS):
                if preset.suits(self.attributes):
                    button = gr.Button(self.text(preset.label), size="sm", min_width=0, elem_id=f"preset-{i}")
                    self.presets.append((preset, button))
            gr.HTML(self.text.fill(OWN_PRESETS), elem_id="own-presets")
            self.own_preset = gr.Button(visible="hidden", elem_id="own-preset")
            self.strength = gr.Radio(
                [(f"{percent} %", percent) for percent in STRENGTHS],
                value=100,
                label=self.text("Strength"),
                elem_id="strength",
                elem_classes="segments",
            )
        sliders, self.resets, self.locks = {}, {}, {}
        for title, rows in _grouped(self.attributes).items():
            heading = f'<h2><button type="button" aria-expanded="true">{self.text(title)}</button></h2>'
            gr.HTML(heading, elem_id=f"group-{title.lower()}", elem_classes="group-title")
            for row in rows:
                name, label = row.name, self.text(row.label)
                unit = {"": "", "degrees": " (°)"}.get(row.unit, f" ({self.text(row.unit)})")
                unit = " (%)" if times(row) == Percent.times else unit
                with gr.Column(elem_classes="attribute", elem_id=f"attribute-{name}", min_width=0):
                    many = times(row)
                    sliders[name] = (Percent if many == Percent.times else Value)(
                        row.low * many,
                        row.high * many,
                        value=row.denormalise(0.0),
                        step=row.step * many,
                        label=label + unit,
                        buttons=[],
                        min_width=0,
                    )
                    self.resets[name] = gr.Button("↺", size="sm", interactive=False, elem_classes="reset")
                    self.locks[name] = gr.Checkbox(
                        label=self.text("Lock {what}", what=label),
                        container=False,
                        min_width=0,
                        elem_classes="lock",
                    )
        # Callbacks take the values in the attributes' own order, whatever the order on the page.
        self.sliders = {name: sliders[name] for name in known}
        self.locks = {name: self.locks[name] for name in known}


def _fill(file: str, text: Language) -> str:
    """A page fragment with its {{sentences}} in the page's language."""
    return text.fill((HERE / file).read_text(encoding="utf-8"))


def _kind(text: Language, elem_id: str) -> gr.Radio:
    return gr.Radio(
        [("PNG", "png"), ("JPEG", "jpeg"), ("WebP", "webp")],
        value="png",
        label=text("File format"),
        show_label=False,
        container=False,
        elem_id=elem_id,
        elem_classes="segments",
    )


def _layer_label(layer: str) -> str:
    """The side of a layer's features in pixels, and which of the layers of this side it is."""
    if not (found := re.fullmatch(r"blocks\.(\d+)\.conv(\d+)", layer)):
        return "4"  # the first layer
    return f"{8 << int(found[1])}{'ab'[int(found[2]) - 1]}"


def _grouped(attributes: Mapping[str, Attribute]) -> dict[str, list[Attribute]]:
    """The attributes in the groups of the page; groups without any are left out."""
    groups = {title: [row for row in attributes.values() if row.group == title] for title in get_args(Group)}
    return {title: members for title, members in groups.items() if members}
