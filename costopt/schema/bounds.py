"""The bounds that a field declares, at every depth of its type: `list[Name] | None`, `dict[ShortText, Count]`.

Of a bound that is declared twice for one value pydantic takes the last, and not the tightest: a bound beside a type
that has its own may be void. So all that is declared is found here, and the models refuse what would not hold.
"""

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.fields import FieldInfo

Step = Literal["items", "keys", "values"]

TIGHTEST: dict[str, Callable[[list[Any]], Any]] = {
    "max_length": min,
    "le": min,
    "lt": min,
    "min_length": max,
    "ge": max,
    "gt": max,
    "pattern": lambda patterns: patterns[0] if len(set(patterns)) == 1 else None,
    "multiple_of": lambda factors: factors[0] if len(set(factors)) == 1 else None,
}
"""By bound: which of several would have to hold. Of two patterns that differ none implies the other: None."""


@dataclass(frozen=True)
class Bounded:
    """A value in a field, or the field's own, and what is declared of it."""

    path: tuple[Step, ...]
    """From the field's value down to it; empty: the field's value itself."""
    type: Any
    declared: dict[str, list[Any]]
    """By bound, all that is declared, in the order in which pydantic takes them: the last one holds."""


def bounded_values(field: FieldInfo) -> Iterator[Bounded]:
    """Every value in a field of which a bound is declared. Of a model in it, its own fields tell."""
    for found in _walk(field.annotation, list(field.metadata), ()):
        if found.declared:
            yield found


def void_bounds(field: FieldInfo) -> list[str]:
    """Bounds of a field that do not hold, each with the path to its value, as in `items: max_length`."""
    return [
        ": ".join([*found.path, bound])
        for found in bounded_values(field)
        for bound, values in found.declared.items()
        if values[-1] != TIGHTEST[bound](values)
    ]


def _walk(annotation: Any, outer: list[Any], path: tuple[Step, ...]) -> Iterator[Bounded]:
    """`outer`: what stands around the annotation; it is applied after what is in it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _walk(arguments[0], [*annotation.__metadata__, *outer], path)
        return
    if origin in (typing.Union, types.UnionType):
        # pydantic passes what is said of `X | None` on to X.
        for option in arguments:
            if option is not type(None):
                yield from _walk(option, outer, path)
        return
    yield Bounded(path, origin or annotation, _declared(outer))
    if origin is dict:
        for step, inner in zip(("keys", "values"), arguments, strict=True):
            yield from _walk(inner, [], (*path, typing.cast(Step, step)))
    elif origin in (list, tuple, set, frozenset):
        for inner in arguments:
            yield from _walk(inner, [], (*path, "items"))


def _declared(metadata: list[Any]) -> dict[str, list[Any]]:
    parts = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    values = {bound: [getattr(part, bound, None) for part in parts] for bound in TIGHTEST}
    known = {bound: [value for value in found if value is not None] for bound, found in values.items()}
    return {bound: found for bound, found in known.items() if found}
