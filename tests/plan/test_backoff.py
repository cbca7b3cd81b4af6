"""Pauses between attempts that are lost one soon after the other."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.plan import INT8, START, World, bill, running, spec, trained
from costopt.plan.backoff import LONG, pause, starts_in
from costopt.plan.decide import Plan, is_suspended
from costopt.schema.job import Restarts

JOBS = [f"job-{number}" for number in range(200)]


def pauses(code: int, times: int, **restarts: int) -> list[float]:
    """Seconds from the end of an attempt to the start of the next, for so many attempts that end at once."""
    world = running(spec(restarts={"maxFailures": 1000, "maxDisruptions": 1000, **restarts}))
    found = []
    for _ in range(times):
        world.end_all(code)
        found.append(waited(world))
        world.look()
    return found


def waited(world: World) -> float:
    """Seconds until the world's next attempt starts, which they pass."""
    began, decided = world.now, world.look()
    while not decided.start:
        assert decided.requeue_after is not None
        world.passes(decided.requeue_after.total_seconds())
        decided = world.look()
    return (world.now - began).total_seconds()


def test_each_failure_in_a_row_is_followed_by_a_longer_pause_up_to_a_limit() -> None:
    found = pauses(1, 10, backoffSeconds=2, maxBackoffSeconds=300)
    longest = [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert all(most / 2 <= seconds <= most for seconds, most in zip(found, longest, strict=True)), found


def test_the_first_disruption_costs_no_pause() -> None:
    first, *others = pauses(143, 6, backoffSeconds=2)
    assert first == 0
    assert all(most / 2 <= seconds <= most for seconds, most in zip(others, [2, 4, 8, 16, 32], strict=True)), others


def test_a_node_that_rejects_every_pod_at_once_does_not_use_up_all_disruptions_within_minutes() -> None:
    assert sum(pauses(143, 20, backoffSeconds=Restarts().backoff_seconds)) > 1800


def test_zero_restarts_at_once() -> None:
    assert pauses(1, 5, backoffSeconds=0) == [0] * 5
    assert pauses(143, 5, backoffSeconds=0) == [0] * 5


def test_an_attempt_that_ran_for_long_begins_the_row_anew() -> None:
    world = running(spec(restarts={"maxFailures": 1000, "backoffSeconds": 2}))
    for _ in range(6):
        world.end_all(1)
        waited(world)
        world.look()
    world.passes(LONG.total_seconds())
    world.end_all(1)
    assert waited(world) <= 2
    assert world.stage().losses_in_a_row == 1


def paused() -> tuple[World, Plan]:
    """A world whose second attempt waits for about a minute."""
    world = running(spec(restarts={"backoffSeconds": 100}, activeDeadlineSeconds=10_000))
    world.end_all(1)
    decided = world.look()
    assert not decided.start
    return world, decided


def test_the_status_says_when_the_next_attempt_starts_and_the_same_while_it_waits() -> None:
    world, _ = paused()
    until = world.stage().attempt_start_time
    assert until is not None
    said = f"attempt 1 starts after a pause, at {until:%Y-%m-%d %H:%M:%S} UTC"
    for _ in range(4):
        assert world.says("Succeeded") == ("Unknown", "BackingOff")
        condition = world.status.condition("Succeeded")
        assert condition is not None
        assert said in condition.message
        assert world.stage().phase == said
        world.passes(10)
        world.look()
    world.now = until
    assert [start.attempt for start in world.look().start] == [1]
    world.look()
    assert (world.says("Succeeded")[1], world.stage().phase) == ("Training", None)


def test_a_job_is_suspended_during_a_pause_and_resumed_without_one() -> None:
    world, _ = paused()
    world.edit(suspend=True)
    world.look()
    assert is_suspended(world.status)
    world.edit(suspend=False)
    assert world.look().start
    assert world.stage().losses_in_a_row == 0


def test_a_deadline_ends_a_job_during_a_pause() -> None:
    world, decided = paused()
    world.edit(activeDeadlineSeconds=10)
    world.passes(10)
    world.look()
    assert world.says("Succeeded") == ("False", "DeadlineExceeded")
    assert decided.requeue_after is not None


def test_a_budget_is_kept_during_a_pause() -> None:
    world = running(spec(restarts={"backoffSeconds": 100}, budget={"amount": "1"}, priceBookName="default"))
    world.end_all(1)
    world.look()
    world.bill = bill("2")
    world.look()
    assert world.says("Suspended") == ("True", "BudgetExceeded")


def test_a_clock_that_was_set_back_makes_no_pause_longer_than_the_limit() -> None:
    world, _ = paused()
    world.passes(-3600)
    assert world.look().start


def test_a_variant_waits_too_and_says_so() -> None:
    world = trained(spec(INT8, restarts={"backoffSeconds": 10}))
    world.look()
    world.end_all(1)
    assert not world.look().start
    assert "starts after a pause" in (world.stage("int8").phase or "")
    assert 5 <= waited(world) <= 10


@given(st.integers(0, 3600), st.integers(0, 86400), st.integers(1, 10**6), st.booleans(), st.sampled_from(JOBS))
def test_a_pause_is_within_its_limits_and_always_the_same(
    base: int, most: int, losses: int, disrupted: bool, job: str
) -> None:
    limits = Restarts(backoff_seconds=base, max_backoff_seconds=most)
    found = pause(limits, losses, disrupted=disrupted, spread_by=job)
    assert timedelta(0) <= found <= timedelta(seconds=most)
    assert found == pause(limits, losses, disrupted=disrupted, spread_by=job)
    longer = pause(limits, losses + 1, disrupted=disrupted, spread_by=job)
    assert longer >= found


@pytest.mark.parametrize("losses", [1, 4, 30])
def test_jobs_that_are_lost_together_come_back_at_different_moments(losses: int) -> None:
    limits = Restarts(backoff_seconds=60)
    found = {pause(limits, losses, disrupted=False, spread_by=job) for job in JOBS}
    assert len(found) > len(JOBS) / 2
    assert max(found) - min(found) > 0.4 * max(found)


def test_a_stage_that_has_not_begun_waits_for_nothing() -> None:
    world = running(spec())
    assert starts_in(world.stage(), world.spec.restarts, START) == timedelta(0)
