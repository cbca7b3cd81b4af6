"""Phases on a cluster: read from the first replica's log, told in the status, and no reason for a write of its own."""

from builders.operator import Story, a_job, at, child, pod
from costopt.schema.replica import Phase
from costopt_operator.decide.observe import LogSight
from costopt_operator.decide.reconcile import FIGURES_EVERY
from costopt_operator.watch.pod_log_reader import read_log

STEP = '{"step":1,"totalSteps":9}'


def log(seconds: float, *lines: str, before: LogSight | None = None) -> LogSight:
    """What a log shows whose lines were all written so many seconds after START."""
    return read_log([f"{at(seconds)} {line}" for line in lines], before or LogSight())


def told(percent: int) -> str:
    return f'{{"phase":"Tokenizing","percent":{percent}}}'


def phase_of(story: Story) -> str | None:
    return story.status.stages[0].phase


def test_the_phase_in_a_log_is_told_and_goes_when_steps_begin() -> None:
    story = Story()
    story.look(0)
    seen = (child(), pod(0), pod(1))
    sight = log(20, told(40))
    story.look(20, *seen, logs={"pod-train-0-0": sight})
    story.look(22, *seen, logs={"pod-train-0-0": sight})
    assert phase_of(story) == "tokenizing 40 %"
    sight = log(60, told(90), STEP, before=sight)
    story.look(60, *seen, logs={"pod-train-0-0": sight})
    assert phase_of(story) is None


def test_a_phase_that_has_scrolled_away_is_remembered_until_steps_are_reported() -> None:
    sight = log(40, "noise", before=log(20, told(40)))
    assert sight.phase == Phase(phase="Tokenizing", percent=40)
    assert log(50, STEP, before=sight).phase is None


def test_phases_are_written_no_more_often_than_figures() -> None:
    story = Story()
    story.look(0)
    seen = (child(), pod(0), pod(1))
    story.look(2, *seen)
    story.look(4, *seen)
    before = len(story.written)
    for second in range(10, 310):
        story.look(second, *seen, logs={"pod-train-0-0": log(second, told(second // 4))})
    assert len(story.written) - before <= 300 / FIGURES_EVERY.total_seconds() + 1


def test_a_pod_that_waits_long_is_told_of_as_a_phase() -> None:
    story = Story()
    story.look(0)
    seen = (child(), pod(0, phase="Pending"), pod(1))
    for second in range(1, 45):
        story.look(second, *seen)
    assert phase_of(story) == "waiting for its container to start"


def starting(second: float, *lines: str, limit: int = 100) -> str | None:
    """Why the gang is stopped when its log was last written at that second; the operator's own clock is far ahead."""
    story = Story(a_job(restarts={"startupTimeoutSeconds": limit, "stallTimeoutSeconds": 604800}))
    story.look(0)
    seen = (child(), pod(0), pod(1))
    story.look(1, *seen)
    story.look(4, *seen)
    story.look(4000, *seen, logs={"pod-train-0-0": log(second, *lines)})
    failure = story.status.failure
    return failure.message if failure else None


def test_start_up_is_measured_by_the_nodes_clock_up_to_what_is_known() -> None:
    assert starting(101, told(40)) is None  # it began at second 2
    assert starting(102, told(40)) == (
        "train took no step within startupTimeoutSeconds (100 s); its last phase was: tokenizing 40 %"
    )


def test_only_a_log_that_shows_a_start_up_says_that_it_takes_too_long() -> None:
    assert starting(1000, STEP) is None
    assert starting(1000, "a line of something else") is None
    assert starting(1000, '{"phase":"Evaluating"}') is None
