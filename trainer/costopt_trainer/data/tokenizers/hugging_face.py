"""A tokenizer.json of the Hugging Face library, as most models of that library bring one.

Whatever such a tokenizer does to the text (small letters, unknown characters), it does here. Its special tokens never
come from the text, even if that has their names. Between two documents stands the one that ends a text, else another.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from costopt.hostile import parse_json, read_file
from costopt.schema.data import Tokenizer
from costopt_trainer.data.documents import SEPARATOR
from costopt_trainer.data.tokenizers.table import SpecialTokens
from costopt_trainer.errors import NotRetryable, first_line

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Beside it: which token has which part."""
_SEPARATORS = ("eos_token", "sep_token", "bos_token", "cls_token", "pad_token")
"""What may stand between two documents, the best first."""
_MAX_BYTES = 2**27


class HuggingFaceTokenizer:
    """A tokenizer.json, ready for use."""

    def __init__(self, text: str, named: Mapping[str, str]) -> None:
        """`named`: which token has which part, such as "eos_token". Raises ValueError for what is no tokenizer."""
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(text)
        except Exception as error:
            # The package raises nothing more special.
            raise ValueError(f"must be a tokenizer.json ({first_line(error)})") from error
        # It may be set up for batches of equal length.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # in a text their names are text
        self._named = {part: self._tokenizer.token_to_id(token) for part, token in named.items()}
        separator = self._first(*_SEPARATORS)
        if separator is None:
            raise ValueError("must be a tokenizer.json with an eos_token, which tokenizer_config.json names")
        self.separator: int = separator
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(known.values(), default=-1) + 1
        if self.vocabulary_size < 2:
            raise ValueError("must be a tokenizer.json with at least two tokens")

    def _first(self, *parts: str) -> int | None:
        """The token of the first of these parts that there is."""
        return next((number for part in parts if (number := self._named.get(part)) is not None), None)

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """Those that the tokenizer itself puts around a text, and those that fill up and hide."""
        plain, whole = self._ids("a"), list(self._tokenizer.encode("a").ids)
        at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
        pad = self._first("pad_token", *_SEPARATORS)
        return SpecialTokens(
            pad_id=self.separator if pad is None else pad,
            mask_id=self._first("mask_token"),
            before=tuple(whole[:at]),
            after=tuple(whole[at + len(plain) :]),
        )

    @cached_property
    def _puts_a_blank_first(self) -> bool:
        """Whether each text is tokenized as if a blank stood before it: then that of a part stands there already."""
        return bool(self._ids("a b") == self._ids("a") + self._ids("b") != self._ids("a") + self._ids(" b"))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, piece: bytes) -> NDArray[np.uint32]:
        """The tokens of each text in the piece, and the separator for each byte 0."""
        texts = piece.decode().split(SEPARATOR.decode())
        if self._puts_a_blank_first and texts[0].startswith(" "):
            texts[0] = texts[0][1:]
        numbers: list[int] = []
        for text, encoding in enumerate(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
            if text:
                numbers.append(self.separator)
            numbers += encoding.ids
        return np.array(numbers, dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, as far as the tokenizer keeps it: one may lose capitals and blanks."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    def to_json(self) -> str:
        """Nothing: it has learned nothing here."""
        return ""


class HuggingFaceFiles:
    """The kind: a tokenizer.json, and the names of its special tokens."""

    learns = False

    def __init__(self, settings: Tokenizer) -> None:
        """Reads the files. Raises NotRetryable("InvalidData") if they are missing or no tokenizer."""
        if settings.path is None:
            raise NotRetryable(
                "InvalidData", "data.tokenizer.path must be set, because the model brings no tokenizer of its own"
            )
        path = Path(settings.path)
        file = path / TOKENIZER_FILE if path.is_dir() else path
        try:
            content = read_file(file.resolve(), max_bytes=_MAX_BYTES)
        except (OSError, ValueError) as error:
            raise NotRetryable(
                "InvalidData",
                f"the tokenizer {file} must be a {TOKENIZER_FILE} that can be read, but {_why(error)}; "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one",
            ) from error
        self._digest = hashlib.sha256(content).hexdigest()
        try:
            self._tokenizer = HuggingFaceTokenizer(content.decode(), _special_tokens(file.parent))
        except UnicodeDecodeError as error:
            raise NotRetryable("InvalidData", f"the tokenizer {file} must be a {TOKENIZER_FILE}, in UTF-8") from error
        except ValueError as error:
            raise NotRetryable("InvalidData", f"the tokenizer {file} {first_line(error)}") from error
        self.vocabulary_sizes = (self._tokenizer.vocabulary_size, self._tokenizer.vocabulary_size)

    def fingerprint(self) -> dict[str, Any]:
        """The hash of its file, and its special tokens."""
        own = self._tokenizer
        special = own.special_tokens
        around = {"before": list(special.before), "after": list(special.after)}
        single = {"separator": own.separator, "pad": special.pad_id, "mask": special.mask_id}
        return {"tokenizer": "HuggingFace", "sha256": self._digest, **single, **around}

    def learn(self, _pieces: Iterable[bytes]) -> HuggingFaceTokenizer:
        """The tokenizer; no piece is read."""
        return self._tokenizer

    def from_json(self, _text: str) -> HuggingFaceTokenizer:
        """The tokenizer."""
        return self._tokenizer


def files_of(path: Path) -> dict[str, bytes]:
    """The tokenizer at `path`, a folder or a tokenizer.json, with the names of its special tokens: files by name, as
    they are read here. Raises OSError, and Hostile for one that is too large."""
    file = path / TOKENIZER_FILE if path.is_dir() else path
    beside = {name: file.parent / name for name in CONFIG_FILES if (file.parent / name).is_file()}
    return {
        name: read_file(one.resolve(), max_bytes=_MAX_BYTES) for name, one in {TOKENIZER_FILE: file, **beside}.items()
    }


def _why(error: OSError | ValueError) -> str:
    return "there is none" if isinstance(error, FileNotFoundError) else first_line(error)


def _special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that the files beside a tokenizer name: "eos_token" -> its text."""
    named: dict[str, str] = {}
    for name in CONFIG_FILES:
        try:
            content = read_file((folder / name).resolve(), max_bytes=_MAX_BYTES)
            # A tokenizer without a longest text has a model_max_length of 10 to the power of 30.
            plain = parse_json(content, max_bytes=_MAX_BYTES, large_integers=True)
        except (OSError, ValueError):
            continue
        for key, token in plain.items() if isinstance(plain, dict) else ():
            text = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(text, str):
                named.setdefault(key, text)
    return named
