"""The browser page: layout and callbacks wired together, once for each language."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from webapp.api import add_api
from webapp.callbacks import Callbacks
from webapp.compare import WAITING, CompareCallbacks, Comparer
from webapp.files import LARGEST_FILE
from webapp.language import ENGLISH, LANGUAGES, Language
from webapp.layout import Layout, Preset
from webapp.mix import MixCallbacks
from webapp.readings import times
from webapp.server import FILM, FIT, OPEN, Studio
from webapp.theme import THEME
from webapp.visit import LONGEST_EDIT, Visit

if TYPE_CHECKING:
    from dystyle import FaceEditor

HERE = Path(__file__).parent
SAVE = "(file) => { if (file) window.results.download(file.url, file.orig_name); }"
SAVE_FILM = """() => {
  const film = document.querySelector("#film [data-name]");
  window.results.download(film.src, film.dataset.name);
}"""
KEEP_SECOND = "(photo) => { window.mixing.keep(Boolean(photo)); }"
OPEN_FACE = "(file) => { if (file) window.results.open(file.url, file.orig_name); }"
# The edit of a link, and what was kept of an earlier visit. A link can be anything: what is too long or does
# not decode is handed over for the server to refuse. It counts once: a reload brings back what became of it.
RECALL = f"""async () => {{
  let edit = location.hash.startsWith("#edit=") ? location.hash.slice(6, {3 * LONGEST_EDIT + 10}) : "";
  if (edit) history.replaceState(null, "", location.pathname + location.search);
  try {{ edit = decodeURIComponent(edit); }} catch {{ /* as it is */ }}
  return [edit, ...await window.keeping.recall()];
}}"""
COPY_LINK = """(edit) => navigator.clipboard.writeText(
  location.href.split("#")[0] + "#edit=" + encodeURIComponent(edit))"""
COPY_TEXT = "(edit) => navigator.clipboard.writeText(edit)"

RANGE = ("low", "high", "step")  # of an attribute
SCRIPTS = ("keep.js", "results.js", "several.js", "presets.js")

# What `demo.launch` needs beside the address.
LAUNCH_OPTIONS = {
    "theme": THEME,
    "css_paths": HERE / "style.css",
    "head": "".join(f"<script>{(HERE / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS),
    "js": (HERE / "page.js").read_text(encoding="utf-8"),
    "favicon_path": str(HERE / "icon.svg"),
    "footer_links": ["api"],
    "max_file_size": LARGEST_FILE,
    "ssr_mode": False,
    "run_history": False,
    "enable_monitoring": False,
}


def build_page(editor: "FaceEditor") -> Studio:
    """Build the page around an editor that all visitors share; what is a visitor's own is in a `Visit`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # the page reports to nobody
    with Studio(title="DyStyle Studio", fill_width=True) as demo:
        comparer = Comparer(editor)
        _add_page(demo, editor, comparer, ENGLISH)
        add_api(editor)
    for language in LANGUAGES[1:]:
        with demo.route(language.name, language.code, show_in_navbar=False):
            _add_page(demo, editor, comparer, language)
    demo.open_queue()
    return demo


