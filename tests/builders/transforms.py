"""Documents and transforms for tests."""

from collections.abc import Iterable
from typing import Any

from costopt.schema.transforms import Transform as Settings
from costopt.schema.unions import key_of_word
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.table import TRANSFORMS, Transform
from costopt_trainer.tables import row

NEEDED: dict[str, dict[str, Any]] = {"FilterLanguage": {"languages": ["en"]}}
"""Settings that must be given."""


def settings_of(word: str, **own: Any) -> Settings:
    given = {**NEEDED.get(word, {}), **own}
    return Settings.model_validate({"type": word, **({key_of_word(word): given} if given else {})})


def transform(word: str, **own: Any) -> Transform:
    made: Transform = row(TRANSFORMS, word)(settings_of(word, **own))
    return made


def document(name: str, *pieces: str) -> Document:
    return Document(name, lambda: iter([piece.encode() for piece in pieces if piece]))


def documents(texts: dict[str, str]) -> list[Document]:
    return [document(name, text) for name, text in texts.items()]


def text_of(one: Document) -> str:
    return b"".join(one.pieces()).decode()


def after(made: Transform, *pieces: str) -> str:
    """The text of a document after a transform that changes text."""
    (one,) = made.documents([document("a", *pieces)])
    return text_of(one)


def names_left(made: Transform, given: Iterable[Document]) -> list[str]:
    return [one.name for one in made.documents(given)]


PROSE = (
    "The history of the town begins with a bridge that merchants built over the river in the twelfth century. They had "
    "to pay for it with a toll, and so they would have it stand where the road from the coast met the road to the "
    "hills. A market grew beside it, then walls, and in time a church whose tower can still be seen from afar. Most "
    "houses of the old quarter burned down twice, and each time the council ordered that they be built again of stone."
)
"""Running text that keeps all rules of quality."""
