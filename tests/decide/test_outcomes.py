"""The outcome in a usage record is what was counted for its attempt, in the same write of the status."""

from typing import Any

import pytest

from builders.operator import Story, a_job, child, done, failed, moment, pod
from costopt_operator.decide.observe import LogSight

TOLD = {"exit_code": 143, "deleted": 180, "grace": 120}
"""A pod that somebody deleted."""


def outcomes(story: Story) -> dict[tuple[int, int], str]:
    """Outcome by attempt and index, as written."""
    records = story.status.usage.records if story.status.usage else []
    return {(record.attempt, record.index): record.outcome for record in records}


def begun(**spec: Any) -> Story:
    story = Story(a_job(**spec))
    story.look(0)
    story.look(5, child(), pod(0), pod(1))
    return story


def counted(story: Story) -> tuple[int, int]:
    return story.status.stages[0].failures, story.status.stages[0].disruptions


@pytest.mark.parametrize(
    ("ends", "expected", "figures"),
    [
        ((failed(0, 137), failed(1, **TOLD)), {"Failed"}, (1, 0)),
        ((failed(0, 1), failed(1, 143)), {"Failed"}, (1, 0)),
        ((failed(0, 78), failed(1, 143)), {"Failed"}, (1, 0)),
        ((failed(0, 143), failed(1, 143)), {"Disrupted"}, (0, 1)),
        ((failed(0, 137, conditions=("DisruptionTarget",)), failed(1, 1)), {"Disrupted"}, (0, 1)),
        ((pod(0, deleted=80, grace=0), failed(1, **TOLD)), {"Disrupted"}, (0, 1)),
        ((done(0), done(1)), {"Succeeded"}, (0, 0)),
    ],
    ids=[
        "a killed rank and its peer",
        "a crash and its peer",
        "not retryable",
        "preempted, with a checkpoint",
        "a lost node and the crash that follows",
        "a pod whose end nobody saw",
        "all well",
    ],
)
def test_all_records_of_an_attempt_say_what_it_was_counted_as(
    ends: tuple[Any, ...], expected: set[str], figures: tuple[int, int]
) -> None:
    story = begun()
    story.look(100, child(conditions=("Failed",)), *ends)
    assert counted(story) == figures
    assert set(outcomes(story).values()) == expected
    assert len(outcomes(story)) == 2


def test_a_record_waits_until_it_is_known_what_its_attempt_counts_as() -> None:
    story = begun()
    ended_on_sigterm = failed(1, **TOLD)
    for second in range(70, 90):
        assert story.look(second, child(), pod(0, deleted=180), ended_on_sigterm).releases == ()
    assert story.status.bill is not None
    hours = [line.consumed_quantity for line in story.status.bill.lines if line.resource == "cpu"]
    assert hours, "what has ended is in the bill meanwhile"
    story.look(91, failed(0, 139, finished=60), ended_on_sigterm)
    assert counted(story) == (1, 0)
    assert outcomes(story) == {(0, 0): "Failed", (0, 1): "Failed"}


def test_pods_that_were_ended_for_their_silence_are_stalled() -> None:
    story = begun(restarts={"stallTimeoutSeconds": 10})
    sights = {item.uid: LogSight(moment(11) - moment(0)) for item in (pod(0), pod(1))}
    story.look(30, child(), pod(0), pod(1), logs=sights)
    assert story.state() == "Stopping"
    story.look(45, *(failed(index, 137, deleted=50, grace=10) for index in (0, 1)))
    assert counted(story) == (1, 0)
    assert set(outcomes(story).values()) == {"Stalled"}


def test_pods_of_a_job_that_is_at_its_end_are_stopped_and_of_one_that_goes_on_suspended() -> None:
    for spec, expected in (({"activeDeadlineSeconds": 20}, "Stopped"), ({}, "Suspended")):
        story = begun(**spec)
        story.job = a_job(**(spec or {"suspend": True}))
        story.look(30, child(), pod(0), pod(1))
        story.look(45, *(failed(index, **TOLD) for index in (0, 1)))
        assert counted(story) == (0, 0)
        assert set(outcomes(story).values()) == {expected}


def test_pods_that_a_queue_took_back_are_suspended_and_their_attempt_goes_on() -> None:
    story = begun()
    taken_back = child(suspend=True, status={"startTime": None})
    for second in (60, 75):
        story.look(second, taken_back, *(failed(index, **TOLD) for index in (0, 1)))
    assert set(outcomes(story).values()) == {"Suspended"}
    assert story.status.stages[0].attempt == 0
    assert counted(story) == (0, 0)


def test_a_variant_that_ended_without_a_report_has_failed() -> None:
    int8 = {"name": "int8", "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
    story = Story(a_job(compress=[int8]))
    story.look(0)
    trained = (child(), done(0), done(1))
    story.look(70, *trained)
    story.look(71, *trained, child("int8"), pod(0, stage="int8"))
    story.look(90, *trained, child("int8"), done(0, stage="int8", finished=80))
    assert story.status.stages[1].failures == 1
    records = story.status.usage.records if story.status.usage else []
    assert {record.outcome for record in records if record.stage == "int8"} == {"Failed"}


def test_hundreds_of_pods_that_are_recorded_in_portions_all_say_the_same() -> None:
    number = 600
    story = begun()
    pods = {item.uid: item for item in (failed(index, 1 if index == 7 else 143) for index in range(number))}
    seen = set()
    for turn in range(12):
        todo = story.look(100 + 3 * turn, child(completions=number, conditions=("Failed",)), *pods.values())
        seen |= set(outcomes(story).values())
        for item in todo.releases:
            del pods[item.uid]
    assert pods == {}
    assert counted(story) == (1, 0)
    assert seen == {"Failed"}
