"""A training that stopped early succeeds, and its status says why, where, and what that saved."""

from datetime import timedelta
from typing import Any

import pytest

from builders.accounting import MIDNIGHT, book, price
from builders.plan import INT8, World, running, spec
from costopt.accounting.bill import make_bill
from costopt.plan.decide import is_final
from costopt.schema.job import JobSpec
from costopt.schema.replica import MeteredMilliseconds, Progress
from costopt.schema.status import Bill, EarlyStopped, JobStatus
from costopt.schema.usage import UsageRecord

TOLD = {
    "metric": "ValidationLoss",
    "best": "1.25",
    "bestStep": 60,
    "evaluationsWaited": 2,
    "stoppedAtStep": 80,
    "modelStep": 60,
}


def that_may_stop(*variants: dict[str, Any]) -> JobSpec:
    """A job of 100 steps with early stopping."""
    plain = spec(*variants).to_plain()
    plain["train"]["recipe"]["earlyStopping"] = {"patienceEvaluations": 2}
    return JobSpec.model_validate(plain)


def bill(*prices: tuple[str, str], productive_hours: int = 4) -> Bill:
    """Of a training by two vCPUs."""
    held = timedelta(hours=productive_hours)
    record = UsageRecord(
        uid="a",
        stage="train",
        attempt=0,
        index=0,
        resources={"cpu": "2"},
        held_from=MIDNIGHT,
        held_until=MIDNIGHT + held,
        outcome="Succeeded",
        metered=MeteredMilliseconds(productive=productive_hours * 3_600_000),
    )
    return make_bill([record], book(*(price(*each) for each in prices)))


def ended_with(told: dict[str, Any] | None, job: JobSpec, **world: Any) -> World:
    """A world whose training has just ended well, and said that of its evaluations."""
    seen = running(job)
    seen.bill = world.get("bill")
    progress = Progress.model_validate(
        {"step": 80, "totalSteps": 100, "earlyStopping": told, **world.get("progress", {})}
    )
    for each in seen.live():
        seen.end(each, 0, said={"progress": progress.to_plain()})
    seen.look()
    return seen


def stopped_in(world: World) -> EarlyStopped:
    assert world.status.early_stopped is not None
    return world.status.early_stopped


def test_a_training_that_stopped_early_succeeds_for_that_reason() -> None:
    world = ended_with(TOLD, that_may_stop(), bill=bill(("cpu", "0.04")))
    assert world.says("Succeeded") == ("True", "EarlyStopped")
    condition = world.status.condition("Succeeded")
    assert condition is not None
    assert condition.message == (
        "the model was trained until it no longer improved, 80 of 100 steps, as it was after step 60, and all its "
        "variants were made"
    )
    stopped = stopped_in(world)
    assert (stopped.metric, stopped.best, stopped.best_step, stopped.model_step) == ("ValidationLoss", "1.25", 60, 60)
    assert (stopped.stopped_at_step, stopped.total_steps, stopped.steps_saved) == (80, 100, 20)
    assert [(each.resource, each.quantity, each.list_cost) for each in stopped.hours_saved] == [
        ("cpu", "2.000000000", "0.08")  # 8 vCPU-hours x 20 / 80
    ]
    assert (stopped.list_cost_saved, stopped.currency) == ("0.08", "USD")


def test_variants_follow_and_the_reason_stays() -> None:
    world = ended_with(TOLD, that_may_stop(INT8))
    assert world.says("Succeeded") == ("Unknown", "Compressing")
    assert stopped_in(world).steps_saved == 20, "told as soon as training has ended"
    world.look()
    world.end_all(0, "int8")
    world.look()
    assert world.says("Succeeded") == ("True", "EarlyStopped")


def test_an_unknown_price_makes_an_unknown_saving_that_is_told_as_null() -> None:
    for known in (None, bill(("memory", "1"))):
        stopped = stopped_in(ended_with(TOLD, that_may_stop(), bill=known))
        assert (stopped.list_cost_saved, stopped.currency) == (None, None)
        assert stopped.to_plain()["listCostSaved"] is None
    assert JobStatus(early_stopped=stopped).to_plain()["earlyStopped"]["listCostSaved"] is None


def test_a_later_bill_gives_a_later_estimate_also_after_the_end() -> None:
    world = ended_with(TOLD, that_may_stop(), bill=bill(("cpu", "0.04")))
    assert is_final(world.status)
    world.bill = bill(("cpu", "0.04"), productive_hours=8)
    world.look()
    assert stopped_in(world).list_cost_saved == "0.16"
    assert world.says("Succeeded") == ("True", "EarlyStopped")


def test_steps_of_an_earlier_job_are_not_in_the_bill_and_not_in_its_pace() -> None:
    world = ended_with(TOLD, that_may_stop(), bill=bill(("cpu", "0.04")), progress={"resumedFromStep": 40})
    assert world.status.continues_from_step == 40
    assert stopped_in(world).list_cost_saved == "0.16"  # 8 vCPU-hours took 40 steps


@pytest.mark.parametrize(
    ("told", "may_stop"),
    [
        (None, True),
        ({**TOLD, "stoppedAtStep": None}, True),
        ({**TOLD, "stoppedAtStep": 100}, True),
        (TOLD, False),
    ],
    ids=["nothing was told", "it did not stop", "it stopped at its last step", "it was not to stop early"],
)
def test_a_training_that_did_not_stop_early_is_completed(told: dict[str, Any] | None, may_stop: bool) -> None:
    world = ended_with(told, that_may_stop() if may_stop else spec())
    assert world.says("Succeeded") == ("True", "Completed")
    assert world.status.early_stopped is None


def test_nothing_is_said_of_a_training_that_ends_otherwise() -> None:
    world = running(that_may_stop())
    for each in world.live():
        world.end(
            each, 78, said={"reason": "InvalidData", "progress": {"step": 80, "totalSteps": 100, "earlyStopping": TOLD}}
        )
    world.look()
    assert world.says("Succeeded") == ("False", "TrainingFailed")
    assert world.status.early_stopped is None
