"""A look at a job of very many pods: its work grows with their number and not faster, its bill is that of each pod."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.operator import a_book, a_job, child, failed, moment, pod
from costopt.accounting.bill import make_bill
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus
from costopt.schema.usage import Usage
from costopt_operator.decide import recording
from costopt_operator.decide.holding import Holding, Remembered, holding
from costopt_operator.decide.node_pricing import NodeClass
from costopt_operator.decide.objects import Pod
from costopt_operator.decide.observe import JobSnapshot, LogSight
from costopt_operator.decide.reconcile import WriteHistory, reconcile
from costopt_operator.decide.recording import bill, usage_record

METER = st.sampled_from(
    [None, {"startup": 4000, "productive": 20_000}, {"startup": 4000, "productive": 20_001, "sinceCheckpoint": 900_000}]
)


class Counted(tuple[Pod, ...]):
    """Pods, and how often somebody has gone over all of them."""

    passes = 0

    def __iter__(self) -> Iterator[Pod]:
        type(self).passes += 1
        return super().__iter__()


def world_of(*pods: Pod, **known: Any) -> JobSnapshot:
    return JobSnapshot(
        **{"job": a_job(), "status": JobStatus(), "pods": pods, "book": a_book(), "generation": 1, **known}
    )


def passes_of(attempts: int) -> int:
    """Passes over all pods in one look at a job with so many attempts that failed."""
    pods = [failed(index, attempt=attempt, finalizer=False) for attempt in range(attempts) for index in range(2)]
    children = tuple(child(attempt=attempt, conditions=("Failed",)) for attempt in range(attempts))
    Counted.passes = 0
    world = world_of(child_jobs=children)
    reconcile(dataclasses.replace(world, pods=Counted(pods)), WriteHistory(), moment(100))
    return Counted.passes


def test_pods_are_gone_over_as_often_for_a_hundred_attempts_as_for_two() -> None:
    assert passes_of(100) == passes_of(2)


def test_pods_that_have_held_the_same_are_counted_as_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*rest: Any) -> Any:
        made.append(rest)
        return usage_record(*rest)

    monkeypatch.setattr(recording, "usage_record", counted)
    world = world_of(*(pod(index, scheduled=1 + index % 3) for index in range(300)))
    whole = bill(world, Usage(), held(world), moment(100))
    assert len(made) == 3
    assert whole.lines[0].consumed_quantity == f"{0.5 * 100 * (94 + 93 + 92) / 3600:.9f}"


@st.composite
def kinds_of_pods(draw: st.DrawFn) -> dict[str, Any]:
    """What pods of a gang may have in common, or not."""
    held = {
        "stage": draw(st.sampled_from(["train", "int8"])),
        "attempt": draw(st.integers(0, 1)),
        "scheduled": draw(st.sampled_from([1, 2, None])),
        "node": draw(st.sampled_from(["node-1", "node-2", "node-3"])),
        "deleted": draw(st.sampled_from([None, 70])),
    }
    if draw(st.booleans()):
        return held
    end = {"phase": "Failed", "exit_code": 1, "finished": draw(st.sampled_from([60, 61]))}
    return held | end | {"message": said(draw(METER)), "finalizer": draw(st.booleans())}


def said(meter: dict[str, int] | None) -> dict[str, Any]:
    return {"exitCode": 1, "progress": {"step": 1, "totalSteps": 2, "metered": meter}}


@st.composite
def gangs(draw: st.DrawFn) -> JobSnapshot:
    """Pods of a few kinds, so that many are alike, and what the logs of some have said."""
    kinds = draw(st.lists(kinds_of_pods(), min_size=1, max_size=3))
    pods = [pod(index, **draw(st.sampled_from(kinds))) for index in range(draw(st.integers(0, 8)))]
    logs = {
        pod.uid: LogSight(progress=Progress.model_validate(said(draw(METER))["progress"]))
        for pod in pods
        if draw(st.booleans())
    }
    nodes = {"node-2": NodeClass(product="H200"), "node-3": NodeClass(capacity_type="Spot")}
    return world_of(*pods, logs=logs, nodes=nodes)


@given(gangs())
def test_a_bill_is_that_of_each_pod_by_itself(world: JobSnapshot) -> None:
    now = moment(100)
    counted = held(world)
    assert {pod.uid for _, pod in counted.held if pod} == {
        pod.uid for pod in world.pods if pod.scheduled and (pod.has_finalizer or not pod.ended)
    }
    whole = bill(world, Usage(), counted, now)
    assert whole == make_bill([usage_record(each, world, counted, now) for each in counted.held], world.book)


def held(world: JobSnapshot) -> Holding:
    """What the pods hold, of which nothing was known before."""
    return holding(world, Usage(), Remembered({}), moment(100))
