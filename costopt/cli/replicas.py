"""Selects the replicas whose logs are shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from costopt.refused import Refused


@dataclass(frozen=True)
class Choice:
    """What the command line says; None: not given."""

    stage: str | None = None
    attempt: int | None = None
    index: int | None = None
    replica: str | None = None
    """A replica by its name, instead of the three above."""

    def __post_init__(self) -> None:
        if self.replica is not None and (self.stage, self.attempt, self.index) != (None, None, None):
            raise Refused("--replica names one replica; leave --stage, --attempt and --index out")

    @property
    def is_one(self) -> bool:
        """Whether it can match only one replica."""
        return self.replica is not None or self.index is not None

    @property
    def is_open(self) -> bool:
        """Whether it includes replicas of later attempts and stages."""
        return self.stage is None and self.attempt is None and self.replica is None


@dataclass(frozen=True)
class Found:
    """A replica whose log can be read."""

    stage: str
    attempt: int
    index: int
    created_at: datetime
    key: str
    """The name of its folder or pod."""

    @property
    def short_name(self) -> str:
        """`<stage>-a<attempt>-<index>`."""
        return f"{self.stage}-a{self.attempt}-{self.index}"


def choose(found: Sequence[Found], choice: Choice) -> list[Found]:
    """The chosen ones, in order of index. Raises Refused, naming the existing ones, if there is none."""
    if choice.replica is not None:
        named = [one for one in found if choice.replica in (one.short_name, one.key)]
        if not named:
            raise Refused(f"--replica must be one of {_list(one.short_name for one in found)}; it is {choice.replica}")
        return named[-1:]
    stage, attempt, index = choice.stage, choice.attempt, choice.index
    if stage is None:
        stage = max(found, key=lambda one: one.created_at).stage
    of_stage = [one for one in found if one.stage == stage]
    if not of_stage:
        raise Refused(f"--stage must be one of {_list(sorted({one.stage for one in found}))}; it is {stage}")
    attempts = sorted({one.attempt for one in of_stage})
    if attempt is None:
        attempt = attempts[-1]
    if attempt not in attempts:
        sentence = f"--attempt of {stage} must be from {attempts[0]} to {attempts[-1]}; it is {attempt}"
        if 0 <= attempt < attempts[0]:
            sentence += ". Pods of attempts before these are gone, and their logs went with them"
        raise Refused(sentence)
    of_attempt = {one.index: one for one in of_stage if one.attempt == attempt}
    if index is None:
        return [of_attempt[place] for place in sorted(of_attempt)]
    if index not in of_attempt:
        raise Refused(f"--index of {stage} must be from 0 to {max(of_attempt)}; it is {index}")
    return [of_attempt[index]]


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (" and others" if len(shown) > 12 else "")
