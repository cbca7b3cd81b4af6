"""The FineTune step: the model as it stands is trained on the recipe's data for some steps more."""

from decimal import Decimal

from costopt.schema.compression import FineTune
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.fitting import Course, fit
from costopt_trainer.compress.step import StepRun
from costopt_trainer.models.family import LayeredModel


class FineTuneStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "FineTuning"
    trains = True
    quality_drop_percent = Decimal(0)
    """It is there to win some back."""

    def changes_shapes(self, _settings: FineTune) -> bool:
        return False

    def wants_speed(self, _settings: FineTune) -> bool:
        return False

    def wants_compile(self, _settings: FineTune) -> bool:
        return False

    def apply(self, model: LayeredModel, settings: FineTune, run: StepRun) -> str:
        course = Course(settings.steps, settings.learning_rate, settings.warmup_steps)
        return f"FineTune: {fit(model, run, course)}"


STEP = FineTuneStep()
