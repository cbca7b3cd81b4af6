"""Duplicates: the first stays, and nothing to train on is like what is held out."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.transforms import PROSE, document, documents, names_left, text_of, transform
from costopt.schema.transforms import RemoveDuplicates
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms import blocks as blocks_file
from costopt_trainer.data.transforms.remove_duplicates import _Seen
from costopt_trainer.data.transforms.table import Comparison

DEFAULT = transform("RemoveDuplicates")
EXACT = transform("RemoveDuplicates", similarityPercent=100)


def verdicts(made: object, texts: dict[str, str], held_out: set[str]) -> dict[str, str | None]:
    assert isinstance(made, Comparison)
    found = made.verdicts(lambda: iter(documents(texts)), held_out.__contains__)
    return {name: None if verdict is None else verdict.reason for name, verdict in found}


def phrases(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + size]) for start in range(max(1, len(words) - size + 1))}


def similarity(one: str, other: str) -> float:
    """Jaccard, exactly."""
    both, either = phrases(one) & phrases(other), phrases(one) | phrases(other)
    return len(both) / len(either)


def with_words_changed(text: str, count: int, source: random.Random) -> str:
    words = text.split()
    for place in source.sample(range(len(words)), count):
        words[place] = f"other{place}"
    return " ".join(words)


def prose(number: int, size: int = 200) -> str:
    source = random.Random(number)
    return " ".join("".join(source.choices("etaoinshrdlu", k=source.randint(2, 8))) for _ in range(size))


def test_the_first_of_equal_documents_stays_and_order_is_kept() -> None:
    texts = {"a": prose(1), "b": prose(2), "c": prose(1), "d": prose(3), "e": prose(2), "f": prose(1)}
    for made in (DEFAULT, EXACT):
        assert names_left(made, documents(texts)) == ["a", "b", "d"]


def test_nearly_equal_documents_are_found_and_others_are_not() -> None:
    source = random.Random(5)
    texts = {
        "first": prose(1),
        "near": with_words_changed(prose(1), 2, source),
        "far": with_words_changed(prose(1), 60, source),
    }
    assert similarity(texts["first"], texts["near"]) > 0.9
    assert similarity(texts["first"], texts["far"]) < 0.3
    assert names_left(DEFAULT, documents(texts)) == ["first", "far"]
    assert names_left(EXACT, documents(texts)) == ["first", "near", "far"]
    assert names_left(transform("RemoveDuplicates", similarityPercent=99), documents(texts)) == ["first", "near", "far"]


def test_candidates_of_the_index_that_are_less_alike_stay() -> None:
    source = random.Random(7)
    texts = {"first": prose(1)} | {f"{number}": with_words_changed(prose(1), 9, source) for number in range(12)}
    alike = [similarity(texts[one], texts[other]) for one in texts for other in texts if one < other]
    assert max(alike) < 0.72
    assert names_left(DEFAULT, documents(texts)) == list(texts)


def test_letters_blanks_and_signs_make_no_other_document() -> None:
    texts = {"a": PROSE, "b": PROSE.upper().replace(" ", "\n").replace(".", " !")}
    assert names_left(DEFAULT, documents(texts)) == ["a"]


def test_what_is_dropped_to_train_on_is_like_something_held_out_that_comes_later() -> None:
    source = random.Random(3)
    texts = {
        "own": prose(1),
        "leaks": prose(2),
        "leaks a little": with_words_changed(prose(3), 1, source),
        "own again": prose(1),
        "held out": prose(2),
        "held out, too": prose(3),
        "held out twice": prose(2),
    }
    assert verdicts(DEFAULT, texts, {"held out", "held out, too", "held out twice"}) == {
        "own": None,
        "leaks": "equal to a held-out document",
        "leaks a little": "nearly equal to a held-out document",
        "own again": "equal to an earlier document",
        "held out": None,
        "held out, too": None,
        "held out twice": "equal to an earlier document",
    }


@st.composite
def families(draw: st.DrawFn) -> tuple[dict[str, str], set[str]]:
    """Documents of which some are made of others with a few words changed; and which of them are held out."""
    source = random.Random(draw(st.integers(0, 10**6)))
    texts = {}
    for number in range(draw(st.integers(2, 12))):
        root = prose(source.randrange(4), 120)
        texts[f"d{number}"] = with_words_changed(root, draw(st.sampled_from([0, 0, 1, 2, 40])), source)
    names = list(texts)
    return texts, set(names[len(names) - draw(st.integers(1, len(names) - 1)) :])


@given(families())
@settings(max_examples=40)
def test_nothing_to_train_on_is_nearly_equal_to_what_is_held_out_or_stays(
    drawn: tuple[dict[str, str], set[str]],
) -> None:
    texts, held_out = drawn
    found = verdicts(DEFAULT, texts, held_out)
    assert found.keys() == texts.keys()
    stay = [name for name in texts if found[name] is None]
    assert any(name in held_out for name in stay)
    for place, name in enumerate(stay):
        for other in stay[place + 1 :]:
            assert similarity(texts[name], texts[other]) < 0.9, "with 128 numbers an estimate is off by 0.04"
    for name in texts.keys() - set(stay):
        among = held_out if name in held_out else texts.keys()
        assert max(similarity(texts[name], texts[other]) for other in stay if other in among) > 0.65
    # What is held out does not depend on what there is to train on.
    alone = {name: text for name, text in texts.items() if name in held_out}
    assert verdicts(DEFAULT, alone, held_out) == {name: found[name] for name in alone}


@given(st.lists(st.integers(0, 5), max_size=12))
def test_equal_documents_leave_one_of_each_and_twice_is_as_once(numbers: list[int]) -> None:
    given_documents = [document(f"{place}", prose(number, 20)) for place, number in enumerate(numbers)]
    left = list(EXACT.documents(given_documents))
    assert [text_of(one) for one in left] == [prose(number, 20) for number in dict.fromkeys(numbers)]
    assert names_left(EXACT, left) == [one.name for one in left]


@pytest.mark.parametrize("text", ["", "two words", "...", "one"])
def test_the_shortest_documents_are_compared_too(text: str) -> None:
    assert names_left(DEFAULT, documents({"a": text, "b": text, "c": "something else"})) == ["a", "c"]


def test_pieces_and_blocks_make_no_other_document(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "\n".join(prose(number, 9) for number in range(40))
    parts = [whole[start : start + 7] for start in range(0, len(whole), 7)]
    monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 200)
    assert names_left(DEFAULT, [document("a", whole), document("b", *parts), document("c", prose(99))]) == ["a", "c"]


def test_phrases_reach_over_the_borders_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one = document("a", "\n".join(prose(number, 9) for number in range(40)))
    seen = _Seen(RemoveDuplicates())
    _, whole = seen._signature(one)
    monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 70)
    _, in_blocks = seen._signature(one)
    assert whole.jaccard(in_blocks) == 1


def test_a_document_is_in_memory_in_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_file, "BLOCK_BYTES", 4_096)
    piece, times = prose(0, 1_000).encode() + b"\n", 120
    made = transform("RemoveDuplicates", permutations=32)
    given_documents = [Document("a", lambda: iter([piece] * times))]
    names_left(made, documents({"b": "what is imported late"}))
    tracemalloc.start()
    try:
        assert names_left(made, given_documents) == ["a"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(piece) * times / 2
