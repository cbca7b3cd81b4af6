"""Of documents that are equal, or nearly so, one stays; and none to train on is like one that is held out, be it by
another source of a mixture.

Equal: by sha256 of the text. Nearly equal: by the share of phrases that two documents have in common (Jaccard), which
MinHash estimates from a few hundred numbers for each (Broder, "On the Resemblance and Containment of Documents", 1997);
candidates come from an index of bands of these numbers (locality-sensitive hashing; Leskovec et al., "Mining of Massive
Datasets", chapter 3), and are then compared by all of them. The package datasketch does both.

What is kept of a document: a hash, a name, `permutations` numbers of 4 bytes, and its places in the index.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from costopt.schema.transforms import RemoveDuplicates as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.blocks import blocks
from costopt_trainer.data.transforms.table import Verdict

VERSION = 1
SEED = 1
"""Of the permutations: the same in every job, so that the same documents are dropped."""
_WEIGHTS = (0.1, 0.9)
"""Of candidates that are none, and of duplicates that are missed: the former cost only a comparison."""

_PHRASES_AT_ONCE = 2**13
"""Each takes 4 bytes times `permutations` while they are permuted."""
_WORD = re.compile(r"\w+")


class RemoveDuplicates:
    """Compares each document with those before it that stay."""

    def __init__(
        self, settings: Transform, elsewhere: Callable[[], Iterator[Document]] = lambda: iter(()), digest: str = ""
    ) -> None:
        """`elsewhere` is what other sources hold out, and `digest` a hash of these; empty: there is none."""
        self._given = settings
        self._settings = settings.remove_duplicates or Settings()
        self._elsewhere = elsewhere
        self._told = {"heldOutElsewhere": digest} if digest else {}

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and what the estimates follow from."""
        import datasketch  # noqa: PLC0415 -- it brings scipy, which takes a second

        return {
            "type": "RemoveDuplicates",
            "version": VERSION,
            "seed": SEED,
            "datasketch": datasketch.__version__,
            **self._settings.to_plain(),
            **self._told,
        }

    def beside(self, held_out: Callable[[], Iterator[Document]], digest: str) -> "RemoveDuplicates":
        """The same, which also drops what is like one of `held_out`."""
        return RemoveDuplicates(self._given, held_out, digest)

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that stay, if none is held out."""
        seen = _Seen(self._settings)
        return (document for document in documents if seen.verdict(document, held_out=False) is None)

    def verdicts(
        self, documents: Callable[[], Iterator[Document]], is_held_out: Callable[[str], bool]
    ) -> Iterator[tuple[str, Verdict | None]]:
        """Those that are held out first, then those to train on; what others hold out drops only the latter."""
        seen = _Seen(self._settings)
        for held_out in (True, False):
            for document in documents():
                if is_held_out(document.name) == held_out:
                    yield document.name, seen.verdict(document, held_out=held_out)
            for document in self._elsewhere() if held_out else ():
                seen.verdict(document, held_out=True)


class _Seen:
    """Documents that stay."""

    def __init__(self, settings: Settings) -> None:
        from datasketch import MinHash, MinHashLSH  # noqa: PLC0415

        self._settings = settings
        self._threshold = settings.similarity_percent / 100
        self._names: list[str] = []
        self._num_held_out = 0
        self._equal: dict[bytes, int] = {}
        """sha256 of a text -> its number."""
        self._minhashes: dict[int, Any] = {}
        self._empty = MinHash(num_perm=settings.permutations, seed=SEED)
        self._index: Any = None
        if settings.similarity_percent < 100:
            self._index = MinHashLSH(threshold=self._threshold, num_perm=settings.permutations, weights=_WEIGHTS)

    def verdict(self, document: Document, *, held_out: bool) -> Verdict | None:
        """Why the document is dropped; if it is not, it is remembered. Those that are held out must come first."""
        digest, minhash = self._signature(document)
        like = self._equal.get(digest)
        if like is not None:
            return self._like("equal to", like, held_out=held_out)
        near = [] if minhash is None else self._near(minhash)
        if near:
            return self._like("nearly equal to", near[0], held_out=held_out)
        number = len(self._names)
        self._names.append(document.name)
        self._num_held_out += held_out
        self._equal[digest] = number
        if minhash is not None:
            self._minhashes[number] = minhash
            self._index.insert(number, minhash)
        return None

    def _like(self, how: str, number: int, *, held_out: bool) -> Verdict:
        is_leak = number < self._num_held_out and not held_out
        return Verdict(f"{how} {'a held-out' if is_leak else 'an earlier'} document", self._names[number])

    def _near(self, minhash: Any) -> list[int]:
        """Numbers of the documents that are nearly equal, the first first."""
        candidates: list[int] = sorted(self._index.query(minhash))
        return [number for number in candidates if minhash.jaccard(self._minhashes[number]) >= self._threshold]

    def _signature(self, document: Document) -> tuple[bytes, Any]:
        """sha256 of the text, and its MinHash; None for a text without words, or where only equal ones are dropped."""
        digest, minhash, some = hashlib.sha256(), self._empty.copy(), False
        held: list[str] = []
        size = self._settings.phrase_words
        for block in blocks(document.pieces()):
            digest.update(block.encode())
            if self._index is None:
                continue
            words = held + _WORD.findall(block.casefold())
            phrases = list({" ".join(words[start : start + size]).encode() for start in range(len(words) - size + 1)})
            some = some or bool(phrases)
            for start in range(0, len(phrases), _PHRASES_AT_ONCE):
                minhash.update_batch(phrases[start : start + _PHRASES_AT_ONCE])
            held = words[max(0, len(words) - size + 1) :]
        if not some and held:  # fewer words than a phrase has
            some = True
            minhash.update(" ".join(held).encode())
        return digest.digest(), minhash if some else None
