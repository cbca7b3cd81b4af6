"""What becomes of samples that cannot be used: the job ends at the first, or they are left out and counted.

Skipping     counts good and bad samples of one reading
told_in      its lines among others, as they are told to the user of a job
"""

import re
from collections.abc import Iterable

from costopt.schema.records import BadSamples
from costopt_trainer.errors import NotRetryable, safe


class Skipping:
    """Counts the samples of one reading of a source."""

    def __init__(self, settings: BadSamples, name: str) -> None:
        """`name` is how errors call the source."""
        self._settings, self._name = settings, name
        self._good = self._bad = 0
        self._first = ""

    def good(self) -> None:
        """A sample can be used."""
        self._good += 1

    def bad(self, sentence: str) -> None:
        """A sample cannot be used, as the sentence says. Raises NotRetryable("InvalidData") unless it is left out."""
        if self._settings.on_bad_sample == "Fail":
            raise NotRetryable("InvalidData", sentence)
        self._bad += 1
        self._first = self._first or safe(sentence)

    def end(self) -> None:
        """All was read. Raises NotRetryable("InvalidData") if too much of it is bad."""
        total, most = self._good + self._bad, self._settings.max_bad_percent
        if self._bad and not self._good:
            raise NotRetryable(
                "InvalidData",
                f"{self._name} must have samples that can be used, but all {total:,} are bad, the first: {self._first}",
            )
        if self._bad * 100 > most * total:
            raise NotRetryable(
                "InvalidData",
                f"{self._name} must have at most {most} percent of bad samples (maxBadPercent), but {self._bad:,} of "
                f"{total:,} are bad, the first: {self._first}",
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for the log, if something was left out."""
        if not self._bad:
            return ()
        return (f"{self._bad:,} of {self._good + self._bad:,} samples are bad and left out; the first: {self._first}",)


_LINE = re.compile(r"[0-9,]+ of [0-9,]+ samples are bad and left out; the first: ")


def told_in(notes: Iterable[str], limit: int) -> str | None:
    """What `Skipping.notes` has put among the notes, in at most `limit` characters. None: nothing was left out."""
    told = "; ".join(note for note in notes if _LINE.match(note))
    return (told if len(told) <= limit else f"{told[: limit - 3]}...") or None
