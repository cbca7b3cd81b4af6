"""What is held stands in the status in few bytes, and is read again as it was."""

import json
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, quantities
from costopt.accounting.held import Held, Shape, mark_of, read_held, write_held
from costopt.schema.status import JobStatus
from costopt.schema.usage import MAX_HELD, MAX_RESIZES, MAX_RESOURCES, HeldPods, Usage

seconds = st.integers(0, 10**6)
some_quantities = st.dictionaries(st.sampled_from(["cpu", "memory"]), quantities, min_size=1).map(
    lambda found: tuple(sorted(found.items()))
)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    shape = Shape(
        stage=draw(st.sampled_from(["train", "int8"])),
        attempt=draw(st.integers(0, 2)),
        resources=draw(some_quantities),
        product=draw(st.sampled_from([None, "H100"])),
        capacity_type=draw(st.sampled_from(["OnDemand", "Spot"])),
        node_labels=draw(st.sampled_from([(), (("topology.kubernetes.io/zone", "a"),)])),
    )
    for change in draw(st.lists(some_quantities, max_size=3)):
        shape = shape.resized(change, MIDNIGHT + timedelta(seconds=draw(seconds)))
    return shape


@st.composite
def held_pods(draw: st.DrawFn) -> list[Held]:
    kinds = draw(st.lists(shapes(), min_size=1, max_size=3))
    return [
        Held(
            shape=draw(st.sampled_from(kinds)),
            index=draw(st.integers(0, 40)),
            mark=mark_of(f"pod {number}"),
            held_from=(begin := MIDNIGHT + timedelta(seconds=draw(seconds))),
            held_until=(end := draw(st.none() | seconds.map(lambda length: begin + timedelta(seconds=length)))),
            estimated=end is not None and draw(st.booleans()),
            ended_well=end is not None and draw(st.booleans()),
            begin_estimated=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 30)))
    ]


@given(held_pods())
def test_what_is_held_is_read_as_it_was_written(pods: list[Held]) -> None:
    status = JobStatus(usage=Usage(held=write_held(pods), seen=MIDNIGHT, records=[]))
    written = JobStatus.model_validate_json(json.dumps(status.to_plain()))
    assert written.usage is not None
    assert {held.mark: held for held in read_held(written.usage.held)} == {held.mark: held for held in pods}
    assert write_held(reversed(pods)) == write_held(pods), "the order of pods matters"


GANG = Shape("train", 3, (("cpu", "190"), ("memory", "2147483648000"), ("nvidia.com/gpu", "8")))


def gang(number: int, *, apart: int, spread: int) -> list[Held]:
    """Pods placed one after another, on nodes of three zones."""
    labels = [(("topology.kubernetes.io/zone", f"zone-{zone}"),) for zone in range(3)]
    kinds = [replace(GANG, node_labels=each) for each in labels]
    return [
        Held(kinds[index % 3], index, mark_of(str(index)), MIDNIGHT + timedelta(seconds=index * apart % spread))
        for index in range(number)
    ]


@pytest.mark.parametrize(
    ("name", "pods", "most"),
    [
        ("placed within a minute", gang(4096, apart=1, spread=60), 70_000),
        ("each placed at a second of its own", gang(4096, apart=3, spread=20_000), 110_000),
    ],
)
def test_the_largest_gang_takes_little_room(name: str, pods: list[Held], most: int) -> None:
    text = json.dumps(Usage(held=write_held(pods)).to_plain())
    assert len(text) < most, f"{name}: {len(text)} bytes"


def test_more_groups_than_a_status_holds_are_merged_to_the_larger_quantities_and_flagged() -> None:
    pods = [
        Held(Shape("train", 0, (("cpu", str(number)),)), number, mark_of(str(number)), MIDNIGHT)
        for number in range(MAX_HELD + 1)
    ]
    (group,) = write_held(pods)
    assert group.resources == {"cpu": str(MAX_HELD)}
    assert group.resources_estimated
    assert {held.mark for held in read_held([group])} == {held.mark for held in pods}


def test_merged_groups_keep_all_that_pods_hold_though_there_are_more_resources_than_are_told_apart() -> None:
    pods = [
        Held(
            Shape("train", 0, (("cpu", "1"), (f"example.com/nic-{number:03}", "2"))),
            number,
            mark_of(str(number)),
            MIDNIGHT,
        )
        for number in range(MAX_HELD + 1)
    ]
    (group,) = write_held(pods)
    assert len(group.resources) == MAX_RESOURCES
    assert group.resources["cpu"] == "1"
    assert sum(int(amount) for amount in group.resources.values()) == 1 + 2 * (MAX_HELD + 1)


@pytest.mark.parametrize("apart", [0, 1], ids=["of the same times", "each of its own"])
def test_any_number_of_pods_of_an_attempt_finds_room(apart: int) -> None:
    """A queue may take a Job of the largest gang back again and again."""
    shape = Shape("train", 0, (("cpu", "1"),))
    pods = [
        Held(shape, number % 4096, mark_of(str(number)), MIDNIGHT + timedelta(seconds=number * apart))
        for number in range(14_000)
    ]
    assert {held.mark: held for held in read_held(write_held(pods))} == {held.mark: held for held in pods}


def test_of_more_resizes_than_are_kept_the_closest_become_one_of_the_larger_quantities() -> None:
    shape = Shape("train", 0, (("cpu", "1"),))
    for number in range(MAX_RESIZES + 1):
        hours = 100 * number if number != 5 else 401
        shape = shape.resized((("cpu", str(10 - number)),), MIDNIGHT + timedelta(hours=hours))
    assert len(shape.resizes) == MAX_RESIZES
    assert (MIDNIGHT + timedelta(hours=400), (("cpu", "6"),)) in shape.resizes
    assert shape.resources_estimated


@pytest.mark.parametrize(
    "run",
    [
        "",
        "0 0 -",
        "0 0 - xyz",
        "0-5 0 - 0123456789",
        "9999999999-0 0 - 0123456789",
        "- 0 - 0123456789",
        "0 9999999999 - 0123456789",
    ],
)
def test_a_run_that_somebody_has_spoilt_is_passed_over(run: str) -> None:
    group = HeldPods(stage="train", attempt=0, resources={}, since=MIDNIGHT.replace(year=9990), pods=[run])
    assert list(read_held([group])) == []


def test_a_text_of_many_spans_is_no_more_than_its_marks_are() -> None:
    """Whoever may write a status must not take our memory with it."""
    marks = "0123456789" * 3200
    spans = ",".join(["0-9999"] * 4500)
    assert len(f"{spans} 0 - {marks}") < 131_072
    group = HeldPods(stage="train", attempt=0, resources={"cpu": "1"}, since=MIDNIGHT, pods=[f"{spans} 0 - {marks}"])
    tracemalloc.start()
    assert list(read_held([group])) == []
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
