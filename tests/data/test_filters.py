"""Filters judge each document for itself: by Gopher's rules, and by its language."""

import random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from builders.data import real_text
from builders.transforms import PROSE, document, names_left, transform
from costopt.schema.transforms import FilterQuality, Language
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.filter_language import MOST_PASSAGES, passages
from costopt_trainer.data.transforms.filter_quality import _characters_repeated, reason_against


def reason(text: str, **own: Any) -> str | None:
    return reason_against(text, FilterQuality.model_validate(own))


def words(count: int, length: int = 5) -> list[str]:
    """Different words of letters."""
    source = random.Random(0)
    return ["".join(source.choices("etaoinshrdlu", k=length)) for _ in range(count)]


def test_running_text_keeps_all_rules() -> None:
    assert reason(PROSE) is None
    assert reason(real_text().read_text()[:300_000]) is None


PROSE_LINES = PROSE.replace(". ", ".\n")
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("the and " * 20, "fewer than 50 words", {}),
    (PROSE, "more than 60 words", {"maxWords": 60}),
    (" ".join(["to be a"] * 40), "mean word shorter than 3 characters", {}),
    ("the and " + " ".join(words(60, 14)), "mean word longer than 10 characters", {}),
    (PROSE + " #" * 12, "too many # or ellipses", {}),
    (PROSE.replace(",", "..."), "too many # or ellipses", {"maxSymbolsPercent": 3}),
    (PROSE + " in 2024" * 30, "too many digits", {"maxDigitsPercent": 5}),
    (PROSE + " -- ++" * 20, "too many words without a letter", {}),
    (" ".join(words(80)), "too few stop words of English", {}),
    ("".join(f"- {line}\n" for line in PROSE_LINES.splitlines()), "too many lines begin with a bullet", {}),
    (PROSE_LINES.replace(".\n", "...\n"), "too many lines end with an ellipsis", {"maxSymbolsPercent": 100}),
    (PROSE_LINES + "\nAgain\nAgain\nAgain\nAgain\nAgain", "too many repeated lines", {}),
    (f"{PROSE_LINES}\n{PROSE}\n{PROSE}\n", "too much text in repeated lines", {"maxRepeatedLinesPercent": 100}),
    (PROSE_LINES + "\n\nx" * 3, "too many repeated paragraphs", {}),
    (PROSE + " of the" * 40, "one phrase of 2 words over and over", {}),
    (PROSE + " " + PROSE[:120], "too much text in repeated phrases of 5 words", {}),
]


@pytest.mark.parametrize(("text", "told", "own"), BROKEN, ids=[row[1] for row in BROKEN])
def test_each_rule_has_its_reason(text: str, told: str, own: dict[str, Any]) -> None:
    assert reason(text, **own) == told


def test_phrases_are_not_counted_if_that_is_said() -> None:
    assert reason(PROSE + " of the" * 40, repeatedPhrases="Keep") is None


@given(st.text(max_size=300))
def test_every_text_has_an_answer(text: str) -> None:
    lenient = {"minWords": 0, "minMeanWordLength": 0, "minStopWords": 0}
    assert reason(text) is not None or len(text.split()) >= 50
    assert reason("", **lenient) is None
    reason(text, **lenient)


def test_a_filter_drops_whole_documents_in_order_and_changes_none() -> None:
    made = transform("FilterQuality")
    given_documents = [
        document("a", PROSE),
        document("b", "short"),
        document("c"),
        document("d", PROSE[:200], PROSE[200:]),
    ]
    assert names_left(made, given_documents) == ["a", "d"]
    kept = [b"".join(one.pieces()).decode() for one in made.documents(given_documents)]
    assert kept == [PROSE, PROSE]


def test_of_a_large_document_only_the_beginning_is_read() -> None:
    read: list[int] = []

    def pieces() -> Any:
        for number in range(100):
            read.append(number)
            yield (PROSE + "\n").encode() * 600  # about 0.25 MiB

    verdict = transform("FilterQuality").verdict(Document("a", pieces))  # type: ignore[attr-defined]
    assert verdict is not None
    assert len(read) < 10


# Languages.

GERMAN = "Die Geschichte der Stadt beginnt mit einer Brücke, die Kaufleute im zwölften Jahrhundert über ihn bauten. "
FRENCH = "L'histoire de la ville commence par un pont que des marchands ont construit sur elle au douzième siècle. "
JAPANESE = "町の歴史は、十二世紀に商人たちが川に架けた橋から始まる。彼らは通行料でその費用を払わなければならなかった。"


def test_documents_in_other_languages_are_dropped() -> None:
    given_documents = [document("en", PROSE), document("de", GERMAN), document("fr", FRENCH), document("ja", JAPANESE)]
    assert names_left(transform("FilterLanguage"), given_documents) == ["en"]
    assert names_left(transform("FilterLanguage", languages=["de", "ja"]), given_documents) == ["de", "ja"]


def test_passages_vote() -> None:
    mixed = document("mixed", PROSE * 3 + GERMAN * 4)
    assert names_left(transform("FilterLanguage"), [mixed]) == ["mixed"]
    assert names_left(transform("FilterLanguage", minPercent=90), [mixed]) == []


def test_what_has_no_letters_has_no_language() -> None:
    verdict = transform("FilterLanguage").verdict(document("a", "1234 + 5678\n"))  # type: ignore[attr-defined]
    assert verdict == ("no words", "")


@given(st.integers(0, 60_000))
def test_few_passages_are_looked_at_in_a_document_of_any_length(length: int) -> None:
    found = passages("abcde " * (length // 6))
    assert len(found) <= MOST_PASSAGES
    assert (len(found) > 0) == (length >= 6)


def test_the_languages_that_may_be_asked_for_are_those_that_the_library_tells_apart() -> None:
    assert sorted(get_args(Language)) == sorted(LanguageIdentifier.from_model_file(MODEL_FILE).labels)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40), st.integers(2, 4))
def test_characters_in_repeated_phrases_are_counted_once(all_words: list[str], size: int) -> None:
    """By the words that some phrase covers which stood before."""
    covered: set[int] = set()
    for start in range(len(all_words) - size + 1):
        phrase = all_words[start : start + size]
        if any(all_words[before : before + size] == phrase for before in range(start)):
            covered |= set(range(start, start + size))
    expected = sum(len(all_words[place]) for place in covered)
    assert _characters_repeated(all_words, list(map(len, all_words)), size) == expected
