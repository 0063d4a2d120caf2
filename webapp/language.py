"""The page's languages. The English sentence itself is the key of its translation, in a file named by the
language's code, such as `zh.json`; `about.zh.html` beside it is what the page says about itself.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Language:
    """Says things in one language.

    Attributes:
        code: such as "en"; also the path of the page in this language.
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

    @property
    def path(self) -> str:
        """Of the page in this language, from any of its pages."""
        return "./" if self is ENGLISH else f"./{self.code}"

    def links(self) -> str:
        """To the page in the other languages, as HTML."""
        others = (other for other in LANGUAGES if other is not self)
        return "".join(f'<a href="{o.path}" lang="{o.code}">{o.name}</a>' for o in others)

    @classmethod
    def read(cls, file: Path) -> "Language":
        """A language from its file."""
        return cls(file.stem, **json.loads(file.read_text(encoding="utf-8")))


ENGLISH = Language("en", "English", {}, {})
LANGUAGES = (ENGLISH, *map(Language.read, sorted(Path(__file__).parent.glob("*.json"))))
