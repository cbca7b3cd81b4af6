"""What a training leaves: the model of its last step, or of its best one.

save_model_of    from a checkpoint, which joins the pieces of all ranks, on the host
Provenance       what the manifest beside it says
tokenizer_files  what turns text into its tokens
told_of          progress that speaks of the model that was saved
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from costopt.schema.recipe import Recipe
from costopt.schema.replica import Progress
from costopt_trainer.data import TrainingData
from costopt_trainer.data.tokenizers.hugging_face import files_of
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import TOKENIZER_FILE, save_trained
from costopt_trainer.models.family import fill
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, folder_of, tokenizer_of
from costopt_trainer.storage.folders import not_writable
from costopt_trainer.storage.manifests import Describe, describe, licence_in, lineage_of
from costopt_trainer.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class Provenance:
    """What the manifest of a trained model says besides its files."""

    job: str
    recipe: Recipe
    data: TrainingData
    progress: Progress
    """Of the step that the model is of."""

    def describe(self, name: str, step: int) -> Describe:
        """What writes the manifest of the artifact `name`, made of that step's checkpoint."""
        known = {"checkpoint_step": step, "recipe": self.recipe, "data_fingerprint": self.data.fingerprint}
        lineage = lineage_of(self.job).model_copy(update=known)

        def write(folder: Path, hashes: Mapping[str, str]) -> None:
            describe(
                folder,
                name,
                lineage,
                known=hashes,
                validation_loss=self.progress.validation_loss,
                results=self.progress.results,
                licence=licence_in(folder_of(self.recipe.model)),
            )

        return write


def save_model_of(
    step: int, checkpoints: Checkpoints, shape: ModelShape, folder: Path, provenance: Provenance
) -> Exception | None:
    """Save the model of that step's checkpoint below `folder`; what went wrong, if the user can mend it. For rank 0.

    It needs no device memory, and host memory only for tensors that several ranks hold parts of: the rest is read from
    its file while it is written.
    """
    with torch.device("meta"):
        model = build_model(shape)
    # Averages of weights, where the training keeps them, take the place of these.
    fill(model, {**checkpoints.read_model(step), **checkpoints.read_averages(step)}, assign=True)
    try:
        save_trained(
            folder,
            model,
            shape,
            beside=tokenizer_files(provenance.recipe, provenance.data),
            describe_as=lambda name: provenance.describe(name, step),
        )
    except OSError as error:
        return not_writable(folder, error)
    except NotRetryable as error:
        return error
    return None


def tokenizer_files(recipe: Recipe, data: TrainingData) -> dict[str, bytes]:
    """What a family without a folder of its own is to have beside it: the files of the tokenizer of its text, by name.
    Bytes as tokens need none."""
    if data.tokenizer is None or tokenizer_of(recipe.model) is not None:
        return {}
    if learned := data.tokenizer.to_json():
        return {TOKENIZER_FILE: learned.encode()}
    named = recipe.data.tokenizer
    return {} if named is None or named.path is None else files_of(Path(named.path))


def told_of(step: int, progress: Progress, figures: Mapping[str, Any] | None) -> Progress:
    """`progress` with the step of the saved model and the figures of its evaluation; None: they are there already."""
    if progress.early_stopping is None:
        return progress
    told = progress.early_stopping.model_copy(update={"model_step": step})
    return Progress.model_validate({**progress.to_plain(), **(figures or {}), "earlyStopping": told.to_plain()})
