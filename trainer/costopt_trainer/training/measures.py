"""What one evaluation is better than another by: a new measure is a word in the schema, and a row here.

Measure      a figure of an evaluation, and which of two is better
MEASURES     the word in the manifest -> its Measure
measure_of   the one by which the checkpoints of a recipe are compared
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from costopt.schema.base import Figure
from costopt.schema.early_stopping import StoppingMetric
from costopt.schema.recipe import Recipe
from costopt_trainer.training.evaluation import ACCURACY, MACRO_F1


@dataclass(frozen=True)
class Measure:
    """A figure of an evaluation."""

    words: str
    """How people are told of it, with its unit."""
    result: str | None
    """Its name among the results. None: it is the validation loss."""
    lower_is_better: bool

    def of(self, figures: Mapping[str, Any]) -> Figure:
        """The figure, of those in `evaluation.json`. Raises KeyError if it is not among them."""
        figure: Figure = figures["validationLoss"] if self.result is None else figures["results"][self.result]
        return figure

    def worse(self, figures: Mapping[str, Any]) -> Decimal:
        """What is larger for a worse evaluation. Raises KeyError likewise."""
        return Decimal(self.of(figures)) * (1 if self.lower_is_better else -1)


VALIDATION_LOSS = Measure("validation loss", None, lower_is_better=True)

MEASURES: dict[StoppingMetric, Measure] = {
    "ValidationLoss": VALIDATION_LOSS,
    "Accuracy": Measure("accuracy per mille", ACCURACY, lower_is_better=False),
    "MacroF1": Measure("macro F1 per mille", MACRO_F1, lower_is_better=False),
}


def measure_of(recipe: Recipe) -> Measure:
    """That of its early stopping, else the validation loss."""
    return VALIDATION_LOSS if recipe.early_stopping is None else MEASURES[recipe.early_stopping.metric]
