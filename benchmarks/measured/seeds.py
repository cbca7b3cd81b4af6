"""What several seeds of one setting come to, and whether it differs from another by more than they do."""

import statistics
from collections.abc import Sequence


def cell(values: Sequence[float], base: Sequence[float], digits: int = 3) -> str:
    """The mean of the seeds, half of what lies between the least and the largest, and in brackets the least and the
    largest difference to `base`, seed by seed: the same seed gives the same first weights and the same samples."""
    differences = [value - of for value, of in zip(values, base, strict=True)]
    text = f"{statistics.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"
    if values == base:
        return text
    return f"{text} ({min(differences):+.{digits}f} to {max(differences):+.{digits}f})"
