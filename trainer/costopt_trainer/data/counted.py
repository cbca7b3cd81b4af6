"""Figures of ready-made samples, for `costopt data`.

of_classes    labels -> how many samples each class has
printable     a name that a file of JSON may have
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from costopt.schema.data_report import MOST_SHOWN, Counted

EXAMPLES = 3
"""Names of each class."""


def of_classes(
    labels_N: NDArray[np.int64], class_names: Sequence[str] | None, names: Sequence[str] = ()
) -> list[Counted]:
    """The classes, in their order. `names` are those of the samples, where they have any."""
    counts = np.bincount(labels_N, minlength=len(class_names or ()))
    told = []
    for number, count in enumerate(counts[:MOST_SHOWN].tolist()):
        own = np.flatnonzero(labels_N == number)[:EXAMPLES] if names else ()
        told.append(
            Counted(
                name=printable(str(number) if class_names is None else class_names[number]),
                count=count,
                examples=[printable(names[place]) for place in own],
            )
        )
    return told


def printable(name: str) -> str:
    """A name may hold bytes that are no UTF-8, which a file of JSON may not."""
    return name.encode("utf-8", "backslashreplace").decode()[:4096]
