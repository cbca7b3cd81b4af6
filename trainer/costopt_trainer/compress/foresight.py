"""What is wrong with variants whatever will have been trained, so that no training is paid for first.

    refuse_unmakeable    a step or a format whose packages are not installed here, a teacher that cannot be read, a
                         student that cannot be

All in moments, on every rank: nothing is loaded, and no code of others is imported.
"""

from collections.abc import Sequence
from pathlib import Path

from costopt.schema.compression import Step, Variant
from costopt.schema.recipe import Recipe
from costopt_trainer.data.files.places import local_path
from costopt_trainer.errors import NotRetryable


def refuse_unmakeable(variants: Sequence[Variant], recipe: Recipe) -> None:
    """Raise NotRetryable for the first of `variants` that cannot be made of what `recipe` trains."""
    for variant in variants:
        try:
            _look_at_formats(variant, recipe)
            for step in variant.steps:
                _look_at(step, recipe)
        except NotRetryable as error:
            raise NotRetryable(error.reason, f"variant {variant.name} could not be made: {error}") from error


def _look_at_formats(variant: Variant, recipe: Recipe) -> None:
    # Imported for jobs with variants only, too.
    from costopt_trainer.compress.onnx_form import refuse_missing_packages  # noqa: PLC0415

    refuse_missing_packages(variant)
    if "CompressedTensors" in variant.formats:
        from costopt_trainer.compress.compressed_folder import refuse_model  # noqa: PLC0415

        refuse_model(recipe.model.type)


def _look_at(step: Step, recipe: Recipe) -> None:
    # Imported for such variants only: models and what trains them.
    if step.external is not None:
        from costopt_trainer.compress.external import find  # noqa: PLC0415

        find(step.external.name)
    if step.distill is not None and step.distill.teacher is not None:
        from costopt_trainer.models.artifact import read_config  # noqa: PLC0415

        read_config(Path(local_path(step.distill.teacher)))
    if step.distill is not None and step.distill.lighter is not None:
        from costopt_trainer.compress.student import made_lighter  # noqa: PLC0415

        made_lighter(recipe.model, step.distill.lighter)
