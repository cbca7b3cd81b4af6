"""What a transform is, and the table of them.

Transform        changes documents; Judge: drops some, each for itself; Comparison: drops some beside others
Verdict          why a document is dropped
transforms_of    settings -> transforms, in the order given
word_of          a transform -> its word; drops_documents: whether it is one of those
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from costopt.schema.data import SourceSettings
from costopt_trainer.data.documents import Document
from costopt_trainer.errors import NotRetryable
from costopt_trainer.tables import row


class Transform(Protocol):
    """A change of documents: of their text, or which of them there are.

    What it gives is the same for the same documents, in the same order, and so may be read many times. It holds no
    document in memory whole, for one may be larger than memory.
    """

    def fingerprint(self) -> dict[str, Any]:
        """All that makes it give other documents for the same ones, as JSON, its word as `type` among it: a part of the
        token cache's key."""

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents as they are after it; each keeps its name."""


class Verdict(NamedTuple):
    """Why a document is dropped."""

    reason: str
    """One of few, to be counted by."""
    like: str = ""
    """The name of the document that it is like, if that is why."""


@runtime_checkable
class Judge(Transform, Protocol):
    """A transform that changes no text, and drops documents, each for what is in it."""

    def verdict(self, document: Document) -> Verdict | None:
        """Why the document is dropped; None: it stays."""


@runtime_checkable
class Comparison(Transform, Protocol):
    """A transform that changes no text, and drops documents because of others that stay."""

    def verdicts(
        self, documents: Callable[[], Iterator[Document]], is_held_out: Callable[[str], bool]
    ) -> Iterator[tuple[str, Verdict | None]]:
        """The name of each document, in any order, with why it is dropped. May call `documents` several times.

        `is_held_out` tells by a document's name whether it is for evaluation: what is dropped to train on may depend on
        what is held out, and not the other way round.
        """

    def beside(self, held_out: Callable[[], Iterator[Document]], digest: str) -> Transform:
        """The same, which also compares what is to be trained on with what other texts hold out.

        `digest` is a hash of these other texts, for the fingerprint.
        """


_HERE = "costopt_trainer.data.transforms"
TRANSFORMS: dict[str, str] = {
    "NormalizeUnicode": f"{_HERE}.normalize_unicode:NormalizeUnicode",
    "FixMojibake": f"{_HERE}.fix_mojibake:FixMojibake",
    "RemoveControlCharacters": f"{_HERE}.remove_control_characters:RemoveControlCharacters",
    "NormalizeWhitespace": f"{_HERE}.normalize_whitespace:NormalizeWhitespace",
    "RemoveMarkup": f"{_HERE}.remove_markup:RemoveMarkup",
    "CorrectSpelling": f"{_HERE}.correct_spelling:CorrectSpelling",
    "MaskPersonalData": f"{_HERE}.mask_personal_data:MaskPersonalData",
    "FilterQuality": f"{_HERE}.filter_quality:FilterQuality",
    "FilterLanguage": f"{_HERE}.filter_language:FilterLanguage",
    "RemoveDuplicates": f"{_HERE}.remove_duplicates:RemoveDuplicates",
}
"""`recipe.data.transforms[].type` -> a callable (settings) -> Transform."""

PACKAGES: dict[str, tuple[str, str]] = {
    "FixMojibake": ("ftfy", "ftfy"),
    "RemoveMarkup": ("selectolax", "selectolax"),
    "CorrectSpelling": ("spellchecker", "pyspellchecker"),
    "FilterLanguage": ("py3langid", "py3langid"),
    "RemoveDuplicates": ("datasketch", "datasketch"),
}
"""Of transforms that need a package that not everybody has: its name to be imported, and its name to be installed."""

EXTRA = "costopt[data]"
"""Brings all of these packages."""


def transforms_of(settings: SourceSettings) -> list[Transform]:
    """The transforms that the settings name, in order.

    Raises NotRetryable("InvalidSettings") of one sentence if one needs a package that is not installed.
    """
    named = [transform.type for transform in settings.transforms or ()]
    missing = {
        PACKAGES[word][1]: word
        for word in named
        if word in PACKAGES and importlib.util.find_spec(PACKAGES[word][0]) is None
    }
    if missing:
        told = " and ".join(f"{package} (for {word})" for package, word in missing.items())
        raise NotRetryable(
            "InvalidSettings", f"data.transforms must have what they need, but {told} is not installed: install {EXTRA}"
        )
    return [row(TRANSFORMS, transform.type)(transform) for transform in settings.transforms or ()]


def word_of(transform: Transform) -> str:
    """The manifest's word for it."""
    return str(transform.fingerprint()["type"])


def drops_documents(transform: Transform) -> bool:
    """Whether it is a transform of those that drop documents."""
    return isinstance(transform, Judge | Comparison)
