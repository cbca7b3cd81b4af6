"""Sources of a mixture must not share a text that one of them holds out.

Sums                a source that was read once: its content, and a short hash of each document
refuse_same_texts   training ends where a file is read by two sources, or what one holds out is in another, too
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from costopt_trainer.data.documents import Document, content_of
from costopt_trainer.data.sources.mixture import Part
from costopt_trainer.data.sources.table import TokenSource
from costopt_trainer.data.sources.token_files import TokenFiles
from costopt_trainer.data.token_cache import held_out_whole
from costopt_trainer.data.transformed import Text
from costopt_trainer.data.transforms.table import drops_documents, transforms_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

LEAST_BYTES = 100
"""Of a document that two sources may not share: shorter ones are the same by chance."""
_SUM_BYTES = 8


class Sums:
    """A source that was read once. Takes 8 bytes of memory for each document, for as long as it is compared."""

    def __init__(self, part: Part) -> None:
        """Read it."""
        self.part = part
        self.text: Text | None = None
        self._sums: array[int] = array("Q")
        source = part.source
        if isinstance(source, TokenSource):
            self.files = source.files if isinstance(source, TokenFiles) else frozenset()
            return
        transforms = transforms_of(part.settings)
        with phase("ReadingData") as pieces:
            content = content_of(
                self._hashed(source.documents()), pieces.done, with_names=any(map(drops_documents, transforms))
            )
        self.files = frozenset(content.sums)
        percent = part.settings.validation_percent
        self.text = Text(
            source, transforms, content, held_out_whole(transforms, content, percent), percent, key=content.digest
        )

    def _hashed(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield Document(document.name, partial(self._pieces, document), document.file)

    def _pieces(self, document: Document) -> Iterator[bytes]:
        digest = hashlib.blake2b(digest_size=_SUM_BYTES)
        for piece in document.pieces():
            digest.update(piece)
            yield piece
        self._sums.append(int.from_bytes(digest.digest(), "little"))

    def of(self, *, held_out: bool) -> NDArray[np.uint64]:
        """Hashes of the documents that are held out, or trained on, at least in part; each once."""
        if self.text is None:
            return np.empty(0, dtype=np.uint64)
        sizes = np.array(self.text.content.sizes, dtype=np.int64)
        stops = np.cumsum(sizes + 1) - 1
        border = self.text.content.num_bytes - self.text.content.num_bytes * self.text.percent // 100
        wanted = stops > border if held_out else stops - sizes < border
        return np.unique(np.array(self._sums, dtype=np.uint64)[wanted & (sizes >= LEAST_BYTES)])

    def name_of(self, own_sum: int) -> str:
        """The document with that hash."""
        if self.text is None:
            raise ValueError("a source without documents has no names of them")
        return next(islice(self.text.source.documents(), self._sums.index(own_sum), None)).name


def refuse_same_texts(sources: Sequence[Sums]) -> None:
    """Raise NotRetryable("InvalidData") with a sentence that says which text it is."""
    for one, other in combinations(sources, 2):
        if both := sorted(one.files & other.files):
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            raise _refused(one, other, f"both read {both[0]}{more}", "name each file in one of them")
        for holds_out, has, in_words, is_held_out in (
            (other, one, "trains on", False),
            (one, other, "trains on", False),
            (one, other, "holds out, too,", True),  # counted twice, it would weigh twice in the loss
        ):
            shared = np.intersect1d(has.of(held_out=is_held_out), holds_out.of(held_out=True))
            if len(shared):
                own = int(shared[0])
                more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
                what = (
                    f"{holds_out.part.name} holds out {holds_out.name_of(own)}{more}, which {has.part.name} {in_words} "
                    f"as {has.name_of(own)}"
                )
                raise _refused(one, other, what, "leave it out of one of them")


def _refused(one: Sums, other: Sums, what: str, remedy: str) -> NotRetryable:
    return NotRetryable(
        "InvalidData",
        f"the sources {one.part.name} and {other.part.name} of data.mixture must not share texts, but {what}: {remedy}",
    )
