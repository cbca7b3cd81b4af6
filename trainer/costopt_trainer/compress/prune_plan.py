"""How many units and layers stay after a round of structured pruning. Pure but for what the model says of itself.

First         what there was before the first round
plan          what is to stay after a round
Plan          it

A model of the Hugging Face library has one number for all layers and may demand that one divides another: then the
numbers nearest above what was asked for are taken that it can hold. A number of heads that was asked for by name is not
changed but refused, with one that fits.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from costopt.schema.compression import Prune, PrunedPart
from costopt_trainer.compress.prune_units import Units, shapes_after
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel, Sizes

DEFAULT_PARTS: tuple[PrunedPart, ...] = ("Channels", "Heads")
_Key = tuple[PrunedPart, tuple[int, ...]]


@dataclass
class First:
    """What there was before the first round, by part and place; it follows when layers are numbered anew."""

    layers: int
    counts: dict[_Key, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: LayeredModel, units: Sequence[Units]) -> "First":
        """Now."""
        return cls(len(model.blocks()), {(one.part, one.place): one.count for one in units})

    def to_keep(self, one: Units, share: Fraction) -> int:
        """How many of `one` stay if `share` of the first goes."""
        first = self.counts[one.part, one.place]
        return min(one.count, max(1, first - int(first * share)))

    def without(self, gone: Collection[int]) -> "First":
        """The same after layers have gone."""
        now = {place: number for number, place in enumerate(p for p in range(self.layers) if p not in gone)}
        counts = {}
        for (part, place), count in self.counts.items():
            if not place:
                counts[part, place] = count
            elif place[0] in now:
                counts[part, (now[place[0]], *place[1:])] = count
        return First(self.layers, counts)


@dataclass(frozen=True)
class Plan:
    """What is to stay."""

    kept: tuple[int, ...]
    """Of each of the units."""
    sizes: Sizes
    """The same as numbers of the whole model; layers are not among them."""
    layers: int
    """Layers that go."""


def plan(model: LayeredModel, units: Sequence[Units], settings: Prune, first: First, share: Fraction) -> Plan:
    """What is to stay when `share` of the first has gone.

    Raises NotRetryable("InvalidSettings") if the model lacks what is named, or cannot hold what was asked for.
    """
    parts = tuple(settings.of or DEFAULT_PARTS)
    removable = model.removable_layers()
    _refuse_lacking(units, settings, has_layers=bool(removable))
    layers = 0
    if "Layers" in parts:
        now = len(model.blocks())
        layers = min(len(removable), now - max(1, first.layers - int(first.layers * share)), now - 1)
    wanted = [first.to_keep(one, share) if one.part in parts else one.count for one in units]
    reason = None
    is_last = share == Fraction(settings.percent, 100)
    for kept in _candidates(model, units, parts, wanted):
        misfit = _misfit(model, units, kept)
        if misfit is None:
            if settings.of is not None and is_last:
                _refuse_other_heads(model, units, settings, wanted=wanted, kept=kept, reason=reason)
            return Plan(kept, _sizes_of(model, units, kept), layers)
        reason = reason or misfit
    raise _refused(f"prune.of must be other parts for this model: {reason}")


def refuse_broken_groups(units: Sequence[Units], settings: Prune) -> None:
    """Raise NotRetryable("InvalidSettings") if heads are named and `percent` of them is no whole number of groups that
    share keys and values."""
    if settings.of is None or "Heads" not in settings.of:
        return
    for one in units:
        each = one.heads_each
        if one.part != "Heads" or each == 1:
            continue
        heads = one.count * each
        lost = heads * settings.percent // 100
        if one.count == 1:
            raise _refused(
                f"prune.of must not name Heads for this model: its {heads} query heads share one head of keys and "
                "values, which cannot go"
            )
        if lost % each:
            fits = min(max(lost // each, 1), one.count - 1)
            raise _refused(
                f"prune.percent must remove whole groups of the {each} query heads that share keys and values: "
                f"{settings.percent} percent is {lost} of {heads} heads, and {_percent_of(fits, one.count)} percent "
                f"would be {fits * each}"
            )


def _percent_of(gone: int, count: int) -> int:
    """The least percent of which `gone` of `count` go."""
    return -(-100 * gone // count)


def _refuse_lacking(units: Sequence[Units], settings: Prune, *, has_layers: bool) -> None:
    there = {one.part for one in units} | ({"Layers"} if has_layers else set())
    if settings.of is None:
        if not there & set(DEFAULT_PARTS):
            also = f", or prune.of must be [{', '.join(sorted(there))}]" if there else ""
            raise _refused(
                f"prune.structure must be Unstructured for this model{also}: none of its layers can be made narrower "
                "by itself"
            )
        return
    for part in settings.of:
        if part not in there:
            able = f"it has {', '.join(sorted(there))}" if there else "only structure Unstructured is possible"
            raise _refused(f"prune.of must not name {part} for this model: {able}")


def _candidates(
    model: LayeredModel, units: Sequence[Units], parts: Collection[PrunedPart], wanted: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    """What may stay of each of `units`, from `wanted` upwards."""
    most_heads = max((one.count for one in units if one.part == "Heads"), default=0)
    axes = model.axes()
    for more in range(max(most_heads, 1) if "Heads" in parts else 1):
        kept = [
            min(one.count, count + more) if one.part == "Heads" else count
            for one, count in zip(units, wanted, strict=True)
        ]
        widths = _widths(units, kept, 0 if axes is None else axes.head_dim) if "HiddenWidth" in parts else [None]
        for width in widths:
            yield tuple(
                width if one.part == "HiddenWidth" and width is not None else count
                for one, count in zip(units, kept, strict=True)
            )


def _widths(units: Sequence[Units], kept: Sequence[int], head_dim: int) -> list[int | None]:
    """Widths between layers that a model may hold: what was asked for, and what heads divide or add up to."""
    [(most, width)] = [(one.count, count) for one, count in zip(units, kept, strict=True) if one.part == "HiddenWidth"]
    found = {width}
    for one, count in zip(units, kept, strict=True):
        if one.part == "Heads":
            heads = count * one.heads_each
            found |= {-(-width // heads) * heads, heads * head_dim}
    return [number for number in sorted(found) if width <= number < most or number == width]


def _sizes_of(model: LayeredModel, units: Sequence[Units], kept: Sequence[int]) -> Sizes:
    """As numbers of the whole model: those of its first layer. None where nothing goes."""
    counts: dict[PrunedPart, int] = {}
    for one, count in zip(units, kept, strict=True):
        if count != one.count:
            counts.setdefault(one.part, count)
    axes, heads = model.axes(), counts.get("Heads")
    return Sizes(
        heads=None if heads is None or axes is None else heads * axes.heads_per_key,
        key_heads=heads,
        hidden_width=counts.get("HiddenWidth"),
        channels=counts.get("Channels"),
    )


def _misfit(model: LayeredModel, units: Sequence[Units], kept: Sequence[int]) -> str | None:
    return model.misfit(_sizes_of(model, units, kept), shapes_after(model, units, kept))


def _refuse_other_heads(
    model: LayeredModel,
    units: Sequence[Units],
    settings: Prune,
    *,
    wanted: Sequence[int],
    kept: Sequence[int],
    reason: str | None,
) -> None:
    """Heads that were named stay as many as was asked for, or another number is named."""
    for one, asked, nearest in zip(units, wanted, kept, strict=True):
        if one.part != "Heads" or asked == nearest:
            continue
        others = sorted(range(1, one.count), key=lambda count: abs(count - asked))
        fits = next((count for count in others if _misfit(model, units, _with_heads(units, kept, count)) is None), None)
        instead = (
            "leave Heads out of prune.of"
            if fits is None
            else f"{fits * one.heads_each} would fit, which {_percent_of(one.count - fits, one.count)} percent leaves"
        )
        raise _refused(
            f"prune.percent must leave a number of heads that this model can have: {settings.percent} percent leaves "
            f"{asked * one.heads_each} of {one.count * one.heads_each}, and {reason}; {instead}"
        )


def _with_heads(units: Sequence[Units], kept: Sequence[int], heads: int) -> list[int]:
    return [heads if one.part == "Heads" else count for one, count in zip(units, kept, strict=True)]


def _refused(sentence: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", sentence)
