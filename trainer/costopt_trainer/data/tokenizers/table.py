"""What a tokenizer is, and the table of them.

tokenizer_kind      settings -> a kind of tokenizer
SpecialTokens       tokens that no text has; with_special_tokens: those of a tokenizer, or new ones
cut_between_words   text -> parts that may be tokenized one by one
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from costopt.hostile import read_file
from costopt.schema.data import Tokenizer
from costopt_trainer.tables import row

Tokens = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

NUM_BYTES = 256
LEARNED_FILE, LIBRARYS_FILE = "tokenizer.json", "tokenizer_config.json"
"""Beside a model: what a training has learned, and what says that a tokenizer is of the Hugging Face library."""
MAX_LEARNED_BYTES = 2**27
_END_OF_WORD = re.compile(rb"[!-~](?= )")
"""Where a word surely ends, whatever stands around: a visible sign before a blank."""


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that stand for no text."""

    pad_id: int
    """Fills up a sample that is shorter than the others."""
    mask_id: int | None
    """Stands for a token that is to be guessed; None: there is none, and so no masked text."""
    before: tuple[int, ...] = ()
    """Begin each document, such as [CLS]."""
    after: tuple[int, ...] = ()
    """End each document, such as [SEP]."""

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Each of them."""
        return (self.pad_id, *(() if self.mask_id is None else (self.mask_id,)), *self.before, *self.after)


class TextTokenizer(Protocol):
    """What turns text into tokens, ready for use. Our own are lossless over all of UTF-8, with byte 0 a token."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens in all; every token number is less."""

    @property
    def special_tokens(self) -> SpecialTokens | None:
        """Those among its tokens that stand for no text. None: all of them are text."""

    @property
    def separator(self) -> int | None:
        """The token that stands between two documents, and nowhere else. None: it is not known."""

    def encode(self, piece: bytes) -> NDArray[np.uint32] | NDArray[np.uint8]:
        """The tokens of a piece of valid UTF-8. A piece cut by `cut_between_words` has the tokens of its parts."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, without those that stand for no text. A character cut in two becomes U+FFFD."""

    def to_json(self) -> str:
        """What `from_json` of its kind reads; empty if nothing was learned."""


class TokenizerKind(Protocol):
    """A kind of tokenizer with its settings, before it has seen the text."""

    learns: bool
    """Whether it learns from the training text. What it has learned is then kept beside the tokens."""
    vocabulary_sizes: tuple[int, int]
    """The smallest and the largest vocabulary that it can come to."""

    def fingerprint(self) -> dict[str, Any]:
        """All that makes it give other tokens for the same text, as JSON: a part of the token cache's key."""

    def learn(self, pieces: Iterable[bytes]) -> TextTokenizer:
        """The tokenizer for a training text, given in pieces of valid UTF-8; reads none if it does not learn."""

    def from_json(self, text: str) -> TextTokenizer:
        """The tokenizer that `to_json` wrote. Raises ValueError for anything else."""


TOKENIZERS: dict[str, str] = {
    "Byte": "costopt_trainer.data.tokenizers.plain_bytes:PlainBytes",
    "BPE": "costopt_trainer.data.tokenizers.byte_pairs:BytePairs",
    "HuggingFace": "costopt_trainer.data.tokenizers.hugging_face:HuggingFaceFiles",
}
"""`recipe.data.tokenizer.type` -> a callable (settings) -> TokenizerKind."""


def tokenizer_kind(settings: Tokenizer | None, of_model: Path | None = None) -> TokenizerKind:
    """The kind of tokenizer that `settings.type` names. `of_model`: the folder of the model's own, if it has one, which
    is used where `settings` are left out."""
    if settings is None and of_model is not None and (learned := _learned_in(of_model)) is not None:
        return learned
    if settings is None:
        settings = Tokenizer(type="Byte" if of_model is None else "HuggingFace")
    if settings.type == "HuggingFace" and settings.path is None and of_model is not None:
        settings = settings.model_copy(update={"path": str(of_model)})
    kind: TokenizerKind = row(TOKENIZERS, settings.type)(settings)
    return kind


def _learned_in(folder: Path) -> TokenizerKind | None:
    """The tokenizer that a training of ours has learned and left in `folder`; None if it is of another kind."""
    from costopt_trainer.data.tokenizers.byte_pairs import LearnedBytePairs  # noqa: PLC0415  imported when it is used

    if (folder / LIBRARYS_FILE).exists():
        return None
    try:
        return LearnedBytePairs(read_file(folder / LEARNED_FILE, max_bytes=MAX_LEARNED_BYTES).decode())
    except (OSError, ValueError):
        return None


def with_special_tokens(tokenizer: TextTokenizer) -> tuple[SpecialTokens, int]:
    """The special tokens of `tokenizer`, and the size of the vocabulary with them.

    A tokenizer without any gets three behind its own: for padding, for hiding a token, and for the beginning of a
    document. All tasks get all of them, so that they have one vocabulary.
    """
    size = tokenizer.vocabulary_size
    own = tokenizer.special_tokens
    return (own, size) if own else (SpecialTokens(pad_id=size, mask_id=size + 1, before=(size + 2,)), size + 3)


def cut_between_words(piece: bytes, size: int) -> Iterator[bytes]:
    """`piece` in parts of about `size` bytes that, tokenized one by one, give the same tokens as the whole."""
    start = 0
    while (end := _END_OF_WORD.search(piece, start + size)) is not None:
        yield piece[start : end.end()]
        start = end.end()
    if start < len(piece):
        yield piece[start:]
