"""The table of transforms: each row does what is asked of one, and a new row is all that a new transform needs."""

import json
import sys
import typing
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.data import text_settings
from costopt.schema.data import DataSettings
from costopt.schema.transforms import NormalizeUnicode, Transform
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.documents import Document, content_of
from costopt_trainer.data.transforms.normalize_unicode import BEGINNINGS
from costopt_trainer.data.transforms.table import TRANSFORMS, transforms_of
from costopt_trainer.errors import NotRetryable

FORMS = typing.get_args(NormalizeUnicode.model_fields["form"].annotation)
DECOMPOSED = "nai\u0308ve cafe\u0301 Gro\u0308\u00dfe \u1112\u1161\u11ab\u1100\u1173\u11af "


def settings_with(path: Path, *transforms: Any) -> DataSettings:
    return text_settings(path).model_copy(update={"transforms": list(transforms)})


def normalize(form: str = "NFC") -> Transform:
    return Transform.model_validate({"type": "NormalizeUnicode", "normalizeUnicode": {"form": form}})


NEEDED: dict[str, dict[str, Any]] = {"FilterLanguage": {"filterLanguage": {"languages": ["en"]}}}
"""Settings that must be given."""


def of_word(word: str) -> Transform:
    return Transform.model_validate({"type": word, **NEEDED.get(word, {})})


def document(name: str, *pieces: str) -> Document:
    return Document(name, lambda: iter([piece.encode() for piece in pieces if piece]))


def transformed(settings: DataSettings, documents: list[Document]) -> list[str]:
    (transform,) = transforms_of(settings)
    return [b"".join(one.pieces()).decode() for one in transform.documents(documents)]


def texts(folder: Path) -> Path:
    """Three documents, of which one is changed by NFC."""
    folder.mkdir()
    for name, text in (("a", "plain text " * 50), ("b", DECOMPOSED * 20), ("c", "composed caf\u00e9 " * 50)):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def all_text(data: TrainingData) -> bytes:
    inputs, _ = data.train_batch(np.arange(data.num_train_samples))
    return bytes(inputs.numpy().reshape(-1).astype(np.uint8))


# The table.


def test_every_word_of_the_language_has_a_row_and_every_row_a_word() -> None:
    assert set(TRANSFORMS) == set(typing.get_args(Transform.model_fields["type"].annotation))


@pytest.mark.parametrize("word", TRANSFORMS)
def test_a_transform_gives_the_same_at_every_call_in_valid_pieces(word: str) -> None:
    (transform,) = transforms_of(settings_with(Path("unused"), of_word(word)))
    given_documents = [document("a", DECOMPOSED, DECOMPOSED), document("b"), document("c", "plain")]
    contents = [content_of(transform.documents(given_documents)) for _ in range(2)]
    assert contents[0] == contents[1]
    assert set(contents[0].sums) <= {"a", "b", "c"}
    for one in transform.documents(given_documents):
        assert all(piece.decode() for piece in one.pieces())
        assert list(one.pieces()) == list(one.pieces())
    fingerprint = transform.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint


class Shorter:
    """A throw-away transform: drops documents of few bytes, and the text of others after the first piece."""

    def __init__(self, _settings: Any) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {"type": "Shorter"}

    def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        for one in documents:
            pieces = list(one.pieces())
            if sum(map(len, pieces)) > 555:
                yield Document(one.name, lambda pieces=pieces: iter(pieces))


def test_a_new_transform_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORMS, "Shorter", f"{__name__}:Shorter")
    folder = texts(tmp_path / "texts")
    shorter = Transform.model_construct(type="Shorter")
    data = load_data(settings_with(folder, normalize(), shorter), context_length=8, cache_dir=tmp_path / "cache")
    assert data.notes[0].startswith("NormalizeUnicode changed 1 of 3 documents: ")
    assert data.notes[1].startswith("Shorter changed 0 of 3 documents, dropped 1: ")
    assert b"plain" not in all_text(data)


# In the pipeline.


