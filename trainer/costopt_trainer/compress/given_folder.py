"""A model that the manifest names (`spec.model.path`): what a training of ours has left, or a folder of the library.

of_given    -> Origin: the model, checked, and the held-out samples of `spec.evaluation`

The folder is only read. It may lie in another job's storage, and be written by others: no code in it is run that the
manifest does not allow.
"""

import os
from pathlib import Path

from costopt import names
from costopt.hostile import Hostile, read_json
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt_trainer.compress.labels import shown, with_classes
from costopt_trainer.compress.origin import HeldOut, Origin, in_words_of_evaluation, refuse_other_data
from costopt_trainer.data import TrainingData, load_data
from costopt_trainer.data.files.places import local_path
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import (
    CONFIG_FILE,
    FORMAT,
    OWN_CONFIG_FILE,
    TOKENIZER_FILE,
    ArtifactConfig,
    load_model,
    read_config,
)
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import context_length_of, kind_of_samples, metric_of, runs_code


def of_given(given: GivenModel, evaluation: CommandEvaluation, storage: Path) -> Origin:
    """The model, for a job of that `storage`. Raises NotRetryable with a sentence if there is none, or it is damaged,
    or the data does not fit it."""
    folder = Path(local_path(given.path))
    if not folder.is_dir():
        where = "" if folder.is_absolute() else f"; a relative path begins at {Path.cwd()}"
        raise _wrong(
            folder, f"must be a folder on the machine (or in the pod) that makes the variant, but there is none{where}"
        )
    if _is_ours(folder):
        return _of_ours(folder, evaluation, storage)
    # It imports the Hugging Face library, which takes seconds and need not be installed for models of ours.
    from costopt_trainer.compress.left_folder import Words, of_library  # noqa: PLC0415

    return of_library(evaluation, folder, storage, Words(f"model.path: {folder}", "name the one to compress"))


def _is_ours(folder: Path) -> bool:
    if os.path.lexists(folder / OWN_CONFIG_FILE):
        return True
    try:
        plain = read_json(folder / CONFIG_FILE)
    except (OSError, Hostile):
        return False  # whatever it is, the checks of the other kind say it
    return isinstance(plain, dict) and plain.get("format") == FORMAT


def _of_ours(folder: Path, evaluation: CommandEvaluation, storage: Path) -> Origin:
    config = read_config(folder)
    shape = config.shape
    _refuse_what_cannot_be_measured(folder, config, evaluation)
    # Tokens must be the model's: what it brought or has learned lies beside it, and nothing is learned from this data.
    own = folder if (folder / TOKENIZER_FILE).is_file() else None
    asked = evaluation.data if own is None else evaluation.data.model_copy(update={"tokenizer": None})
    with in_words_of_evaluation():
        data = load_data(
            asked,
            context_length=context_length_of(shape.settings),
            cache_dir=storage / names.CACHE_DIR,
            own_folder=storage,
            reads=kind_of_samples(shape.settings),
            model_tokenizer=own,
        )
    data = _as_trained(folder, shape, data)
    return Origin(
        folder=folder,
        shape=shape,
        widths=config.widths,
        weights_bytes=config.weights_bytes,
        held_out=HeldOut(data, metric_of(shape.settings), evaluation.micro_batch_size, evaluation.max_samples),
        inputs=[config.weights_sha256, evaluation.to_plain(), data.fingerprint],
        load=lambda: load_model(folder),
    )


def _refuse_what_cannot_be_measured(folder: Path, config: ArtifactConfig, evaluation: CommandEvaluation) -> None:
    settings = config.shape.settings
    if any(step.type == "Quantize" for step in config.steps):
        raise _wrong(folder, "must be a model that is not quantized, since quantized weights cannot change further")
    if settings.type == "Import" or (runs_code(settings) and not evaluation.trust_remote_code):
        allowed = "" if settings.type == "Import" else ", or evaluation.trustRemoteCode be true"
        raise _wrong(folder, f"must be of a family that runs no code of others, not {settings.type}{allowed}")
    length = context_length_of(settings)
    if evaluation.context_length not in (None, length):
        raise _wrong(folder, f"was trained on samples of {length} tokens: leave evaluation.contextLength out")
    task = None if settings.hugging_face is None else settings.hugging_face.task
    if evaluation.task not in (None, task):
        raise _wrong(folder, "was trained for what it is for: leave evaluation.task out")
    kind = kind_of_samples(settings)
    refuse_other_data(evaluation, kind, f"the model in {folder} was trained on {kind}")


def _as_trained(folder: Path, shape: ModelShape, data: TrainingData) -> TrainingData:
    """The data with the model's classes. Raises NotRetryable if it is of another shape than the model's."""
    if data.class_names is not None and shape.class_names is not None:
        known = f"that in {folder} was trained to tell {shown(shape.class_names)}"
        data = with_classes(shape.class_names, data, known)
    now = ModelShape.for_data(shape.settings, data)
    if now.of_data != shape.of_data:
        raise NotRetryable(
            "InvalidData",
            f"evaluation.data must be like what the model in {folder} was trained on: (vocabulary, image shape, "
            f"features, classes) are {now.of_data}, and were {shape.of_data}",
        )
    return data


def _wrong(folder: Path, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"model.path: {folder} {what}")
