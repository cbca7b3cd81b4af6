"""Nothing that is done to a pod, or that is not seen of it, takes anything away from the bill."""

import copy
from collections.abc import Callable
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.operator import Story, a_job, at, child, done, failed, moment, pod, pod_json
from costopt.accounting.quantities import OTHER
from costopt.schema.usage import MAX_RESOURCES, UsageRecord
from costopt_operator.decide import recording
from costopt_operator.decide.node_pricing import NodeClass
from costopt_operator.decide.objects import parse_pod
from costopt_operator.decide.observe import held_until
from costopt_operator.decide.reconcile import WriteHistory

ALONE = child(completions=1)


def begun(**spec: Any) -> Story:
    """A job of one replica, which runs and is written down as running."""
    story = Story(a_job(**spec))
    story.look(0)
    for second in (5, 8, 40):
        story.look(second, ALONE, pod(0))
    return story


def restarted(story: Story) -> None:
    """The operator forgets everything."""
    story.memory = WriteHistory()


def records(story: Story) -> list[UsageRecord]:
    return story.status.usage.records if story.status.usage else []


def cpu_seconds(story: Story) -> Decimal:
    """Of half a vCPU, as billed."""
    lines = story.status.bill.lines if story.status.bill else []
    hours = sum((Decimal(line.consumed_quantity) for line in lines if line.resource == "cpu"), Decimal(0))
    return round(hours * 3600 * 2, 3)


@pytest.mark.parametrize("with_restart", [False, True], ids=["the operator goes on", "the operator restarts"])
def test_a_pod_that_vanishes_is_recorded_until_it_was_last_seen(with_restart: bool) -> None:
    story = begun()
    before = cpu_seconds(story)
    if with_restart:
        restarted(story)
    story.look(500, child(completions=1, conditions=("Failed",)))
    (record,) = records(story)
    assert (record.held_from, record.held_until, record.end_estimated) == (moment(1), moment(40), True)
    assert (record.stage, record.attempt, record.index, record.outcome) == ("train", 0, 0, "Disrupted")
    assert record.resources == {"cpu": "0.5", "memory": "1073741824"}
    assert cpu_seconds(story) == 39 >= before
    assert story.status.stages[0].disruptions == 1
    assert story.status.bill is not None
    assert story.status.bill.estimated_records == 1
    story.look(600)
    assert len(records(story)) == 1, "it is recorded once"


@pytest.mark.parametrize("with_restart", [False, True], ids=["the operator goes on", "the operator restarts"])
def test_a_pod_without_its_finalizer_is_recorded_at_its_end(with_restart: bool) -> None:
    story = begun()
    if with_restart:
        restarted(story)
    story.look(500, child(completions=1, conditions=("Failed",)), failed(0, 1, finished=480, finalizer=False))
    (record,) = records(story)
    assert (record.uid, record.held_until, record.end_estimated) == (pod(0).uid, moment(480), False)


def test_the_end_that_was_seen_of_a_pod_stays_when_the_pod_goes_before_its_record() -> None:
    story = Story()
    story.look(0)
    for second in (5, 8, 40):
        story.look(second, child(), pod(0), pod(1))
    story.look(75, child(), pod(0), failed(1, 143, finished=70, finalizer=False, deleted=170))
    story.look(110, child(), pod(0))
    restarted(story)
    story.look(200, child(conditions=("Failed",)), failed(0, 143, finished=190))
    assert {record.index: (record.held_until, record.end_estimated) for record in records(story)} == {
        0: (moment(190), False),
        1: (moment(70), False),
    }


def test_a_pod_that_vanishes_while_its_gang_goes_on_stays_in_the_bill_until_its_attempt_is_counted() -> None:
    story = Story()
    story.look(0)
    for second in (5, 8, 40):
        story.look(second, child(), pod(0), pod(1))
    for second in (100, 200, 300):
        story.look(second, child(), pod(0))
    assert records(story) == []
    assert cpu_seconds(story) == (300 - 5 - 1) + (40 - 1)
    story.look(310, child(conditions=("Failed",)), failed(0, 1, finished=305))
    assert {record.index: record.outcome for record in records(story)} == {0: "Failed", 1: "Failed"}


