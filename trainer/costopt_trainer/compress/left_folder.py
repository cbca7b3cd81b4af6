"""A folder of the Hugging Face library: what a command has left under `artifacts/model`, or one that is given.

of_command    -> Origin: the model, checked, and the held-out samples of `spec.evaluation`
of_library    the same of any such folder

All checks of a recipe's `model.huggingFace.path` hold here; a sentence about that setting is told in the words of what
the user has written.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from costopt import names
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.foreign_models import HuggingFace
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.labels import shown, with_classes
from costopt_trainer.compress.origin import (
    HeldOut,
    Origin,
    in_words_of_evaluation,
    refuse_missing,
    refuse_other_data,
)
from costopt_trainer.data import load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.foreign_config import CONFIG_FILE
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.hugging_face.family import positions_of
from costopt_trainer.models.hugging_face.library import TASKS, task_of
from costopt_trainer.models.hugging_face.model import HuggingFaceModel
from costopt_trainer.models.hugging_face.source import Source, content_hash, find_source
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, kind_of_samples, metric_of, tokenizer_of

LONGEST_SAMPLE = 512
"""Tokens, where nobody says how many."""


def of_command(evaluation: CommandEvaluation, storage: Path) -> Origin:
    """The folder that the command has left in `storage`. Raises NotRetryable with a sentence if it is no such folder,
    or the data does not fit it."""
    folder = storage / names.ARTIFACTS_DIR / names.MODEL_DIR
    refuse_missing(folder, "the program must hand it over by session.artifact(folder)")
    words = Words(f"the artifact of the command, {folder},", "give session.artifact the one to compress")
    return of_library(evaluation, folder, storage, words)


@dataclass(frozen=True)
class Words:
    """What sentences call the folder."""

    folder: str
    """With the verb `must` behind it."""
    name_one: str
    """What to do where it holds several models."""

    def wrong(self, what: str) -> NotRetryable:
        """What is wrong with it."""
        return NotRetryable("InvalidSettings", f"{self.folder} {what}")


def of_library(evaluation: CommandEvaluation, folder: Path, storage: Path, words: Words) -> Origin:
    """The model in `folder`, for a job of that `storage`. Raises as `of_command` does."""
    with _in_words(words, folder):
        _refuse_what_is_no_model(folder, words)
        source = find_source(HuggingFace(path=str(folder)))
        if "quantization_config" in source.config:
            raise words.wrong("must be a model that is not quantized, since quantized weights cannot change further")
        settings = _settings(evaluation, source, folder, words)
        tokenizer = tokenizer_of(settings)
        if tokenizer is None and evaluation.data.tokenizer is None:
            raise words.wrong(
                "must have its tokenizer.json: save the tokenizer with the model, or name it in "
                "evaluation.data.tokenizer",
            )
        hugging_face = settings.hugging_face
        assert hugging_face is not None  # noqa: S101  made above
        data = load_data(
            evaluation.data,
            context_length=hugging_face.context_length,
            cache_dir=storage / names.CACHE_DIR,
            own_folder=storage,
            reads=kind_of_samples(settings),
            model_tokenizer=tokenizer,
        )
        if data.class_names is not None:
            own = _labels_of(source.config)
            data = with_classes(own, data, f"the {CONFIG_FILE} in {folder} names {shown(own)} in id2label")
    shape = ModelShape.for_data(settings, data)
    return Origin(
        folder=folder,
        shape=shape,
        widths=None,
        weights_bytes=sum(path.stat().st_size for path in source.weights),
        held_out=HeldOut(data, metric_of(settings), evaluation.micro_batch_size, evaluation.max_samples),
        inputs=[content_hash(source), evaluation.to_plain(), data.fingerprint],
        load=lambda: _load(shape, folder, words),
    )


def _load(shape: ModelShape, folder: Path, words: Words) -> LayeredModel:
    with _in_words(words, folder), torch.random.fork_rng(devices=[]):
        model = build_model(shape)
    fresh = model.fresh_modules if isinstance(model, HuggingFaceModel) else ()
    if fresh and shape.settings.hugging_face is not None:
        task = shape.settings.hugging_face.task
        raise words.wrong(f"must have all weights of a model for task {task}, but has none for {', '.join(fresh)}")
    return model.eval()


def _settings(evaluation: CommandEvaluation, source: Source, folder: Path, words: Words) -> ModelSettings:
    """The recipe's settings for such a model."""
    task = evaluation.task or task_of(source.config)
    if task is None:
        architectures = source.config.get("architectures")
        raise words.wrong(
            f"must be for one of the tasks {', '.join(TASKS)}, but the architectures of its {CONFIG_FILE} are "
            f"{architectures!r:.80}: if it is, name the task in evaluation.task",
        )
    settings = HuggingFace.model_validate(
        {
            "path": str(folder),
            "task": task,
            "contextLength": evaluation.context_length or 8,
            "trustRemoteCode": evaluation.trust_remote_code,
        }
    )
    model = ModelSettings(type="HuggingFace", hugging_face=settings)
    refuse_other_data(evaluation, kind_of_samples(model), f"{folder} is for task {task}")
    if evaluation.context_length is None:
        positions = positions_of(settings)
        length = LONGEST_SAMPLE if positions is None else min(LONGEST_SAMPLE, positions)
        model = ModelSettings(type="HuggingFace", hugging_face=settings.model_copy(update={"context_length": length}))
    return model


def _refuse_what_is_no_model(folder: Path, words: Words) -> None:
    """Say what was handed over instead of one model, where that can be told."""
    if not folder.is_dir() or (folder / CONFIG_FILE).exists():
        return
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    if inner:
        raise words.wrong(
            f"must be the folder of one model, with its {CONFIG_FILE}, but holds {len(inner)} of them: "
            f"{words.name_one}, such as {inner[0]}",
        )


def _labels_of(config: dict[str, Any]) -> list[str]:
    named = config.get("id2label")
    if isinstance(named, dict) and all(str(number) in named for number in range(len(named))):
        return [str(named[str(number)]) for number in range(len(named))]
    count = config.get("num_labels", 2)  # as the library has it
    return [f"LABEL_{number}" for number in range(count if type(count) is int and 0 < count < 10**6 else 2)]


def _in_words(words: Words, folder: Path) -> AbstractContextManager[None]:
    return in_words_of_evaluation(
        (f"model.huggingFace.path: {folder}", words.folder),
        ("model.huggingFace.", "evaluation."),
        ("model.type HuggingFace needs", "a variant of such a model needs"),
    )
