"""Tokens that become others: which, how many, and never the answer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.augmentations import augmentation, data_of, epoch_of
from costopt.schema.data_kinds import LABELLED_TEXT, MASKED_TEXT, TEXT
from costopt_trainer.data.training_data import IGNORED_TARGET
from costopt_trainer.errors import NotRetryable

PAD, MASK, BEGINNING = 256, 257, 258


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.mark.parametrize("word", ["TokenDropout", "SpanCorruption"])
def test_as_many_tokens_change_as_were_asked_for(word: str, folder: Path) -> None:
    plain = epoch_of(data_of(TEXT, folder / TEXT))[0]
    data = data_of(TEXT, folder / TEXT, augmentation(word, percent=30))
    changed = torch.stack([epoch_of(data, epoch)[0] != plain for epoch in range(60)]).float()
    assert changed.mean() == pytest.approx(0.3, abs=0.01)
    assert changed.mean(dim=(0, 1)).numpy() == pytest.approx(np.full(20, 0.3), abs=0.04), "anywhere in a sample"


def test_a_dropped_token_becomes_the_one_before_it_and_never_the_next(folder: Path) -> None:
    plain, targets = epoch_of(data_of(TEXT, folder / TEXT))
    inputs, _ = epoch_of(data_of(TEXT, folder / TEXT, augmentation("TokenDropout", percent=40, replacement="Previous")))
    changed = inputs != plain
    assert changed.float().mean() > 0.3
    for row, column in torch.nonzero(changed).tolist():
        assert inputs[row, column] in plain[row, :column]
    assert torch.equal(inputs[:, 0], plain[:, 0]), "nothing stands before the first"
    assert torch.equal(targets[:, :-1], plain[:, 1:])


def test_what_masked_text_has_chosen_stays_as_it_was_chosen(folder: Path) -> None:
    plain, targets = epoch_of(data_of(MASKED_TEXT, folder / MASKED_TEXT))
    for replacement in ("Random", "Previous", "Mask"):
        dropout = augmentation("TokenDropout", percent=60, replacement=replacement)
        inputs, same = epoch_of(data_of(MASKED_TEXT, folder / MASKED_TEXT, dropout))
        chosen = targets != IGNORED_TARGET
        assert torch.equal(same, targets)
        assert torch.equal(inputs[chosen], plain[chosen])
        changed = inputs[~chosen] != plain[~chosen]
        assert changed.any()
        assert (inputs[~chosen][changed] == MASK).all() == (replacement == "Mask")


@pytest.mark.parametrize("replacement", ["Random", "Previous", "Mask"])
def test_padding_and_the_beginning_of_a_document_are_left_alone(replacement: str, folder: Path) -> None:
    plain, _ = epoch_of(data_of(LABELLED_TEXT, folder / LABELLED_TEXT))
    dropout = augmentation("TokenDropout", percent=100, replacement=replacement)
    inputs, _ = epoch_of(data_of(LABELLED_TEXT, folder / LABELLED_TEXT, dropout))
    special = plain >= PAD
    assert torch.equal(inputs[special], plain[special])
    text = inputs[~special]
    if replacement == "Mask":
        assert (text == MASK).all()
    elif replacement == "Previous":
        assert torch.equal(inputs, plain), "no token of the text is left to be copied"
    else:
        assert text.max() < PAD


@pytest.mark.parametrize("word", ["TokenDropout", "SpanCorruption"])
def test_a_mask_token_that_the_vocabulary_lacks_is_refused(word: str, folder: Path) -> None:
    sentence = f"replacement of {word} in data.augmentations must be Random or Previous, not Mask"
    with pytest.raises(NotRetryable, match=sentence) as refused:
        data_of(TEXT, folder / TEXT, augmentation(word, replacement="Mask"))
    assert refused.value.reason == "InvalidSettings"


@pytest.mark.parametrize("mean", [1, 4])
def test_spans_have_the_mean_length_that_was_asked_for(mean: int, folder: Path) -> None:
    spans = augmentation("SpanCorruption", percent=5, meanSpanTokens=mean, replacement="Mask")
    inputs = [epoch_of(data_of(MASKED_TEXT, folder / MASKED_TEXT, spans), epoch)[0] for epoch in range(40)]
    plain = [epoch_of(data_of(MASKED_TEXT, folder / MASKED_TEXT), epoch)[0] for epoch in range(40)]
    ours = (torch.cat(inputs) == MASK) & (torch.cat(plain) != MASK)
    others_were_hidden = (torch.cat(plain) == MASK) & ~ours
    of_a_span = ours | others_were_hidden  # where masked text hides a token a span may go on unseen
    beginnings = ours[:, 1:] & ~of_a_span[:, :-1]
    assert ours.sum() / (beginnings.sum() + ours[:, 0].sum()) == pytest.approx(mean, rel=0.3)


def test_a_span_of_previous_tokens_repeats_the_one_before_it(folder: Path) -> None:
    plain, _ = epoch_of(data_of(TEXT, folder / TEXT))
    spans = augmentation("SpanCorruption", percent=30, meanSpanTokens=5, replacement="Previous")
    inputs, _ = epoch_of(data_of(TEXT, folder / TEXT, spans))
    changed = inputs != plain
    changed[:, 0] = False
    for row, column in torch.nonzero(changed).tolist():
        assert inputs[row, column] == inputs[row, column - 1]
    assert (changed[:, 2:] & changed[:, 1:-1]).any()
