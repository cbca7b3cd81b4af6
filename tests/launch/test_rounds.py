"""What follows when a round of a gang has failed, and where its time went."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.schema.replica import EarlierRounds, MeteredMilliseconds, TerminationMessage
from costopt_trainer.launch.rounds import RoundAccount, RoundEnd, account_of_round, after_restart, decide


def ended(code: int = 1, *, by_itself: bool = True, saved: bool = False, leaves: bool = False, **said: Any) -> RoundEnd:
    """How a replica's part ended."""
    message = TerminationMessage(exit_code=code, **({"reason": "ProcessKilled", "message": "killed"} | said))
    return RoundEnd(message=message, by_itself=by_itself, saved=saved, leaves=leaves)


ECHO = ended(echo=True, time="2026-03-01T12:00:00.000Z", message="connection lost")
CAUSE = ended(time="2026-03-01T12:00:00.500Z", rank=1, replica_index=1)
ENDED_BY_US = ended(143, by_itself=False)


def test_a_gang_of_which_a_rank_failed_begins_again_and_the_cause_is_no_echo() -> None:
    verdict = decide({0: ECHO, 1: CAUSE}, None, 0, 3)
    assert (verdict.restart, verdict.in_a_row, verdict.why) == (True, 1, "1 of 3 in a row")
    assert verdict.cause == CAUSE.message


def test_ranks_that_were_ended_for_another_ones_failure_stop_no_restart() -> None:
    assert decide({0: CAUSE, 1: ENDED_BY_US}, None, 0, 3).restart


NO_RESTART = [
    ("a launcher that does not come back is a lost replica", {0: CAUSE, 1: None}, "replica 1 did not come back"),
    ("a launcher that was told to stop leaves", {0: CAUSE, 1: ended(143, leaves=True)}, "replica 1 has ended"),
    ("78 is not retried", {0: ended(78), 1: ENDED_BY_US}, "a restart would not help"),
    (
        "what a pause might mend is left to the next attempt",
        {0: ended(reason="DataUnreachable"), 1: ENDED_BY_US},
        "its data cannot be reached just now, which the next attempt tries after a pause",
    ),
    ("an end on SIGTERM is no failure of its own", {0: ended(143), 1: ECHO}, "a restart would not help"),
]


@pytest.mark.parametrize(("ends", "why"), [case[1:] for case in NO_RESTART], ids=[case[0] for case in NO_RESTART])
def test_what_ends_the_attempt(ends: dict[int, RoundEnd | None], why: str) -> None:
    verdict = decide(ends, None, 0, 3)
    assert (verdict.restart, verdict.why) == (False, why)


def test_so_many_restarts_in_a_row_are_enough_and_a_checkpoint_begins_their_count_anew() -> None:
    assert decide({0: CAUSE}, None, 2, 3).in_a_row == 3
    spent = decide({0: CAUSE}, None, 3, 3)
    assert (spent.restart, spent.why) == (False, "3 restarts in a row have brought no checkpoint")
    saved = decide({0: ECHO, 1: ended(saved=True)}, None, 3, 3)
    assert (saved.restart, saved.in_a_row) == (True, 1)
    assert not decide({0: CAUSE}, None, 0, 0).restart


def test_a_hang_is_the_cause_whatever_its_end_looked_like() -> None:
    hang = TerminationMessage(exit_code=1, reason="Stalled", message="rank 3 has been stopped", rank=3)
    assert decide({0: ENDED_BY_US, 1: ended(-9, by_itself=False)}, hang, 0, 3).cause == hang


NOTHING = MeteredMilliseconds()
STEPS = MeteredMilliseconds(startup=1000, productive=3000, since_checkpoint=500, data_wait=50, checkpoint=200)


def test_what_no_checkpoint_holds_is_lost_with_the_time_until_the_ranks_had_ended() -> None:
    metered = account_of_round(NOTHING, RoundAccount(5000, STEPS), first=True)
    assert metered == STEPS.model_copy(update={"since_checkpoint": 0, "lost": 500 + 250})
    again = account_of_round(metered, RoundAccount(5000, STEPS), first=False)
    assert (again.startup, again.recovery, again.productive, again.lost) == (1000, 1000, 6000, 1500)


def test_a_round_that_took_no_step_has_spent_all_on_its_start() -> None:
    assert account_of_round(NOTHING, RoundAccount(700, NOTHING), first=True) == MeteredMilliseconds(startup=700)
    assert account_of_round(NOTHING, RoundAccount(700, NOTHING), first=False) == MeteredMilliseconds(recovery=700)


def test_a_failed_round_of_a_program_that_gives_no_account_is_lost_as_a_whole() -> None:
    assert account_of_round(NOTHING, RoundAccount(700, None), first=True) == MeteredMilliseconds(lost=700)


def total(metered: MeteredMilliseconds) -> int:
    """All of it."""
    return sum(metered.model_dump().values())


@given(st.lists(st.tuples(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), st.integers(0, 10**6))))
def test_the_accounts_of_any_rounds_add_up_to_the_time_they_took(rounds: list[tuple[list[int], int]]) -> None:
    metered, elapsed = NOTHING, 0
    for number, (heads, unseen) in enumerate(rounds):
        own = MeteredMilliseconds(
            startup=heads[0], productive=heads[1], since_checkpoint=heads[2], data_wait=heads[3], checkpoint=heads[4]
        )
        metered = account_of_round(metered, RoundAccount(sum(heads) + unseen, own), first=number == 0)
        elapsed += sum(heads) + unseen
    assert total(metered) == elapsed
    assert metered.since_checkpoint == 0


def test_the_next_ranks_are_told_what_became_of_those_before_them() -> None:
    told = after_restart(EarlierRounds(restarts=1), STEPS, CAUSE.message.model_copy(update={"message": "x" * 999}))
    assert (told.restarts, told.metered) == (2, STEPS)
    assert told.cause is not None
    assert (told.cause.rank, told.cause.replica_index, len(told.cause.message)) == (1, 1, 300)
