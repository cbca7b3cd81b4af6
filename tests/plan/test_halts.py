"""Stopping the whole job: by its user, its budget, its deadline."""

from datetime import timedelta
from typing import Any

import pytest

from builders.plan import INT8, START, World, bill, running, spec, trained
from costopt.accounting.outlook import MissingPrice, Outlook
from costopt.plan.budget import compare
from costopt.plan.decide import StartGang, StopGang, is_final
from costopt.schema.status import Bill

PRICED = {"budget": {"amount": "10"}, "priceBookName": "default"}


def test_a_job_suspended_from_the_first_starts_nothing() -> None:
    world = World(spec(suspend=True))
    assert world.look().start == ()
    assert world.says("Suspended") == ("True", "SuspendRequested")
    assert world.says("Succeeded") == ("Unknown", "Suspended")
    assert (world.status.execution, world.status.active_since) == (0, None)
    world.edit(suspend=False)
    assert world.look().start == (StartGang("train", 0),)
    assert world.status.execution == 1


def test_suspending_saves_stops_and_counts_as_nothing() -> None:
    world = running(spec())
    world.edit(suspend=True)
    assert world.look().stop == (StopGang("train", 0, "SuspendRequested", checkpoint=True),)
    assert world.says("Suspended") == ("False", "Stopping")
    assert world.says("Succeeded") == ("Unknown", "Suspending")
    world.passes(5)
    world.obey()
    decided = world.look()
    assert (decided.start, decided.requeue_after) == ((), None)
    assert world.says("Suspended") == ("True", "SuspendRequested")
    assert world.state() == ("Waiting", 0)
    assert (world.stage().failures, world.stage().disruptions, world.status.failure) == (0, 0, None)
    assert (world.status.active_since, world.status.active_milliseconds_before) == (None, 5000)


def test_a_resumed_job_goes_on_with_the_next_attempt_and_its_counters() -> None:
    world = running(spec())
    world.end_all(1)
    world.look()
    world.edit(suspend=True)
    world.look()
    world.obey()
    world.look()
    world.edit(suspend=False)
    world.passes(60)
    assert world.look().start == (StartGang("train", 2),)
    assert (world.status.execution, world.stage().failures) == (2, 1)
    assert world.status.active_since == START + timedelta(seconds=60)
    assert world.says("Suspended") == ("False", "NotSuspended")


@pytest.mark.parametrize("code", [143, 137, 1, -9])
def test_however_a_suspended_gang_ends_it_is_neither_failure_nor_disruption(code: int) -> None:
    world = running(spec(restarts={"maxFailures": 0, "maxDisruptions": 0}))
    world.edit(suspend=True)
    world.look()
    world.obey(code)
    world.look()
    assert world.says("Suspended") == ("True", "SuspendRequested")
    assert (world.stage().failures, world.stage().disruptions, world.status.failure) == (0, 0, None)


def test_what_no_restart_can_mend_fails_the_job_even_while_it_is_suspended() -> None:
    world = running(spec())
    world.edit(suspend=True)
    world.look()
    world.obey(78)
    world.look()
    assert world.says("Succeeded") == ("False", "TrainingFailed")


def test_training_that_ends_well_while_it_is_stopped_has_succeeded() -> None:
    world = running(spec(INT8))
    world.edit(suspend=True)
    world.look()
    world.end_all(0)
    world.look()
    assert world.state() == ("Succeeded", 0)
    assert world.says("Suspended") == ("True", "SuspendRequested")
    world.edit(suspend=False)
    assert world.look().start == (StartGang("int8", 0),)


def test_a_job_that_is_done_while_it_is_stopped_is_done() -> None:
    world = running(spec())
    world.edit(suspend=True)
    world.look()
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def test_a_gang_that_broke_before_the_job_is_suspended_is_not_given_time_to_save() -> None:
    world = running(spec())
    world.end(world.live()[0], 1)
    world.edit(suspend=True)
    assert world.look().stop == (StopGang("train", 0, "SuspendRequested", checkpoint=False),)


