"""The size of the global batch, by the gradient noise scale (McCandlish et al., arXiv 1812.06162).

NoiseScale    what was measured so far, and the size that follows; part of a checkpoint
is_due        is a step to be measured?
measured      the same, one measured step later
size_of       samples per step, now
report_of, in_words

A gradient over B samples is the true one plus noise whose square falls with B: E|G_B|^2 = |G|^2 + tr(S)/B. From norms
at two sizes both follow without bias (appendix A.1), and B_simple = tr(S)/|G|^2: a ratio of means over all measured
steps, for that of a single step is far off.
"""

from costopt.schema.auto_batch import AutoBatch, AutoBatchReport
from costopt.schema.base import Count, Strict
from costopt.schema.recipe import Batch
from costopt_trainer.reporting.meter import figure


class NoiseScale(Strict):
    """State of the measuring."""

    begun_with: Count = 0
    """globalBatchSize at that time. Another one is measured anew."""
    steps: Count = 0
    """Steps after which it was measured, also those whose norms were not finite."""
    noise: float = 0.0
    """Sum of the estimates of tr(S)."""
    signal: float = 0.0
    """Sum of the estimates of |G|^2."""
    last_step: Count = 0
    """Of the measured ones."""
    chosen: Count | None = None
    """Samples per step. None: not yet."""

    @property
    def samples(self) -> float | None:
        """B_simple; None if no signal is left of the noise."""
        return self.noise / self.signal if self.signal > 0 else None


def is_due(batch: Batch, state: NoiseScale, step: int) -> bool:
    """Whether the step of that number, from 1, is to be measured."""
    auto = batch.auto
    return auto is not None and step > auto.after_steps and _of(batch, state).chosen is None


def measured(
    batch: Batch, before: NoiseScale, step: int, small: tuple[int, float], large: tuple[int, float]
) -> NoiseScale:
    """The state after a step whose gradient was measured at two sizes: samples, and the square of the norm. Figures
    that are not finite count as no measurement of this step. `batch` has `auto`, and the sizes differ."""
    auto, so_far = batch.auto, _of(batch, before)
    if auto is None:
        raise ValueError("nothing is to be measured")
    (few, small_square), (many, large_square) = small, large
    noise = (small_square - large_square) / (1 / few - 1 / many)
    signal = (many * large_square - few * small_square) / (many - few)
    is_finite = abs(noise) < float("inf") and abs(signal) < float("inf")  # false for what is no number
    now = NoiseScale(
        begun_with=batch.global_batch_size,
        steps=so_far.steps + 1,
        noise=so_far.noise + (noise if is_finite else 0),
        signal=so_far.signal + (signal if is_finite else 0),
        last_step=step,
    )
    if now.steps < auto.measure_steps:
        return now
    return now.model_copy(update={"chosen": _closest(auto, batch.global_batch_size, now.samples)})


def _closest(auto: AutoBatch, least: int, samples: float | None) -> int:
    most = auto.largest // least
    return least * (most if samples is None else min(max(1, round(min(samples, auto.largest) / least)), most))


def _of(batch: Batch, state: NoiseScale) -> NoiseScale:
    """The state, if it is of these settings and makes sense."""
    least, size = batch.global_batch_size, state.chosen
    fits = size is None or (size % least == 0 and least <= size <= (batch.auto.largest if batch.auto else least))
    return state if fits and state.begun_with == least else NoiseScale()


def size_of(batch: Batch, state: NoiseScale) -> int:
    """Samples per step, over all ranks."""
    if batch.auto is None:
        return batch.global_batch_size
    return _of(batch, state).chosen or batch.global_batch_size


def report_of(batch: Batch, state: NoiseScale) -> AutoBatchReport | None:
    """What people and programs are told; None before something was chosen."""
    if batch.auto is None or _of(batch, state).chosen is None:
        return None
    return AutoBatchReport(
        global_batch_size=size_of(batch, state),
        noise_scale=None if state.samples is None else figure(state.samples),
        measured_until_step=state.last_step,
    )


def in_words(batch: Batch, state: NoiseScale) -> str:
    """For the log, once a size was chosen."""
    of = "of any size: no signal is left of the noise" if state.samples is None else f"{state.samples:.1f} samples"
    bounds = f"{batch.global_batch_size} and {batch.auto.largest if batch.auto else batch.global_batch_size}"
    return (
        f"the gradient noise scale is {of}, measured over {state.steps} steps until step {state.last_step}: from now "
        f"on a step has {state.chosen} samples, a multiple of {batch.global_batch_size} between {bounds}"
    )