def test_a_vanished_pod_whose_index_is_completed_has_ended_well() -> None:
    story = begun()
    story.look(100, child(completions=1, conditions=("Complete",), status={"completedIndexes": "0"}))
    assert [record.outcome for record in records(story)] == ["Succeeded"]
    assert story.reason() == "Completed"


def test_a_pod_that_comes_back_is_counted_on_and_not_again() -> None:
    story = begun()
    story.look(100)  # somebody has taken away its labels
    assert cpu_seconds(story) == 39
    story.look(200, pod(0))
    story.look(300, failed(0, 143, finished=290, deleted=400))
    story.look(320, failed(0, 143, finished=290, deleted=400))
    assert len(records(story)) == 2
    assert cpu_seconds(story) == 289


def test_a_pod_that_vanishes_twice_before_a_second_is_over_is_recorded_each_time() -> None:
    story = begun()
    over = child(completions=1, conditions=("Failed",))
    story.look(50, over)  # it was last seen at 40
    story.look(60, over, pod(0, scheduled=40))
    story.look(61, over)
    restarted(story)
    story.look(100, over, pod(0))
    for second in (200, 215):
        story.look(second, over)
    assert cpu_seconds(story) == 99
    assert len({record.uid for record in records(story)}) == len(records(story))


def test_a_finalizer_that_is_put_back_on_a_pod_in_the_sums_counts_nothing_and_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "RECORDS_KEPT", 0)
    story, over = begun(), child(completions=1, conditions=("Failed",))
    assert [each.uid for each in story.look(100, over, failed(0, finished=90)).releases] == [pod(0).uid]
    for second in (140, 180):
        story.look(second, over, failed(0, finished=90, finalizer=False))
    assert story.status.usage is not None
    assert story.status.usage.folded_records == 1
    restarted(story)
    for second in (220, 235):
        told = story.look(second, over, failed(0, finished=90))
    assert [each.uid for each in told.releases] == [pod(0).uid]
    assert cpu_seconds(story) == 89


