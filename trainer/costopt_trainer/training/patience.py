"""How long it is since evaluations last improved: what lowers a learning rate, or ends a training, is decided by it.

Patience    what is to be known of all evaluations so far: a small value, made anew by each
"""

from decimal import Decimal

from costopt.schema.base import Count, Figure, Strict


class Patience(Strict):
    """The evaluations so far. Figures are compared as they are told, so a resume that reads them decides the same."""

    best: Figure | None = None
    """The best one. None: there was none yet."""
    best_step: Count = 0
    """Its step; of equals the earlier."""
    mark: Figure | None = None
    """The last one that counted as an improvement: the next must be better than this by what is asked for."""
    waited: Count = 0
    """Evaluations since then."""

    def after(self, step: int, value: Figure, least_improvement: str, *, lower_is_better: bool = True) -> "Patience":
        """The same with one more evaluation, of `step`. It improves if it is better than the mark, and by at least
        `least_improvement`; small gains that do not count one by one count once they add up to that."""
        gain = _gain(self.mark, value, lower_is_better)
        improves = gain is None or (gain > 0 and gain >= Decimal(least_improvement))
        over_best = _gain(self.best, value, lower_is_better)
        is_best = over_best is None or over_best > 0
        return Patience(
            best=value if is_best else self.best,
            best_step=step if is_best else self.best_step,
            mark=value if improves else self.mark,
            waited=0 if improves else self.waited + 1,
        )

    def begun_anew(self) -> "Patience":
        """The same, as if the last evaluation had improved on what was to be improved on."""
        return self.model_copy(update={"waited": 0})


def _gain(before: Figure | None, value: Figure, lower_is_better: bool) -> Decimal | None:
    """By how much `value` is better; None if there is nothing to compare it with."""
    if before is None:
        return None
    return Decimal(before) - Decimal(value) if lower_is_better else Decimal(value) - Decimal(before)
