"""The JSON part of a checkpoint: is it valid, is it of this training?

fault_of_state           what is wrong with state.json, in words
evaluation_of            the figures in evaluation.json, if they are valid
refuse_other_training    training ends unless the checkpoint has the same model, data and seed
refuse_other_optimizer   training ends if the checkpoint has the state of another optimizer
refuse_fewer_steps       training ends if the checkpoint is past its last step
name_changes             differences in words
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from costopt.schema.recipe import Recipe
from costopt.schema.replica import Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.training.decisions import fault_of_decisions

MAX_COUNT = 10**15
_SCALER_FIELDS = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def fault_of_state(state: Any, step: int) -> str | None:
    """What prevents a training from resuming after `step` from this state, in words; None if nothing does."""
    if not isinstance(state, Mapping):
        return "must be a mapping"
    if state.get("step") != step:
        return f"must be of step {step}"
    for name, lowest in (("samplesConsumed", 0), ("ranks", 1)):
        if type(state.get(name)) is not int or not lowest <= state[name] <= MAX_COUNT:
            return f"{name} must be a whole number of at least {lowest}"
    for name in ("scaler", "progress", "recipe", "identity"):
        if not isinstance(state.get(name), Mapping):
            return f"{name} must be a mapping"
    if not isinstance(state.get("evaluationDue", False), bool):
        return "evaluationDue must be true or false"
    if (fault := fault_of_decisions(state)) is not None:
        return fault
    if not _is_scaler(state["scaler"]):
        return "scaler must be that of a gradient scaler"
    return None if _is_progress(state["progress"]) else "progress must be figures of a training"


def _is_scaler(state: Mapping[str, Any]) -> bool:
    numbers = [value for value in state.values() if type(value) in (int, float)]
    return not state or (
        state.keys() == _SCALER_FIELDS and len(numbers) == len(state) and 0 < state["scale"] < math.inf
    )


def _is_progress(figures: Mapping[str, Any]) -> bool:
    try:
        Progress.model_validate(dict(figures))
    except ValidationError:
        return False
    return True


def evaluation_of(figures: Any) -> dict[str, Any] | None:
    """The figures of an evaluation, for a Progress; None if they are invalid."""
    if not isinstance(figures, Mapping) or figures.keys() != {"validationLoss", "results"}:
        return None
    return dict(figures) if _is_progress({"step": 0, "totalSteps": 1, **figures}) else None


def refuse_other_training(
    step: int, saved: Mapping[str, Any], now: Mapping[str, Any], why_other_data: Callable[[], str] = str
) -> None:
    """Raise NotRetryable("InvalidSettings") naming each difference in what was and what is trained, and on what.

    `why_other_data` says how the data differs, if that is known.
    """
    changes = name_changes(saved, now)
    if changes:
        why = why_other_data() if saved.get("data") != now.get("data") else ""
        raise NotRetryable(
            "InvalidSettings",
            f"the checkpoint of step {step} is of another training: {', '.join(changes)}"
            f"{f' ({why})' if why else ''}; put that back, or use other "
            "storage to start anew",
        )


def refuse_other_optimizer(step: int, saved: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise NotRetryable("InvalidSettings") if the recipe that was `saved`, as plain data, has another optimizer."""
    optimizer = saved.get("optimizer")
    before = optimizer.get("type") if isinstance(optimizer, Mapping) else None
    if before not in (None, recipe.optimizer.type):
        raise NotRetryable(
            "InvalidSettings",
            f"the checkpoint of step {step} has the state of the optimizer {str(before)[:80]}, which "
            f"{recipe.optimizer.type} cannot go on from: set optimizer.type back, or use other storage to start anew",
        )


def name_changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each difference of two JSON mappings in words, such as "batch.globalBatchSize was 8 and is 16"."""
    changes = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += name_changes(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key} was {_in_words(old)} and is {_in_words(new)}")
    return changes


def _in_words(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


def refuse_fewer_steps(step: int, total_steps: int) -> None:
    """Raise NotRetryable if the checkpoint's step is past the last one: its model is not the requested one."""
    if step > total_steps:
        raise NotRetryable(
            "InvalidSettings",
            f"totalSteps is {total_steps}, but training has come to step {step} already: ask for that many, "
            "or use other storage to start anew",
        )
