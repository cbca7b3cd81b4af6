"""The failure a user is told: the first one, not its echo."""

from datetime import timedelta

from builders.plan import START, ended, running, spec
from costopt.plan.failures import failure_of, first_failure


def at(seconds: int) -> str:
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def test_the_earliest_failure_is_told_whatever_order_they_are_seen_in() -> None:
    early = ended(1, 1, said={"time": at(3), "message": "boom", "rank": 5, "replica_index": 1, "rank_exit_code": -11})
    late = ended(0, 1, said={"time": at(4), "message": "too"})
    found = first_failure([late, early], None)
    assert found == first_failure([early, late], None)
    assert found is not None
    assert (found.message.partition(";")[0], found.rank, found.replica_index, found.exit_code) == ("boom", 5, 1, -11)


def test_an_echo_is_told_only_when_there_is_nothing_else() -> None:
    echo = ended(0, 1, said={"time": at(1), "echo": True, "message": "connection reset"})
    cause = ended(1, -9, ended_at=START + timedelta(seconds=9))
    both = first_failure([echo, cause], None)
    assert both is not None
    assert (both.reason, both.exit_code, both.replica_index) == ("ProcessKilled", -9, 1)
    alone = first_failure([echo], None)
    assert alone is not None
    assert alone.message == "connection reset"


def test_an_echo_told_first_gives_way_to_its_cause() -> None:
    world = running(spec())
    first, second = world.live()
    world.end(first, 1, said={"echo": True, "message": "connection reset"})
    world.look()
    assert world.status.failure is not None
    assert world.status.failure.message == "connection reset"
    world.end(second, 1, said={"reason": "OutOfMemory", "message": "out of memory"})
    world.look()
    assert (world.status.failure.reason, world.stage().failures) == ("OutOfMemory", 1)


def test_an_echo_does_not_give_way_to_a_replica_that_we_stopped() -> None:
    for code in (143, -9):
        world = running(spec())
        first, second = world.live()
        world.end(first, 1, said={"echo": True, "message": "connection reset"})
        world.look()
        world.end(second, code)
        world.look()
        assert world.status.failure is not None
        assert world.status.failure.message == "connection reset"
        assert (world.stage().failures, world.stage().disruptions) == (1, 0)


def test_a_failure_is_not_overwritten_by_later_ones_of_the_same_attempt() -> None:
    world = running(spec())
    first, second = world.live()
    world.end(first, 1, said={"message": "first", "time": at(5)})
    world.look()
    world.end(second, 1, said={"message": "second", "time": at(4)})
    world.look()
    assert world.status.failure is not None
    assert world.status.failure.message == "first"


def test_the_next_attempts_failure_takes_its_place() -> None:
    world = running(spec())
    for message in ("first", "second"):
        for each in world.live():
            world.end(each, 1, said={"message": message})
        world.look()
        assert world.status.failure is not None
        assert world.status.failure.message == message


def test_what_no_restart_can_mend_is_told_before_what_came_earlier() -> None:
    world = running(spec())
    first, second = world.live()
    world.end(first, 1, said={"message": "lost a peer", "time": at(1)})
    world.end(second, 78, said={"reason": "InvalidData", "message": "the data folder is empty", "time": at(2)})
    world.look()
    assert world.status.failure is not None
    assert world.status.failure.reason == "InvalidData"
    succeeded = world.status.condition("Succeeded")
    assert succeeded is not None
    assert succeeded.message == "the data folder is empty"


def test_a_failure_is_kept_after_a_successful_restart() -> None:
    world = running(spec())
    world.end_all(1)
    world.look()
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
    assert world.status.failure is not None
    assert world.status.failure.attempt == 0


def test_a_time_that_cannot_be_read_counts_for_nothing() -> None:
    odd = ended(0, 1, said={"time": "yesterday", "message": "odd"}, ended_at=START + timedelta(seconds=2))
    early = ended(1, 1, ended_at=START + timedelta(seconds=1))
    assert first_failure([odd, early], None) == failure_of(early)


def test_a_replica_that_said_nothing_is_described() -> None:
    assert failure_of(ended(3, 2)).message == "replica 3 of train ended with exit code 2"
    assert "unseen" in failure_of(ended(3, None)).message
    assert "by the platform" in failure_of(ended(3, 137, disrupted=True)).message
    assert failure_of(ended(0, 78)).reason == "InvalidSettings"
    assert failure_of(ended(0, 137)).reason == "ProcessKilled"


def test_a_message_as_long_as_allowed_fits_the_condition() -> None:
    world = running(spec(restarts={"maxFailures": 0}))
    for each in world.live():
        world.end(each, 1, said={"message": "x" * 4096})
    world.look()
    assert world.says("Succeeded") == ("False", "TrainingFailed")
