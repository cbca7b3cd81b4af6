"""Tokens made elsewhere: files of token numbers without a header, mapped into memory where they lie.

All are read and hashed at each start, and checked: a token beyond the vocabulary would end a training much later, in a
sentence that nobody understands.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt.hostile import Hostile, make_folder
from costopt.schema.data import SourceSettings
from costopt.schema.data_report import MOST_SHOWN, Counted, TokensReport
from costopt.schema.text_sources import TokenShardsData
from costopt_trainer.data import listing
from costopt_trainer.data.counted import printable
from costopt_trainer.data.documents import SUM_DIGITS
from costopt_trainer.data.files.found import DataFile, find_files
from costopt_trainer.data.files.local import named_like
from costopt_trainer.data.files.places import told
from costopt_trainer.data.tokenizers.table import SpecialTokens
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase

TYPES: Mapping[str, np.dtype[Any]] = {"UInt16": np.dtype("<u2"), "UInt32": np.dtype("<u4")}
"""`numberType` -> how a token number lies in a file."""

TOKENS_AT_ONCE = 1 << 20
SAMPLE_TOKENS = TOKENS_AT_ONCE
"""Of each file, where only a sample is read."""
_LOOKED_AT, _FEWEST = 4096, 16
"""Tokens at a file's beginning that tell numbers of 16 bits from those of 32, and how many it takes."""
_HEADER = np.frombuffer(np.int32(20240520).tobytes(), dtype=np.uint8).tobytes()
"""What files of llm.c begin with: 1,024 bytes that are no tokens follow from it."""


@dataclass(frozen=True)
class GivenTokenizer:
    """Stands for the tokenizer that made the tokens, of which only the size is known."""

    vocabulary_size: int
    special_tokens: SpecialTokens | None = None
    separator: int | None = None
    """The token at a document's end, if the settings give it."""

    def encode(self, piece: bytes) -> NDArray[np.uint32]:
        """There is no text to encode."""
        raise NotImplementedError(piece)

    def decode(self, tokens: Iterable[int]) -> str:
        """There is no text to decode."""
        raise NotImplementedError(tokens)

    def to_json(self) -> str:
        """Nothing was learned."""
        return ""


class JoinedTokens:
    """Tokens of several arrays, one behind the other; none of them is copied."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._stops = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at `places`, of any shape, each in [0, len)."""
        flat = places.reshape(-1)
        found = np.empty(len(flat), dtype=np.int64)
        of_part = np.searchsorted(self._stops, flat, side="right")
        for number in np.unique(of_part):
            here = of_part == number
            part = self._parts[number]
            found[here] = part[flat[here] - (self._stops[number] - len(part))]
        return found.reshape(places.shape)

    def split(self, at: int) -> tuple["JoinedTokens", "JoinedTokens"]:
        """The first `at` tokens, and the others."""
        before, after, start = [], [], 0
        for part in self._parts:
            cut = min(max(at - start, 0), len(part))
            before.append(part[:cut])
            after.append(part[cut:])
            start += len(part)
        return JoinedTokens(before), JoinedTokens(after)

    def first(self, token: int, start: int) -> int | None:
        """The first place from `start` on where `token` stands."""
        for begin in range(start, len(self), TOKENS_AT_ONCE):
            places = np.arange(begin, min(begin + TOKENS_AT_ONCE, len(self)), dtype=np.int64)
            hits = np.flatnonzero(self[places] == token)
            if len(hits):
                return begin + int(hits[0])
        return None


