"""Which training samples are trained on, and in which order: data.selection and data.order of a recipe.

chooses      whether anything is chosen
chosen       the data as the training sees it
told         what a selection saves and costs, in words
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from costopt.schema.recipe import Recipe
from costopt.schema.selection import Reference, Selection
from costopt_trainer.data import TrainingData
from costopt_trainer.data.orders.table import ORDERS, Plan, plan_of, sorted_by
from costopt_trainer.data.selection.by_loss import losses_of
from costopt_trainer.data.selection.numbers import open_numbers
from costopt_trainer.data.selection.samples import Samples
from costopt_trainer.data.selection.table import kept, key_of
from costopt_trainer.data.training_data import hash_of_numbers
from costopt_trainer.errors import NotRetryable
from costopt_trainer.phases import phase
from costopt_trainer.training.first_epoch import all_first, part_of
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.references import samples_of


def chooses(recipe: Recipe) -> bool:
    """Whether samples are left out, or come in an order that must be found first."""
    selection, order = recipe.data.selection, recipe.data.order
    return selection is not None or (order is not None and order.type in ORDERS)


def chosen(recipe: Recipe, data: TrainingData, cache_dir: Path, gang: ProcessGroup) -> TrainingData:
    """The samples that are kept, in their order. All ranks must call it together, and see the same.

    Raises NotRetryable with a sentence if too few samples are left, or a reference model does not fit the data.
    """
    selection, plan = recipe.data.selection, plan_of(recipe.data.order)
    batch_size = recipe.batch.global_batch_size
    if not chooses(recipe):
        return data
    problem: Exception | None = None
    try:
        with phase("Selecting") as pieces:
            if selection is not None:
                told = f"data.selection.keepPercent {selection.keep_percent}"
                _refuse_few(data.num_train_samples * selection.keep_percent // 100, data, batch_size, told)
                if part_of(recipe) is None:
                    data = _selected(recipe, data, selection, cache_dir, gang)
                else:
                    data = all_first(recipe, data, gang.device)
                pieces.done()
            if plan is not None:
                data = _in_order(recipe, data, plan, cache_dir, gang)
    except NotRetryable as error:
        problem = error
    gang.agree(problem)
    _refuse_other_tables(data, gang)
    return data


def _selected(
    recipe: Recipe, data: TrainingData, selection: Selection, cache_dir: Path, gang: ProcessGroup
) -> TrainingData:
    begun = time.monotonic()
    reference = selection.loss.reference if selection.loss else Reference()
    encoder = selection.representative.encoder if selection.representative else None
    samples, digest = samples_of(recipe, data, gang.device, reference=reference, encoder=encoder)
    few = data.only(kept(samples, selection, digest, cache_dir))
    note = told(data, few.num_train_samples, recipe.batch.global_batch_size, time.monotonic() - begun)
    return replace(few, notes=(*few.notes, note))


def _in_order(recipe: Recipe, data: TrainingData, plan: Plan, cache_dir: Path, gang: ProcessGroup) -> TrainingData:
    batch_size = recipe.batch.global_batch_size
    _refuse_few(data.num_train_samples, data, batch_size, f"data.order {plan.word}")
    samples, digest = samples_of(recipe, data, gang.device, reference=plan.reference)
    # How fast the share grows is no part of the key: what is easier than what stays the same.
    easiest_N = open_numbers(
        key_of(samples, {"easiestFirst": plan.by, "reference": digest}),
        lambda: sorted_by(_HOW_HARD[plan.by](samples)),
        cache_dir,
        num_samples=samples.count,
    )
    name = f"{hash_of_numbers(easiest_N)}-{batch_size}-{plan.name}"
    return replace(data.in_order(plan.order(easiest_N, batch_size), name), trims=plan.trims)


def _lengths(samples: Samples) -> NDArray[np.float64]:
    return samples.each(lambda batch: samples.tokens(batch)[1]).astype(np.float64)


_HOW_HARD: dict[str, Callable[[Samples], NDArray[np.float64]]] = {"Length": _lengths, "Loss": losses_of}
"""By what samples are sorted -> float64 (N,)."""


def _refuse_few(count: int, data: TrainingData, batch_size: int, told: str) -> None:
    if count < batch_size:
        raise NotRetryable(
            "InvalidData",
            f"{told} must leave at least batch.globalBatchSize training samples, {batch_size}, but leaves {count} of "
            f"{data.num_train_samples}: keep more, give more data, or a smaller globalBatchSize",
        )


def told(data: TrainingData, kept_samples: int, batch_size: int, seconds: float) -> str:
    """What a selection saves and costs, for the log: `kept_samples` of the samples of `data` are kept."""
    of, per_sample = data.num_train_samples, data.tokens_per_sample
    tokens = f" ({kept_samples * per_sample:,} of {of * per_sample:,} tokens)" if data.num_classes is None else ""
    steps_before, steps = of // batch_size, kept_samples // batch_size
    return (
        f"selection keeps {kept_samples:,} of {of:,} training samples{tokens}: an epoch takes {steps:,} steps in place "
        f"of {steps_before:,}, {steps_before - steps:,} fewer; selecting took {seconds:.1f} s"
    )


def _refuse_other_tables(data: TrainingData, gang: ProcessGroup) -> None:
    own = int(hashlib.sha256(data.fingerprint.encode()).hexdigest()[:8], 16)
    if gang.sum_integers(own) != [own * gang.world_size]:
        raise NotRetryable(
            "InvalidData",
            "all ranks must select the same samples, but they differ: give the job a storage that all ranks share",
        )
