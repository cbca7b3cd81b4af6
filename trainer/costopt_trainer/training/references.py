"""What tells how hard samples are, or where they lie, with a model that was trained before.

samples_of     the training samples, with the models that the settings name
mean_losses    how hard a model of ours finds samples

A folder with a model is one of three: trained here, which reads samples as they are; of the Hugging Face library, which
reads their text in tokens of its own; or none, which is refused. Models are loaded when they are first asked: not where
the table that they would make is in the cache.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from costopt.schema.recipe import Recipe
from costopt.schema.selection import Reference
from costopt_trainer.data import Batch, TrainingData
from costopt_trainer.data.files.places import local_path
from costopt_trainer.data.selection.samples import Losses, Samples, Vectors
from costopt_trainer.data.sources.token_files import GivenTokenizer
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.hugging_face.reading import is_of_library, reader, text_losses, text_vectors
from costopt_trainer.models.loss import IGNORED_TARGET
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import context_length_of, kind_of_samples, runs_code

LOGITS_AT_ONCE = 1 << 24
"""Of a reference model: 64 MiB."""

Loaded = TypeVar("Loaded")


def samples_of(
    recipe: Recipe, data: TrainingData, device: torch.device, *, reference: Reference, encoder: str | None = None
) -> tuple[Samples, str]:
    """The training samples, and the digest of what the models that tell of them answer from; empty without one.

    Raises NotRetryable with a sentence if such a model cannot read the data.
    """
    samples, digests = Samples(data, recipe.seed), []
    losses: Losses | None = None
    vectors: Vectors | None = None
    if reference.model is not None:
        folder = Path(local_path(reference.model))
        if is_of_library(folder):
            losses, digest = _losses_of_texts(samples, folder, device)
        else:
            digest = refuse_misfit(recipe, data, folder)
            losses = _losses_of_samples(folder, device)
        digests.append(digest)
    if encoder is not None:
        vectors, digest = _vectors_of_texts(samples, Path(local_path(encoder)), device)
        digests.append(digest)
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return Samples(data, recipe.seed, losses, vectors), digest if digests else ""


def _losses_of_texts(samples: Samples, folder: Path, device: torch.device) -> tuple[Losses, str]:
    setting = "reference.model"
    _refuse_without_text(samples.data, f"{setting}: {folder}")
    own = reader(folder, setting, "losses")
    model = _once(lambda: own.load(device))

    def losses(batch: Batch) -> NDArray[np.float64]:
        _, lengths_B = samples.tokens(batch)
        losses_B = text_losses(model(), own, samples.texts(batch), device)
        return losses_B / np.maximum(lengths_B, 1)

    return losses, own.digest


def _vectors_of_texts(samples: Samples, folder: Path, device: torch.device) -> tuple[Vectors, str]:
    setting = "data.selection.representative.encoder"
    _refuse_without_text(samples.data, f"{setting}: {folder}")
    own = reader(folder, setting, "vectors")
    model = _once(lambda: own.load(device))
    return lambda batch: text_vectors(model(), own, samples.texts(batch), device), own.digest


def _losses_of_samples(folder: Path, device: torch.device) -> Losses:
    model = _once(lambda: load_model(folder).to(device))
    return lambda batch: mean_losses(model(), batch, device)


def _once(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """`load`, called when it is first asked for."""
    loaded: list[Loaded] = []

    def get() -> Loaded:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    return get


def _refuse_without_text(data: TrainingData, told: str) -> None:
    if data.tokenizer is None or isinstance(data.tokenizer, GivenTokenizer):
        raise NotRetryable(
            "InvalidData",
            f"{told} is a model of the Hugging Face library, which reads texts, but samples of this data.type have no "
            "text: leave it out, or name a model that costopt has trained on such samples",
        )


def refuse_misfit(recipe: Recipe, data: TrainingData, folder: Path, setting: str = "reference.model") -> str:
    """The digest of the weights in `folder`, which a setting names. Raises NotRetryable if such a model cannot read the
    data."""
    config = read_config(folder)
    settings = config.shape.settings
    if runs_code(settings):
        raise _misfit(setting, folder, "be of a family that runs no code of others")
    kind, wanted = kind_of_samples(settings), kind_of_samples(recipe.model)
    if kind != wanted:
        raise _misfit(setting, folder, f"read {wanted}, as the model of the recipe does, but reads {kind}")
    now = ModelShape.for_data(settings, data).of_data
    if now != config.shape.of_data:
        raise _misfit(
            setting,
            folder,
            f"be of this data's (vocabulary, image shape, features, classes), {now}, but is of {config.shape.of_data}",
        )
    length, needed = context_length_of(settings), context_length_of(recipe.model)
    if length is not None and needed is not None and length < needed:
        raise _misfit(setting, folder, f"have a contextLength of at least {needed}, but has {length}")
    return config.weights_sha256


def _misfit(setting: str, folder: Path, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"the model in {setting}: {folder} must {demand}")


def mean_losses(model: LayeredModel, batch: Batch, device: torch.device) -> NDArray[np.float64]:
    """The mean loss of each sample of a batch, nats per target, float64 (B,); 0 for a sample without targets.

    So many samples at once that their logits have about LOGITS_AT_ONCE numbers.
    """
    inputs, targets = batch
    losses, size, start = [], 1, 0
    while start < len(inputs):
        own = targets[start : start + size].to(device)
        with torch.inference_mode():
            logits = model(inputs[start : start + size].to(device)).float()
            each = F.cross_entropy(
                logits.flatten(0, -2), own.flatten(), ignore_index=IGNORED_TARGET, reduction="none"
            ).view(len(own), -1)
        counts = (own != IGNORED_TARGET).view(len(own), -1).sum(dim=1).clamp(min=1)
        losses.append((each.sum(dim=1, dtype=torch.float64) / counts).cpu().numpy())
        start += len(own)
        size = max(1, LOGITS_AT_ONCE // logits[0].numel())
    return np.concatenate(losses)
