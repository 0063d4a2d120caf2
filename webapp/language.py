"""The page in two languages. The English sentence itself is the key of its translation, in `chinese.json`."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Language:
    """Says things in one language.

    Attributes:
        code: "en" or "zh".
        name: of the language, in itself.
        words: English sentence -> its translation; a sentence that is not there stays as it is.
        messages: pattern of a whole English sentence -> replacement.
    """

    code: str
    name: str
    words: dict[str, str] = field(repr=False)
    messages: dict[str, str] = field(repr=False)

    def __call__(self, english: str, **values: object) -> str:
        """A sentence of the page; `values` fill its {placeholders}."""
        return self.words.get(english, english).format(**values)

    def fill(self, template: str) -> str:
        """A text with its {{English sentences}} translated."""
        return re.sub(r"\{\{(.+?)\}\}", lambda found: self(found[1]), template)

    def sentence(self, english: str) -> str:
        """A message that may hold names and numbers."""
        for pattern, translation in self.messages.items():
            if found := re.fullmatch(pattern, english, re.DOTALL):
                return found.expand(translation)
        return english


ENGLISH = Language("en", "English", {}, {})
_TRANSLATED = Path(__file__).with_name("chinese.json").read_text(encoding="utf-8")
CHINESE = Language("zh", "中文", **json.loads(_TRANSLATED))
