"""The latest figures of a program, as it gives them and as they are told.

Figures    what was reported last -> Progress
whole      a whole number from 0, or a sentence
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, SupportsIndex

from pydantic import ValidationError

from costopt.schema.replica import MeteredMilliseconds, Progress
from costopt_trainer.errors import first_line
from costopt_trainer.reporting.meter import figure


class Figures:
    """What was reported last. A figure may be a tensor on a device: it is read when it is told, and not before."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` gets one sentence for people."""
        self._say = say
        self._counts: dict[str, int] = {}
        self._measured: dict[str, SupportsFloat] = {}
        self._results: Mapping[str, SupportsFloat] = {}
        self._rated_samples: int | None = None
        self._samples_per_second: int | None = None

    def count(self, **counts: SupportsIndex | None) -> None:
        """New whole numbers; None leaves one as it is. Raises ValueError for what is none, or below 0."""
        self._counts |= {name: whole(name, value) for name, value in counts.items() if value is not None}

    def measure(self, results: Mapping[str, SupportsFloat] | None, **measured: SupportsFloat | None) -> None:
        """New measured figures; None leaves one as it is."""
        self._measured |= {name: value for name, value in measured.items() if value is not None}
        self._results = self._results if results is None else results

    @property
    def step(self) -> int | None:
        """The last step; None: there is nothing to tell yet."""
        return self._counts.get("step")

    def progress(
        self, metered: MeteredMilliseconds, rate_of: Callable[[int], int | None], **others: object
    ) -> Progress:
        """All of it, with what `rate_of` says of the samples since the last time, and `others` of its fields. Raises
        ValueError for what no report can hold, such as more than 64 results."""
        measured = {name: self._told(name, value) for name, value in self._measured.items()}
        tokens = measured.pop("tokens_per_second", None)
        results = {name: told for name, value in self._results.items() if (told := self._told(name, value)) is not None}
        figures: dict[str, Any] = {**self._counts, **measured, **others}
        try:
            return Progress(
                **figures,
                tokens_per_second=None if tokens is None else max(0, int(float(tokens))),
                samples_per_second=self._rate(rate_of),
                results=results,
                metered=metered,
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))} of a report: {first['msg']}") from error

    def _rate(self, rate_of: Callable[[int], int | None]) -> int | None:
        consumed = self._counts.get("samples_consumed")
        if consumed is not None:
            before, self._rated_samples = self._rated_samples, consumed
            rate = rate_of(0 if before is None else max(0, consumed - before))
            self._samples_per_second = rate or self._samples_per_second
        return self._samples_per_second

    def _told(self, name: str, value: SupportsFloat) -> str | None:
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:  # torch raises the last for a tensor of several numbers
            raise ValueError(f"{name} must be one number ({first_line(error)})") from error
        if math.isfinite(number):
            return figure(number)
        self._say(f"{name} is {number} after step {self._counts['step']}, which is not reported")
        return None


def whole(name: str, value: Any) -> int:
    """`value` as a whole number from 0. Raises ValueError in one sentence."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"{name} must be a whole number from 0, not {value!r}")
    return number
