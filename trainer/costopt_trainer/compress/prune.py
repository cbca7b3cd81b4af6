"""The Prune step: weights are removed, all at once or in rounds, and what is left is trained in between and afterwards.

    prune              the rounds
    share_gone         how much is gone after each of them
    _Structured        parts go, and matrices get smaller: prune_plan says how many, prune_units cuts them
    _Unstructured      single weights become zero: prune_weights

What matters least goes first: prune_scores. A count that is not whole is rounded down, and at least one head, channel
or layer stays: 30 percent of 4 heads is 1 head. A step that would remove nothing anywhere is refused.

After a stop the rounds are done again, which takes moments: each training goes on from its own checkpoint, so those
that had ended take no step.
"""

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from costopt.schema.compression import Prune, PrunedPart
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.prune_plan import First, plan, refuse_broken_groups
from costopt_trainer.compress.prune_scores import Scores, score_with
from costopt_trainer.compress.prune_units import cut, units_of
from costopt_trainer.compress.prune_weights import zero_weights
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel


class _Kind(Protocol):
    """How one structure is pruned."""

    things: str
    """What a layer may have too few of."""

    def remove(self, share: Fraction, scores: Scores) -> None:
        """Remove until `share` of what there was at first is gone."""

    def told(self) -> str:
        """What is gone by now; empty if nothing is."""


def prune(model: LayeredModel, settings: Prune, run: StepRun) -> str:
    """Prune `model` in place and say what was done; the state of the random generators does not change.

    Raises NotRetryable("InvalidSettings") if `percent` is too small to remove anything from layers of these sizes, if
    this model lacks what is to go, or if there is no data where some is needed.
    """
    kind: _Kind = (_Structured if settings.structure == "Structured" else _Unstructured)(model, settings, run)
    trained = ""
    for number in range(1, settings.rounds + 1):
        kind.remove(share_gone(settings, number), score_with(model, settings, run))
        if settings.trains and kind.told():
            trained = f"; round {number} trained {_heal(model, settings, run, number)}"
    if not kind.told():
        raise NotRetryable(
            "InvalidSettings",
            f"prune.percent must be larger than {settings.percent}: no layer of this model has enough {kind.things} "
            "to lose one",
        )
    return f"Prune {settings.structure} {settings.criterion} {settings.percent} percent: {kind.told()}{trained}"


def share_gone(settings: Prune, number: int) -> Fraction:
    """How much is gone after round `number`, from 1: most goes early, when most can be spared (arXiv 1710.01878)."""
    left = Fraction(settings.rounds - number, settings.rounds)
    return Fraction(settings.percent, 100) * (1 - left**3)


def _heal(model: LayeredModel, settings: Prune, run: StepRun, number: int) -> str:
    # It brings the whole training loop, which most variants do without.
    from costopt_trainer.compress.fitting import Course, fit  # noqa: PLC0415

    course = Course(settings.fine_tune_steps, settings.learning_rate, part=f"round-{number}")
    return str(fit(model, run, course))


class _Unstructured:
    things = "weights"

    def __init__(self, model: LayeredModel, settings: Prune, run: StepRun) -> None:
        if settings.trains and run.recipe is not None and run.recipe.optimizer.type == "Muon":
            raise NotRetryable(
                "InvalidSettings",
                "prune.fineTuneSteps with structure Unstructured needs another recipe.optimizer.type than Muon, whose "
                "steps fill the zeros",
            )
        self._model, self._settings, self._zeros = model, settings, 0

    def remove(self, share: Fraction, scores: Scores) -> None:
        self._zeros = zero_weights(self._model, self._settings, share, scores)

    def told(self) -> str:
        return f"{self._zeros:,} weights are zero" if self._zeros else ""


class _Structured:
    things = "heads, channels or layers"

    def __init__(self, model: LayeredModel, settings: Prune, run: StepRun) -> None:
        self._model, self._settings, self._example = model, settings, run.example
        units = units_of(model, run.example)
        refuse_broken_groups(units, settings)
        self._first = First.of(model, units)
        self._gone: Counter[PrunedPart] = Counter()

    def remove(self, share: Fraction, scores: Scores) -> None:
        model = self._model
        units = units_of(model, self._example)
        planned = plan(model, units, self._settings, self._first, share)
        gone = {
            number: _least(scores.of_units(one), one.count - kept)
            for number, (one, kept) in enumerate(zip(units, planned.kept, strict=True))
            if kept < one.count
        }
        removable = model.removable_layers() if planned.layers else ()
        blocks = model.blocks()
        of_layers = scores.of_layers([blocks[place] for place in removable]) if removable else torch.empty(0)
        cut(model, units, gone)
        if gone:
            model.settle(planned.sizes)
        for number, lost in gone.items():
            self._gone[units[number].part] += len(lost) * units[number].heads_each
        if removable:
            layers = {removable[number] for number in _least(of_layers, planned.layers)}
            model.drop_layers(layers)
            self._first = self._first.without(layers)
            self._gone["Layers"] += len(layers)

    def told(self) -> str:
        parts = [f"{count:,} {_WORDS[part].format(s='' if count == 1 else 's')}" for part, count in self._gone.items()]
        return f"removed are {', '.join(parts)}" if parts else ""


_WORDS = {
    "Channels": "channel{s}",
    "Heads": "head{s}",
    "HiddenWidth": "channel{s} between layers",
    "Layers": "layer{s}",
}


def _least(scores_U: Tensor, count: int) -> list[int]:
    """The `count` that matter least. Stable: equal weights always give the same pruned model."""
    return sorted(torch.argsort(scores_U, stable=True)[:count].tolist())


class PruneStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Pruning"
    trains = True
    """Where its settings say so."""
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, settings: Prune) -> bool:
        return settings.structure == "Structured"

    def wants_speed(self, settings: Prune) -> bool:
        return settings.structure == "Structured"

    def wants_compile(self, _settings: Prune) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: Prune, run: StepRun) -> str:
        return prune(model, settings, run)


STEP = PruneStep()