def test_replicas_that_have_saved_already_leave_the_others_the_time_to() -> None:
    world = running(spec())
    world.edit(suspend=True)
    world.look()
    world.end(world.live()[0], 143)
    assert world.look().stop == (StopGang("train", 0, "SuspendRequested", checkpoint=True),)


def test_a_stop_whose_reason_goes_away_is_carried_through_and_then_the_job_goes_on() -> None:
    world = running(spec())
    world.edit(suspend=True)
    world.look()
    world.edit(suspend=False)
    assert world.look().stop == (StopGang("train", 0, "SuspendRequested", checkpoint=True),)
    world.obey()
    decided = world.look()
    assert world.says("Suspended")[0] == "True"
    assert decided.requeue_after == timedelta(0)
    assert world.look().start == (StartGang("train", 1),)
    assert (world.status.execution, world.stage().failures, world.stage().disruptions) == (2, 0, 0)


def test_a_start_that_was_never_made_is_not_made_after_a_suspension() -> None:
    world = World(spec())
    world.write()
    world.edit(suspend=True)
    decided = world.look()
    assert (decided.start, decided.stop) == ((), ())
    assert world.says("Suspended") == ("True", "SuspendRequested")
    world.edit(suspend=False)
    assert world.look().start == (StartGang("train", 1),)


def test_active_time_is_summed_over_executions_and_ends_at_the_deadline() -> None:
    world = running(spec(activeDeadlineSeconds=100))
    world.passes(60)
    world.edit(suspend=True)
    world.look()
    world.obey()
    world.look()
    world.passes(10_000)
    world.edit(suspend=False)
    decided = world.look()
    assert decided.requeue_after == timedelta(seconds=40)
    world.look()
    world.passes(40)
    assert world.look().stop == (StopGang("train", 1, "DeadlineExceeded", checkpoint=True),)
    assert world.says("Succeeded") == ("Unknown", "DeadlineExceeded")
    world.obey()
    world.look()
    assert world.says("Succeeded") == ("False", "DeadlineExceeded")
    assert world.state() == ("Failed", 1)
    assert (world.stage().failures, world.stage().disruptions) == (0, 0)


def test_a_deadline_raised_in_time_lets_the_job_go_on() -> None:
    world = running(spec(activeDeadlineSeconds=100))
    world.passes(100)
    world.look()
    world.edit(activeDeadlineSeconds=1000)
    world.obey()
    world.look()
    world.look()
    assert world.state() == ("Starting", 1)
    assert not is_final(world.status)


def test_work_that_is_done_at_the_deadline_is_done() -> None:
    world = running(spec(activeDeadlineSeconds=100))
    world.passes(100)
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")


def test_a_deadline_reached_with_variants_to_make_fails_the_job() -> None:
    world = running(spec(INT8, activeDeadlineSeconds=100))
    world.passes(100)
    world.end_all(0)
    assert world.look().start == ()
    assert world.says("Succeeded") == ("False", "DeadlineExceeded")
    assert (world.state(), world.state("int8")) == (("Succeeded", 0), ("Waiting", 0))


def spent(cost: str, **changed: object) -> World:
    world = running(spec(**{**PRICED, **changed}))
    world.bill = bill(cost)
    return world


def test_a_cost_within_the_budget_is_looked_at_now_and_then() -> None:
    world = spent("10")
    decided = world.look()
    assert decided.stop == ()
    assert decided.requeue_after == timedelta(seconds=15)
    assert world.says("BudgetExceeded") == ("False", "WithinBudget")
    assert world.says("Priced") == ("True", "AllPriced")


def test_a_cost_over_the_budget_saves_and_suspends_the_job() -> None:
    world = spent("10.000000001")
    assert world.look().stop == (StopGang("train", 0, "BudgetExceeded", checkpoint=True),)
    assert world.says("BudgetExceeded") == ("True", "BudgetExceeded")
    world.obey()
    assert world.look().requeue_after is None
    assert world.says("Suspended") == ("True", "BudgetExceeded")
    assert world.says("Succeeded") == ("Unknown", "Suspended")