def _add_page(demo: Studio, editor: "FaceEditor", comparer: Comparer, text: Language) -> None:
    layout = Layout(editor.attributes, text, editor.noise_layers, editor.qualities)
    callbacks = Callbacks(editor, layout)
    sliders, locks = list(layout.sliders.values()), list(layout.locks.values())
    resets = list(layout.resets.values())
    shown = [layout.visit, layout.kept, layout.stage, layout.caption, layout.history, layout.recipe]
    shown += [layout.undo, layout.redo, layout.pin, layout.reset_all, *resets]
    moved = [*shown, *sliders]
    everything = [*moved, *locks, layout.photo, layout.faces, layout.seed, layout.view, layout.quality]
    everything += [layout.saved_face, layout.asked]
    inputs = [*sliders, *locks]
    edits = [layout.visit, layout.view, *inputs]
    private = {"api_visibility": "private"}
    on_stage = {"show_progress": "full", "show_progress_on": layout.progress}
    # Each kind of work has a lane of its own, so that what is quick never waits for what is long: drawing,
    # opening photos, finding a face again in another quality, films, and files.
    drawing = {"concurrency_id": "draw", "concurrency_limit": 1, **private}
    opening = {"outputs": everything, "concurrency_id": OPEN, "concurrency_limit": 1, **on_stage, **private}
    fitting = {"concurrency_id": FIT, "concurrency_limit": 1, **on_stage, **private}
    filming = {"concurrency_id": FILM, "concurrency_limit": 1, **private}
    saving = {"concurrency_id": "save", "concurrency_limit": 1, **private}
    quietly = {"show_progress": "hidden", **drawing}
    newest = {"trigger_mode": "always_last", **quietly}
    silently = {"show_progress": "hidden", "queue": True, **private}

    recalled = [layout.recipe, layout.kept, layout.photo, layout.recipe]
    opened = [demo.load(callbacks.meet, recalled, js=RECALL, preprocess=False, **opening)]
    layout.random.click(callbacks.meet_someone, **opening)
    layout.seed.submit(callbacks.meet_number, layout.seed, **opening)

    # The file is handed over untouched (preprocess=False): what is wrong with it is said in our words.
    photo = {
        "fn": callbacks.open_photo,
        "inputs": [layout.visit, layout.quality, layout.photo],
        "preprocess": False,
        **opening,
    }
    opened.append(layout.photo.input(trigger_mode="multiple", **photo))
    photo["fn"] = callbacks.open_example
    opened.append(layout.examples.load_input_event.then(trigger_mode="multiple", **photo))
    saved = [layout.visit, layout.saved_face]
    layout.saved_face.upload(callbacks.open_face, saved, preprocess=False, **opening)
    for person in (layout.faces.select, layout.stage.click):
        chosen = [layout.visit, layout.view]
        opened.append(person(callbacks.choose_face, chosen, trigger_mode="multiple", **opening))
    opened.append(layout.apply.click(callbacks.apply, [layout.visit, layout.recipe], **opening))
    another, another_done = [layout.kept, layout.another, layout.mark], [layout.another, layout.another_said]
    edited = layout.next_photo.click(
        callbacks.edit_another,
        another,
        another_done,
        js="(...inputs) => window.several.next(...inputs)",
        preprocess=False,
        concurrency_id=OPEN,
        trigger_mode="multiple",
        **silently,
    )
    edited.success(None, another_done, js="(...given) => { window.several.done(...given); }", **private)
    edited.failure(None, js="() => { window.several.done(); }", **private)
    layout.quality.input(
        callbacks.change_quality,
        [layout.visit, layout.quality],
        layout.asked,
        trigger_mode="multiple",
        **silently,
    )
    # Whatever has asked for another quality than that of the face on the page. The face that is found then is
    # drawn with what has been edited meanwhile.
    refined = layout.asked.change(
        callbacks.refine, layout.visit, layout.quality, trigger_mode="multiple", **fitting
    )
    refined.then(callbacks.edit, edits, moved, **newest)
    for event in opened:
        event.then(callbacks.draw_history, layout.visit, layout.history, show_progress="hidden", **filming)
    reading = {"concurrency_id": "read", "concurrency_limit": 1, "show_progress": "hidden", **private}
    layout.kept.change(callbacks.read, layout.visit, layout.readout, trigger_mode="always_last", **reading)
    layout.back.click(None, js="() => window.keeping.back()", **private)
    layout.no_camera.click(callbacks.no_camera, **silently)
    demo.unload(callbacks.stop)

    gr.on([slider.input for slider in sliders], callbacks.preview, edits, layout.sketch, **newest)
    ends = [slider.release for slider in sliders] + [layout.view.input]
    gr.on(ends, callbacks.edit, edits, moved, **newest)
    layout.sketch.click(callbacks.settle, edits, moved, **newest)
    painted = [layout.visit, layout.stage, layout.view, *inputs]
    layout.stage.input(callbacks.protect, painted, shown, **newest)
    gr.on([lock.input for lock in locks], callbacks.lock, edits, moved, **newest)
    # Buttons move the sliders at once, without waiting for a drawing, and what is drawn then is always where
    # the sliders stand: one pressed right after another finds them where that has put them.
    at_once = {"outputs": sliders, "show_progress": "hidden", **private}
    rows = [
        {"name": row.name, "times": times(row)} | {key: getattr(row, key) * times(row) for key in RANGE}
        for row in layout.attributes.values()
    ]
    presets = [(json.dumps(_on_sliders(preset, layout)), button) for preset, button in layout.presets]
    moves = []
    for preset, button in [*presets, ("", layout.own_preset)]:
        act = f"apply({preset}, " if preset else "own("
        script = f"(...inputs) => window.presets.{act}{json.dumps(rows)}, inputs)"
        given = [*inputs, layout.strength, layout.kept]
        moves.append(button.click(None, given, sliders, js=script, trigger_mode="multiple", **private))
    resets = [([name], button) for name, button in layout.resets.items()]
    for names, button in [*resets, (list(layout.sliders), layout.reset_all)]:
        reset = functools.partial(callbacks.reset, names)
        moves.append(button.click(reset, [layout.visit, *locks], **at_once))
    for steps, button in ((1, layout.undo), (-1, layout.redo)):
        go_back = functools.partial(callbacks.go_back, steps)
        moves.append(button.click(go_back, layout.visit, trigger_mode="multiple", **at_once))
    moves.append(layout.history.click(callbacks.go_to, layout.visit, trigger_mode="multiple", **at_once))
    for move in moves:
        move.then(callbacks.edit, edits, moved, **newest)
    layout.pin.click(callbacks.pin, edits, shown, **quietly)

    _wire_mixing(layout, MixCallbacks(callbacks), inputs)
    _wire_comparison(demo, layout, CompareCallbacks(callbacks, comparer), inputs)
    layout.how.select(callbacks.explain, [layout.visit, *inputs], layout.explanation, **quietly)
    for button, script in ((layout.copy_link, COPY_LINK), (layout.copy_text, COPY_TEXT)):
        copied = button.click(None, layout.recipe, js=script, **private)
        copied.success(functools.partial(callbacks.tell, "Copied."), **silently)
    save = [layout.visit, layout.view, layout.kind, layout.mark, *inputs]
    layout.download.click(callbacks.download, save, layout.file, show_progress="minimal", **saving).success(
        None, layout.file, js=SAVE
    )
    layout.save_face.click(
        callbacks.download_face,
        [layout.visit, layout.with_photo],
        layout.file,
        show_progress="minimal",
        **saving,
    ).success(None, layout.file, js=SAVE)
    film = [layout.visit, layout.sweep, layout.film_kind, layout.mark, *inputs]
    layout.animate.click(callbacks.animate, film, [layout.film, layout.save_film], **on_stage, **filming)
    layout.save_film.click(None, js=SAVE_FILM, **private)
    given_up = [layout.quality, layout.photo]

    async def cancel(visit: Visit | None, request: gr.Request) -> dict:
        demo.give_up(request)
        return callbacks.cancel(visit, request)

    layout.cancel.click(cancel, layout.visit, given_up, **silently)


