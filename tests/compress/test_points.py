"""Other sizes that a variant is timed at: which, with what, and what is told."""

import pytest
import torch
from torch import Tensor, nn

from costopt.schema.compression import Measure
from costopt_trainer.compress import points
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.points import MOST, Point, inputs_at, points_of, time_points
from costopt_trainer.compress.timing import Running, Times
from costopt_trainer.errors import NotRetryable


def test_each_length_is_measured_with_each_batch_size() -> None:
    wanted = Measure(batch_sizes=[1, 8, 1], sequence_lengths=[16, 64])
    assert points_of(wanted, batch_size=4, context_length=64) == [
        Point(1, 16),
        Point(1, 64),
        Point(8, 16),
        Point(8, 64),
    ]


def test_what_is_left_out_is_as_the_recipe_has_it() -> None:
    assert points_of(None, batch_size=4, context_length=64) == []
    assert points_of(Measure(engines=["TorchCompiled"]), batch_size=4, context_length=64) == []
    assert points_of(Measure(batch_sizes=[1]), batch_size=4, context_length=64) == [Point(1, 64)]
    assert points_of(Measure(sequence_lengths=[8]), batch_size=4, context_length=64) == [Point(4, 8)]
    assert points_of(Measure(batch_sizes=[2]), batch_size=4, context_length=None) == [Point(2, None)]


@pytest.mark.parametrize(
    ("context_length", "sentence"),
    [
        (32, "measure.sequenceLengths must be at most 32, the context length of the model, not 64"),
        (None, "measure.sequenceLengths must not be set: this model reads no tokens"),
    ],
)
def test_lengths_that_the_model_cannot_read_are_refused_in_one_sentence(
    context_length: int | None, sentence: str
) -> None:
    with pytest.raises(NotRetryable) as error:
        points_of(Measure(sequence_lengths=[8, 64]), batch_size=4, context_length=context_length)
    assert (error.value.reason, str(error.value)) == ("InvalidSettings", sentence)


def test_few_samples_are_repeated_and_long_ones_are_cut() -> None:
    batch = torch.arange(6).view(2, 3)
    assert inputs_at(batch, Point(3, 2)).tolist() == [[0, 1], [3, 4], [0, 1]]
    assert inputs_at(torch.ones(2, 1, 4, 4), Point(5, None)).shape == (5, 1, 4, 4)


class _Reads(nn.Module):
    """Remembers the shapes that it was given; cannot read `too_many` samples."""

    def __init__(self, too_many: int = 10**9) -> None:
        super().__init__()
        self.too_many, self.shapes = too_many, set[tuple[int, ...]]()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) >= self.too_many:
            raise RuntimeError("too many samples\nmore words")
        self.shapes.add(tuple(x.shape))
        return x


def test_both_are_timed_at_every_size_and_one_that_fails_is_told() -> None:
    pair = _Reads(), _Reads(too_many=8)
    sizes = [Point(1, 4), Point(8, 4), Point(2, 8)]
    running = [Running("TorchEager", model) for model in pair]
    batch = torch.zeros(2, 8, dtype=torch.int64)
    with Overdue("small") as calls:
        timings, notes = time_points(running, sizes, batch, calls, 60.0, per_token=True)
    assert pair[0].shapes == {(1, 4), (8, 4), (2, 8)}
    assert pair[1].shapes == {(1, 4), (2, 8)}
    for of_one in timings:
        assert [(each.batch_size, each.sequence_length) for each in of_one] == [(1, 4), (2, 8)]
        assert all(each.runs == MOST and each.p50_microseconds <= each.p95_microseconds for each in of_one)
    assert notes == ["not timed at batch size 8, sequence length 4: RuntimeError: too many samples"]


def test_an_engine_that_cannot_run_at_a_size_spoils_nothing_for_the_others() -> None:
    running = [Running("TorchEager", _Reads()), Running("TorchEager", _Reads())]
    running += [Running("TorchCompiled", _Reads(too_many=2), 1.0), Running("TorchQuantized", _Reads())]
    batch = torch.zeros(2, 8, dtype=torch.int64)
    with Overdue("small") as calls:
        timings, notes = time_points(running, [Point(1, 4), Point(2, 4)], batch, calls, 60.0, per_token=True)
    assert [[each.batch_size for each in of_one] for of_one in timings] == [[1, 2], [1, 2], [1], [1, 2]]
    assert [each.engine for each in timings[3]] == ["TorchQuantized", "TorchQuantized"]
    assert notes == ["not timed at batch size 2, sequence length 4 under TorchCompiled: RuntimeError: too many samples"]


def test_sizes_that_are_not_reached_in_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(points.time, "perf_counter", lambda: clock[0])

    class Slow(_Reads):
        def forward(self, x: Tensor) -> Tensor:
            clock[0] += 10.0
            return super().forward(x)

    pair = [Running("TorchEager", Slow()), Running("TorchEager", Slow())]
    with Overdue("small") as calls:
        timings, notes = time_points(
            pair, [Point(1, 4), Point(2, 4), Point(2, 8)], torch.zeros(2, 8), calls, 30.0, per_token=True
        )
    assert [[each.batch_size for each in of_one] for of_one in timings] == [[1], [1]]
    assert notes == [
        f"not timed at batch size 2, sequence length {length}: measureSeconds leaves no time for it"
        for length in (4, 8)
    ]
    assert clock[0] == 40.0, "a warm-up and a pass of each"


def test_a_rate_counts_all_that_went_through_and_the_95th_of_100_is_the_nearest_rank() -> None:
    times = Times(tuple(number / 1000 for number in range(1, 101)))
    assert (times.p50, times.p95) == (50_500, 95_000)
    assert times.rate(10) == pytest.approx(1000 / 5.05)
    assert Times((0.002,)).p95 == 2000
