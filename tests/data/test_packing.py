"""Samples cut from documents: no token is lost without being counted, and boundaries are respected where asked."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from builders.data import text_settings, token_settings
from costopt.schema.augmentations import Augmentation
from costopt.schema.data import DataSettings, Tokenizer
from costopt.schema.data_kinds import MASKED_TEXT
from costopt.schema.packing import Packing
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.augmentations.table import augmented
from costopt_trainer.data.sources.token_files import GivenTokenizer, JoinedTokens
from costopt_trainer.data.training_data import IGNORED_TARGET
from costopt_trainer.data.windows import left_out, next_tokens
from costopt_trainer.errors import NotRetryable

SEPARATOR = 7
LOSS, ATTENTION = Packing(boundaries="Loss"), Packing(boundaries="Attention")


@dataclass(frozen=True)
class SomeShards:
    """Tokens as a test gives them; those to train on are held out as well."""

    train: JoinedTokens
    tokenizer: GivenTokenizer = field(default_factory=lambda: GivenTokenizer(50, separator=SEPARATOR))
    vocabulary_size: int = 50
    num_validation_bytes: None = None
    reference_entropies: dict[str, float] = field(default_factory=dict)
    key: str = "0" * 64

    @property
    def validation(self) -> JoinedTokens:
        return self.train


def packed(tokens: list[int], length: int, packing: Packing = LOSS) -> TrainingData:
    shards = SomeShards(JoinedTokens([np.array(tokens, dtype=np.uint8)]))
    return next_tokens("the text", shards, length, (), packing)


def all_samples(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    return data.train_batch(np.arange(data.num_train_samples))


@given(tokens=st.lists(st.integers(0, 9), min_size=4, max_size=60), length=st.integers(1, 3))
@example(tokens=[SEPARATOR, 1, 2, 3], length=3)
def test_samples_and_the_tokens_left_out_are_the_stream_and_only_a_documents_first_token_is_no_target(
    tokens: list[int], length: int
) -> None:
    data = packed(tokens, length)
    inputs, targets = all_samples(data)
    tail = left_out(len(tokens), length, ahead=1)
    assert tail < length
    used = len(tokens) - tail
    assert inputs.flatten().tolist() == tokens[: used - 1]
    wanted = [IGNORED_TARGET if before == SEPARATOR else token for before, token in pairwise(tokens[:used])]
    assert targets.flatten().tolist() == wanted
    assert len(data.notes) == (tail > 0)
    assert all(note.startswith(f"{tail} of {len(tokens)} tokens") for note in data.notes)


def test_boundaries_are_ignored_unless_asked_for_and_then_samples_are_as_they_were() -> None:
    tokens = [1, 2, SEPARATOR, 3, 4, 5, SEPARATOR, 6, 8]
    plain = packed(tokens, 4, Packing())
    assert [part.tolist() for part in all_samples(plain)] == [
        [[1, 2, SEPARATOR, 3], [4, 5, SEPARATOR, 6]],
        [[2, SEPARATOR, 3, 4], [5, SEPARATOR, 6, 8]],
    ]
    assert plain.fingerprint == f"{'0' * 64}-4"
    assert len({packed(tokens, 4, packing).fingerprint for packing in (Packing(), LOSS, ATTENTION)}) == 3
    assert [packed(tokens, 4, packing).separator_id for packing in (Packing(), LOSS, ATTENTION)] == [None, None, 7]


TOKENIZERS = [Tokenizer(), Tokenizer(type="BPE", vocabulary_size=260)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "BPE"])
def test_where_a_document_ends_is_known_of_every_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"<{number} is a number, and {number + 1} is the next>")
    settings = text_settings(tmp_path, tokenizer=tokenizer)

    def samples(packing: Packing | None) -> tuple[torch.Tensor, torch.Tensor]:
        settings_now = settings.model_copy(update={"packing": packing})
        return all_samples(load_data(settings_now, context_length=8, cache_dir=tmp_path / "cache"))

    inputs, targets = samples(None)
    same, counted = samples(LOSS)
    assert torch.equal(inputs, same)
    ignored = counted == IGNORED_TARGET
    assert len(set(targets[ignored].tolist())) == 1, "each text begins with the same sign"
    first_sign = int(targets[ignored][0])
    assert (targets == first_sign).sum() == ignored.sum() == 17, "and has no other; of 18 to train on"
    assert torch.equal(counted[~ignored], targets[~ignored])


def test_tokens_made_elsewhere_are_cut_at_the_token_that_ends_a_text(tmp_path: Path) -> None:
    np.array([1, 2, SEPARATOR, 3] * 30, dtype="<u2").tofile(tmp_path / "a.bin")
    given_tokens = token_settings(tmp_path / "a.bin", endOfTextToken=SEPARATOR).model_dump(
        by_alias=True, exclude_none=True
    )
    settings = DataSettings.model_validate({**given_tokens, "packing": {"boundaries": "Attention"}})
    data = load_data(settings, context_length=4, cache_dir=tmp_path / "cache")
    assert data.separator_id == SEPARATOR
    inputs, targets = all_samples(data)
    assert ((targets == IGNORED_TARGET) == (inputs == SEPARATOR)).all()


def test_masked_samples_tell_how_many_tokens_fill_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 1005)
    settings = text_settings(tmp_path, validation_percent=50)
    data = load_data(settings, context_length=10, cache_dir=tmp_path / "cache", reads=MASKED_TEXT)
    assert data.notes[-1].startswith("3 of 503 tokens to train on and 2 of 502 held-out ones")


def test_tokens_are_not_exchanged_where_a_separator_would_end_a_document() -> None:
    data = packed([1, 2, SEPARATOR, 3, 4, SEPARATOR, 5], 3, ATTENTION)
    for word in ("TokenDropout", "SpanCorruption"):
        with pytest.raises(NotRetryable, match=f"must not have {word} with data.packing.boundaries: Attention"):
            augmented(data, [Augmentation.model_validate({"type": word})])
