"""The classes of a model that was trained elsewhere, and the labels of the data that it is measured on.

with_classes     the data with the model's number for each label in place of its own
class_numbers    which those are
shown            labels in a sentence
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from costopt_trainer.data import Batch, TrainingData
from costopt_trainer.errors import NotRetryable


def with_classes(own: Sequence[str], data: TrainingData, known: str) -> TrainingData:
    """`data` with the classes of a model that knows the labels `own`. `known` says where it knows them from.

    Raises NotRetryable("InvalidData") if the data has a label that the model does not know.
    """
    given = data.class_names or ()
    numbers = class_numbers(own, given)
    if numbers is None:
        raise NotRetryable(
            "InvalidData", f"evaluation.data must have labels that the model knows, not {shown(given)}: {known}"
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


def shown(labels: Sequence[str]) -> str:
    """The first few labels."""
    first = ", ".join(labels[:4])
    return f"{first[:80]}, ..." if len(labels) > 4 else first[:80]