def test_a_larger_amount_resumes_the_job_by_itself() -> None:
    world = spent("12")
    world.look()
    world.obey()
    world.look()
    world.edit(budget={"amount": "11"})
    world.look()
    assert world.says("Suspended") == ("True", "BudgetExceeded")
    world.edit(budget={"amount": "12"})
    assert world.look().start == (StartGang("train", 1),)
    assert world.says("BudgetExceeded") == ("False", "WithinBudget")
    assert (world.stage().failures, world.stage().disruptions) == (0, 0)


def test_a_job_over_its_budget_stays_suspended_when_the_prices_are_lost() -> None:
    world = spent("12")
    world.look()
    world.obey()
    world.look()
    world.bill = bill(None, unpriced=("cpu",))
    assert world.look().start == ()
    assert world.says("Suspended") == ("True", "BudgetExceeded")
    assert world.says("BudgetExceeded") == ("Unknown", "PriceUnknown")
    world.edit(budget=None)
    assert world.look().start == (StartGang("train", 1),)
    assert world.says("BudgetExceeded") == ("", "")


def test_a_budget_may_fail_the_job_instead() -> None:
    world = spent("12", budget={"amount": "10", "onExceeded": "Fail"})
    assert world.look().stop == (StopGang("train", 0, "BudgetExceeded", checkpoint=True),)
    assert world.says("Succeeded") == ("Unknown", "BudgetExceeded")
    world.obey()
    world.look()
    assert world.says("Succeeded") == ("False", "BudgetExceeded")
    assert world.says("BudgetExceeded") == ("True", "BudgetExceeded")


def test_a_suspended_job_over_its_budget_fails_when_the_budget_says_so_later() -> None:
    world = spent("12")
    world.look()
    world.obey()
    world.look()
    world.edit(budget={"amount": "10", "onExceeded": "Fail"})
    world.look()
    assert world.says("Succeeded") == ("False", "BudgetExceeded")


def test_variants_are_not_begun_over_the_budget() -> None:
    world = trained(spec(INT8, **PRICED))
    world.replicas = {uid: each for uid, each in world.replicas.items() if each.stage == "train"}
    world.bill = bill("11")
    world.look()
    assert world.says("Suspended") == ("True", "BudgetExceeded")


def test_a_job_that_ends_over_its_budget_has_succeeded_and_says_so() -> None:
    world = spent("12")
    world.end_all(0)
    world.look()
    assert world.says("Succeeded") == ("True", "Completed")
    assert world.says("BudgetExceeded") == ("True", "BudgetExceeded")


COSTS = [
    ("a cost that is known and within", bill("9.99"), "Within"),
    ("a cost equal to the amount", bill("10.00"), "Within"),
    ("a cost above the amount", bill("10.01"), "Exceeded"),
    ("a part without a price, the rest within", bill("1", unpriced=("memory",)), "Unknown"),
    ("a part without a price, the rest above by itself", bill("11", unpriced=("memory",)), "Exceeded"),
    ("no price book", bill(None, unpriced=("cpu",)), "Unknown"),
    ("no bill yet", None, "Unknown"),
]


@pytest.mark.parametrize(("so_far", "verdict"), [case[1:] for case in COSTS], ids=[case[0] for case in COSTS])
def test_where_a_cost_stands_against_its_budget(so_far: object, verdict: str) -> None:
    spending = compare(spec(**PRICED), so_far)  # type: ignore[arg-type]
    assert spending is not None
    assert spending.verdict == verdict


H100 = MissingPrice("nvidia.com/gpu", "NVIDIA-H100", "Spot")

