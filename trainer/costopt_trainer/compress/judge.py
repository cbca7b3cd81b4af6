"""Is a variant accepted, from its figures? Pure.

Bounds        what holds for a variant: its `accept`, and the defaults of its steps
bounds_of     them
refuse_metric raises for a metric that the task has not
find_faults   the bounds that a report does not keep, each with the numbers; none: it is accepted
distance      how far it is from keeping them all
quality_drop  by how many percent the quality fell
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from costopt.schema.base import decimal
from costopt.schema.compression import Accept, Variant
from costopt.schema.variant_report import CLASS_METRICS, Measurement, QualityMetric, VariantFault
from costopt_trainer.compress.table import quality_drop_percent, wants_speed
from costopt_trainer.errors import NotRetryable

LEAST_SPEEDUP = Decimal("0.9")
"""Times the model's speed. Measurements of two equal models differ by a few percent on a quiet machine."""
SMALLER_ABOVE = Decimal("1.05")
"""Times smaller than the model; nobody would deploy another model for less."""

_NEARLY_NO_LOSS = Decimal("1e-6")
_FEW_NATS, _MANY_NATS = 0.01, 1000


@dataclass(frozen=True)
class Bounds:
    """What a variant must keep, in decimals, as the figures are: 1.01 is 1 percent more than 1. None means no bound."""

    quality_drop_percent: Decimal | None = None
    """Of `metric`; of a loss, by how much it may rise."""
    loss_increase: Decimal | None = None
    speedup: Decimal | None = None
    size_ratio: Decimal | None = None
    metric: QualityMetric | None = None
    """What `quality_drop_percent` is of. None: the accuracy of a classifier, else the loss."""


def bounds_of(variant: Variant) -> Bounds:
    """The bounds that the user gave, and the defaults of the others."""
    accept = variant.accept or Accept()
    drop, loss = _number(accept.max_quality_drop_percent), _number(accept.max_loss_increase)
    speedup, size = _number(accept.min_speedup), _number(accept.min_size_ratio)
    return Bounds(
        quality_drop_percent=quality_drop_percent(variant.steps) if drop is None and loss is None else drop,
        loss_increase=loss,
        speedup=LEAST_SPEEDUP if speedup is None and wants_speed(variant.steps) else speedup,
        size_ratio=size,
        metric=accept.metric,
    )


def refuse_metric(variant: Variant, *, tells_classes: bool) -> None:
    """Raise NotRetryable("InvalidSettings") if `accept` asks for a metric that the task has not."""
    metric = variant.accept and variant.accept.metric
    if metric in CLASS_METRICS and not tells_classes:
        raise NotRetryable("InvalidSettings", f"accept.metric must be Loss, not {metric}: this model is no classifier")


def find_faults(
    baseline: Measurement, measured: Measurement, bounds: Bounds, *, trivial_loss: float, as_graph: bool = False
) -> list[VariantFault]:
    """Why the variant `measured` is rejected; an empty list if it is accepted.

    `trivial_loss` is the loss of guessing by frequency on the same targets, in the unit of the losses; `as_graph` says
    that its size is that of its ONNX graph.
    """
    form = ", as its ONNX graph" if as_graph else ""
    return [
        *_of_speed_and_size(baseline, measured, bounds, form),
        *_of_quality(baseline, measured, bounds, trivial_loss),
    ]


def distance(baseline: Measurement, measured: Measurement, bounds: Bounds, *, trivial_loss: float) -> float:
    """The sum of the shares by which `measured` misses its bounds: half the speed that it must have counts as much as
    50 percent more quality lost than it may. 0 exactly where `find_faults` finds none."""
    missed = Decimal(0)
    speed, size = _ratios(baseline, measured)
    if speed < LEAST_SPEEDUP and size < SMALLER_ABOVE:
        missed += 1 - speed / LEAST_SPEEDUP
    elif bounds.speedup is not None and speed < bounds.speedup:
        missed += 1 - speed / bounds.speedup
    if bounds.size_ratio is not None and size < bounds.size_ratio:
        missed += 1 - size / bounds.size_ratio
    loss, before = Decimal(measured.validation_loss), Decimal(baseline.validation_loss)
    if loss >= trivial_loss:
        missed += 1
    if bounds.loss_increase is not None:
        missed += max(Decimal(0), loss - before - bounds.loss_increase) / max(abs(before), _NEARLY_NO_LOSS)
    if bounds.quality_drop_percent is not None:
        missed += max(Decimal(0), quality_drop(baseline, measured, bounds.metric) - bounds.quality_drop_percent) / 100
    return float(missed)


