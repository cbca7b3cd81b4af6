"""The Distill step: a student learns from a teacher. `student` makes the one, `teaching` says what is learned."""

import zlib
from decimal import Decimal
from pathlib import Path

import torch

from costopt.schema.compression import Distill
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.fitting import Course, fit, refuse_without_recipe
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.student import every_other_layer, lighter
from costopt_trainer.compress.teaching import Teaching
from costopt_trainer.data.files.places import local_path
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.references import refuse_misfit

WARMUP_SHARE = 20
"""A student may begin with fresh weights: in so much of the steps the rate rises to its peak."""


class DistillStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Distilling"
    trains = True
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, settings: Distill) -> bool:
        return settings.student != "StepsBefore"

    def wants_speed(self, settings: Distill) -> bool:
        return settings.student != "StepsBefore"

    def wants_compile(self, _settings: Distill) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: Distill, run: StepRun) -> str:
        recipe, _, _ = refuse_without_recipe(run)
        teacher, digest = _teacher(settings, run)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{recipe.seed}/{run.number}/student".encode()))
            made = _student(model, settings, run)
            teaching = Teaching(
                teacher,
                model,
                run.example,
                temperature=settings.temperature,
                labels_share=settings.labels_percent / 100,
                hidden_weight=settings.hidden_percent / 100,
                pad_id=None if run.shape is None else run.shape.pad_id,
            )
        teaching.learns_from = digest
        teacher.to(run.group.device)
        rate = settings.learning_rate
        if rate is None and settings.student != "StepsBefore":
            rate = recipe.optimizer.learning_rate
        told = fit(model, run, Course(settings.steps, rate, settings.steps // WARMUP_SHARE), objective=teaching)
        return f"Distill {settings.student}: {made}{told}"


def _student(model: LayeredModel, settings: Distill, run: StepRun) -> str:
    """Make the student of `model`, in place; what was done."""
    if settings.student == "StepsBefore":
        return ""
    shape = model.built_as or run.shape
    if shape is None:
        raise ValueError("the shape of the trained model must be given")
    if settings.student == "EveryOtherLayer":
        return f"{every_other_layer(model, shape)}, "
    return f"{lighter(model, shape, settings.lighter or {})}, "


def _teacher(settings: Distill, run: StepRun) -> tuple[LayeredModel, str]:
    """The trained model, or the one that is named, and what tells that from others. Raises NotRetryable if it cannot
    read the data."""
    recipe, data, _ = refuse_without_recipe(run)
    if settings.teacher is None:
        if run.teacher is None:
            raise ValueError("there must be a trained model to learn from")
        return run.teacher(), ""
    folder = Path(local_path(settings.teacher))
    digest = refuse_misfit(recipe, data, folder, "distill.teacher")
    return load_model(folder), digest


STEP = DistillStep()
