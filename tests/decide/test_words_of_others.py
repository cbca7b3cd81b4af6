"""What a user's program may write (log lines, a termination message, labels) neither stops a look nor reaches a status
that the API server would refuse, or a terminal obey."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from builders.operator import UID, Json, Story, a_job, child, child_json, failed, owner, pod, pod_json
from costopt import names
from costopt.schema.replica import TerminationMessage
from costopt_operator.decide.objects import INDEX_LABEL, parse_child_job, parse_pod
from costopt_operator.decide.observe import LogSight
from costopt_operator.decide.pod_reasons import said_at_end
from costopt_operator.watch.pod_log_reader import read_log

TIME = "2026-03-01T12:00:09.123456789Z "
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
REPORT: dict[str, Any] = {"step": 3, "totalSteps": 9}


def values(data: object) -> Iterator[object]:
    """Every key and every value of plain data."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from values(value)
    elif isinstance(data, list):
        for item in data:
            yield from values(item)
    else:
        yield data


def after(said: object, *lines: str) -> Story:
    """A job whose first pod has printed `lines` and failed with `said` in its termination message."""
    story = Story(a_job())
    story.look(0)
    story.look(5, child(), pod(0), pod(1))
    sight = read_log([TIME + line for line in lines], LogSight())
    story.look(70, child(conditions=("Failed",)), failed(0, message=said), failed(1, 143), logs={pod(0).uid: sight})
    return story


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        ({"exitCode": 1, "rank": 10**4000}, ()),
        ({"exitCode": 1, "replicaIndex": -(10**30)}, ()),
        ({"exitCode": 1, "node": -(10**30), "not known": 10**4000}, ()),
        ('{"exitCode": 1, "node": 1, "not known": ' + "[" * 900 + "]" * 900 + "}", ()),
        ({"exitCode": 10**20, "rankExitCode": 2**63}, ()),
        ({"exitCode": 1, "message": ESCAPE, "logTail": [ESCAPE]}, ()),
        ({"exitCode": 1, "progress": {**REPORT, "results": {ESCAPE: "1", "\x00": "2"}}}, ()),
        ({"exitCode": 1, "progress": {**REPORT, "checkpointsPassedOver": ESCAPE}}, ()),
        ('{"a":' * 800 + "1" + "}" * 800, ()),
        ('{"exitCode": 1, "rank": NaN}', ()),
        (None, (json.dumps({**REPORT, "results": {ESCAPE: "1"}, "checkpointsPassedOver": "\u202e\x00"}),)),
        (None, ('{"step": ' + "9" * 5000 + ', "totalSteps": 1}', '{"step":' + "[" * 20_000 + "}")),
        (None, ('{"phase": "Tokenizing", "percent": 1e400}', '{"phase": "\x1b[2J"}')),
    ],
)
def test_a_status_holds_only_what_the_api_server_and_a_terminal_take(said: object, lines: tuple[str, ...]) -> None:
    story = after(said, *lines)
    assert story.status.stages[0].failures == 1
    assert story.status.usage is not None
    assert len(story.status.usage.records) == 2
    for value in values(json.loads(story.status.model_dump_json())):
        if isinstance(value, str):
            assert value.isprintable()
        if isinstance(value, int):
            assert abs(value) < 2**63


def test_a_termination_message_in_json_of_ones_own_is_told() -> None:
    failure = after({"error": "the disk is full"}).status.failure
    assert failure is not None
    assert '{"error": "the disk is full"}' in failure.message


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "2030-01-01T00:00:00Z"])
def test_only_the_kubelet_says_when_a_line_was_written(time: str) -> None:
    line = TIME + f"10 %\r{time} 20 %"
    assert read_log([line], LogSight()).last_line == datetime(2026, 3, 1, 12, 0, 9, 123456, UTC)
    assert read_log([f"{time} x"], LogSight()) is not None


def test_a_report_behind_a_progress_bar_is_found() -> None:
    progress = read_log([TIME + "10 %\r" + json.dumps(REPORT)], LogSight()).progress
    assert progress is not None
    assert progress.step == 3


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (names.LABEL_STAGE, "A_b.c"),
        (names.LABEL_STAGE, "int8"),
        (names.LABEL_STAGE, ""),
        (names.LABEL_ATTEMPT, "9" * 40),
        (names.LABEL_ATTEMPT, "9999999999999999"),
        (names.LABEL_ATTEMPT, "1"),
        (names.LABEL_ATTEMPT, "-1"),
        (names.LABEL_JOB, "another"),
        (names.LABEL_JOB_UID, "another"),
        (INDEX_LABEL, "1" + "0" * 40),
    ],
)
def test_labels_of_a_pod_decide_nothing(label: str, value: str) -> None:
    data = pod_json(1)
    data["metadata"]["name"] = "tiny-train-a0-1-x7x7x"
    known = parse_pod(data).of_gang(child().gang)
    data["metadata"]["labels"][label] = value
    assert parse_pod(data).of_gang(child().gang) == known
    assert (known.job_uid, known.stage, known.attempt, known.index) == (UID, "train", 0, 1)


@pytest.mark.parametrize("value", ["1" + "0" * 40, "1_0", "", "-1"])
def test_a_pod_without_an_index_is_none_of_ours(value: str) -> None:
    data = pod_json()
    data["metadata"]["labels"][INDEX_LABEL] = value
    with pytest.raises(ValueError, match=INDEX_LABEL):
        parse_pod(data)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {**child_json()["metadata"]["labels"], names.LABEL_STAGE: "A_b.c"}},
        {"labels": {**child_json()["metadata"]["labels"], names.LABEL_STAGE: "int8"}},
        {"labels": {**child_json()["metadata"]["labels"], names.LABEL_ATTEMPT: "1"}},
        {"labels": {**child_json()["metadata"]["labels"], names.LABEL_ATTEMPT: "9999999999999999"}},
        {"labels": None},
        {"name": "tiny-train-a1"},
        {"ownerReferences": None},
        {"ownerReferences": [owner("Deployment", "tiny", UID)]},
        {"ownerReferences": [{**owner("CostOptJob", "tiny", UID), "controller": False}]},
        {"ownerReferences": [owner("CostOptJob", "another", UID)]},
    ],
)
def test_a_batch_job_is_a_gangs_by_its_controller_and_the_name_of_its_attempt(metadata: Json) -> None:
    with pytest.raises(ValueError, match=r"name|controller|number"):
        parse_child_job(child_json(metadata=metadata))


def test_json_of_the_users_own_is_not_taken_for_the_launchers_word() -> None:
    assert said_at_end('{"exitCode": 1, "error": "the user\'s"}') is None
    assert said_at_end('{"exitCode": 0}') == TerminationMessage(exit_code=0)
    later = said_at_end('{"exitCode": 1, "reason": "ProcessFailed", "of a later version": 1}')
    assert later is not None
    assert later.reason == "ProcessFailed"
