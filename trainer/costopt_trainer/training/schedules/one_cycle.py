"""One rise and one fall over the whole training (Smith, arXiv 1803.09820), both along half a cosine."""

from math import cos, pi

from costopt.schema import optimization
from costopt.schema.optimization import Schedule


def one_cycle(settings: Schedule, *, peak: float, total_steps: int, step: int) -> float:
    """From `peak` / startDivisor at step 1 up to `peak` after risePercent of the steps, down to minLearningRate.

    Steps are placed as torch's OneCycleLR places them: the first at 0, the peak at risePercent of all less one.
    """
    own = settings.one_cycle or optimization.OneCycle()
    place, last = step - 1, total_steps - 1
    top = max(0.0, own.rise_percent / 100 * total_steps - 1)
    if place < top:
        return _between(peak / own.start_divisor, peak, place / top)
    return _between(peak, float(settings.min_learning_rate), (place - top) / (last - top) if last > top else 1.0)


def _between(begin: float, end: float, done: float) -> float:
    return end + (begin - end) * (1 + cos(pi * done)) / 2
