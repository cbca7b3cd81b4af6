"""The samples that a recipe is trained on.

data_of         loaded, as they are
with_steps      the recipe once it is known how many steps its epochs are; told_steps: for the log
in_mixture      those of several sources, drawn by their weights
tokenizer_identity    how their text becomes tokens
mixture_identity, shares    what of a mixture must stay; what was seen of each source
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from costopt import names
from costopt.schema.epochs import steps_of
from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.orders.mixed import Mixed, weights_over
from costopt_trainer.data.sources.token_files import GivenTokenizer
from costopt_trainer.data.tokenizers.table import tokenizer_kind
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.table import carries_state, context_length_of, kind_of_samples, tokenizer_of


def data_of(recipe: Recipe, storage: Path) -> TrainingData:
    """Load them, or make them in the cache of the job's storage. Raises NotRetryable for data that does not fit."""
    data = load_data(
        recipe.data,
        context_length=context_length_of(recipe.model),
        cache_dir=storage / names.CACHE_DIR,
        own_folder=storage,
        reads=kind_of_samples(recipe.model),
        model_tokenizer=tokenizer_of(recipe.model),
    )
    return data.in_lanes(recipe.batch.global_batch_size) if carries_state(recipe.model) else data


def tokenizer_identity(recipe: Recipe, data: TrainingData) -> dict[str, Any]:
    """All that makes the tokenizer give other tokens for the same text, as JSON; empty for other data than text.

    A part of the hash of the data, which does not tell it."""
    if data.tokenizer is None or isinstance(data.tokenizer, GivenTokenizer):
        return {}
    return tokenizer_kind(recipe.data.tokenizer, tokenizer_of(recipe.model)).fingerprint()


def in_mixture(recipe: Recipe, data: TrainingData) -> TrainingData:
    """The data of a mixture in the order that its weights make over the recipe's run; other data as it is.

    Raises NotRetryable("InvalidData") for a source that has a weight, but no samples.
    """
    mixture = recipe.data.mixture
    if mixture is None:
        return data
    weights = weights_over(mixture, recipe.steps * recipe.batch.global_batch_size)
    for place, part in enumerate(data.parts):
        if part.num_train_samples == 0 and any(each.each_S[place] for each in weights):
            raise NotRetryable(
                "InvalidData",
                f"source {part.name} of data.mixture must have training samples, but data.selection leaves none of it: "
                "keep more, or give it the weight 0",
            )
    names_S = tuple(part.name for part in data.parts)
    return replace(data, order=Mixed(names_S, tuple(part.num_train_samples for part in data.parts), weights))


def with_steps(recipe: Recipe, data: TrainingData, *, step: int = 0, consumed: int = 0) -> Recipe:
    """The recipe with as many steps as its epochs are, for a training that has come to `step` with so many samples
    consumed; one that says its steps as it is.

    Raises NotRetryable("InvalidSettings") if these are none, or the schedule needs more.
    """
    if recipe.epochs is None:
        return recipe
    batch_size, count = recipe.batch.global_batch_size, data.num_train_samples
    steps = steps_of(recipe.epochs, count, batch_size, step=step, consumed=consumed)
    schedule = recipe.schedule
    decay = schedule.warmup_stable_decay.decay_steps if schedule.warmup_stable_decay else None
    problem = None
    if steps == 0:
        problem = "epochs must make at least one step: ask for more, or a smaller globalBatchSize"
    elif schedule.warmup_steps >= steps:
        problem = f"schedule.warmupSteps, {schedule.warmup_steps}, must be less than the steps: ask for more epochs"
    elif schedule.warmup_steps + (decay or 0) > steps:
        problem = "schedule.warmupSteps and warmupStableDecay.decaySteps must together be at most the steps"
    if problem is not None:
        raise NotRetryable("InvalidSettings", f"{problem} ({_told(recipe.epochs, count, steps, batch_size)})")
    return recipe.model_copy(update={"total_steps": steps})


def told_steps(recipe: Recipe, data: TrainingData) -> list[str]:
    """Of a recipe with epochs how many steps these are, for the log."""
    if recipe.epochs is None:
        return []
    return [_told(recipe.epochs, data.num_train_samples, recipe.steps, recipe.batch.global_batch_size)]


def _told(epochs: int | str, samples: int, steps: int, batch_size: int) -> str:
    return f"epochs {epochs} of {samples:,} training samples are {steps:,} steps of globalBatchSize {batch_size}"


def mixture_identity(recipe: Recipe) -> dict[str, Any]:
    """What must be equal for a training on a mixture to go on: weights, and over how many samples they change."""
    mixture = recipe.data.mixture
    if mixture is None:
        return {}
    found: dict[str, Any] = {
        source.name: {"weight": source.weight, "endWeight": source.last_weight} for source in mixture.sources
    }
    stages = {f"from {stage.from_percent} %": dict(stage.weights) for stage in mixture.stages or ()}
    identity: dict[str, Any] = {"mixture": {**found, **({"stages": stages} if stages else {})}}
    if mixture.changes:
        identity["totalSteps times globalBatchSize, over which the weights of data.mixture change,"] = (
            recipe.steps * recipe.batch.global_batch_size
        )
    return identity


def shares(data: TrainingData, samples_consumed: int) -> dict[str, str]:
    """Tokens that were seen of each source of a mixture, and how many epochs of it these are; nothing of other data."""
    if not isinstance(data.order, Mixed):
        return {}
    found = {}
    for part, count in zip(data.parts, data.order.counts(samples_consumed), strict=True):
        found[names.of_source("tokensSeen", part.name)] = str(count * data.tokens_per_sample)
        found[names.of_source("epochs", part.name)] = f"{count / max(part.num_train_samples, 1):.3f}"
    return found
