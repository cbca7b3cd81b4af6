"""Objects that others have written into: whatever they hold, they are read, and the look at their job still keeps its
suspension, its budget and its deadline."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.hostile import one_of
from builders.operator import Json, Story, a_job, child_json, failed, pod, pod_json
from builders.plan import INT8
from costopt import names
from costopt.schema.usage import FoldedUsage, Usage
from costopt_operator.decide.node_pricing import classify
from costopt_operator.decide.objects import MOST_MARKS, indexes, parse_child_job, parse_job, parse_pod, parse_service

DEEP: Any = 1
for _ in range(400):
    DEEP = [DEEP]

HOSTILE = one_of(
    [
        *(None, True, False, 0, -1, 2**31, 2**63, -(2**63), 10**400, 1.5, float("nan"), float("inf")),
        *("", "\ud800", "\x00\x1b[2J", "x" * 100_000, "9" * 5000, "0-999999999", "4294967295", "a-b", "1e999999"),
        *(
            "0000-00-00T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00Z",
            "2026-03-01",
            "1970-01-01T00:00:00Z",
        ),
        *([], {}, [None], [[]], {"": None}, [{"name": 7}], {"reason": [], "message": {}}, DEEP),
        *({"terminated": []}, [{"type": 1, "status": 2}], {str(number): "1" for number in range(3000)}),
        *(
            '{"exitCode": 9223372036854775808}',
            '{"exitCode": ' + "[" * 3000 + "}",
            '{"exitCode":1,"progress":{"step":1}}',
        ),
    ]
)

OURS = {"namespace", "uid", "resourceVersion", "name", "creationTimestamp", "labels", "ownerReferences"}
"""What the API server sets or checks itself, and whose an object is, which is another question."""


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something may be put instead of what is there."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        if path == ("metadata",) and key in OURS:
            continue
        if path or key != "metadata":
            yield (*path, key)
        yield from places(value, (*path, key))


def with_hostile(data: Json, draw: Callable[[Any], Any]) -> Json:
    """The object with up to four of its values replaced."""
    changed = copy.deepcopy(data)
    chosen = draw(st.lists(st.sampled_from(sorted(places(data), key=str)), max_size=4, unique=True))
    for *parents, last in sorted(chosen, key=len, reverse=True):  # what is inside goes before what it is in
        holder = changed
        for key in parents:
            holder = holder[key]
        holder[last] = draw(HOSTILE)
    return changed


FULL_STATUS = {
    "message": "m",
    "reason": "r",
    "startTime": "2026-03-01T12:00:00Z",
    "initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
}


def running(draw: Callable[[Any], Any], index: int) -> Json:
    data = pod_json(index, conditions=draw(st.sampled_from([(), ("DisruptionTarget",)])))
    data["status"] |= FULL_STATUS
    data["spec"] |= {"initContainers": [{"name": "init", "image": "i"}], "overhead": {"cpu": "1m"}}
    data["metadata"]["annotations"] = {"a": "b"}
    return data


LIMITS = {
    "suspend": {"suspend": True},
    "deadline": {"activeDeadlineSeconds": 30},
    "budget": {"budget": {"amount": "0.000001"}},
}


@pytest.mark.parametrize("limit", LIMITS)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_look_at_hostile_objects_keeps_every_limit(limit: str, data: st.DataObject) -> None:
    """One pod is as a kubelet leaves it, so that there is a cost; all else is whatever somebody wrote."""
    draw = data.draw
    others = parse_pod(with_hostile(running(draw, 1), draw))
    job = with_hostile({**child_json(), "status": {"startTime": "2026-03-01T12:00:00Z", "completedIndexes": ""}}, draw)
    gang = parse_child_job(job)
    labels = draw(st.dictionaries(st.sampled_from(["nvidia.com/gpu.product", "karpenter.sh/capacity-type"]), st.text()))
    spec = LIMITS[limit]
    story = Story(a_job(**spec))
    story.look(0)
    todo = story.look(120, gang, pod(0), others, nodes={"node-1": classify(labels)})
    left = {gone.name for gone in todo.delete_jobs} | {gone.name for gone, _ in todo.delete_pods}
    over = gang.deleting or gang.failing or gang.complete
    assert gang.name in left or pod(0).name in left or over, "nothing is stopped"
    condition = story.status.condition("Suspended")
    assert condition is not None
    assert story.state() in ("Stopping", "Failed", "Waiting", "Starting")


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_pod_of_ours_can_be_read_and_recorded(data: st.DataObject) -> None:
    ended = running(data.draw, 0) | {"status": failed_status()}
    seen = parse_pod(with_hostile(ended, data.draw))
    story = Story()
    story.look(0)
    story.look(5, parse_child_job(child_json()), pod(0), pod(1))
    for second in (90, 120, 150):
        story.look(second, parse_child_job(child_json(conditions=("Failed",))), seen, failed(1, 143))
    assert story.status.stages


def failed_status() -> Json:
    status: Json = pod_json(0, phase="Failed", exit_code=1, message={"exitCode": 1, "reason": "ProcessFailed"})[
        "status"
    ]
    return status | FULL_STATUS


@given(st.text(alphabet="0123456789-,x ", max_size=60))
def test_completed_indexes_are_those_that_a_gang_can_have(written: str) -> None:
    assert indexes(written) <= frozenset(range(4096))


def test_a_billion_completed_indexes_are_not_counted_up() -> None:
    assert len(indexes("0-999999999,7")) == 4096
    assert indexes("0-3,x,5,-,9-8") == {0, 1, 2, 3, 5}
    assert parse_child_job(child_json(completions=2**31 - 1)).completions == 4096


def test_a_queues_marks_beyond_what_is_read_leave_the_job_understood(caplog: pytest.LogCaptureFixture) -> None:
    marks = {f"{names.QUEUE_PREFIX}a{number:03}": "x" for number in range(200)}
    data = {**a_job().to_plain(), "status": {}}
    data["metadata"] |= {"resourceVersion": "1", "annotations": marks, "labels": {**marks, names.QUEUE_NAME_LABEL: "q"}}
    read = json.loads(parse_job(data).document)["metadata"]
    assert len(read["annotations"]) == len(read["labels"]) == MOST_MARKS
    assert read["labels"][names.QUEUE_NAME_LABEL] == "q"
    assert "only 64 of the 200 labels or annotations of a queue are read" in caplog.text


def test_what_is_passed_over_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    data = pod_json()
    data["metadata"]["uid"] = "told-once"
    data["status"]["phase"] = ["Running"]
    parse_pod(data)
    parse_pod(data)
    assert [record.getMessage() for record in caplog.records] == [
        "train-a0-0 (told-once): passed over or cut: status.phase"
    ]


@pytest.mark.parametrize("parse", [parse_pod, parse_child_job, parse_service])
@pytest.mark.parametrize("data", [{}, {"metadata": []}, {"metadata": {}, "spec": 3}, {"metadata": {"uid": "u"}}])
def test_what_is_no_object_at_all_is_refused_with_a_value_error(parse: Callable[[Json], object], data: Json) -> None:
    with pytest.raises(ValueError, match="is no object"):
        parse(data)


def test_more_lines_than_a_bill_has_room_for_keep_no_limit_from_being_kept() -> None:
    variants = [{**INT8, "name": f"v{number}"} for number in range(16)]
    story = Story(a_job(compress=variants))
    story.look(0)
    story.look(5, parse_child_job(child_json()), pod(0), pod(1))
    sums = [
        FoldedUsage(
            stage=f"v{number % 16}",
            resource=f"example.com/r{number % 120}",
            cause="Other",
            product=f"p{number}",
            currency="USD",
            quantity_microseconds="3600000000",
        )
        for number in range(2000)
    ]
    story.status = story.status.model_copy(update={"usage": Usage(folded=sums, folded_records=2000)})
    story.job = a_job(compress=variants, suspend=True)
    assert story.look(60, parse_child_job(child_json()), pod(0), pod(1)).delete_jobs
    assert story.status.bill is not None
    assert len(story.status.bill.lines) <= 2000


def test_a_pod_that_holds_more_resources_than_a_record_has_room_for_is_limited_all_the_same() -> None:
    data = pod_json(0)
    many = {f"example.com/{number}-{'x' * 200}": "1" for number in range(60)}
    data["spec"]["containers"][0]["resources"]["requests"] |= many
    story = Story(a_job())
    story.look(0)
    story.job = a_job(suspend=True)
    assert story.look(60, parse_child_job(child_json()), parse_pod(data), pod(1)).delete_jobs
    assert story.status.bill is not None
    assert {"cpu", "memory"} <= {line.resource for line in story.status.bill.lines}
