"""What a variant is made from and measured on: the trained model in the job's storage, and held-out samples.

Origin        both; HeldOut: the samples
refuse_missing, refuse_other_data    what cannot be measured
in_words_of_evaluation    sentences about a recipe's settings, where there is none
of_recipe     the model that a recipe has trained, on the recipe's data
of_command    see left_folder: what a command has left
of_given      see given_folder: a model that is there already
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costopt import names
from costopt.schema.data import SourceSettings
from costopt.schema.data_kinds import MADE_FROM, words_giving
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.recipe import Recipe
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, tokenizer_in
from costopt_trainer.models.family import LayeredModel, Metric
from costopt_trainer.models.shape import ModelShape, Widths
from costopt_trainer.models.table import context_length_of, kind_of_samples, metric_of, runs_code
from costopt_trainer.training.evaluation import spread_indices


@dataclass(frozen=True)
class HeldOut:
    """What models are measured on."""

    data: TrainingData
    metric: Metric
    batch_size: int
    """Samples per forward pass."""
    max_samples: int
    """Held-out samples to evaluate at most."""
    part: int | None = None
    """Of these, evenly spread, so many. None: all."""

    def judging(self) -> NDArray[np.int64]:
        """Numbers of the held-out samples to evaluate, in order."""
        indices = spread_indices(self.data.num_validation_samples, self.max_samples)
        return indices if self.part is None else indices[spread_indices(len(indices), self.part)]


@dataclass(frozen=True)
class Origin:
    """The trained model, and what it is measured on."""

    folder: Path
    """Where it lies."""
    shape: ModelShape
    widths: Widths | None
    """Widths that structured pruning left. None: those of `shape`."""
    weights_bytes: int
    """Size of its files of weights."""
    held_out: HeldOut
    inputs: list[Any]
    """All that decides how the model and the data are, as JSON data."""
    load: Callable[[], LayeredModel]
    """The model, anew each time, in eval mode on the CPU."""
    recipe: Recipe | None = None
    """The model's recipe; None for a command's."""


def of_recipe(recipe: Recipe, storage: Path) -> Origin:
    """The trained model in `storage`. Raises NotRetryable with a sentence if there is none, or other data than its."""
    trained = storage / names.ARTIFACTS_DIR / names.MODEL_DIR
    refuse_missing(trained)
    config = read_config(trained)
    shape = config.shape
    if runs_code(shape.settings) and shape.settings != recipe.model:
        # A storage may be written by others, and must not decide which code is run.
        raise NotRetryable("InvalidSettings", f"{trained} holds another model than the recipe's: train it anew")
    data = load_data(
        recipe.data,
        context_length=context_length_of(shape.settings),
        cache_dir=storage / names.CACHE_DIR,
        own_folder=storage,
        reads=kind_of_samples(shape.settings),
        model_tokenizer=tokenizer_in(trained),
    )
    now = ModelShape.for_data(shape.settings, data)
    if now != shape:
        raise NotRetryable(
            "InvalidData",
            "the data must be what the model was trained on: (vocabulary, image shape, features, classes) are now "
            f"{now.of_data}, and were {shape.of_data}",
        )
    return Origin(
        folder=trained,
        shape=shape,
        widths=config.widths,
        weights_bytes=config.weights_bytes,
        held_out=HeldOut(data, metric_of(recipe.model), recipe.batch.micro_batch_size, recipe.evaluation.max_samples),
        inputs=[config.weights_sha256, recipe.to_plain(), data.fingerprint],
        load=lambda: load_model(trained),
        recipe=recipe,
    )


def refuse_missing(folder: Path, how: str = "the train stage must have finished in the same storage") -> None:
    """Raise NotRetryable if there is no trained model; `how` one comes to be there."""
    if not folder.exists():
        raise NotRetryable(
            "InvalidSettings",
            f"there is no trained model in {folder}: {how}; on a cluster spec.storage must be set, or the model is "
            "lost with the pods that trained it",
        )


def refuse_other_data(evaluation: CommandEvaluation, kind: str, why: str) -> None:
    """Raise NotRetryable unless the data to measure on is of the `kind` of samples that the model reads; `why` it must
    be."""
    words = words_giving(SourceSettings, only=(MADE_FROM.get(kind, kind),))
    if evaluation.data.type not in words:
        needed, given = " or ".join(words), evaluation.data.type
        raise NotRetryable("InvalidSettings", f"evaluation.data.type must be {needed}, not {given}: {why}")


_DATA_SETTING = re.compile(
    r"(?<![\w./])data\.(?=(type|text|records|labelledText|tokenShards|images|imageFolder|table|transforms|tokenizer"
    r"|validationPercent)\b)"
)
"""Where a sentence names a setting of the data."""


@contextlib.contextmanager
def in_words_of_evaluation(*meant: tuple[str, str]) -> Iterator[None]:
    """Errors within name settings of `spec.evaluation` where a recipe's are meant, and replace each first text of
    `meant` by the second."""
    try:
        yield
    except NotRetryable as error:
        told = str(error)
        for setting, words in meant:
            told = told.replace(setting, words)
        told = _DATA_SETTING.sub("evaluation.data.", told)
        if told == str(error):
            raise
        raise NotRetryable(error.reason, told) from error
