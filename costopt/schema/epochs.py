"""How long a training is, in times through its samples.

Epochs           3, or "1.5"
epochs_rules     rules of a recipe about them
steps_of         how many whole steps they are
"""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from costopt.schema.base import PlainData, Rule

EPOCHS_PATTERN = r"^[0-9]{1,7}([.][0-9]{1,6})?$"
NOT_EPOCHS = "not_epochs"
MOST_EPOCHS = 10**6


def _epochs(value: Any) -> Any:
    """One mistake for each value, where a union of types would be wrong once for each of them."""
    if isinstance(value, str):
        if not re.fullmatch(EPOCHS_PATTERN, value):
            raise PydanticKnownError("string_pattern_mismatch", {"pattern": EPOCHS_PATTERN})
    elif type(value) is not int:
        raise PydanticCustomError(NOT_EPOCHS, "must be a number or text")
    return value


Epochs = Annotated[
    int | str,
    BeforeValidator(_epochs),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": EPOCHS_PATTERN, "maxLength": 14}),
]
"""A number of epochs: 3, or "1.5"."""


def _in_bounds(data: PlainData) -> bool:
    return "epochs" not in data or 0 < Decimal(data["epochs"]) <= MOST_EPOCHS


epochs_rules = (
    Rule(
        cel=f"!has(self.epochs) || type(self.epochs) == string && !self.epochs.matches('{EPOCHS_PATTERN}') || "
        f"double(self.epochs) > 0.0 && double(self.epochs) <= {MOST_EPOCHS}.0",
        message=f"epochs must be more than 0, and at most {MOST_EPOCHS:,}",
        holds=_in_bounds,
    ),
    Rule(
        cel="!has(self.epochs) || !has(self.batch.auto)",
        message="batch.auto must not be set with epochs, whose steps would then be more samples: set totalSteps",
        holds=lambda data: "epochs" not in data or "auto" not in data["batch"],
    ),
)
"""The rules of a recipe about them."""


def steps_of(epochs: int | str, num_samples: int, batch_size: int, *, step: int = 0, consumed: int = 0) -> int:
    """The steps of a training in all, `step` of which have consumed so many samples: as many more whole ones as there
    are in what is left of the epochs."""
    return step + max(0, int(Decimal(epochs) * num_samples) - consumed) // batch_size
