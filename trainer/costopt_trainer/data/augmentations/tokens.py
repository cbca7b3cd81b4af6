"""Tokens of the inputs become others; targets are never touched.

TokenDropout      each token for itself
SpanCorruption    spans of tokens

Left alone are tokens that stand for no text (padding and the like), and in masked text the places that were chosen as
targets: there it is decided already what the model sees. A next token's input never becomes a later one of the text,
which would be the answer.

Shape suffixes: B = samples of a batch, T = tokens of a sample.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from costopt.schema import augmentations as settings_of
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.tokenizers.table import with_special_tokens
from costopt_trainer.data.training_data import IGNORED_TARGET, Batch, TrainingData
from costopt_trainer.errors import NotRetryable


@dataclass(frozen=True)
class _Replacing:
    """How tokens of these samples may be replaced."""

    replacement: str
    num_tokens: int
    """Random tokens are below this."""
    kept: tuple[int, ...]
    """Tokens that are never replaced."""
    mask_id: int
    is_masked: bool
    """Whether some tokens are hidden already."""

    @classmethod
    def of(cls, word: str, replacement: str, data: TrainingData) -> "_Replacing":
        """Raises NotRetryable("InvalidSettings") if the vocabulary lacks what `replacement` puts in."""
        if data.tokenizer is None:
            raise NotRetryable("InvalidSettings", f"data.augmentations must not have {word} for data without tokens")
        if data.separator_id is not None:
            raise NotRetryable(
                "InvalidSettings",
                f"data.augmentations must not have {word} with data.packing.boundaries: Attention, where a separator "
                "in the place of a token would end a document: use boundaries: Loss",
            )
        learns_next = data.pad_id is None
        own = data.tokenizer.special_tokens
        special = own if learns_next else with_special_tokens(data.tokenizer)[0]
        mask_id = None if special is None else special.mask_id
        if replacement == "Mask" and mask_id is None:
            raise NotRetryable(
                "InvalidSettings",
                f"replacement of {word} in data.augmentations must be Random or Previous, not Mask, where the "
                "vocabulary has no mask token",
            )
        return cls(
            replacement=replacement,
            num_tokens=data.tokenizer.vocabulary_size,
            kept=() if special is None else special.all_ids,
            mask_id=-1 if mask_id is None else mask_id,
            is_masked=not learns_next and data.num_classes is None,
        )

    def where(self, batch: Batch) -> NDArray[np.bool_]:
        """Which tokens may be replaced, (B, T)."""
        inputs, targets = batch
        may_BT = ~np.isin(inputs.numpy(), self.kept)
        return may_BT & (targets.numpy() == IGNORED_TARGET) if self.is_masked else may_BT

    def replaced(self, batch: Batch, chosen_BT: NDArray[np.bool_], draws: Draws) -> Batch:
        """The samples with other tokens in the places that are chosen and may be replaced."""
        inputs, targets = batch
        before_BT = inputs.numpy()
        may_BT = self.where(batch)
        chosen_BT = chosen_BT & may_BT
        if self.replacement == "Previous":
            others_BT = _before(before_BT, may_BT & ~chosen_BT)
        elif self.replacement == "Mask":
            others_BT = np.full_like(before_BT, self.mask_id)
        else:
            others_BT = draws.whole("token", self.num_tokens, before_BT.shape[1])
        return torch.from_numpy(np.where(chosen_BT, others_BT, before_BT)), targets


def _before(tokens_BT: NDArray[np.int64], stays_BT: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each place the token at the last one before it that stays; the token itself where there is none."""
    places_T = np.arange(tokens_BT.shape[1])
    from_BT = np.maximum.accumulate(np.where(stays_BT, places_T, -1), axis=1)
    return np.take_along_axis(tokens_BT, np.where(from_BT < 0, places_T, from_BT), axis=1)


class TokenDropout:
    """Each token becomes another one with the same chance."""

    def __init__(self, settings: settings_of.TokenDropout, data: TrainingData) -> None:
        self._percent = settings.percent
        self._replacing = _Replacing.of("TokenDropout", settings.replacement, data)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Inputs int64 (B, T) with other tokens here and there, and the targets as they are."""
        chosen_BT = draws.happens("chosen", self._percent, batch[0].shape[1])
        return self._replacing.replaced(batch, chosen_BT, draws)


LONGEST_SPAN = 10
"""Times the mean."""


class SpanCorruption:
    """Spans of tokens become others.

    A span may begin at any token with the same chance, before the sample too, so that each token lies in one with
    probability `percent`: 1 - (1 - b P(length > 0)) (1 - b P(length > 1)) ..., where b is the chance of a beginning.
    """

    def __init__(self, settings: settings_of.SpanCorruption, data: TrainingData) -> None:
        self._replacing = _Replacing.of("SpanCorruption", settings.replacement, data)
        mean = settings.mean_span_tokens
        self._longest = LONGEST_SPAN * mean if mean > 1 else 1
        longer = [(1 - 1 / mean) ** length for length in range(self._longest)]
        """P(length > n): the last is the longest whatever was drawn."""
        self._ends = 1 - np.array(longer[1:], dtype=np.float64)
        self._begins_percent = 100 * _chance_of_a_beginning(settings.percent / 100, longer)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        """Inputs int64 (B, T) with other tokens in some spans, and the targets as they are."""
        length, before = batch[0].shape[1], self._longest - 1
        begins_BS = draws.happens("begins", self._begins_percent, before + length)
        lengths_BS = 1 + np.searchsorted(self._ends, draws.units("length", before + length), side="right")
        stops_BS = np.where(begins_BS, np.arange(before + length) + lengths_BS, 0)
        chosen_BT = (np.maximum.accumulate(stops_BS, axis=1) > np.arange(before + length))[:, before:]
        return self._replacing.replaced(batch, chosen_BT, draws)


def _chance_of_a_beginning(share: float, longer: list[float]) -> float:
    """The b for which a token lies in a span with probability `share`, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        covered = 1 - math.prod(1 - middle * chance for chance in longer)
        low, high = (middle, high) if covered < share else (low, middle)
    return low
