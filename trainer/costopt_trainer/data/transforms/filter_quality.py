"""Documents that are no running text are dropped, by the rules of Gopher.

Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", arXiv 2112.11446, appendix
A1.1: "Quality Filtering" and "Repetition Removal" with its table A1. Words are what white space divides, paragraphs
what blank lines divide. The share of digits is ours.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from costopt.schema.transforms import FilterQuality as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.documents import Document
from costopt_trainer.data.transforms.blocks import beginning
from costopt_trainer.data.transforms.judges import EachForItself
from costopt_trainer.data.transforms.table import Verdict

VERSION = 1

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25e6", "\u25aa", "\u25cf")
ELLIPSES = ("...", "\u2026")

MOST_FREQUENT_PERCENT = {2: 20, 3: 18, 4: 16}
"""Words of a phrase -> percent of the characters that the most frequent one may have (table A1)."""
REPEATED_PERCENT = {5: 15, 6: 14, 7: 13, 8: 12, 9: 11, 10: 10}
"""Words of a phrase -> percent of the characters that may be in phrases that come again (table A1)."""

_DIGIT = re.compile(r"\d")


class FilterQuality(EachForItself):
    """Judges a document by the first MiB of it."""

    def __init__(self, settings: Transform) -> None:
        self._settings = settings.filter_quality or Settings()

    def fingerprint(self) -> dict[str, Any]:
        """All bounds."""
        return {"type": "FilterQuality", "version": VERSION, **self._settings.to_plain()}

    def verdict(self, document: Document) -> Verdict | None:
        """The first rule that it breaks."""
        reason = reason_against(beginning(document), self._settings)
        return None if reason is None else Verdict(reason)


def reason_against(text: str, settings: Settings) -> str | None:
    """The first of the rules that the text breaks; None if it keeps all."""
    words = text.split()
    checks: tuple[Callable[[str, list[str], Settings], Iterator[tuple[bool, str]]], ...] = (
        _length,
        _signs,
        _lines,
        _repetition,
    )
    for check in checks:
        for broken, reason in check(text, words, settings):
            if broken:
                return reason
    return None


def _length(_text: str, words: list[str], settings: Settings) -> Iterator[tuple[bool, str]]:
    yield len(words) < settings.min_words, f"fewer than {settings.min_words} words"
    yield len(words) > settings.max_words, f"more than {settings.max_words} words"
    num_characters = sum(map(len, words))
    least, most = settings.min_mean_word_length, settings.max_mean_word_length
    yield num_characters < least * len(words), f"mean word shorter than {least} characters"
    yield num_characters > most * len(words), f"mean word longer than {most} characters"


def _signs(text: str, words: list[str], settings: Settings) -> Iterator[tuple[bool, str]]:
    symbols = max(text.count("#"), sum(map(text.count, ELLIPSES)))
    yield _exceeds(symbols, len(words), settings.max_symbols_percent), "too many # or ellipses"
    num_characters = sum(map(len, words))
    digits = len(_DIGIT.findall(text))
    yield _exceeds(digits, num_characters, settings.max_digits_percent), "too many digits"
    without_letters = sum(not any(map(str.isalpha, word)) for word in words)
    most = 100 - settings.min_alphabetic_words_percent
    yield _exceeds(without_letters, len(words), most), "too many words without a letter"
    stop_words = STOP_WORDS.intersection(word.lower() for word in words)
    yield len(stop_words) < settings.min_stop_words, "too few stop words of English"


def _lines(text: str, _words: list[str], settings: Settings) -> Iterator[tuple[bool, str]]:
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    bullets, ellipses = sum(line.startswith(BULLETS) for line in lines), sum(line.endswith(ELLIPSES) for line in lines)
    yield _exceeds(bullets, len(lines), settings.max_bullet_lines_percent), "too many lines begin with a bullet"
    yield _exceeds(ellipses, len(lines), settings.max_ellipsis_lines_percent), "too many lines end with an ellipsis"
    paragraphs = [stripped for part in re.split(r"\n\s*\n", text) if (stripped := part.strip())]
    for what, parts in (("lines", lines), ("paragraphs", paragraphs)):
        repeated = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
        most, most_characters = settings.max_repeated_lines_percent, settings.max_repeated_characters_percent
        yield _exceeds(len(repeated), len(parts), most), f"too many repeated {what}"
        all_characters = sum(map(len, parts))
        yield _exceeds(sum(map(len, repeated)), all_characters, most_characters), f"too much text in repeated {what}"


def _repetition(_text: str, words: list[str], settings: Settings) -> Iterator[tuple[bool, str]]:
    if settings.repeated_phrases == "Keep":
        return
    lengths = list(map(len, words))
    num_characters = sum(lengths)
    for size, percent in MOST_FREQUENT_PERCENT.items():
        counts = Counter(_phrases(words, size))
        phrase, count = counts.most_common(1)[0] if counts else ((), 0)
        # A pair that stands there once, of a short text, is no repetition.
        found = sum(map(len, phrase)) * count if count > 1 else 0
        yield _exceeds(found, num_characters, percent), f"one phrase of {size} words over and over"
    for size, percent in REPEATED_PERCENT.items():
        found = _characters_repeated(words, lengths, size)
        yield _exceeds(found, num_characters, percent), f"too much text in repeated phrases of {size} words"


def _phrases(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _characters_repeated(words: Sequence[str], lengths: Sequence[int], size: int) -> int:
    """Characters of words that are in a phrase which stood before; each is counted once, as the paper has it."""
    seen: set[tuple[str, ...]] = set()
    counted_to = found = 0
    for start, phrase in enumerate(_phrases(words, size)):
        if phrase in seen:
            found += sum(lengths[max(start, counted_to) : start + size])
            counted_to = start + size
        else:
            seen.add(phrase)
    return found


def _exceeds(part: int, whole: int, percent: int) -> bool:
    """Whether `part` is more than `percent` of `whole`."""
    return 100 * part > percent * whole
