"""What a transform is, and the table of them.

transforms_of    settings -> transforms, in the order given
apply            documents -> documents, by all transforms, counted between each two if asked
Changes          what one of them did, in figures and in words
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from costopt.schema.data import DataSettings
from costopt_trainer.data.documents import Document, Tally
from costopt_trainer.tables import row


class Transform(Protocol):
    """A change of documents: of their text, or which of them there are.

    What it gives is the same for the same documents, in the same order, and so may be read many times. It holds no
    document in memory whole, for one may be larger than memory.
    """

    def fingerprint(self) -> dict[str, Any]:
        """All that makes it give other documents for the same ones, as JSON: a part of the token cache's key."""

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents as they are after it; each keeps its name."""


TRANSFORMS: dict[str, str] = {
    "NormalizeUnicode": "costopt_trainer.data.transforms.normalize_unicode:NormalizeUnicode",
}
"""`recipe.data.transforms[].type` -> a callable (settings) -> Transform."""


@dataclass(frozen=True)
class Changes:
    """What a transform did to the documents of a text, all figures at least 0."""

    documents: int
    """Documents before it."""
    changed: int
    """Those whose text is another after it."""
    dropped: int
    """Those that are not there after it."""
    bytes_before: int
    bytes_after: int

    def told(self, word: str) -> str:
        """One line for the log; `word` is the transform's type."""
        dropped = f", dropped {self.dropped:,}" if self.dropped else ""
        return (
            f"{word} changed {self.changed:,} of {self.documents:,} documents{dropped}: "
            f"{self.bytes_before:,} bytes became {self.bytes_after:,}"
        )


def transforms_of(settings: DataSettings) -> list[Transform]:
    """The transforms that the settings name, in order."""
    return [row(TRANSFORMS, transform.type)(transform) for transform in settings.transforms or ()]


def apply(
    transforms: Sequence[Transform], documents: Iterable[Document], tallies: Sequence[Tally] = ()
) -> Iterator[Document]:
    """The documents after all transforms. `tallies`, one more than transforms, count before each and after the last."""
    for number, transform in enumerate(transforms):
        counted = tallies[number].through(documents) if tallies else documents
        documents = transform.documents(counted)
    yield from tallies[-1].through(documents) if tallies else documents


def changes_between(before: Tally, after: Tally) -> Changes:
    """What lies between two counts."""
    return Changes(
        documents=before.num_documents,
        changed=sum(before.sums.get(name, own) != own for name, own in after.sums.items()),
        dropped=len(before.sums.keys() - after.sums.keys()),
        bytes_before=before.num_bytes,
        bytes_after=after.num_bytes,
    )