def _on_sliders(preset: Preset, layout: Layout) -> dict:
    """A preset in the sliders' own numbers."""

    def scaled(values: Mapping[str, float]) -> dict[str, float]:
        return {name: value * times(layout.attributes[name]) for name, value in values.items()}

    return {"add": scaled(preset.add), "to": scaled(preset.to), "free": preset.free}


def _wire_mixing(layout: Layout, callbacks: MixCallbacks, inputs: list) -> None:
    mix = [layout.other, layout.row, layout.truncation, layout.noise, layout.second, *inputs]
    given = [layout.visit, *mix]
    quietly = {"show_progress": "hidden", "concurrency_id": "draw", "api_visibility": "private"}
    at_once = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(
        [layout.row.input, layout.truncation.input],
        callbacks.preview,
        given,
        layout.mix_sketch,
        trigger_mode="always_last",
        **quietly,
    )
    drawing = {
        "fn": callbacks.draw,
        "inputs": given,
        "outputs": [layout.mix_stage, layout.mixed_faces],
        "trigger_mode": "always_last",
        **quietly,
    }
    ends = [layout.row.release, layout.truncation.release, layout.mix_sketch.click]
    ends += [layout.other.submit, layout.noise.input]
    gr.on([layout.mixing.select, *ends], **drawing)
    layout.other_random.click(callbacks.another, None, layout.other, **at_once).then(**drawing)
    opened = layout.second_photo.upload(
        callbacks.open_second,
        layout.second_photo,
        [layout.second, layout.other, layout.second_photo],
        preprocess=False,
        show_progress="full",
        show_progress_on=layout.mixed_faces,
        concurrency_id=OPEN,
        api_visibility="private",
    )
    opened.then(**drawing)
    opened.then(None, layout.second_photo, js=KEEP_SECOND, api_visibility="private")
    layout.noise_switch.click(callbacks.switch, layout.noise, layout.noise, **at_once).then(**drawing)
    save = [layout.visit, layout.mix_kind, layout.mark, *mix]
    saving = quietly | {"concurrency_id": "save"}
    layout.mix_download.click(callbacks.download, save, layout.file, **saving).success(
        None, layout.file, js=SAVE
    )
    layout.mix_edit.click(callbacks.to_edit, given, layout.file, **saving).success(
        None, layout.file, js=OPEN_FACE
    )


def _wire_comparison(demo: gr.Blocks, layout: Layout, callbacks: CompareCallbacks, inputs: list) -> None:
    private = {"api_visibility": "private"}
    gr.on(
        [layout.comparison.select, layout.compared_edit.input],
        callbacks.prepare,
        [layout.visit, layout.compared_edit, *inputs],
        [layout.compared_edit, layout.compared],
        show_progress="hidden",
        **private,
    )
    # Those who wait for another's comparison are told so, and one too many is turned away.
    layout.compare.click(
        callbacks.compare,
        [layout.visit, layout.compared_edit, layout.methods, *inputs],
        layout.results,
        concurrency_id="compare",
        concurrency_limit=2 * WAITING,
        show_progress_on=layout.compare_progress,
        **private,
    )
    layout.stop.click(callbacks.cancel, **private)
    demo.unload(callbacks.stop)
