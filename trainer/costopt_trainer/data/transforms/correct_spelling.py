"""Words that a dictionary lacks become the most frequent word that is one edit away, by the package pyspellchecker.

Its dictionaries (words with their frequencies, from film subtitles and the like) come with it. Only what is surely a
word is looked at: small letters alone, neither part of a name, an address nor an identifier.
"""

import re
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from spellchecker import SpellChecker

from costopt.schema.transforms import CorrectSpelling as Settings
from costopt.schema.transforms import Transform
from costopt_trainer.data.transforms.blocks import Changer

VERSION = 1
MOST_LETTERS = 32
"""Of a word that is looked at; a longer one is none."""
REMEMBERED_WORDS = 100_000

_WORD = re.compile(r"(?<![\w@/\\.'’-])[^\W\d_]+(?![\w@/\\'’(=:-]|\.\w)")
"""Letters between blanks or punctuation: not `a.b`, `a_b`, `f(`, `key=`, `well-known`."""


class CorrectSpelling(Changer):
    """Corrects words one by one; what a word becomes depends on nothing but the word."""

    def __init__(self, settings: Transform) -> None:
        own = settings.correct_spelling or Settings()
        self._language, self._min_letters = own.language, own.min_letters
        self._dictionary = SpellChecker(language=own.language, distance=1)
        self._corrected = lru_cache(maxsize=REMEMBERED_WORDS)(self._look_up)

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and the version of the package with its dictionaries."""
        return {
            "type": "CorrectSpelling",
            "version": VERSION,
            "language": self._language,
            "minLetters": self._min_letters,
            "pyspellchecker": version("pyspellchecker"),
        }

    def change(self, block: str) -> str:
        """The block with words corrected."""
        return _WORD.sub(lambda found: self._corrected(found[0]), block)

    def _look_up(self, word: str) -> str:
        if not (self._min_letters <= len(word) <= MOST_LETTERS and word.islower()) or word in self._dictionary:
            return word
        candidates = self._dictionary.known(self._dictionary.edit_distance_1(word)) - {word}
        # Of words that are equally frequent the first in the alphabet: a set has no order.
        return max(sorted(candidates), key=self._dictionary.word_usage_frequency, default=word)
