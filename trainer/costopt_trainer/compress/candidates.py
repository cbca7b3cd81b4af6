"""The lists of steps that `auto` tries: a table.

Candidate         a list of steps, and its name
candidates_for    those of the table that a model and machine may take, in order
in_order          the same by what fewer bits of single layers do to the loss
smallest_first    the same by how many bytes are expected of each
with_training     a list of steps that trains for a part of its optimizer steps

A new one is a row. The first rows are those that most models gain by, and of different kinds: with few trials only
these are tried (`FIRST`). What a row asks for and a model refuses is a trial that says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from costopt.schema.compression import Step
from costopt_trainer.compress.low_rank import linear_layers
from costopt_trainer.compress.onnx_form import is_graph_only, quantized_by
from costopt_trainer.compress.sensitivity import Rises, layers_of
from costopt_trainer.compress.table import trains
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.onnx_model import lacking
from costopt_trainer.models.whole import WholeModel

KEPT = 20
"""Percent of the layers that rows of mixed precision keep in more bits."""
WORTH_KEEPING = 0.5
"""The least part of the expected rise of the loss that these layers stand for, or keeping them is not tried."""
HOPELESS = 0.1
"""Expected rise of the loss by fewer bits, as a part of the loss, beyond which steps are tried last."""
FIRST = 3
"""Rows that are tried before any other, whatever is sought."""
WEIGHT_BYTES = 4
"""Of a weight as it was trained."""
BYTES_OF = {"Int4WeightOnly": 0.5}
"""Bytes of a quantized weight; of other schemes one."""
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
_INT8_KEPT, _STATIC_KEPT, _INT4_KEPT = (
    _quantized(scheme, keepLayersPercent=KEPT) for scheme in ("Int8DynamicActivation", "Int8Static", "Int4WeightOnly")
)
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
    Candidate("int4 weights, sensitive layers int8", (_INT4_KEPT,)),
    Candidate("int8, sensitive layers whole", (_INT8_KEPT,)),
    Candidate("static int8, sensitive layers whole", (_STATIC_KEPT,)),
    Candidate("50 % pruned, int8", (_pruned(50), _INT8)),
    Candidate("every other layer", (_HALF,)),
    Candidate("low rank 50 %, trained, int8", (_factored(50), _HEAL, _INT8)),
    Candidate("30 % pruned", (_pruned(30),)),
    Candidate("50 % pruned, static int8", (_pruned(50), _STATIC)),
    Candidate("low rank 30 %, int8", (_factored(30), _INT8)),
    Candidate("30 % pruned, int4 weights", (_pruned(30), _INT4)),
    Candidate("30 % pruned, int4 weights, sensitive layers int8", (_pruned(30), _INT4_KEPT)),
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


def in_order(candidates: Sequence[Candidate], rises: Mapping[str, Rises]) -> list[Candidate]:
    """The candidates by what is expected of their bits alone; `rises`: by the scheme of Quantize, of the trained model.

    Those that keep sensitive layers are left out where few layers stand for less than WORTH_KEEPING of what all lose:
    there is nothing to gain. Those whose bits are expected to lose more than HOPELESS of the loss come last. Within
    both groups the order stays.
    """

    def is_worth_it(candidate: Candidate) -> bool:
        quantize = quantized_by(candidate.steps)
        if quantize is None or quantize.keep_layers_percent is None or quantize.scheme not in rises:
            return True
        found = rises[quantize.scheme]
        kept = len(found.most_sensitive(quantize.keep_layers_percent))
        whole = found.together()
        return kept < len(found.of_layers) and whole > 0 and found.together(kept) <= (1 - WORTH_KEEPING) * whole

    def is_hopeless(candidate: Candidate) -> bool:
        quantize = quantized_by(candidate.steps)
        if quantize is None or quantize.scheme not in rises:
            return False
        found = rises[quantize.scheme]
        kept = len(found.most_sensitive(quantize.keep_layers_percent or 0))
        return found.together(kept) > HOPELESS * found.loss

    return sorted(filter(is_worth_it, candidates), key=is_hopeless)


def smallest_first(candidates: Sequence[Candidate], model: LayeredModel) -> list[Candidate]:
    """The candidates, after the FIRST of them, by the bytes that are expected of each: those of many trials that are
    left out are then the largest."""
    first, rest = candidates[:FIRST], candidates[FIRST:]
    return [*first, *sorted(rest, key=lambda candidate: expected_bytes(candidate, model))]


def expected_bytes(candidate: Candidate, model: LayeredModel) -> float:
    """Bytes of the weights of `model` after the steps, roughly: of parts that go as many as are asked for, and no
    scales."""
    left = 1.0
    for step in candidate.steps:
        if step.prune is not None:
            left *= 1 - step.prune.percent / 100
        elif step.low_rank is not None:
            left *= 1 - (step.low_rank.percent or 0) / 100
        elif step.distill is not None and step.distill.student == "EveryOtherLayer":
            left *= 0.5
    quantize = quantized_by(candidate.steps)
    scheme = "" if quantize is None else quantize.scheme
    few_bits = set() if quantize is None else set(layers_of(model, scheme))
    kept = 0 if quantize is None else (quantize.keep_layers_percent or 0) / 100
    whole = float(WEIGHT_BYTES if scheme != "Int4WeightOnly" else 1)  # sensitive layers of 4 bits are kept in 8
    few = (1 - kept) * BYTES_OF.get(scheme, 1.0) + kept * whole
    total = 0.0
    for name, module in model.named_modules():
        if f"{name}.weight" in model.tied:  # it is counted where it is stored
            continue
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Embedding):
            total += weights * (1.0 if quantize is not None and quantize.embeddings else WEIGHT_BYTES)
        else:
            total += left * weights * (few if name in few_bits else WEIGHT_BYTES)
    return total


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
