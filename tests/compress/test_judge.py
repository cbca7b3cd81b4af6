"""A variant is accepted if it keeps every bound, and what it does not keep is told with the numbers."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.compress import dynamic, pruned, weight_only
from costopt.schema.compression import Accept, Step, Variant
from costopt.schema.variant_report import EngineName, Measurement, QualityMetric
from costopt_trainer.compress.judge import Bounds, bounds_of, find_faults, refuse_metric
from costopt_trainer.errors import NotRetryable


def measurement(size: int = 1000, latency: int = 1000, loss: float = 1.0, accuracy: int | None = None) -> Measurement:
    return Measurement(
        size_bytes=size,
        parameters=100,
        nonzero_permille=1000,
        latency_microseconds=latency,
        validation_loss=str(loss),
        validation_accuracy_permille=accuracy,
        engine="TorchEager",
    )


def variant(*steps: Step, **accept: Any) -> Variant:
    return Variant(name="small", steps=list(steps), accept=Accept(**accept) if accept else None)


def reasons(measured: Measurement, bounds: Bounds, *, accuracy: int | None = None) -> list[str]:
    faults = find_faults(measurement(accuracy=accuracy), measured, bounds, trivial_loss=2.3)
    return [fault.reason for fault in faults]


def bounds(**given: Any) -> Bounds:
    return Bounds(**{name: Decimal(str(bound)) for name, bound in given.items()})


SIZE, SPEED = bounds_of(variant(weight_only())), bounds_of(variant(dynamic()))
CASES = [
    ("smaller and faster", measurement(size=300, latency=500), SPEED, []),
    ("smaller and about as fast", measurement(size=300, latency=1050), SPEED, []),
    ("smaller, slower, and only size is wanted", measurement(size=300, latency=3000), SIZE, []),
    ("smaller, slower, and speed is wanted", measurement(size=300, latency=24_400), SPEED, ["Slower"]),
    ("slower and not smaller", measurement(latency=3000), SIZE, ["SlowerAndNotSmaller"]),
    ("slower, not smaller, nothing asked", measurement(latency=3000), Bounds(), ["SlowerAndNotSmaller"]),
    ("a little worse", measurement(size=300, loss=1.01), SIZE, []),
    ("worse than its step may make it", measurement(size=300, loss=1.011), SIZE, ["QualityDropped"]),
    ("better", measurement(size=300, loss=0.5), SIZE, []),
    ("as good as guessing", measurement(size=300, loss=2.3), Bounds(), ["NoBetterThanGuessing"]),
    (
        "all",
        measurement(latency=3000, loss=5.0),
        SPEED,
        ["SlowerAndNotSmaller", "NoBetterThanGuessing", "QualityDropped"],
    ),
]


@pytest.mark.parametrize(("what", "measured", "bounds", "expected"), CASES, ids=[case[0] for case in CASES])
def test_a_variant_is_judged_by_its_figures(
    what: str, measured: Measurement, bounds: Bounds, expected: list[str]
) -> None:
    assert reasons(measured, bounds) == expected


def test_bounds_that_are_not_given_follow_from_the_steps() -> None:
    assert bounds_of(variant(weight_only())) == bounds(quality_drop_percent=1)
    assert bounds_of(variant(pruned("Unstructured", 50), dynamic())) == bounds(quality_drop_percent=6, speedup=0.9)
    assert bounds_of(variant(pruned("Structured", 50))) == bounds(quality_drop_percent=5, speedup=0.9)


def test_bounds_that_are_given_hold_instead() -> None:
    all_three = variant(dynamic(), max_quality_drop_percent="0", min_speedup="1.5", min_size_ratio="3e0")
    assert bounds_of(all_three) == bounds(quality_drop_percent=0, speedup=1.5, size_ratio=3)
    assert bounds_of(variant(dynamic(), max_loss_increase="0.1")) == bounds(loss_increase=0.1, speedup=0.9)
    both = bounds_of(variant(weight_only(), max_loss_increase="0.1", max_quality_drop_percent="2"))
    assert both == bounds(loss_increase=0.1, quality_drop_percent=2)


@pytest.mark.parametrize(
    ("bounds", "measured", "expected"),
    [
        (bounds(speedup=2), measurement(latency=500), []),
        (bounds(speedup=2), measurement(latency=501), ["Slower"]),
        (bounds(size_ratio=4), measurement(size=250), []),
        (bounds(size_ratio=4), measurement(size=251), ["NotSmaller"]),
        (bounds(loss_increase=0.25), measurement(loss=1.25), []),
        (bounds(loss_increase=0.25), measurement(loss=1.2501), ["LossIncreased"]),
        (bounds(quality_drop_percent=25), measurement(loss=1.25), []),
        (bounds(quality_drop_percent=25), measurement(loss=1.2501), ["QualityDropped"]),
    ],
)
def test_a_bound_is_kept_by_what_just_reaches_it(bounds: Bounds, measured: Measurement, expected: list[str]) -> None:
    assert reasons(measured, bounds) == expected


def test_the_quality_of_a_classifier_is_its_accuracy_not_its_loss() -> None:
    given = bounds(quality_drop_percent=10)
    assert reasons(measurement(loss=2.0, accuracy=720), given, accuracy=800) == []
    assert reasons(measurement(loss=1.0, accuracy=719), given, accuracy=800) == ["QualityDropped"]
    assert reasons(measurement(loss=1.2, accuracy=0), given, accuracy=0) == ["QualityDropped"], "then by its loss"


def test_the_users_metric_is_judged_instead() -> None:
    def told(metric: QualityMetric, **measured: Any) -> list[str]:
        given = replace(bounds(quality_drop_percent=10), metric=metric)
        before, after = (
            measurement(accuracy=800).model_copy(update={"validation_macro_f1_permille": f1}) for f1 in (500, 449)
        )
        after = after.model_copy(update={"size_bytes": 300, **measured})
        return [fault.message for fault in find_faults(before, after, given, trivial_loss=2.3)]

    assert told("MacroF1") == ["its macro F1 fell by 10.2 % (50.0 % -> 44.9 %), and may by 10 %"]
    assert told("Accuracy") == []
    assert told("Loss") == []
    assert told("Loss", validation_loss="1.2") == [
        "its validation loss rose by 20 % (1.0000 -> 1.2000), and may by 10 %"
    ]
    asked = bounds_of(variant(weight_only(), metric="MacroF1"))
    assert (asked.metric, asked.quality_drop_percent) == ("MacroF1", 1)


def test_a_metric_that_the_task_has_not_is_refused() -> None:
    for metric in ("Accuracy", "MacroF1"):
        asked = variant(weight_only(), metric=metric)
        refuse_metric(asked, tells_classes=True)
        with pytest.raises(NotRetryable, match=f"must be Loss, not {metric}: this model is no classifier"):
            refuse_metric(asked, tells_classes=False)
    for without in (variant(weight_only()), variant(weight_only(), metric="Loss")):
        refuse_metric(without, tells_classes=False)


def test_a_rejection_says_the_numbers_in_one_sentence() -> None:
    slow = measurement(size=300, latency=24_400, loss=5.0312)
    given = bounds(quality_drop_percent=1, loss_increase=0.5, speedup=0.9, size_ratio=4)
    told = {fault.reason: fault.message for fault in find_faults(measurement(), slow, given, trivial_loss=2.3026)}
    assert told == {
        "Slower": "it is 0.041x as fast as the model (24.4 ms beside 1 ms), and must be at least 0.9x",
        "NotSmaller": "it is 3.33x smaller than the model, and must be at least 4x smaller",
        "NoBetterThanGuessing": "its validation loss 5.0312 is no better than 2.3026, what guessing by frequency gets",
        "LossIncreased": "its validation loss rose by 4.031 (1.0000 -> 5.0312), and may by 0.5",
        "QualityDropped": "its validation loss rose by 403 % (1.0000 -> 5.0312), and may by 1 %",
    }
    nearly_none = find_faults(measurement(loss=0.00001), measurement(size=300, loss=0.00002), given, trivial_loss=9)
    assert "(1e-05 -> 2e-05)" in nearly_none[-1].message
    (less_right,) = find_faults(measurement(accuracy=934), measurement(size=300, accuracy=901), given, trivial_loss=9)[
        1:
    ]
    assert less_right.message == "its accuracy fell by 3.53 % (93.4 % -> 90.1 %), and may by 1 %"


FIGURES = st.builds(
    measurement,
    size=st.integers(0, 10**15),
    latency=st.integers(0, 10**15),
    loss=st.floats(-1e300, 1e300).map(lambda value: float(f"{value:.6g}")),
    accuracy=st.none() | st.integers(0, 1000),
)
BOUND = st.none() | st.decimals(0, "1e99", places=3)
BOUNDS = st.builds(Bounds, BOUND, BOUND, BOUND, BOUND)


@given(FIGURES, FIGURES, BOUNDS, st.floats(0, 1e300))
def test_figures_of_any_size_fit_the_sentence(
    baseline: Measurement, measured: Measurement, bounds: Bounds, trivial_loss: float
) -> None:
    for engine in get_args(EngineName):
        by_it = measured.model_copy(update={"engine": engine})
        faults = find_faults(baseline, by_it, bounds, trivial_loss=trivial_loss)
        assert len({fault.reason for fault in faults}) == len(faults) <= 5


@given(FIGURES, BOUNDS)
def test_a_model_beside_itself_is_rejected_only_for_what_the_user_asks_for(
    baseline: Measurement, bounds: Bounds
) -> None:
    reasons = {fault.reason for fault in find_faults(baseline, baseline, bounds, trivial_loss=float("inf"))}
    assert reasons <= {"Slower", "NotSmaller"}
    assert ("NotSmaller" in reasons) == (bounds.size_ratio is not None and bounds.size_ratio > 1)


@pytest.mark.parametrize(
    ("size", "as_graph", "said"),
    [
        (800, False, "it is 1.25x smaller than the model"),
        (1060, False, "it is 1.06x as large as the model"),
        (1060, True, "it is 1.06x as large as the model, as its ONNX graph"),
    ],
)
def test_a_size_is_told_with_the_form_that_it_is_of(size: int, as_graph: bool, said: str) -> None:
    measured = measurement(size=size).model_copy(update={"engine": "OnnxRuntime"})
    (fault,) = find_faults(measurement(), measured, bounds(size_ratio=2), trivial_loss=2.3, as_graph=as_graph)
    assert (fault.reason, fault.message) == ("NotSmaller", f"{said}, and must be at least 2x smaller")