def test_tokens_are_those_of_the_changed_text_and_the_log_says_how_much_was_changed(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    plain = load_data(text_settings(folder), context_length=8, cache_dir=tmp_path / "cache")
    data = load_data(settings_with(folder, normalize()), context_length=8, cache_dir=tmp_path / "cache")
    again = load_data(settings_with(folder, normalize()), context_length=8, cache_dir=tmp_path / "cache")
    before = sum(path.stat().st_size for path in folder.iterdir())
    after = sum(len(unicodedata.normalize("NFC", path.read_text("utf-8")).encode()) for path in folder.iterdir())
    assert len(plain.notes) == 1
    assert "fill no context" in plain.notes[0]
    assert data.notes == again.notes
    counted, example, _ = data.notes
    assert counted == f"NormalizeUnicode changed 1 of 3 documents: {before:,} bytes became {after:,}"
    assert example.startswith("NormalizeUnicode changed ")
    assert "b.txt: " in example
    assert "nai\u0308ve caf" in example
    assert "na\u00efve caf" in example
    assert after < before
    assert "\u0308".encode() in all_text(plain)
    assert "\u0308".encode() not in all_text(data)
    assert "caf\u00e9".encode() in all_text(data)


def test_each_transform_and_setting_has_tokens_of_its_own(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts")
    chains: list[list[Transform]] = [[], [normalize()], [normalize("NFD")], [normalize(), normalize("NFD")]]
    found = [
        load_data(settings_with(folder, *chain), context_length=8, cache_dir=tmp_path / "cache").fingerprint
        for chain in chains
    ]
    assert len(set(found)) == len(chains)


@pytest.mark.parametrize("spoiled", [[], [{"changed": 1}], "x", None, [{}], 7])
def test_figures_that_were_spoiled_are_made_again(tmp_path: Path, spoiled: object) -> None:
    folder, cache = texts(tmp_path / "texts"), tmp_path / "cache"
    notes = load_data(settings_with(folder, normalize()), context_length=8, cache_dir=cache).notes
    (path,) = cache.glob("*/shards.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "transforms": spoiled}))
    assert load_data(settings_with(folder, normalize()), context_length=8, cache_dir=cache).notes == notes


def test_a_text_that_changes_while_it_is_transformed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing(Shorter):
        def documents(self, documents: Iterable[Document]) -> Iterator[Document]:
            yield from super().documents(documents)
            (folder / "b.txt").write_text("another text")

    monkeypatch.setattr(sys.modules[__name__], "Shorter", Changing)
    monkeypatch.setitem(TRANSFORMS, "Shorter", f"{__name__}:Shorter")
    folder = texts(tmp_path / "texts")
    shorter = Transform.model_construct(type="Shorter")
    with pytest.raises(NotRetryable, match="must not change while a job reads it"):
        load_data(settings_with(folder, shorter), context_length=8, cache_dir=tmp_path / "cache")


# Unicode.


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.text(st.sampled_from("ae\u0301\u0323\u0308\u00e9\u1112\u1161\u11ab\uac00 が\u3099\u304b\ufb01"))))
def test_pieces_cut_anywhere_have_the_form_of_the_whole(form: str, pieces: list[str]) -> None:
    found = transformed(settings_with(Path("unused"), normalize(form)), [document("a", *pieces)])
    assert found == [unicodedata.normalize(form, "".join(pieces))]


@pytest.mark.parametrize("form", FORMS)
def test_no_character_that_may_begin_a_part_joins_one_before_it(form: str) -> None:
    """By Unicode's own data: what it is decomposed to begins with a starter that is never the second of a pair."""
    everything = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    pairs = [parts for sign in everything if len(parts := unicodedata.normalize("NFD", sign)) > 1]
    seconds = {sign for parts in pairs for sign in parts[1:]}
    decomposed = "NFKD" if "K" in form else "NFD"
    for first, last in BEGINNINGS:
        for code in range(ord(first), ord(last) + 1):
            beginning = unicodedata.normalize(decomposed, chr(code))[0]
            assert unicodedata.combining(beginning) == 0, hex(code)
            assert beginning not in seconds, hex(code)


def test_what_is_held_back_is_small_in_text_of_any_kind() -> None:
    for text in ("plain words " * 9, "東京都の人々が" * 9, "안녕하세요" * 9, "Прив\u0435\u0308т мир, " * 9):
        (transform,) = transforms_of(settings_with(Path("unused"), normalize("NFD")))
        (one,) = transform.documents([document("a", *[text] * 50)])
        assert max(map(len, one.pieces())) <= 2 * len(unicodedata.normalize("NFD", text * 2).encode())