def quality_drop(baseline: Measurement, measured: Measurement, metric: QualityMetric | None = None) -> Decimal:
    """By how many percent the quality fell; below 0 if it rose. `metric` is as in Bounds."""
    return _drop(baseline, measured, metric)[1]


def _ratios(baseline: Measurement, measured: Measurement) -> tuple[Decimal, Decimal]:
    """How many times faster and smaller it is than the model."""
    speed = Decimal(max(baseline.latency_microseconds, 1)) / max(measured.latency_microseconds, 1)
    return speed, Decimal(max(baseline.size_bytes, 1)) / max(measured.size_bytes, 1)


def _of_speed_and_size(
    baseline: Measurement, measured: Measurement, bounds: Bounds, form: str
) -> Iterator[VariantFault]:
    speed, size = _ratios(baseline, measured)
    times = f"{measured.latency_microseconds / 1000:.4g} ms beside {baseline.latency_microseconds / 1000:.4g} ms"
    as_fast = f"it is {float(speed):.3g}x as fast as the model ({times})"
    if speed < LEAST_SPEEDUP and size < SMALLER_ABOVE:
        message = f"{as_fast} and {_in_words(size, form)}"
        yield VariantFault(reason="SlowerAndNotSmaller", message=message)
    elif bounds.speedup is not None and speed < bounds.speedup:
        yield VariantFault(reason="Slower", message=f"{as_fast}, and must be at least {float(bounds.speedup):.4g}x")
    if bounds.size_ratio is not None and size < bounds.size_ratio:
        message = f"it is {_in_words(size, form)}, and must be at least {float(bounds.size_ratio):.4g}x smaller"
        yield VariantFault(reason="NotSmaller", message=message)


def _in_words(size: Decimal, form: str) -> str:
    """How many times smaller it is, and as which of its files, where it may have several."""
    beside = f"{float(size):.3g}x smaller than" if size >= 1 else f"{1 / float(size):.3g}x as large as"
    return f"{beside} the model{form}"


def _of_quality(
    baseline: Measurement, measured: Measurement, bounds: Bounds, trivial_loss: float
) -> Iterator[VariantFault]:
    loss, before = Decimal(measured.validation_loss), Decimal(baseline.validation_loss)
    if loss >= trivial_loss:
        message = f"its validation loss {_loss(loss)} is no better than {_loss(trivial_loss)}"
        yield VariantFault(reason="NoBetterThanGuessing", message=f"{message}, what guessing by frequency gets")
    if bounds.loss_increase is not None and loss - before > bounds.loss_increase:
        message = f"its validation loss rose by {float(loss - before):.4g} ({_from_to(before, loss)}), and may by "
        yield VariantFault(reason="LossIncreased", message=f"{message}{float(bounds.loss_increase):.4g}")
    allowed = bounds.quality_drop_percent
    if allowed is None:
        return
    what, drop = _drop(baseline, measured, bounds.metric)
    if drop > allowed:
        yield VariantFault(reason="QualityDropped", message=f"{what}, and may by {float(allowed):.4g} %")


def _drop(baseline: Measurement, measured: Measurement, metric: QualityMetric | None) -> tuple[str, Decimal]:
    """What became of the quality, in words, and by how many percent it fell."""
    words = {"Accuracy": "accuracy", "MacroF1": "macro F1"}
    of = {
        "Accuracy": (baseline.validation_accuracy_permille, measured.validation_accuracy_permille),
        "MacroF1": (baseline.validation_macro_f1_permille, measured.validation_macro_f1_permille),
    }
    before, after = of.get(metric or "Accuracy", (None, None))
    if before and after is not None:
        drop = Decimal(100 * (before - after)) / before
        name = words[metric or "Accuracy"]
        return f"its {name} fell by {float(drop):.3g} % ({before / 10:.1f} % -> {after / 10:.1f} %)", drop
    loss, of_model = Decimal(measured.validation_loss), Decimal(baseline.validation_loss)
    drop = 100 * (loss - of_model) / of_model if of_model > 0 else Decimal(0)
    return f"its validation loss rose by {float(drop):.3g} % ({_from_to(of_model, loss)})", drop


def _from_to(before: Decimal, after: Decimal) -> str:
    return f"{_loss(before)} -> {_loss(after)}"


def _loss(loss: Decimal | float) -> str:
    """As tables and reports show it, in four decimals, unless that is nearly nothing, or long."""
    nats = float(loss)
    return f"{nats:.4f}" if _FEW_NATS <= abs(nats) < _MANY_NATS else f"{nats:.4g}"


def _number(text: str | None) -> Decimal | None:
    return None if text is None else decimal(text)