@dataclass(frozen=True)
class GivenShards:
    """Tokens made elsewhere, split."""

    train: JoinedTokens
    validation: JoinedTokens
    tokenizer: GivenTokenizer
    key: str
    """Hash of the tokens and of how they are split."""
    num_validation_bytes: None = None
    """How much text they were is not known."""
    reference_entropies: dict[str, float] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the tokenizer."""
        return self.tokenizer.vocabulary_size


class TokenFiles:
    """A source of tokens."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Find the files. Raises NotRetryable("InvalidData") of one sentence."""
        own = settings.token_shards
        if own is None:
            raise ValueError("data of type TokenShards must have tokenShards settings")
        self._settings, self._percent, self._cache_dir = own, settings.validation_percent, cache_dir
        self._boundaries = settings.packing.boundaries if settings.packing else "Ignore"
        self.notes: tuple[str, ...] = ()
        self.looked_at = self.documents = self.highest = 0
        setting, places = own.places
        self.name = told(f"data.tokenShards.{setting}", places)

        def find(setting: str, places: list[str]) -> list[DataFile]:
            name, wanted = f"data.tokenShards.{setting}", named_like(own.include)
            files = find_files(name, places, wanted, own_folder=own_folder, cache_dir=cache_dir)
            if not files:
                raise _invalid(told(name, places), f"must hold files that match include {own.include!r}, but has none")
            return files

        self._train = find(setting, places)
        self._held_out = find("validationPath", [own.validation_path]) if own.validation_path else []
        trained_on = {os.path.realpath(file.path) for file in self._train}
        for file in self._held_out:
            if os.path.realpath(file.path) in trained_on:
                raise _invalid(
                    file.name,
                    "must be held out and not trained on, but validationPath and "
                    f"{setting} both have it: leave validationPath out, or name other files",
                )

    @property
    def files(self) -> frozenset[str]:
        """The names of all files that are read."""
        return frozenset(file.name for file in (*self._train, *self._held_out))

    def token_shards(self, most: int | None = None) -> GivenShards:
        """The tokens, read and checked; of each file `most` of them at its beginning.

        Raises NotRetryable("InvalidData") of one sentence.
        """
        sums: dict[str, str] = {}
        self.looked_at, self.documents, self.highest = 0, 0, 0
        train, digest = self._read(self._train, sums, most)
        in_training = self.documents
        trained_on = {sum_: name for name, sum_ in sums.items()}
        validation, held_out_digest = self._read(self._held_out, sums, most)
        twice = next((file.name for file in self._held_out if sums[file.name] in trained_on), None)
        if twice is not None and most is None:
            raise _invalid(
                twice,
                f"must be held out and not trained on, but has the same tokens as {trained_on[sums[twice]]}: name "
                "other files in validationPath",
            )
        within = False
        if not self._held_out:
            at = len(train) - len(train) * self._percent // 100
            end_of_text = self._settings.end_of_text_token
            behind = None if end_of_text is None else train.first(end_of_text, max(at - 1, 0))
            within = end_of_text is not None and behind is None
            if behind is not None and behind + 1 < len(train):
                at = behind + 1
            train, validation = train.split(at)
        self.notes = self._about_ends(in_training, within=within) if most is None else ()
        parts = [digest, held_out_digest, len(train), self._settings.vocabulary_size]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        if self._cache_dir is not None and most is None:
            with contextlib.suppress(OSError, Hostile):  # without it a resume cannot name what differs
                make_folder(self._cache_dir)
                listing.keep(self._cache_dir, key, sums)
        tokenizer = GivenTokenizer(self._settings.vocabulary_size, separator=self._settings.end_of_text_token)
        return GivenShards(train, validation, tokenizer, key)

    def report(self, *, sample: bool) -> TokensReport:
        """What is there. Of a `sample` the beginning of each file is read."""
        shards = self.token_shards(SAMPLE_TOKENS if sample else None)
        own, files = self._settings, [*self._train, *self._held_out]
        size = TYPES[own.number_type].itemsize
        return TokensReport(
            source=printable(self.name),
            notes=list(map(printable, self.notes)),
            sampled=sample,
            num_files=len(files),
            files=[Counted(name=printable(file.name), count=file.num_bytes // size) for file in files[:MOST_SHOWN]],
            number_type=own.number_type,
            vocabulary_size=own.vocabulary_size,
            looked_at=self.looked_at,
            highest_token=self.highest,
            end_of_text_token=own.end_of_text_token,
            documents=None if own.end_of_text_token is None else self.documents,
            train_tokens=len(shards.train),
            validation_tokens=len(shards.validation),
        )

    def _about_ends(self, in_training: int, *, within: bool) -> tuple[str, ...]:
        """What is to be said of documents' ends: `in_training` of them were found, and where the held-out part begins
        `within` a document. Raises NotRetryable("InvalidData") if ends that are asked for are not there."""
        token = self._settings.end_of_text_token
        if token is None:
            return ()
        if not in_training and self._boundaries != "Ignore":
            raise _invalid(
                self.name,
                f"must have the endOfTextToken, {token}, behind each document, for packing.boundaries is "
                f"{self._boundaries}, but has it nowhere: is it another number, or numberType wrong?",
            )
        if not in_training and not self.documents:
            split = "" if self._held_out else ", and the held-out part begins within it"
            return (f"endOfTextToken {token} stands nowhere in the tokens: all count as one document{split}",)
        if within:
            return (f"no endOfTextToken {token} stands near the end: the held-out part begins within a document",)
        return ()

    def _read(self, files: list[DataFile], sums: dict[str, str], most: int | None) -> tuple[JoinedTokens, str]:
        """The tokens of the files, and their hash as numbers of 32 bits."""
        end_of_text = self._settings.end_of_text_token
        joined, parts = hashlib.sha256(), []
        with phase("ReadingData") as pieces:
            for file in files:
                own = hashlib.sha256()
                tokens = _mapped(file, self._settings)
                _refuse_halves(tokens, file)
                for start in range(0, len(tokens) if most is None else min(len(tokens), most), TOKENS_AT_ONCE):
                    some = tokens[start : start + TOKENS_AT_ONCE]
                    self.looked_at += len(some)
                    self.highest = max(self.highest, int(some.max()))
                    self.documents += 0 if end_of_text is None else int(np.count_nonzero(some == end_of_text))
                    _check(some, start, file, self._settings.vocabulary_size)
                    joined.update(some.astype("<u4").tobytes())
                    own.update(some.tobytes())
                    pieces.done()
                sums[file.name] = own.hexdigest()[:SUM_DIGITS]
                parts.append(tokens)
        return JoinedTokens(parts), joined.hexdigest()


def _mapped(file: DataFile, settings: TokenShardsData) -> NDArray[Any]:
    kind = TYPES[settings.number_type]
    if file.packing is not None:
        raise _invalid(file.name, f"must not be packed as {file.packing}, for tokens are read where they lie")
    if file.num_bytes == 0 or file.num_bytes % kind.itemsize:
        raise _invalid(
            file.name,
            f"must hold token numbers of {kind.itemsize} bytes each (numberType {settings.number_type}), but has "
            f"{file.num_bytes} bytes",
        )
    try:
        tokens: NDArray[Any] = np.memmap(file.path, dtype=kind, mode="r")
    except (OSError, ValueError) as error:
        raise file.unreadable(error) from error
    if tokens[:4].tobytes().startswith(_HEADER):
        raise _invalid(file.name, "must have no header, but begins with that of llm.c: leave out its first 1,024 bytes")
    return tokens


def _refuse_halves(tokens: NDArray[Any], file: DataFile) -> None:
    """Numbers of 32 bits that are read as twice as many of 16 have a 0 in every second place."""
    beginning = tokens[:_LOOKED_AT]
    if tokens.dtype == TYPES["UInt16"] and len(beginning) >= _FEWEST and not beginning[1::2].any() and beginning.any():
        raise _invalid(
            file.name,
            "must hold token numbers of 2 bytes each (numberType UInt16), but every second one is 0, as in numbers of "
            "4 bytes: set numberType UInt32",
        )


def _check(tokens: NDArray[Any], start: int, file: DataFile, vocabulary_size: int) -> None:
    if int(tokens.max()) >= vocabulary_size:
        place = int(np.argmax(tokens >= vocabulary_size))
        raise _invalid(
            file.name,
            f"must hold tokens less than vocabularySize, {vocabulary_size}, but token {start + place} is "
            f"{int(tokens[place])}: is numberType right?",
        )


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
