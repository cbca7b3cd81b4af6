"""Attempts: what ends one, what it counts as, and when there is no other."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders.plan import HEALED, INT8, PRUNED, START, running, spec, trained
from costopt.plan.decide import StartGang, StopGang
from costopt.plan.observed import Replica
from costopt.schema.replica import EarlierRounds, Progress, RestartCause, TerminationMessage


def test_a_replica_that_dies_stops_the_whole_gang_and_starts_the_next_attempt() -> None:
    world = running(spec())
    world.end(world.live()[0], 1)
    decided = world.look()
    assert decided.stop == (StopGang("train", 0, "ReplicaFailed", checkpoint=False),)
    assert decided.start == ()
    assert world.state() == ("Stopping", 0)
    world.obey()
    assert world.look().start == (StartGang("train", 1),)
    assert (world.state(), world.stage().failures, world.stage().disruptions) == (("Starting", 1), 1, 0)


def test_the_stop_is_said_again_until_all_have_ended() -> None:
    world = running(spec(numNodes=4))
    world.end(world.live()[0], 1)
    first = world.write()
    assert world.look().stop == first.stop
    world.end(world.live()[0], 143)
    assert world.look().stop == first.stop


def test_replicas_that_end_because_we_stop_a_broken_gang_do_not_make_it_a_disruption() -> None:
    world = running(spec())
    world.end(world.live()[0], 1)
    world.look()
    world.obey(143)
    world.look()
    assert (world.stage().failures, world.stage().disruptions) == (1, 0)


ENDINGS: list[tuple[str, list[dict[str, Any]], tuple[str, int, int]]] = [
    ("a crash is a failure", [{"code": 1}, {"code": 1}], ("Starting", 1, 0)),
    ("a kill that nobody owns up to is a failure", [{"code": -9}, {"code": 1}], ("Starting", 1, 0)),
    ("a preemption with a checkpoint is a disruption", [{"code": 143}, {"code": 143}], ("Starting", 0, 1)),
    ("SIGTERM before the launcher could trap it is a disruption", [{"code": -15}, {"code": 0}], ("Starting", 0, 1)),
    ("a lost node is a disruption", [{"code": 137, "disrupted": True}, {"code": 1}], ("Starting", 0, 1)),
    (
        "a crash beside a preemption that the platform owns up to is its echo",
        [{"code": 1, "said": {"time": "2026-03-01T12:00:01Z"}}, {"code": 143, "disrupted": True}],
        ("Starting", 0, 1),
    ),
    (
        "a crash after an end on SIGTERM is its echo",
        [
            {"code": 1, "said": {"time": "2026-03-01T12:00:02Z"}},
            {"code": 143, "said": {"time": "2026-03-01T12:00:01Z"}},
        ],
        ("Starting", 0, 1),
    ),
    (
        "an end on SIGTERM after a crash is that of a gang that was stopped, seen late",
        [
            {"code": 143, "said": {"time": "2026-03-01T12:00:02Z"}},
            {"code": 1, "said": {"time": "2026-03-01T12:00:01Z"}},
        ],
        ("Starting", 1, 0),
    ),
    ("so is one in the same second", [{"code": 143}, {"code": 1}], ("Starting", 1, 0)),
    ("an end that nobody saw is a disruption", [{"code": None}, {"code": 0}], ("Starting", 0, 1)),
    ("code 78 is not retried", [{"code": 78}, {"code": 1}], ("Failed", 1, 0)),
    ("code 78 weighs more than a preemption", [{"code": 143}, {"code": 78}], ("Failed", 1, 0)),
    (
        "a reason that no restart mends is not retried",
        [{"code": 1, "said": {"reason": "LossNotFinite"}}, {"code": 1}],
        ("Failed", 1, 0),
    ),
]


@pytest.mark.parametrize(("ends", "outcome"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS])
def test_what_an_ended_attempt_counts_as(ends: list[dict[str, Any]], outcome: tuple[str, int, int]) -> None:
    world = running(spec())
    for each, how in zip(world.live(), ends, strict=True):
        world.end(each, **how)
    world.look()
    assert (world.stage().state, world.stage().failures, world.stage().disruptions) == outcome


def test_a_running_gang_that_vanished_unseen_is_a_disruption() -> None:
    world = running(spec())
    world.replicas.clear()
    assert world.look().start == (StartGang("train", 1),)
    assert (world.stage().failures, world.stage().disruptions) == (0, 1)
    assert world.status.failure is not None
    assert "vanished" in world.status.failure.message


def test_a_gang_of_which_a_part_vanished_has_not_succeeded() -> None:
    world = running(spec())
    del world.replicas["train-a0-1"]
    world.end_all(0)
    world.look()
    assert (world.state(), world.stage().disruptions) == (("Starting", 1), 1)


def test_a_broken_gang_that_vanished_while_it_was_stopped_stays_a_failure() -> None:
    world = running(spec())
    world.end(world.live()[0], 1)
    world.look()
    world.replicas.clear()
    world.look()
    assert (world.stage().failures, world.stage().disruptions) == (1, 0)


def test_a_limit_allows_as_many_failures_as_it_says() -> None:
    world = running(spec(restarts={"maxFailures": 2}))
    for attempt in (1, 2):
        world.end_all(1)
        world.look()
        assert world.state() == ("Starting", attempt)
    world.look()
    world.end_all(1)
    world.look()
    assert (world.state(), world.stage().failures) == (("Failed", 2), 3)
    assert world.says("Succeeded") == ("False", "TrainingFailed")


def test_failures_and_disruptions_have_limits_of_their_own() -> None:
    world = running(spec(restarts={"maxFailures": 1, "maxDisruptions": 2}))
    for code, counted in ((143, (0, 1)), (1, (1, 1)), (143, (1, 2))):
        world.end_all(code)
        world.look()
        assert (world.stage().failures, world.stage().disruptions) == counted
    world.end_all(143)
    world.look()
    assert (world.stage().state, world.stage().disruptions) == ("Failed", 3)


def test_raising_the_limit_of_a_running_job_counts_at_its_next_failure() -> None:
    world = running(spec(restarts={"maxFailures": 0}))
    world.edit(restarts={"maxFailures": 1})
    world.end_all(1)
    world.look()
    assert world.state() == ("Starting", 1)


def test_each_variant_has_its_own_attempts() -> None:
    world = trained(spec(INT8, PRUNED))
    world.end(world.live("int8")[0], 1)
    assert world.look().start == (StartGang("int8", 1),)
    assert (world.stage("int8").failures, world.stage("pruned").failures) == (1, 0)
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def silent_world() -> Any:
    world = running(spec(restarts={"stallTimeoutSeconds": 60}))
    for each in world.live():
        world.stirs(each)
    return world


def test_a_gang_without_a_sign_of_life_is_stopped_and_counts_as_a_failure() -> None:
    world = silent_world()
    world.passes(59)
    assert world.look().stop == ()
    world.passes(1)
    assert world.look().stop == (StopGang("train", 0, "Stalled", checkpoint=False),)
    assert world.says("Stalled") == ("True", "NoActivity")
    world.obey(143)
    world.look()
    assert (world.state(), world.stage().failures, world.stage().disruptions) == (("Starting", 1), 1, 0)
    assert world.says("Stalled") == ("False", "Active")
    assert world.status.failure is not None
    assert world.status.failure.reason == "Stalled"


def test_one_replica_that_stirs_keeps_the_gang_alive() -> None:
    world = silent_world()
    world.passes(50)
    world.stirs(world.live()[1])
    world.passes(50)
    assert world.look().stop == ()
    world.passes(10)
    assert world.look().stop != ()


def test_a_replica_that_has_not_begun_to_run_cannot_stall() -> None:
    world = running(spec(restarts={"stallTimeoutSeconds": 60}))
    world.stirred.clear()
    world.passes(10**6)
    decided = world.look()
    assert (decided.stop, decided.requeue_after) == ((), None)


def test_a_silent_replica_may_be_waiting_for_one_that_has_not_begun_to_run() -> None:
    world = silent_world()
    del world.stirred[world.live()[1].uid]
    world.passes(10**6)
    assert world.look().stop == ()


def test_a_stalled_gang_that_sits_on_a_lost_node_was_a_disruption_after_all() -> None:
    world = silent_world()
    world.passes(60)
    world.look()
    for each in world.live():
        world.end(each, 137, disrupted=True)
    world.look()
    assert (world.stage().failures, world.stage().disruptions) == (0, 1)


def test_a_stalled_gang_that_ends_well_after_all_has_succeeded() -> None:
    world = silent_world()
    world.passes(60)
    world.look()
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def test_two_variants_that_stall_together_both_count_a_failure() -> None:
    world = trained(spec(INT8, PRUNED, restarts={"stallTimeoutSeconds": 60}))
    world.look()
    world.passes(60)
    world.look()
    assert world.state("int8") == world.state("pruned") == ("Stopping", 0)
    world.obey(143)
    world.look()
    assert (world.stage("int8").failures, world.stage("pruned").failures) == (1, 1)
    assert (world.stage("int8").disruptions, world.stage("pruned").disruptions) == (0, 0)


def test_an_attempt_has_its_own_start_time() -> None:
    world = running(spec())
    world.passes(100)
    world.end_all(1)
    world.look()
    assert world.stage().start_time == START
    assert world.stage().attempt_start_time == START + timedelta(seconds=100)


def told(replica: Replica, restarts: int, sentence: str = "Rank 1 was killed by SIGKILL.") -> Replica:
    """A replica whose ranks were started anew in place so often."""
    cause = RestartCause(reason="ProcessKilled", message=sentence, rank=1, replica_index=1)
    progress = Progress(step=5, total_steps=100, in_place_restarts=restarts, restarted_for=cause)
    return replace(replica, progress=progress)


def test_restarts_in_place_are_counted_and_are_no_failures() -> None:
    world = running(spec())
    first = world.live()[0]
    world.replicas[first.uid] = told(first, 2)
    world.look()
    stage = world.stage()
    assert (stage.state, stage.attempt, stage.failures, stage.disruptions) == ("Running", 0, 0, 0)
    assert (stage.in_place_restarts, stage.restarted_for and stage.restarted_for.rank) == (2, 1)
    world.replicas[first.uid] = first  # its figures cannot be read for a moment
    world.look()
    assert world.stage() == stage


def test_restarts_in_place_of_earlier_attempts_stay_counted() -> None:
    world = running(spec())
    world.replicas[world.live()[0].uid] = told(world.live()[0], 2)
    world.look()
    world.replicas[world.live()[0].uid] = told(world.live()[0], 3)  # seen together with the end
    world.end_all(1)
    world.look()
    assert (world.state(), world.stage().failures) == (("Starting", 1), 1)
    assert (world.stage().in_place_restarts, world.stage().restarted_for) == (3, None)
    world.look()
    world.replicas[world.live()[0].uid] = told(world.live()[0], 1)
    world.look()
    assert world.stage().in_place_restarts == 4


def test_a_program_that_tells_no_progress_has_its_restarts_counted_at_its_end() -> None:
    world = running(spec())
    message = TerminationMessage(exit_code=0, earlier_rounds=EarlierRounds(restarts=2))
    for replica in world.live():
        world.end(replica, 0)
        world.replicas[replica.uid] = replace(world.replicas[replica.uid], termination=message)
    world.look()
    assert (world.stage().state, world.stage().in_place_restarts) == ("Succeeded", 2)


def test_what_a_log_says_of_a_restart_in_place_is_made_safe() -> None:
    world = running(spec())
    world.replicas[world.live()[0].uid] = told(world.live()[0], 1, "killed\x1b[31m\u202e")
    world.look()
    assert world.stage().restarted_for.message == world.status.progress.restarted_for.message == "killed"


def test_the_gang_of_a_variant_is_restarted_as_a_whole_and_counted_by_itself() -> None:
    world = trained(spec(HEALED))
    world.look()
    first, second = world.live("healed")
    world.end(second, 1)
    decided = world.look()
    assert [(stop.stage, stop.checkpoint) for stop in decided.stop] == [("healed", False)]
    world.end(first, 143)
    assert world.look().start == (StartGang("healed", 1),)
    world.look()
    assert len(world.live("healed")) == 2
    assert (world.stage("healed").failures, world.stage().failures) == (1, 0)
    world.end(world.live("healed")[1], 0, reported=False)
    world.look()
    assert world.state("healed") == ("Running", 1), "the first goes on alone: it measures what all have trained"
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
