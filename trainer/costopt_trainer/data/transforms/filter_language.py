"""Documents in other languages are dropped, as the package py3langid tells them.

langid (Lui and Baldwin, "langid.py: An Off-the-shelf Language Identification Tool", ACL 2012) is naive Bayes over
sequences of bytes; its model, of 4 MiB for some 140 languages, comes with the package, so no network is needed. It was
made for sentences: of a whole document it gives one answer, which a quotation or code in the midst may decide. So it is
asked about passages, and they vote.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from costopt.schema.transforms import Transform
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.blocks import beginning
from costopt_trainer.data.transforms.judges import EachForItself
from costopt_trainer.data.transforms.table import Verdict

VERSION = 1
PASSAGE_CHARACTERS = 500
MOST_PASSAGES = 32
"""Of a document: about 16,000 characters, which take a few milliseconds."""

_BLANKS = re.compile(r"\s+")


class FilterLanguage(EachForItself):
    """Judges a document by passages of its first MiB."""

    def __init__(self, settings: Transform) -> None:
        if settings.filter_language is None:
            raise ValueError("FilterLanguage must have settings")
        self._languages: frozenset[str] = frozenset(settings.filter_language.languages)
        self._min_percent = settings.filter_language.min_percent

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and the version of the package with its model."""
        return {
            "type": "FilterLanguage",
            "version": VERSION,
            "languages": sorted(self._languages),
            "minPercent": self._min_percent,
            "py3langid": version("py3langid"),
        }

    def verdict(self, document: Document) -> Verdict | None:
        """The language that most passages of a document are in, if too few are in one that is wanted."""
        found = [str(_identifier().classify(passage)[0]) for passage in passages(beginning(document))]
        if not found:
            return Verdict("no words")
        wanted = sum(language in self._languages for language in found)
        if 100 * wanted >= self._min_percent * len(found):
            return None
        others = [language for language in found if language not in self._languages]
        return Verdict(f"language {max(sorted(set(others)), key=others.count)}")


@cache
def _identifier() -> Any:
    """The model, which takes a second to read."""
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def passages(text: str) -> Sequence[str]:
    """At most MOST_PASSAGES passages, spread evenly over the text; none of a text without letters. The last is left out
    if it is a short rest."""
    text = _BLANKS.sub(" ", text).strip()
    starts = range(0, len(text), PASSAGE_CHARACTERS)
    parts = [text[start : start + PASSAGE_CHARACTERS] for start in starts]
    if len(parts) > 1 and len(parts[-1]) < PASSAGE_CHARACTERS // 2:
        parts.pop()
    parts = [part for part in parts if any(map(str.isalpha, part))]
    if len(parts) > MOST_PASSAGES:
        parts = [parts[number * len(parts) // MOST_PASSAGES] for number in range(MOST_PASSAGES)]
    return parts
