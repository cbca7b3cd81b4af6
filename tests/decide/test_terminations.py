"""Pods that ended otherwise than well, as a real cluster leaves them: what is told, and what it counts as."""

from typing import Any

import pytest

from builders.kubelet import NEVER, broken_pod, container_end, start_error
from builders.operator import Story, a_job, child, pod
from cases.endings import ENDINGS, Ending
from costopt_operator.decide.objects import parse_pod

EVENTS = {"Failure": "Restarted", "Disruption": "Disrupted", "NotRetryable": "TrainingFailed"}
COUNTED = {"Failure": (1, 0), "NotRetryable": (1, 0), "Disruption": (0, 1)}


def begun(**spec: Any) -> Story:
    """A job of one replica whose training runs."""
    story = Story(a_job(**spec))
    story.look(0)
    story.look(5, child(completions=1), pod())
    return story


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_the_cause_is_told_and_counted(ending: Ending) -> None:
    story = begun()
    todo = story.look(70, child(completions=1, conditions=("FailureTarget",)), parse_pod(ending.pod))
    failure, stage = story.status.failure, story.status.stages[0]
    assert failure is not None
    assert failure.reason == ending.reason
    assert (stage.failures, stage.disruptions) == COUNTED[ending.kind]
    assert stage.state == ("Failed" if ending.kind == "NotRetryable" else "Starting")
    for part in ending.says:
        assert part in failure.message
    [event] = todo.events
    assert failure.message[:800] in event.message
    assert (
        event.reason
        == {"Failure": "Restarted", "Disruption": "Disrupted", "NotRetryable": "TrainingFailed"}[ending.kind]
    )
    if ending.kind == "NotRetryable":
        condition = story.status.condition("Succeeded")
        assert condition is not None
        assert condition.message == failure.message


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_nothing_that_a_terminal_would_obey_is_told(ending: Ending) -> None:
    story = begun()
    story.look(70, child(completions=1, conditions=("FailureTarget",)), parse_pod(ending.pod))
    assert story.status.failure is not None
    assert story.status.failure.message.isprintable()


def test_a_megabyte_of_words_is_cut() -> None:
    data = broken_pod(state=container_end(137), reason="Evicted", message="low \x00" * 250_000)
    story = begun()
    story.look(70, child(completions=1, conditions=("FailureTarget",)), parse_pod(data))
    assert story.status.failure is not None
    assert len(story.status.failure.message) < 1000


def test_a_container_that_could_not_be_started_never_began() -> None:
    seen = parse_pod(broken_pod(state=start_error("no")))
    assert NEVER not in (seen.started, seen.finished)
    assert seen.started is None
    assert seen.finished is not None


def test_out_of_memory_twice_ends_the_job_however_many_failures_are_allowed() -> None:
    story = begun(restarts={"maxFailures": 100})
    for attempt in (0, 1):
        state = container_end(137, "OOMKilled")
        ended = parse_pod(broken_pod(state=state, limits={"memory": "16Gi"}, attempt=attempt))
        gang = child(attempt=attempt, completions=1, conditions=("FailureTarget",))
        todo = story.look(70 + 10 * attempt, gang, ended)
    condition = story.status.condition("Succeeded")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "TrainingFailed")
    for message in (condition.message, todo.events[-1].message):
        assert "the memory limit of its container is 16Gi" in message
        assert "2 attempts of train have ended so (OutOfMemory) with the same settings" in message
    assert story.status.failure == story.status.stages[0].failure
