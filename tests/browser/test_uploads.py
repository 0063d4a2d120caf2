"""Five hundred malformed uploads through the function that every upload goes through."""

from types import SimpleNamespace

import gradio as gr

from tests.browser.fake_editor import FakeEditor
from tests.browser.fuzz import malformed_uploads
from webapp.callbacks import BROKEN, Callbacks
from webapp.language import ENGLISH, LANGUAGES
from webapp.layout import Layout

CHINESE = next(language for language in LANGUAGES if language.code == "zh")


class Faceless(FakeEditor):
    """Sees nobody, however the fuzzer has coloured a picture that can still be read."""

    def detect(self, photo) -> list:
        return []


VISITOR = SimpleNamespace(session_hash="visitor")


def test_every_malformed_upload_gets_one_sentence_and_the_page_stays(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Warning", lambda message: said.append(message))
    with gr.Blocks():
        layouts = [Layout(FakeEditor.attributes, text) for text in (ENGLISH, CHINESE)]
    english, chinese = (Callbacks(Faceless(), layout) for layout in layouts)
    for i, (name, contents) in enumerate(malformed_uploads(seed=7, count=500)):
        path = tmp_path / name
        path.write_bytes(contents)
        photo = {"path": str(path), "orig_name": name}
        callbacks = chinese if i % 10 == 0 else english
        shown = callbacks.open_photo(None, "fast", photo, VISITOR, lambda *a, **k: None)
        assert shown == {callbacks.layout.photo: None}, name
        assert len(said) == i + 1 and BROKEN not in said[-1], (name, said[-1:])
        assert said[-1].endswith(("。", ".")) and str(tmp_path) not in said[-1]
        if callbacks is chinese:
            assert any("\u4e00" <= letter <= "\u9fff" for letter in said[-1]), said[-1]
        path.unlink()
    assert len(set(said)) > 30  # not one sentence for everything
