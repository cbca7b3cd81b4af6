"""Byte pairs learned from the training text, or by an earlier training.

Byte-pair encoding (Sennrich et al., arXiv 1508.07909) works on bytes and splits words as GPT-2 did; the `tokenizers`
package does it.

Learning takes time in the square of a word's length, and text without blanks is one word. So a word has an end after
LONGEST_WORD characters, which text of words does not reach: its tokens are GPT-2's.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from costopt.hostile import parse_json
from costopt.schema.data import Tokenizer
from costopt_trainer.data.documents import SEPARATOR
from costopt_trainer.data.tokenizers.table import NUM_BYTES, SpecialTokens, cut_between_words

_SEPARATOR_TEXT = SEPARATOR.decode()
_SEPARATOR_TOKEN = "\u0100"  # noqa: S105 - byte 0 in the printable alphabet of byte-level BPE; not a secret

LONGEST_WORD = 256
"""Characters of letters, of digits, of blanks or of other signs in a row that make one word at most."""
_WORD = (
    "'s|'t|'re|'ve|'m|'ll|'d"
    rf"| ?\p{{L}}{{1,{LONGEST_WORD}}}| ?\p{{N}}{{1,{LONGEST_WORD}}}| ?[^\s\p{{L}}\p{{N}}]{{1,{LONGEST_WORD}}}"
    rf"|\s{{1,{LONGEST_WORD}}}(?!\S)|\s{{1,{LONGEST_WORD}}}"
)
"""GPT-2's words, bounded."""
_LEARNED_AT_ONCE = 1 << 14
"""Bytes that the package is given as one text: it holds 256 of these, and many times as much while it finds words.
They are cut between words, which stay those of the whole."""


class BytePairs:
    """The kind: byte pairs up to the size of vocabulary that the settings allow."""

    learns = True

    def __init__(self, settings: Tokenizer) -> None:
        self._vocabulary_size = settings.vocabulary_size
        self.vocabulary_sizes = (NUM_BYTES, settings.vocabulary_size)

    def fingerprint(self) -> dict[str, Any]:
        """The size of the vocabulary, and the bound of a word."""
        return {"tokenizer": "BPE", "vocabularySize": self._vocabulary_size, "longestWord": LONGEST_WORD}

    def learn(self, pieces: Iterable[bytes]) -> "BytePairTokenizer":
        """Learn from the training text."""
        return BytePairTokenizer.train(pieces, self._vocabulary_size)

    def from_json(self, text: str) -> "BytePairTokenizer":
        """What was learned before. Raises ValueError for anything else, and for too many tokens."""
        tokenizer = BytePairTokenizer.from_json(text)
        low, high = self.vocabulary_sizes
        if not low <= tokenizer.vocabulary_size <= high:
            raise ValueError(f"must have {low} to {high} tokens, but has {tokenizer.vocabulary_size}")
        return tokenizer


class LearnedBytePairs:
    """The kind: byte pairs that an earlier training has learned."""

    learns = False

    def __init__(self, text: str) -> None:
        """`text`: what `to_json` wrote. Raises ValueError for anything else."""
        self._tokenizer = BytePairTokenizer.from_json(text)
        content = text.encode()
        if parse_json(content, max_bytes=len(content), large_integers=True).get("added_tokens"):
            raise ValueError("must be a tokenizer.json of byte pairs alone")
        self.vocabulary_sizes = (self._tokenizer.vocabulary_size, self._tokenizer.vocabulary_size)
        self._sha256 = hashlib.sha256(text.encode()).hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        """The file's hash."""
        return {"tokenizer": "BPE", "learned": self._sha256}

    def learn(self, pieces: Iterable[bytes]) -> "BytePairTokenizer":  # noqa: ARG002
        """Nothing is learned."""
        return self._tokenizer

    def from_json(self, text: str) -> "BytePairTokenizer":
        """As above."""
        return BytePairTokenizer.from_json(text)


class BytePairTokenizer:
    """Learned byte pairs."""

    special_tokens: SpecialTokens | None = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.separator: int = tokenizer.token_to_id(_SEPARATOR_TOKEN)

    @classmethod
    def train(cls, pieces: Iterable[bytes], vocabulary_size: int) -> "BytePairTokenizer":
        """Learn at most `vocabulary_size` tokens (all 256 bytes among them; fewer if the text has fewer pairs)."""
        tokenizer: Any = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_WORD), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_texts(pieces), trainer=trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "BytePairTokenizer":
        """The tokenizer that `to_json` wrote. Raises ValueError for anything else."""
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:
            # The package raises nothing more special.
            raise ValueError("must be a tokenizer.json") from error
        known = tokenizer.get_vocab()
        if not {*pre_tokenizers.ByteLevel.alphabet()} <= known.keys() or max(known.values()) >= len(known):
            raise ValueError("must be a tokenizer.json of byte pairs, which has all 256 bytes")
        return cls(tokenizer)

    def to_json(self) -> str:
        """The tokenizer as the `tokenizer.json` that other tools read too."""
        return str(self._tokenizer.to_str(pretty=True)) + "\n"

    @property
    def vocabulary_size(self) -> int:
        """Tokens learned, at least 256."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, piece: bytes) -> NDArray[np.uint32]:
        """The tokens of each text in the piece, and one separator token for each byte 0."""
        numbers: list[int] = []
        for text, encoding in enumerate(self._tokenizer.encode_batch_fast(piece.decode().split(_SEPARATOR_TEXT))):
            if text:
                numbers.append(self.separator)
            numbers += encoding.ids
        return np.array(numbers, dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; a character cut in two becomes U+FFFD."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))


def _texts(pieces: Iterable[bytes]) -> Iterator[str]:
    for piece in pieces:
        for part in cut_between_words(piece, _LEARNED_AT_ONCE):
            yield from part.decode().split(_SEPARATOR_TEXT)
