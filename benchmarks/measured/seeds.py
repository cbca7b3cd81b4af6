"""What several seeds of one setting come to, and whether it differs from another by more than they do."""

import math
import statistics
from collections.abc import Sequence


def cell(values: Sequence[float], base: Sequence[float], digits: int = 3) -> str:
    """The mean of the seeds, half of what lies between the least and the largest, and in brackets the least and the
    largest difference to `base`, seed by seed: the same seed gives the same first weights and the same samples.
    Of seeds that diverge (nan) it says how many do."""
    pairs = [(value, of) for value, of in zip(values, base, strict=True) if not math.isnan(value - of)]
    differences = [value - of for value, of in pairs] or [math.nan]
    between = f"{min(differences):+.{digits}f} to {max(differences):+.{digits}f}"
    if len(pairs) < len(values):
        return f"{len(values) - len(pairs)} of {len(values)} seeds diverge ({between})"
    text = f"{statistics.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"
    if values == base:
        return text
    return f"{text} ({between})"
