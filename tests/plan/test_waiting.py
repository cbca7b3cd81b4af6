"""Replicas that do not run yet: what is said of them, and how long they may take."""

from datetime import timedelta

import pytest

from builders.plan import INT8, PRUNED, World, checked_plan, running, spec, trained
from costopt.plan.decide import StartGang, StopGang

IN_TIME = {"restarts": {"startTimeoutSeconds": 60}}


def waiting(world: World, reason: str = "a node") -> World:
    """All replicas turn out to wait."""
    for each in world.live():
        world.waits(each, reason)
    world.look()
    return world


def test_a_gang_that_waits_says_what_for() -> None:
    world = waiting(running(spec()))
    world.passes(10)
    world.look()
    assert world.says("Succeeded") == ("Unknown", "Pending")
    condition = world.status.condition("Succeeded")
    assert condition is not None
    assert condition.message == "training, attempt 0, waits for: a node"


def test_a_gang_waits_until_its_last_replica_runs_and_says_the_same_meanwhile() -> None:
    world = waiting(running(spec()))
    world.passes(10)
    world.look()
    before = world.status
    world.runs(world.live()[0])
    world.passes(100)
    assert world.look().status == before
    world.runs(world.live()[1])
    world.look()
    assert world.says("Succeeded") == ("Unknown", "Training")


def test_replicas_that_wait_for_different_things_tell_all_of_them() -> None:
    world = running(spec())
    world.waits(world.live()[0], "its image")
    world.waits(world.live()[1], "a node")
    world.passes(10)
    world.look()
    condition = world.status.condition("Succeeded")
    assert condition is not None
    assert condition.message.endswith("waits for: a node; its image")


def test_a_gang_that_starts_soon_causes_no_word_about_it() -> None:
    world = waiting(running(spec()))
    before = world.status
    world.passes(9)
    decided = world.look()
    assert (decided.status, decided.requeue_after) == (before, timedelta(seconds=1))
    for each in world.live():
        world.runs(each)
    world.passes(1)
    assert world.look().status == before


def test_without_a_start_timeout_a_gang_may_wait_for_ever() -> None:
    world = waiting(running(spec()))
    world.passes(10**8)
    decided = world.look()
    assert (decided.stop, decided.requeue_after) == ((), None)


def test_a_gang_that_does_not_start_in_time_ends_the_job_and_is_not_tried_again() -> None:
    world = waiting(running(spec(**IN_TIME)))
    world.passes(20)
    assert world.look().requeue_after == timedelta(seconds=40)
    world.passes(40)
    decided = world.look()
    assert decided.stop == (StopGang("train", 0, "NotStarted", checkpoint=False),)
    assert world.says("Stalled") == ("False", "Active")
    world.obey(143)
    assert world.look().start == ()
    assert world.state() == ("Failed", 0)
    assert (world.stage().failures, world.stage().disruptions) == (1, 0)
    assert world.says("Succeeded") == ("False", "NotStarted")
    assert world.status.failure is not None
    assert world.status.failure == world.stage().failure
    assert world.status.failure.message == (
        "not all replicas of train ran within startTimeoutSeconds (60 s); they waited for: a node"
    )


def test_a_gang_that_vanishes_while_it_is_stopped_for_not_starting_is_not_tried_again() -> None:
    world = waiting(running(spec(**IN_TIME)))
    world.passes(60)
    world.look()
    world.replicas.clear()
    assert world.look().start == ()
    assert world.says("Succeeded") == ("False", "NotStarted")


def test_one_replica_without_a_place_is_enough() -> None:
    world = running(spec(**IN_TIME))
    world.waits(world.live()[1])
    world.passes(59)
    assert world.look().stop == ()
    world.passes(1)
    assert world.look().stop == (StopGang("train", 0, "NotStarted", checkpoint=False),)


def test_a_gang_that_starts_at_the_last_moment_goes_on() -> None:
    world = waiting(running(spec(**IN_TIME)))
    world.passes(59)
    for each in world.live():
        world.runs(each)
    world.passes(100)
    assert world.look().stop == ()
    assert world.says("Succeeded") == ("Unknown", "Training")


def test_time_in_a_queue_does_not_count() -> None:
    world = running(spec(**IN_TIME))
    for each in world.live():
        world.waits(each, "admission by its queue", admitted=False)
    world.passes(10**6)
    decided = world.look()
    assert (decided.stop, decided.requeue_after) == ((), None)
    assert world.says("Succeeded") == ("Unknown", "Pending")


def test_each_attempt_has_its_own_time_to_start() -> None:
    world = waiting(running(spec(**IN_TIME)))
    world.passes(50)
    world.end_all(143)
    assert world.look().start == (StartGang("train", 1),)
    waiting(world)
    world.passes(59)
    assert world.look().stop == ()


def test_suspending_a_gang_that_waits_is_no_failure() -> None:
    world = waiting(running(spec(**IN_TIME)))
    world.edit(suspend=True)
    world.passes(100)
    assert world.look().stop == (StopGang("train", 0, "SuspendRequested", checkpoint=True),)
    world.obey()
    world.look()
    assert world.says("Suspended") == ("True", "SuspendRequested")
    assert world.status.failure is None


def test_variants_that_do_not_start_together_both_fail_without_another_try() -> None:
    world = waiting(trained(spec(INT8, PRUNED, **IN_TIME)))
    world.passes(60)
    world.look()
    world.obey(143)
    world.look()
    assert world.state("int8") == world.state("pruned") == ("Failed", 0)
    assert world.says("Succeeded") == ("False", "VariantFailed")


def test_variants_that_break_together_each_remember_why() -> None:
    world = trained(
        spec(INT8, PRUNED, restarts={"stallTimeoutSeconds": 60, "maxFailures": 0, "startTimeoutSeconds": 30})
    )
    world.waits(world.live("pruned")[0])
    world.passes(60)
    world.look()
    world.obey(143)
    world.look()
    reasons = {stage.name: stage.failure and stage.failure.reason for stage in world.status.stages}
    assert reasons == {"train": None, "int8": "Stalled", "pruned": "NotStarted"}


def test_a_failure_is_forgotten_by_its_stage_with_the_next_attempt_and_kept_by_the_job() -> None:
    world = running(spec())
    world.end(world.live()[0], 1)
    world.look()
    assert world.stage().failure == world.status.failure
    world.obey()
    world.look()
    assert (world.state(), world.stage().failure) == (("Starting", 1), None)
    assert world.status.failure is not None


@pytest.mark.parametrize("admitted", [1, 2])
def test_a_gang_that_was_admitted_in_part_is_done_when_that_part_is(admitted: int) -> None:
    world = World(spec(numNodes=2))
    world.look()
    world.gang_sizes = {("train", 0): admitted}
    if admitted == 1:
        del world.replicas["train-a0-1"]
    world.look()
    world.end_all(0)
    checked_plan(world.observe(), world.now)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def test_a_gang_that_waits_in_vain_ends_the_job_at_once() -> None:
    world = running(spec())
    for each in world.live():
        world.waits(each, 'a valid image name; "a b" is none', in_vain=True)
    assert world.look().stop == (StopGang("train", 0, "NotStarted", checkpoint=False),)
    world.obey()
    world.look()
    assert world.says("Succeeded") == ("False", "NotStarted")
    assert world.status.failure is not None
    assert 'they wait for a valid image name; "a b" is none' in world.status.failure.message
