"""What nobody would deploy is marked, with the numbers, and nothing else is."""

import pytest

from costopt.schema.variant_report import Measurement
from costopt_trainer.compress.judge import find_faults


def measurement(size: int = 1000, latency: int = 1000, loss: float = 1.0) -> Measurement:
    return Measurement(
        size_bytes=size,
        parameters=100,
        nonzero_permille=1000,
        latency_microseconds=latency,
        validation_loss=str(loss),
        engine="TorchEager",
    )


CASES = [
    ("smaller and faster", measurement(size=300, latency=500), True, []),
    ("smaller and about as fast", measurement(size=300, latency=1050), True, []),
    ("smaller, slower, and only size is wanted", measurement(size=300, latency=3000), False, []),
    ("smaller, slower, and speed is wanted", measurement(size=300, latency=24_400), True, ["Slower"]),
    ("slower and not smaller", measurement(latency=3000), False, ["SlowerAndNotSmaller"]),
    ("as good as guessing", measurement(size=300, loss=2.3), False, ["NoBetterThanGuessing"]),
    ("all of it", measurement(latency=3000, loss=5.0), True, ["SlowerAndNotSmaller", "NoBetterThanGuessing"]),
]


@pytest.mark.parametrize(("what", "measured", "speed", "reasons"), CASES, ids=[case[0] for case in CASES])
def test_a_variant_is_marked(what: str, measured: Measurement, speed: bool, reasons: list[str]) -> None:
    faults = find_faults(measurement(), measured, trivial_loss=2.3, speed_is_wanted=speed)
    assert [fault.reason for fault in faults] == reasons


def test_a_mark_says_the_numbers_in_one_sentence() -> None:
    slow = measurement(size=300, latency=24_400, loss=5.0312)
    slower, guessing = find_faults(measurement(), slow, trivial_loss=2.3026, speed_is_wanted=True)
    assert slower.message == (
        "it is 0.04x as fast as the model (24.4 ms beside 1 ms), though its steps are there for speed"
    )
    assert guessing.message == ("its validation loss 5.031 is no better than 2.303, what guessing by frequency gets")


@pytest.mark.parametrize("figure", [1, 10**15])
def test_figures_of_any_size_fit_the_sentence(figure: int) -> None:
    measured = measurement(size=10**15, latency=figure).model_copy(update={"validation_loss": "1.23456e+300"})
    assert find_faults(measurement(latency=10**15), measured, trivial_loss=1.2e300, speed_is_wanted=True)
