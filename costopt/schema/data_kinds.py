"""Which models can be trained on which data: each class of settings declares one kind of sample, and rules follow.

TEXT, IMAGES     the kinds
GivesSamples     settings of a source of data; ReadsSamples: of a family of models
data_fits_model, only_for_text     the rules, each with CEL and sentence
"""

from collections.abc import Iterable
from typing import ClassVar

from costopt.schema.base import PlainData, Rule, Strict, cel_list
from costopt.schema.unions import TAG, UNIONS

TEXT = "text"
IMAGES = "images"


class GivesSamples(Strict):
    """Settings of a source of data."""

    gives: ClassVar[str]
    """The kind of samples that it gives."""


class ReadsSamples(Strict):
    """Settings of a family of models."""

    reads: ClassVar[str]
    """The kind of samples that it is trained on."""


def data_fits_model(models: type[Strict], sources: type[Strict]) -> Rule:
    """For a class with fields `model` and `data`, which are these unions: the data is of the kind that the model reads.

    Raises TypeError for a kind that is only given or only read.
    """
    readers, givers = _by_kind(models), _by_kind(sources)
    if lonely := readers.keys() ^ givers.keys():
        raise TypeError(f"samples must be given by a source and read by a model: {', '.join(sorted(lonely))}")
    kinds = sorted(givers, key=lambda kind: len(givers[kind]))
    told = [f"{' or '.join(readers[kind])} needs {' or '.join(givers[kind])}" for kind in kinds]
    told[0] = told[0].replace(" needs ", " needs data.type ", 1)
    # Every word is of one kind, so where all kinds but one agree the last one does, too.
    agree = [f"({_cel_in('model', readers[kind])}) == ({_cel_in('data', givers[kind])})" for kind in kinds[:-1]]
    kind_read, kind_given = _kind_of_word(readers), _kind_of_word(givers)
    return Rule(
        cel=" && ".join(agree),
        message=f"model.type {', '.join(told[:-1])}, and {told[-1]}",
        holds=lambda data: kind_read[data["model"][TAG]] == kind_given[data["data"][TAG]],
    )


def only_for_text(key: str, what: str, sources: type[Strict]) -> Rule:
    """For a class with the field `data`, which is this union: its field `key` is set for text only. `what` it holds."""
    others = [word for kind, words in _by_kind(sources).items() if kind != TEXT for word in words]
    is_text = f"self.data.type != '{others[0]}'" if len(others) == 1 else f"!({_cel_in('data', others)})"

    def holds(data: PlainData) -> bool:
        return data["data"][TAG] not in others or data["data"].get(key) is None

    return Rule(
        cel=f"{is_text} || !has(self.data.{key})",
        message=f"data.{key} are {what} and must not be set if data.type is {' or '.join(others)}",
        holds=holds,
    )


def _by_kind(union: type[Strict]) -> dict[str, list[str]]:
    """The words of `type` by the kind of samples that the settings of each declare."""
    words: dict[str, list[str]] = {}
    for member in UNIONS[union]:
        settings = member.settings
        if settings is None or not issubclass(settings, GivesSamples | ReadsSamples):
            raise TypeError(f"{union.__name__}: the settings of {member.word} must declare a kind of samples")
        kind = settings.gives if issubclass(settings, GivesSamples) else settings.reads
        words.setdefault(kind, []).append(member.word)
    return words


def _kind_of_word(by_kind: dict[str, list[str]]) -> dict[str, str]:
    return {word: kind for kind, words in by_kind.items() for word in words}


def _cel_in(field: str, words: Iterable[str]) -> str:
    first, *more = words
    return f"self.{field}.type in {cel_list([first, *more])}" if more else f"self.{field}.type == '{first}'"