@pytest.mark.parametrize(("placed", "held_from"), [(1, 60), (70, 70)], ids=["before them", "after them"])
def test_a_pod_that_is_counted_only_from_where_the_sums_of_its_attempt_end_is_estimated(
    placed: float, held_from: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may stand in the sums itself, of which nobody knows any more."""
    monkeypatch.setattr(recording, "RECORDS_KEPT", 0)
    story = Story()
    story.look(0)
    for second in (5, 8, 40):
        story.look(second, child(), pod(0))
    for second in (65, 100):
        story.look(second, child(), done(0, finished=60))
    for second in (140, 180):
        story.look(second, child(), done(0, finished=60, finalizer=False))
    assert story.status.usage is not None
    assert story.status.usage.folded_records == 1
    for second in (220, 250):
        story.look(second, child(), pod(1, scheduled=placed))
        restarted(story)
    assert story.status.bill is not None
    assert story.status.bill.estimated_records == int(placed != held_from)
    story.look(300, child(conditions=("Complete",)), done(1, scheduled=placed, finished=290))
    (record,) = records(story)
    assert (record.held_from, record.held_until) == (moment(held_from), moment(290))
    assert record.end_estimated == (placed != held_from)


def test_a_budget_that_is_exceeded_stays_exceeded_whatever_becomes_of_the_pods() -> None:
    story = begun(budget={"amount": "0.0001"})
    condition = story.status.condition("BudgetExceeded")
    assert condition is not None
    assert condition.status == "True"
    for second in (60, 90, 120):
        story.look(second)
        restarted(story)
        condition = story.status.condition("BudgetExceeded")
        assert condition is not None
        assert condition.status == "True"


SPOT = NodeClass("H100", "Spot", {"karpenter.sh/capacity-type": "spot", "nvidia.com/gpu.product": "H100"})


def test_the_class_of_a_node_that_is_gone_stays_after_a_restart() -> None:
    story = Story()
    story.look(0)
    for second in (5, 8, 40):
        story.look(second, ALONE, pod(0), nodes={"node-1": SPOT})
    restarted(story)
    story.look(100, child(completions=1, conditions=("Failed",)), failed(0, 137, finished=90), nodes={})
    (record,) = records(story)
    assert (record.product, record.capacity_type, record.node_labels) == ("H100", "Spot", SPOT.labels)
    restarted(story)


def test_a_resize_counts_from_when_it_was_seen_and_leaves_the_past_alone() -> None:
    story = begun()
    smaller = pod_json(0)
    smaller["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1m"
    story.look(3600, ALONE, parse_pod(smaller))
    restarted(story)
    ended = pod_json(0, phase="Failed", exit_code=1, finished=3601)
    ended["spec"] = copy.deepcopy(smaller["spec"])
    ended["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "64"
    story.look(3605, child(completions=1, conditions=("Failed",)), parse_pod(ended))
    (record,) = records(story)
    assert record.resources["cpu"] == "0.5"
    assert [(resize.since, resize.resources["cpu"]) for resize in record.resizes] == [(moment(3600), "0.001")]
    assert cpu_seconds(story) == round(Decimal(3599) + Decimal("0.002"), 3)


def test_a_quantity_that_cannot_be_read_is_the_jobs_own_and_flags_the_record() -> None:
    strange = pod_json(0, phase="Succeeded", exit_code=0)
    strange["spec"]["containers"].append({"name": "x", "resources": {"requests": {"cpu": "?", "example.com/nic": "1"}}})
    story = Story()
    story.look(0)
    story.look(70, child(completions=1, conditions=("Complete",)), parse_pod(strange))
    (record,) = records(story)
    assert record.resources == {"cpu": "0.5", "memory": "1073741824", "example.com/nic": "1"}
    assert record.resources_estimated
    assert story.status.bill is not None
    assert story.status.bill.estimated_records == 1


def with_devices(number: int, kind: str = "device", **requests: str) -> dict[str, Any]:
    """A pod that holds one of each of many devices besides."""
    data = pod_json(0)
    asked = data["spec"]["containers"][0]["resources"]["requests"]
    asked |= {f"example.com/{kind}-{device:02}": "1" for device in range(number)} | requests
    return data


def test_more_resources_than_a_record_tells_apart_are_recorded_also_if_the_usual_ones_cannot_be_read() -> None:
    story = Story()
    story.look(0)
    for second in (5, 8):
        story.look(second, ALONE, parse_pod(with_devices(20, cpu="?", memory="?")))
    story.look(70, child(completions=1, conditions=("Failed",)))
    (record,) = records(story)
    assert len(record.resources) == MAX_RESOURCES
    assert (record.resources["cpu"], record.resources["memory"], record.resources[OTHER]) == ("0.5", "1073741824", "7")
    assert record.resources_estimated


def test_a_pod_that_is_resized_to_ever_other_resources_is_recorded_and_the_job_looked_at_on() -> None:
    story = begun()
    for change in range(8):
        begin = 100 * (change + 1)
        for second in (begin, begin + 40, begin + 43):
            story.look(second, ALONE, parse_pod(with_devices(14, kind=f"kind-{change}")))
        assert cpu_seconds(story) >= begin + 40 - 5 - 1
    story.look(2000, child(completions=1, conditions=("Failed",)))
    (record,) = records(story)
    assert record.resources == {"cpu": "0.5", "memory": "1073741824"}
    assert record.resizes[-1].resources == {"cpu": "0.5", "memory": "1073741824", OTHER: "14"}
    story.look(2100, child(completions=1, conditions=("Failed",)))
    assert records(story) == [record]


def unseen(phase: str, **changes: Any) -> dict[str, Any]:
    """A pod of whose containers nobody knows the end."""
    return pod_json(0, **{"phase": phase, **changes})


def with_sidecar(data: dict[str, Any]) -> dict[str, Any]:
    data["status"]["containerStatuses"].append({"name": "mesh", "state": {"running": {"startedAt": at(2)}}})
    return data


ENDS: list[tuple[str, dict[str, Any], float, bool]] = [
    ("a day of grace is not the end", unseen("Running", deleted=86400 + 600, grace=86400), 600, True),
    ("by force, at once", unseen("Running", deleted=80, grace=0), 80, True),
    ("deleted long after its end", unseen("Failed", deleted=90000, grace=30, conditions=("Ready",)), 50, True),
    ("its last condition", unseen("Failed", conditions=("DisruptionTarget",)), 50, True),
    ("its placement", unseen("Failed"), 1, True),
    ("its last container", unseen("Failed", exit_code=1, finished=61, deleted=90000), 61, False),
    (
        "its trainer, if that of a sidecar is not known",
        with_sidecar(unseen("Failed", exit_code=1, finished=61, deleted=90000, conditions=("Ready",))),
        61,
        True,
    ),
]


@pytest.mark.parametrize(("data", "second", "estimated"), [case[1:] for case in ENDS], ids=[case[0] for case in ENDS])
def test_an_end_is_the_last_that_is_known_of_the_pod(data: dict[str, Any], second: float, estimated: bool) -> None:
    assert held_until(parse_pod(data)) == (moment(second), estimated)


@pytest.mark.parametrize(
    ("told", "expected"),
    [(3700, 100), (100, 100), (90, 90), (-3500, 35)],
    ids=["a clock ahead of ours", "now", "told late", "a clock behind ours"],
)
def test_an_end_is_never_later_than_now_nor_before_what_was_billed(told: float, expected: float) -> None:
    story = begun()
    billed = cpu_seconds(story)
    story.look(100, child(completions=1, conditions=("Failed",)), failed(0, 1, finished=told))
    (record,) = records(story)
    assert (record.held_until, record.end_estimated) == (moment(expected), told != expected)
    assert cpu_seconds(story) == expected - 1 >= billed


def test_a_beginning_that_is_still_to_come_is_now() -> None:
    story = Story()
    story.look(0)
    story.look(20, ALONE, pod(0, scheduled=7200))
    story.look(60, child(completions=1, conditions=("Failed",)), failed(0, 1, scheduled=7200, finished=7300))
    (record,) = records(story)
    assert (record.held_from, record.held_until, record.end_estimated) == (moment(20), moment(60), True)


def test_what_is_held_is_written_with_the_figures_and_not_for_its_own_sake() -> None:
    story = begun()
    written = len(story.written)
    for second in range(41, 70):
        story.look(second, ALONE, pod(0))
    assert len(story.written) == written
    story.look(71, ALONE, pod(0))
    assert len(story.written) == written + 1


# Properties.

METER = {"startup": 4000, "productive": 20_000, "sinceCheckpoint": 3000}


def told(index: int, second: int) -> dict[str, Any]:
    metered = METER | {"productive": 20_000 + index}
    return {"exitCode": 0, "progress": {"step": 1, "totalSteps": 2, "metered": metered}}


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("silent", [0, 1, 2])
def test_causes_do_not_depend_on_the_order_in_which_pods_end_and_go(order: tuple[int, ...], silent: int) -> None:
    """One replica fails without a word; the others end well, are recorded and go before it, or after it."""

    def end(index: int) -> Any:
        if index == silent:
            return failed(index, 137, finished=60)
        return done(index, finished=60, message=told(index, 60))

    story = Story()
    story.look(0)
    ended: list[int] = []
    gang = [pod(index) for index in range(3)]
    story.look(5, child(completions=3), *gang)
    story.look(8, child(completions=3), *gang)
    second = 61
    for index in order:
        ended.append(index)
        kept = {record.index for record in records(story)}
        seen = [end(each) if each in ended else pod(each) for each in range(3) if each not in kept]
        for _ in range(8):
            story.look(second, child(completions=3), *seen)
            second += 5
    kept = {record.index for record in records(story)}
    story.look(
        second, child(completions=3, conditions=("Failed",)), *(end(each) for each in range(3) if each not in kept)
    )
    first = next(index for index in range(3) if index != silent)
    found = {record.index: (record.outcome, record.metered and record.metered.productive) for record in records(story)}
    assert story.status.usage is not None
    assert [meter.attempt for meter in story.status.usage.meters] == [], "what is recorded needs no meter"
    expected = {index: ("Succeeded", 20_000 + index) for index in range(3)}
    assert found == expected | {silent: ("Failed", 20_000 + first)}


def _changed(**parts: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | {name: data[name] | part for name, part in parts.items()}


CONTAINER = {"name": "trainer", "resources": {"requests": {"cpu": "1m"}}}
LATER = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(9999)}]
ACTS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "nothing": lambda data: data,
    "vanishes": lambda data: None,
    "loses its finalizer": _changed(metadata={"finalizers": []}),
    "is told to have been placed later": _changed(status={"conditions": LATER}),
    "is not said to be placed": _changed(status={"conditions": []}),
    "shrinks": _changed(spec={"containers": [CONTAINER]}),
    "loses its requests": _changed(spec={"containers": [{"name": "trainer"}]}),
    "is on another node": _changed(spec={"nodeName": "node-9"}),
    "is deleted": _changed(metadata={"deletionTimestamp": at(10**6), "deletionGracePeriodSeconds": 86400}),
}


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.sets(st.sampled_from(sorted(ACTS)), max_size=2), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.integers(-4000, 9000),
)
def test_a_bill_never_goes_down_whatever_others_do_to_a_pod(
    steps: list[tuple[int, set[str], bool]], finished: int
) -> None:
    story = begun()
    second, before = 40, cpu_seconds(story)
    for wait, acts, forgets in steps:
        second += wait
        if forgets:
            restarted(story)
        data: dict[str, Any] | None = pod_json(0)
        for act in sorted(acts):
            data = ACTS[act](data) if data is not None else None
        story.look(second, ALONE, *([parse_pod(data)] if data is not None else []))
        assert cpu_seconds(story) >= before - Decimal("0.01")
        before = cpu_seconds(story)
    story.look(
        second + 40, child(completions=1, conditions=("Failed",)), failed(0, 1, finished=finished, finalizer=False)
    )
    assert cpu_seconds(story) >= before - Decimal("0.01")
    assert len(records(story)) >= 1


@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.sets(st.sampled_from([0, 1])), st.sampled_from(["", "forgets", "not told"])),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([0, 1, 64]),
)
def test_no_second_is_counted_twice_or_taken_back_however_often_pods_vanish_and_return(
    steps: list[tuple[int, set[int], str]], kept: int
) -> None:
    """Their attempt is over, so each is recorded when it vanishes, and its record is soon in the sums. The operator may
    forget all it knows, or not be told that it has written."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(recording, "RECORDS_KEPT", 0)
        changed.setattr(recording, "VANISHED_KEPT", kept)
        over = child(conditions=("Failed",))
        story = Story()
        story.look(0)
        for second in (5, 8, 40):
            story.look(second, child(), pod(0), pod(1))
        second, before = 40, cpu_seconds(story)
        last = {0: 40, 1: 40}
        for wait, seen, happens in steps:
            second += wait
            last |= dict.fromkeys(seen, second)
            memory = story.memory
            story.look(second, over, *map(pod, sorted(seen)))
            story.memory = {"": story.memory, "forgets": WriteHistory(), "not told": memory}[happens]
            assert before - Decimal("0.01") <= cpu_seconds(story) <= sum(last.values()) - 2 + Decimal("0.01")
            before = cpu_seconds(story)
        end = second
        for second in (end + 1, end + 15, end + 60):
            gone = story.look(second, over, failed(0, finished=end), failed(1, finished=end)).releases
        assert {each.uid for each in gone} == {pod(0).uid, pod(1).uid}
        assert before - Decimal("0.01") <= cpu_seconds(story) <= 2 * (end - 1) + Decimal("0.01")
        if kept == 64:
            assert abs(cpu_seconds(story) - 2 * (end - 1)) <= Decimal("0.01"), "what is kept is counted on from there"


def test_a_bill_does_not_go_down_when_the_clock_is_set_back() -> None:
    story = Story()
    story.look(0)
    story.look(1, child())
    for seconds in (100, 200):
        story.look(seconds, child(), pod(0), pod(1))
    before = story.status.bill
    story.memory = WriteHistory()  # another leads, whose clock is behind
    story.look(160, child(), pod(0), pod(1))
    after = story.status.bill
    assert before is not None
    assert after is not None
    assert before.priced_cost is not None
    assert after.priced_cost is not None
    assert Decimal(after.priced_cost) >= Decimal(before.priced_cost) > 0
