"""Words of labelled documents: what needs the text and not its tokens.

Reorder, InsertWords, Synonyms

The part of a document that a sample has room for becomes text, is changed, and becomes tokens again: what is then too
long is cut off, what is shorter is filled up. A document that does not change keeps its tokens. Windows of a text
without labels are not changed so: they begin and end within words, have no room to grow, and the order of their words
is what is learned.

Shape suffixes: B = samples of a batch, T = tokens of a sample.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema import augmentations as settings_of
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.tokenizers.table import SpecialTokens, TextTokenizer, with_special_tokens
from costopt_trainer.data.training_data import Batch, TrainingData
from costopt_trainer.errors import NotRetryable

_BLANKS = re.compile(r"(\s+)")
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])(\s+)")
_WORD = re.compile(r"[^\s.,;:!?()\"]+")
_HALF_A_CHARACTER = "\ufffd"
"""What a character becomes that was cut in two."""

_TRIED, _LONGER = 64, 1.25
"""Documents that are read and written once at the start, and how much longer they may become."""


@dataclass(frozen=True)
class _Documents:
    """How the documents of labelled text are read, and written again."""

    tokenizer: TextTokenizer
    special: SpecialTokens

    @classmethod
    def of(cls, word: str, data: TrainingData) -> "_Documents":
        if data.tokenizer is None or data.num_classes is None:
            raise NotRetryable(
                "InvalidSettings", f"data.augmentations must not have {word} for other data than labelled text"
            )
        documents = cls(data.tokenizer, with_special_tokens(data.tokenizer)[0])
        documents._refuse_lost_text(word, data)
        return documents

    def _refuse_lost_text(self, word: str, data: TrainingData) -> None:
        """Raise NotRetryable("InvalidSettings") if the first documents become far longer when they are read and
        written again, as those of a tokenizer that does not know where words end."""
        inputs_BT, _ = data.train_batch(np.arange(min(data.num_train_samples, _TRIED)))
        before = after = 0
        for row_T in inputs_BT.numpy():
            start, stop = self._text_in(row_T)
            before += stop - start
            after += len(self.tokenizer.encode(self.tokenizer.decode(row_T[start:stop].tolist()).encode()))
        if after > _LONGER * before:
            raise NotRetryable(
                "InvalidSettings",
                f"{word} in data.augmentations must have a tokenizer whose tokens become their text again, but "
                f"{before:,} tokens became {after:,}: use a tokenizer.json with a decoder",
            )

    def changed(self, batch: Batch, draws: Draws, change: Callable[[str, Draws], str]) -> Batch:
        """The samples with the text of each changed by `change`, which gets its text and its draws."""
        inputs_BT = batch[0].numpy().copy()
        for number, row_T in enumerate(inputs_BT):
            start, stop = self._text_in(row_T)
            text = self.tokenizer.decode(row_T[start:stop].tolist()).rstrip(_HALF_A_CHARACTER)
            other = change(text, draws.of_sample(number))
            if other != text:
                self._write(row_T, other)
        return torch.from_numpy(inputs_BT), batch[1]

    def _text_in(self, row_T: NDArray[np.int64]) -> tuple[int, int]:
        """Where the text begins and ends: no token of it is a special one."""
        start = len(self.special.before)
        special = np.flatnonzero(np.isin(row_T[start:], self.special.all_ids))
        return start, start + int(special[0]) if len(special) else len(row_T)

    def _write(self, row_T: NDArray[np.int64], text: str) -> None:
        before, after = self.special.before, self.special.after
        tokens = self.tokenizer.encode(text.encode())[: len(row_T) - len(before) - len(after)]
        stop = len(before) + len(tokens)
        row_T[len(before) : stop] = tokens
        row_T[stop : stop + len(after)] = after
        row_T[stop + len(after) :] = self.special.pad_id


class Reorder:
    """Words or sentences in another order.

    Each gets its place plus a number in [0, maxDistance + 1), by which all are sorted (Lample et al., arXiv 1711.00043,
    section 2.3), so that none moves farther than `maxDistance`.
    """

    def __init__(self, settings: settings_of.Reorder, data: TrainingData) -> None:
        self._documents = _Documents.of("Reorder", data)
        self._between = _BLANKS if settings.unit == "Words" else _BETWEEN_SENTENCES
        self._distance, self._percent = settings.max_distance, settings.samples_percent

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Documents int64 (B, T), and classes as they are."""
        return self._documents.changed(batch, draws, self._reordered)

    def _reordered(self, text: str, draws: Draws) -> str:
        if not draws.happens("changed", self._percent)[0]:
            return text
        parts = self._between.split(text)
        places = [place for place in range(0, len(parts), 2) if parts[place]]
        keys = np.arange(len(places)) + draws.units("key", len(places))[0] * (self._distance + 1)
        moved = [parts[places[number]] for number in np.argsort(keys, kind="stable")]
        for place, part in zip(places, moved, strict=True):
            parts[place] = part
        return "".join(parts)


class InsertWords:
    """More words."""

    def __init__(self, settings: settings_of.InsertWords, data: TrainingData) -> None:
        self._documents = _Documents.of("InsertWords", data)
        self._phrases, self._percent = settings.phrases, settings.percent

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Documents int64 (B, T), and classes as they are."""
        return self._documents.changed(batch, draws, self._with_more)

    def _with_more(self, text: str, draws: Draws) -> str:
        parts = _BLANKS.split(text)
        phrases = self._phrases or [part for part in parts[::2] if part]
        if not phrases:
            return text
        happens = draws.happens("inserted", self._percent, len(parts))[0]
        which = draws.whole("phrase", len(phrases), len(parts))[0]
        for place in range(0, len(parts), 2):
            if parts[place] and happens[place]:
                parts[place] += f" {phrases[which[place]]}"
        return "".join(parts)


class Synonyms:
    """Other words for the same."""

    def __init__(self, settings: settings_of.Synonyms, data: TrainingData) -> None:
        self._documents = _Documents.of("Synonyms", data)
        self._percent = settings.percent
        others: dict[str, dict[str, None]] = {}
        for group in settings.groups:
            for word in group:
                own = word.casefold()
                others.setdefault(own, {}).update((one, None) for one in group if one.casefold() != own)
        self._others = {word: list(found) for word, found in others.items() if found}

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Documents int64 (B, T), and classes as they are."""
        return self._documents.changed(batch, draws, self._exchanged)

    def _exchanged(self, text: str, draws: Draws) -> str:
        found = [match for match in _WORD.finditer(text) if match[0].casefold() in self._others]
        happens = draws.happens("exchanged", self._percent, len(found))[0]
        words = draws.words("other", len(found))[0]
        parts, done = [], 0
        for match, does, word in zip(found, happens, words.tolist(), strict=True):
            if does:
                others = self._others[match[0].casefold()]
                other = others[word % len(others)]
                parts += [text[done : match.start()], other[0].upper() + other[1:] if match[0][0].isupper() else other]
                done = match.end()
        return "".join([*parts, text[done:]])
