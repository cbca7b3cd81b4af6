"""Tokens made elsewhere: read where they lie, one file behind the other, and checked before anything is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import refused_in_one_sentence, token_settings
from costopt.schema.data import DataSettings
from costopt.schema.data_kinds import MASKED_TEXT
from costopt_trainer.data import TrainingData, listing, load_data
from costopt_trainer.data.files.local import reading_order
from costopt_trainer.data.sources.token_files import JoinedTokens


def write(path: Path, tokens: Any, kind: str = "<u2") -> Path:
    np.asarray(tokens).astype(kind).tofile(path)
    return path


def loaded(settings: DataSettings, folder: Path, **also: Any) -> TrainingData:
    return load_data(settings, context_length=8, cache_dir=folder / "cache", **also)


def stream(data: TrainingData) -> tuple[list[int], list[int]]:
    """The tokens of all windows, of both splits."""
    train, _ = data.train_batch(np.arange(data.num_train_samples))
    held_out, _ = data.validation_batch(np.arange(data.num_validation_samples))
    return train.reshape(-1).tolist(), held_out.reshape(-1).tolist()


def test_tokens_are_read_in_windows_with_the_next_as_targets(tmp_path: Path) -> None:
    tokens = np.arange(1000) % 97
    data = loaded(token_settings(write(tmp_path / "a.bin", tokens)), tmp_path)
    train, held_out = stream(data)
    assert train == tokens[: len(train)].tolist()
    assert held_out == tokens[900 : 900 + len(held_out)].tolist()
    inputs, targets = data.train_batch(np.array([3, 0]))
    assert inputs.shape == targets.shape == (2, 8)
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (data.num_train_samples, data.num_validation_samples) == (899 // 8, 99 // 8)
    assert (data.vocabulary_size, data.validation_bytes_per_token, data.reference_entropies) == (100, None, {})
    assert not list((tmp_path / "cache").glob("*.bin")), "nothing is copied"


def test_files_of_32_bits_and_of_16_give_the_same_samples(tmp_path: Path) -> None:
    tokens = np.arange(1000) % 97
    wide = token_settings(write(tmp_path / "a.bin", tokens, "<u4"), numberType="UInt32")
    narrow = token_settings(write(tmp_path / "b.bin", tokens))
    assert loaded(wide, tmp_path).fingerprint == loaded(narrow, tmp_path).fingerprint
    other = token_settings(tmp_path / "b.bin", vocabulary_size=101)
    assert loaded(other, tmp_path).fingerprint != loaded(narrow, tmp_path).fingerprint


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    tokens = np.arange(1000) % 97
    names = sorted(["x.bin", "y.bin", "z.bin"], key=reading_order)
    for name, part in zip(names, np.split(tokens, [333, 337]), strict=True):
        write(tmp_path / name, part)
    whole = write(tmp_path / "whole", tokens)
    data, same = loaded(token_settings(tmp_path), tmp_path), loaded(token_settings(whole), tmp_path)
    assert stream(data) == stream(same)
    assert data.fingerprint == same.fingerprint


def test_files_that_are_held_out_may_be_named(tmp_path: Path) -> None:
    train, held_out = write(tmp_path / "train.bin", np.arange(99)), write(tmp_path / "val.bin", np.arange(99)[::-1])
    data = loaded(token_settings(train, validationPath=str(held_out)), tmp_path)
    assert stream(data) == (list(range(96)), list(range(98, 2, -1)))


def test_what_is_held_out_begins_behind_the_end_of_a_text(tmp_path: Path) -> None:
    tokens = np.arange(1000) % 50
    tokens[[300, 899, 941]] = 99
    for end, begins in ((99, 900), (98, 900), (None, 900)):
        fields = {} if end is None else {"endOfTextToken": end}
        _, held_out = stream(loaded(token_settings(write(tmp_path / "a.bin", tokens), **fields), tmp_path))
        assert held_out[0] == tokens[begins]
    tokens[899] = 1
    write(tmp_path / "a.bin", tokens)
    _, held_out = stream(loaded(token_settings(tmp_path / "a.bin", endOfTextToken=99), tmp_path))
    assert held_out[:5] == tokens[942:947].tolist()


def test_masked_text_gets_a_mask_behind_the_vocabulary(tmp_path: Path) -> None:
    data = loaded(token_settings(write(tmp_path / "a.bin", np.arange(1000) % 97)), tmp_path, reads=MASKED_TEXT)
    inputs, _ = data.train_batch(np.arange(data.num_train_samples))
    assert data.vocabulary_size == 103
    assert 101 in inputs


def test_a_file_that_differs_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", np.arange(1000) % 97)
    write(tmp_path / "b.bin", np.arange(500) % 97)
    before = loaded(token_settings(tmp_path), tmp_path).fingerprint
    write(tmp_path / "b.bin", np.arange(500) % 96)
    now = loaded(token_settings(tmp_path), tmp_path).fingerprint
    assert listing.differences(tmp_path / "cache", before, now) == f"{tmp_path}/b.bin has changed"


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6), st.data())
def test_joined_tokens_are_those_of_the_parts(parts: list[list[int]], data: st.DataObject) -> None:
    flat = [token for part in parts for token in part]
    joined = JoinedTokens([np.array(part, dtype=np.uint16) for part in parts])
    assert len(joined) == len(flat)
    if flat:
        places = np.array(data.draw(st.lists(st.integers(0, len(flat) - 1), min_size=2, max_size=8)), dtype=np.int64)
        assert joined[places].tolist() == [flat[place] for place in places]
        assert joined[places[: len(places) // 2 * 2].reshape(2, -1)].shape[0] == 2
    at = data.draw(st.integers(0, len(flat)))
    before, after = joined.split(at)
    for half, wanted in ((before, flat[:at]), (after, flat[at:])):
        assert (half[np.arange(len(half), dtype=np.int64)].tolist() if len(half) else []) == wanted
    token = data.draw(st.integers(0, 9))
    start = data.draw(st.integers(0, len(flat)))
    assert joined.first(token, start) == (flat.index(token, start) if token in flat[start:] else None)


LLM_C = np.concatenate([np.array([20240520, 1, 9], dtype="<i4").view("<u2"), np.arange(90, dtype="<u2")])

MISTAKES: list[tuple[str, Callable[[Path], DataSettings], str]] = [
    ("missing", lambda folder: token_settings(folder / "a.bin"), "a.bin must exist on the machine"),
    ("folder empty", token_settings, r"must hold files that match include '\*.bin', but has none"),
    (
        "0 bytes",
        lambda folder: token_settings(write(folder / "a.bin", [])),
        "token numbers of 2 bytes .*, but has 0 byt",
    ),
    (
        "odd bytes",
        lambda folder: token_settings(write(folder / "a.bin", np.arange(99), "u1")),
        r"must hold token numbers of 2 bytes each \(numberType UInt16\), but has 99 bytes",
    ),
    (
        "beyond the vocabulary",
        lambda folder: token_settings(write(folder / "a.bin", [*range(100), 100, 7])),
        "a.bin must hold tokens less than vocabularySize, 100, but token 100 is 100: is numberType right",
    ),
    (
        "header",
        lambda folder: token_settings(write(folder / "a.bin", LLM_C)),
        "must have no header, but begins with that",
    ),
    ("packed", lambda folder: token_settings(write(folder / "a.bin.gz", [1, 2])), "must not be packed as gzip"),
    (
        "held-out part missing",
        lambda folder: token_settings(write(folder / "a.bin", [1, 2]), validationPath=str(folder / "val.bin")),
        "data.tokenShards.validationPath: .*val.bin must exist",
    ),
    (
        "32 bits as 16",
        lambda folder: token_settings(write(folder / "a.bin", np.arange(1, 60), "<u4")),
        r"every second one is 0, as in numbers of 4 bytes: set numberType UInt32",
    ),
    (
        "held out and trained on",
        lambda folder: token_settings(write(folder / "a.bin", [1, 2]), validationPath=f"{folder}/./a.bin"),
        "a.bin must be held out and not trained on, but validationPath and path both have it",
    ),
    (
        "short",
        lambda folder: token_settings(write(folder / "a.bin", np.arange(60)), validation_percent=50),
        "data.tokenShards.path: .* must give at least 33 tokens",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_in_tokens_is_answered_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], DataSettings], sentence: str
) -> None:
    refused_in_one_sentence(make(tmp_path), sentence, tmp_path / "cache")
