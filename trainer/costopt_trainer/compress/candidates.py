"""The lists of steps that `auto` tries: a table.

Candidate         a list of steps, and its name
candidates_for    those of the table that a model and machine may take, in order
with_training     a list of steps that trains for a part of its optimizer steps

A new one is a row. The first rows are those that most models gain by, and of different kinds: with few trials only
these are tried. What a row asks for and a model refuses is a trial that says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from costopt.schema.compression import Step
from costopt_trainer.compress.low_rank import linear_layers
from costopt_trainer.compress.onnx_form import is_graph_only
from costopt_trainer.compress.table import trains
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.onnx_model import lacking
from costopt_trainer.models.whole import WholeModel

WHOLE = 10**6
"""Optimizer steps that stand in the table for all that a recipe may take."""


@dataclass(frozen=True)
class Candidate:
    """A list of steps."""

    name: str
    """In a few words, ASCII."""
    steps: tuple[Step, ...]
    """What trains in it takes WHOLE optimizer steps."""

    @property
    def trains(self) -> bool:
        """Whether optimizer steps are taken."""
        return trains(self.steps)


def _step(word: str, key: str, **settings: Any) -> Step:
    return Step.model_validate({"type": word, key: settings})


def _quantized(scheme: str, **settings: Any) -> Step:
    return _step("Quantize", "quantize", scheme=scheme, **settings)


def _pruned(percent: int) -> Step:
    """Channels and heads go, those first that the loss loses least with; the rest is trained on."""
    return _step(
        "Prune", "prune", structure="Structured", percent=percent, criterion="Taylor", rounds=2, fineTuneSteps=WHOLE
    )


def _factored(percent: int) -> Step:
    return _step("LowRank", "lowRank", percent=percent)


_INT8, _STATIC = _quantized("Int8DynamicActivation"), _quantized("Int8Static")
_WEIGHTS, _INT4 = _quantized("Int8WeightOnly"), _quantized("Int4WeightOnly")
_HALF = _step("Distill", "distill", student="EveryOtherLayer", steps=WHOLE)
_HEAL = _step("FineTune", "fineTune", steps=WHOLE)

TABLE: tuple[Candidate, ...] = (
    Candidate("int8", (_INT8,)),
    Candidate("30 % pruned, int8", (_pruned(30), _INT8)),
    Candidate("every other layer, int8", (_HALF, _INT8)),
    Candidate("static int8", (_STATIC,)),
    Candidate("int8 weights", (_WEIGHTS,)),
    Candidate("50 % pruned", (_pruned(50),)),
    Candidate("low rank 30 %", (_factored(30),)),
    Candidate("int4 weights", (_INT4,)),
    Candidate("50 % pruned, int8", (_pruned(50), _INT8)),
    Candidate("every other layer", (_HALF,)),
    Candidate("low rank 50 %, trained, int8", (_factored(50), _HEAL, _INT8)),
    Candidate("30 % pruned", (_pruned(30),)),
    Candidate("50 % pruned, static int8", (_pruned(50), _STATIC)),
    Candidate("low rank 30 %, int8", (_factored(30), _INT8)),
    Candidate("30 % pruned, int4 weights", (_pruned(30), _INT4)),
    Candidate("every other layer, int4 weights", (_HALF, _INT4)),
    Candidate("low rank 50 %, trained", (_factored(50), _HEAL)),
    Candidate("70 % pruned, int8", (_pruned(70), _INT8)),
    Candidate("int8 weights and embeddings", (_quantized("Int8WeightOnly", embeddings=True),)),
    Candidate("15 % pruned", (_pruned(15),)),
)


def candidates_for(model: LayeredModel, *, may_train: bool, graphs: bool) -> list[Candidate]:
    """Those of the table that are worth a trial of `model`, in order.

    `may_train`: the model has a recipe, and optimizer steps may be taken. `graphs`: what
    exists only as an ONNX graph will do: on a CPU.
    """
    factors = not isinstance(model, WholeModel) and any(True for _ in linear_layers(model))
    graphs = graphs and lacking() is None

    def fits(candidate: Candidate) -> bool:
        if any(step.type == "LowRank" for step in candidate.steps) and not factors:
            return False
        if is_graph_only(candidate.steps) and not graphs:
            return False
        return may_train or not candidate.trains

    return [candidate for candidate in TABLE if fits(candidate)]


def with_training(steps: Sequence[Step], count: int) -> list[Step]:
    """`steps` where each that trains takes `count` optimizer steps in all, at least one in each round."""
    return [_shortened(step, count) for step in steps]


def _shortened(step: Step, count: int) -> Step:
    if step.prune is not None and step.prune.fine_tune_steps:
        each = max(1, count // step.prune.rounds)
        return step.model_copy(update={"prune": step.prune.model_copy(update={"fine_tune_steps": each})})
    if step.fine_tune is not None:
        return step.model_copy(update={"fine_tune": step.fine_tune.model_copy(update={"steps": max(1, count)})})
    if step.distill is not None:
        return step.model_copy(update={"distill": step.distill.model_copy(update={"steps": max(1, count)})})
    return step