UNPRICED = [
    ("no price book", bill(None, unpriced=("cpu",)), None, "the price book default was not found"),
    ("a book that is gone", bill("1"), Outlook(False), "the price book default was not found"),
    ("a bill alone", bill("1", unpriced=("memory",)), None, "memory has no price; add a price to default"),
    (
        "what is used",
        bill("1", unpriced=("nvidia.com/gpu",)),
        Outlook(True, (H100,)),
        "nvidia.com/gpu (product NVIDIA-H100, capacityType Spot) has no price; add a price to default",
    ),
    ("what is asked for", bill("0"), Outlook(True, (MissingPrice("a/b"),)), "a/b has no price"),
    (
        "much",
        bill("0"),
        Outlook(True, tuple(MissingPrice(f"a/b{number}") for number in range(40))),
        "a/b0, a/b1, a/b2 and 37 more have no price; add prices to default",
    ),
]


@pytest.mark.parametrize(
    ("so_far", "ahead", "told"), [case[1:] for case in UNPRICED], ids=[case[0] for case in UNPRICED]
)
def test_what_has_no_price_suspends_a_job_with_a_budget_which_says_what_would_be_right(
    so_far: Bill, ahead: Outlook | None, told: str
) -> None:
    world = World(spec(**PRICED))
    world.bill, world.outlook = so_far, ahead
    assert world.look().start == ()
    assert world.says("Suspended") == ("True", "PriceUnknown")
    assert world.says("BudgetExceeded") == ("Unknown", "PriceUnknown")
    condition = world.status.condition("Suspended")
    assert condition is not None
    assert told in condition.message
    assert condition.message.endswith("or set budget.onUnknownPrice to Continue")
    assert len(condition.message) < 1000


def test_a_job_whose_price_comes_goes_on_by_itself_and_what_it_used_before_counts() -> None:
    world = running(spec(**PRICED))
    world.bill, world.outlook = bill("1", unpriced=("nvidia.com/gpu",)), Outlook(True, (H100,))
    stop = world.look().stop
    assert stop == (StopGang("train", 0, "PriceUnknown", checkpoint=True),)
    world.obey()
    decided = world.look()
    assert world.says("Suspended") == ("True", "PriceUnknown")
    assert decided.requeue_after == timedelta(hours=1)
    world.outlook = Outlook(True, (), "9.5")
    world.look()
    assert world.says("Suspended") == ("True", "BudgetExceeded")
    world.outlook = Outlook(True, (), "8.5")
    assert world.look().start == (StartGang("train", 1),)
    assert (world.stage().failures, world.stage().disruptions) == (0, 0)


def test_a_job_may_go_on_without_prices_if_its_budget_says_so() -> None:
    world = running(spec(**PRICED))
    world.edit(budget={"amount": "10", "onUnknownPrice": "Continue"})
    world.bill, world.outlook = bill("1", unpriced=("nvidia.com/gpu",)), Outlook(True, (H100,))
    assert world.look().stop == ()
    assert world.says("BudgetExceeded") == ("Unknown", "PriceUnknown")
    world.bill = bill("10.01", unpriced=("nvidia.com/gpu",))
    assert [stop.reason for stop in world.look().stop] == ["BudgetExceeded"]


@pytest.mark.parametrize(
    ("reason", "most"),
    [("BudgetExceeded", 600), ("PriceUnknown", 600), ("DeadlineExceeded", 600), ("SuspendRequested", None)],
)
def test_only_a_stop_for_a_limit_has_a_limit_to_its_grace(reason: Any, most: int | None) -> None:
    assert StopGang("train", 0, reason, checkpoint=True).most_grace_seconds == most


def test_what_has_no_price_is_named() -> None:
    world = running(spec(priceBookName="default"))
    assert world.says("Priced") == ("Unknown", "NoBill")
    world.bill = bill("1", unpriced=("memory", "nvidia.com/gpu"))
    world.look()
    priced = world.status.condition("Priced")
    assert priced is not None
    assert (priced.status, priced.reason) == ("False", "PriceUnknown")
    assert "memory, nvidia.com/gpu" in priced.message
    world.bill = bill(None, unpriced=("memory",))
    world.look()
    assert world.says("Priced") == ("False", "NoPriceBook")
