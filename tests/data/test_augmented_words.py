"""Words of documents that are moved, inserted and exchanged: which, how many, and what stays."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.augmentations import augmentation, data_of, epoch_of, with_augmentations
from builders.data import labelled_settings
from builders.hugging_face import write_tokenizer
from costopt.schema.augmentations import Augmentation
from costopt.schema.data import Tokenizer
from costopt.schema.data_kinds import TEXT
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.augmentations.draws import Draws
from costopt_trainer.data.augmentations.words import Reorder
from costopt_trainer.data.tokenizers.table import tokenizer_kind
from costopt_trainer.errors import NotRetryable

LENGTH = 120
DOCUMENTS = [
    "Über allen Gipfeln ist Ruh. In allen Wipfeln spürest du kaum einen Hauch!",
    "a  quick (brown) fox\n\tjumps over the lazy dog. It is Quick? Yes; the dog sleeps.",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa",
    "the end of it all, " * 9,
]
QUICK = [["quick", "fast", "rapid"], ["dog", "hound"], ["fast", "firm"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    with (folder / "a.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(160):
            stream.write(json.dumps({"text": DOCUMENTS[number % 4], "label": number % 2}) + "\n")
    return folder


def loaded(folder: Path, *augmentations: Augmentation, tokenizer: str = "Byte", length: int = LENGTH) -> TrainingData:
    own = labelled_settings(folder / "a.jsonl", tokenizer=Tokenizer(type=tokenizer, vocabulary_size=300))  # type: ignore[arg-type]
    return load_data(with_augmentations(own, *augmentations), context_length=length, cache_dir=folder / "cache")


def texts(data: TrainingData, epoch: int = 0) -> list[str]:
    """Checks besides that a mark stands before each text and nothing but padding behind."""
    inputs, _ = epoch_of(data, epoch)
    assert data.tokenizer is not None
    assert data.pad_id is not None
    found = []
    for row in inputs.tolist():
        assert row[0] == data.pad_id + 2
        stop = row.index(data.pad_id) if data.pad_id in row else len(row)
        assert set(row[stop:]) <= {data.pad_id}
        assert max(row[1:stop]) < data.pad_id
        found.append(data.tokenizer.decode(row[1:stop]))
    return found


@pytest.mark.parametrize("tokenizer", ["Byte", "BPE"])
def test_words_change_places_and_none_moves_far(tokenizer: str, folder: Path) -> None:
    before = texts(loaded(folder, tokenizer=tokenizer))
    data = loaded(folder, augmentation("Reorder", maxDistance=2, samplesPercent=60), tokenizer=tokenizer)
    after = texts(data)
    for one, other in zip(before, after, strict=True):
        assert Counter(one.split()) == Counter(other.split())
        if "alpha" in one:
            places = {word: place for place, word in enumerate(one.split())}
            assert all(abs(places[word] - place) <= 2 for place, word in enumerate(other.split()))
    long = [one != other for one, other in zip(before, after, strict=True) if len(one) > 10]
    assert np.mean(long) == pytest.approx(0.6, abs=0.15)


def test_sentences_change_places_whole(folder: Path) -> None:
    reorder = augmentation("Reorder", unit="Sentences", maxDistance=9, samplesPercent=100)
    seen = {text for epoch in range(3) for text in texts(loaded(folder, reorder), epoch) if "fox" in text}
    first, second, third = "a  quick (brown) fox\n\tjumps over the lazy dog.", "It is Quick?", "Yes; the dog sleeps."
    orders = [(a, b, c) for a in (first, second, third) for b in (first, second, third) for c in (first, second, third)]
    assert seen == {" ".join(order) for order in orders if len(set(order)) == 3}


@settings(max_examples=60, deadline=None, database=None)
@given(st.text(st.sampled_from("ab.! \n\u00fc"), max_size=60), st.integers(1, 5), st.integers(0, 99))
def test_no_word_and_no_blank_is_lost(text: str, distance: int, sample: int) -> None:
    one = (torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    data = TrainingData(
        *(1, 1, 1), train_batch=lambda _: one, validation_batch=lambda _: one, fingerprint="", num_classes=2,
        tokenizer=tokenizer_kind(None).learn(()),
    )  # fmt: skip
    for unit in ("Words", "Sentences"):
        own = augmentation("Reorder", unit=unit, maxDistance=distance, samplesPercent=100).reorder
        assert own is not None
        draws = Draws.of(0, np.zeros(1, np.int64), np.array([sample]), 0)
        after = Reorder(own, data)._reordered(text, draws)
        assert Counter(after) == Counter(text)
        if unit == "Words":
            assert Counter(after.split()) == Counter(text.split())


def test_phrases_are_put_behind_words_as_often_as_was_asked_for(folder: Path) -> None:
    before = texts(loaded(folder, length=600))
    data = loaded(folder, augmentation("InsertWords", phrases=["of course", "hm"], percent=20), length=600)
    inserted = words = 0
    for epoch in range(8):
        for one, other in zip(before, texts(data, epoch), strict=True):
            assert other.replace(" of course", "").replace(" hm", "") == one
            inserted += other.count(" of course") + other.count(" hm")
            words += len(one.split())
    assert inserted / words == pytest.approx(0.2, abs=0.02)


def test_without_phrases_words_of_the_same_document_are_inserted(folder: Path) -> None:
    before, after = texts(loaded(folder)), texts(loaded(folder, augmentation("InsertWords", percent=50)))
    for one, other in zip(before, after, strict=True):
        assert {*other.split()[:-1]} <= {*one.split()}, "the last may be cut"
        assert len(other) <= LENGTH - 1
    assert sum(one != other for one, other in zip(before, after, strict=True)) > 100
    assert any(len(other) == LENGTH - 1 for other in after), "what is too long is cut"


def test_words_become_others_of_their_groups_and_capitals_stay(folder: Path) -> None:
    before = texts(loaded(folder))
    after = texts(loaded(folder, augmentation("Synonyms", groups=QUICK, percent=100)))
    fox = [other for one, other in zip(before, after, strict=True) if "fox" in one]
    firsts = {text.split()[1] for text in fox}
    assert firsts == {"fast", "rapid"}
    assert {text.split("It is ")[1].split("?")[0] for text in fox} == {"Fast", "Rapid"}
    assert all(text.count("hound") == 2 and "dog" not in text for text in fox)
    assert all("(brown) fox\n\tjumps over the lazy hound. It is " in text for text in fox), "the rest stays"
    assert all(one == other for one, other in zip(before, after, strict=True) if "fox" not in one)


def test_as_many_words_become_others_as_were_asked_for(folder: Path) -> None:
    data = loaded(folder, augmentation("Synonyms", groups=[["the", "this"]], percent=30))
    found = " ".join(text for epoch in range(8) for text in texts(data, epoch))
    assert found.count("this ") / (found.count("the ") + found.count("this ")) == pytest.approx(0.3, abs=0.04)


def test_half_a_character_at_the_end_is_left_out_of_a_document_that_changes(folder: Path) -> None:
    begins = "Über allen Gipfeln ist Ruh. In allen Wipfeln sp"
    synonyms = augmentation("Synonyms", groups=[["allen", "jeden"]], percent=100)
    found = texts(loaded(folder, synonyms, length=1 + len(begins.encode()) + 1))
    assert {text for text in found if "Gipfel" in text} == {begins.replace("allen", "jeden")}


def test_an_unchanged_document_keeps_its_tokens(folder: Path) -> None:
    plain = loaded(folder, tokenizer="BPE")
    data = loaded(folder, augmentation("Synonyms", groups=[["absent", "missing"]]), tokenizer="BPE")
    assert (epoch_of(data)[0] == epoch_of(plain)[0]).all()


def test_words_of_text_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRetryable, match="must not have Reorder for other data than labelled text"):
        data_of(TEXT, tmp_path / "text", augmentation("Reorder"))


def test_a_tokenizer_that_cannot_tell_its_text_is_refused(folder: Path, tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "like-llama", "llama")
    plain = json.loads(file.read_text())
    own = labelled_settings(folder / "a.jsonl", tokenizer=Tokenizer(type="HuggingFace", path=str(file)))
    reorder = with_augmentations(own, augmentation("Reorder"))
    load_data(reorder, context_length=LENGTH, cache_dir=tmp_path / "cache")
    file.write_text(json.dumps({**plain, "decoder": None}))
    with pytest.raises(NotRetryable, match=r"Reorder in data.augmentations must have a tokenizer whose tokens become"):
        load_data(reorder, context_length=LENGTH, cache_dir=tmp_path / "cache")
