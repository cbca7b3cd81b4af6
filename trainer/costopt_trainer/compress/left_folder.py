"""The model that a command has left: a folder of the Hugging Face library, under `artifacts/model`.

of_command    -> Origin: the model, checked, and the held-out samples of `spec.evaluation`

All checks of a recipe's `model.huggingFace.path` hold here; a sentence about that setting is told in the words of what
the user of a command has written.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from costopt import names
from costopt.schema.data_kinds import LABELLED_TEXT
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.foreign_models import HuggingFace
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.origin import HeldOut, Origin, refuse_missing
from costopt_trainer.data import Batch, TrainingData, load_data
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.hugging_face.family import positions_of
from costopt_trainer.models.hugging_face.library import TASKS, task_of
from costopt_trainer.models.hugging_face.model import HuggingFaceModel
from costopt_trainer.models.hugging_face.source import CONFIG_FILE, Source, content_hash, find_source
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, kind_of_samples, metric_of, tokenizer_of

LONGEST_SAMPLE = 512
"""Tokens, where nobody says how many."""
_DATA_SETTING = re.compile(r"(?<![\w./])data\.(?=(type|text|labelledText|transforms|tokenizer|validationPercent)\b)")
"""Where a sentence names a setting of the data."""


def of_command(evaluation: CommandEvaluation, storage: Path) -> Origin:
    """The folder that the command has left in `storage`. Raises NotRetryable with a sentence if it is no such folder,
    or the data does not fit it."""
    folder = storage / names.ARTIFACTS_DIR / names.MODEL_DIR
    refuse_missing(folder, "the program must hand it over by session.artifact(folder)")
    with _in_words_of_a_command(folder):
        _refuse_what_is_no_model(folder)
        source = find_source(HuggingFace(path=str(folder)))
        settings = _settings(evaluation, source, folder)
        tokenizer = tokenizer_of(settings)
        if tokenizer is None and evaluation.data.tokenizer is None:
            raise _wrong(
                folder,
                "must have its tokenizer.json: have the program save the tokenizer with the model, or name it in "
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
            data = _with_classes_of(source.config, data, folder)
    shape = ModelShape.for_data(settings, data)
    return Origin(
        shape=shape,
        widths=None,
        weights_bytes=sum(path.stat().st_size for path in source.weights),
        held_out=HeldOut(data, metric_of(settings), evaluation.micro_batch_size, evaluation.max_samples),
        inputs=[content_hash(source), evaluation.to_plain(), data.fingerprint],
        load=lambda: _load(shape, folder),
    )


def _load(shape: ModelShape, folder: Path) -> LayeredModel:
    with _in_words_of_a_command(folder), torch.random.fork_rng(devices=[]):
        model = build_model(shape)
    fresh = model.fresh_modules if isinstance(model, HuggingFaceModel) else ()
    if fresh and shape.settings.hugging_face is not None:
        raise _wrong(
            folder,
            f"must have all weights of a model for task {shape.settings.hugging_face.task}, but has none for "
            f"{', '.join(fresh)}",
        )
    return model.eval()


def _settings(evaluation: CommandEvaluation, source: Source, folder: Path) -> ModelSettings:
    """The recipe's settings for such a model."""
    task = evaluation.task or task_of(source.config)
    if task is None:
        architectures = source.config.get("architectures")
        raise _wrong(
            folder,
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
    reads_labels = kind_of_samples(model) == LABELLED_TEXT
    if reads_labels != (evaluation.data.type == "LabelledText"):
        needed = "LabelledText" if reads_labels else "Text or PythonStandardLibrary"
        raise NotRetryable(
            "InvalidSettings",
            f"evaluation.data.type must be {needed}, not {evaluation.data.type}: {folder} is for task {task}",
        )
    if evaluation.context_length is None:
        positions = positions_of(settings)
        length = LONGEST_SAMPLE if positions is None else min(LONGEST_SAMPLE, positions)
        model = ModelSettings(type="HuggingFace", hugging_face=settings.model_copy(update={"context_length": length}))
    return model


def _refuse_what_is_no_model(folder: Path) -> None:
    """Say what was handed over instead of one model, where that can be told."""
    if not folder.is_dir() or (folder / CONFIG_FILE).exists():
        return
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    if inner:
        raise _wrong(
            folder,
            f"must be the folder of one model, with its {CONFIG_FILE}, but holds {len(inner)} of them: give "
            f"session.artifact the one to compress, such as {inner[0]}",
        )


def _with_classes_of(config: dict[str, Any], data: TrainingData, folder: Path) -> TrainingData:
    """The data with the model's number for each label in place of the data's."""
    own, given = _labels_of(config), data.class_names or ()
    numbers = class_numbers(own, given)
    if numbers is None:
        raise NotRetryable(
            "InvalidData",
            f"evaluation.data must have labels that the model knows, not {_shown(given)}: the {CONFIG_FILE} in "
            f"{folder} names {_shown(own)} in id2label",
        )
    numbers_K = torch.tensor(numbers, dtype=torch.int64)

    def held_out(indices: NDArray[np.int64]) -> Batch:
        inputs, classes = data.validation_batch(indices)
        return inputs, numbers_K[classes]

    def to_train_on(indices: NDArray[np.int64]) -> Batch:
        inputs, classes = data.train_batch(indices)
        return inputs, numbers_K[classes]

    return replace(
        data, validation_batch=held_out, train_batch=to_train_on, num_classes=len(own), class_names=tuple(own)
    )


def class_numbers(own: Sequence[str], given: Sequence[str]) -> list[int] | None:
    """The model's number of each label of the data; None if it has none for one of them.

    `own`: the model's labels. One that was trained without names has LABEL_0 and so on: then whole numbers are meant.
    """
    known = {label: number for number, label in enumerate(own)}
    if all(label in known for label in given):
        return [known[label] for label in given]
    if list(own) == [f"LABEL_{number}" for number in range(len(own))]:
        known = {str(number): number for number in range(len(own))}
        if all(label in known for label in given):
            return [known[label] for label in given]
    return None


def _labels_of(config: dict[str, Any]) -> list[str]:
    named = config.get("id2label")
    if isinstance(named, dict) and all(str(number) in named for number in range(len(named))):
        return [str(named[str(number)]) for number in range(len(named))]
    count = config.get("num_labels", 2)  # as the library has it
    return [f"LABEL_{number}" for number in range(count if type(count) is int and 0 < count < 10**6 else 2)]


def _shown(labels: Sequence[str]) -> str:
    first = ", ".join(labels[:4])
    return f"{first[:80]}, ..." if len(labels) > 4 else first[:80]


@contextlib.contextmanager
def _in_words_of_a_command(folder: Path) -> Iterator[None]:
    try:
        yield
    except NotRetryable as error:
        told = str(error)
        for setting, words in (
            (f"model.huggingFace.path: {folder}", f"the artifact of the command, {folder},"),
            ("model.huggingFace.", "evaluation."),
            ("model.type HuggingFace needs", "a variant of a command's model needs"),
        ):
            told = told.replace(setting, words)
        told = _DATA_SETTING.sub("evaluation.data.", told)
        if told == str(error):
            raise
        raise NotRetryable(error.reason, told) from error


def _wrong(folder: Path, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"the artifact of the command, {folder}, {what}")
