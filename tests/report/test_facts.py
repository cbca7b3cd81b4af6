"""What a report tells of a job: figures of its bill, its variants, and what was wasted."""

from decimal import Decimal

import pytest

from builders.accounting import MIDNIGHT, book, price
from builders.artifacts import measured, variant_report
from builders.report import LATER, points, spec, status, stopped_early
from costopt.report.facts import Facts, facts_of, hours, money
from costopt.report.waste import wasted
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus


def facts(found: JobStatus, **how: object) -> Facts:
    return facts_of("tiny", found, how.get("spec", spec()), how.get("points", points()), LATER)  # type: ignore[arg-type]


def test_the_head_says_how_it_ended_how_long_it_took_and_what_it_cost() -> None:
    told = facts(status())
    assert told.state == "Succeeded"
    summary = dict(told.summary)
    assert summary["Ended"] == "3 h 0 min"
    assert summary["Variants"] == "2 accepted, 1 rejected"
    bill = status().bill
    assert bill is not None
    assert summary["Cost"] == f"{money(Decimal(bill.list_cost or 0))} USD"
    assert told.failure == "OutOfMemory: the kernel ended it"


def test_hours_and_money_by_cause_add_up_to_those_of_the_bill() -> None:
    told, bill = facts(status()), status().bill
    assert bill is not None
    cpu = sum(float(line.consumed_quantity) for line in bill.lines if line.resource == "cpu")
    assert sum(bar.hours for bar in told.causes) == pytest.approx(cpu)
    assert sum(bar.cost or 0 for bar in told.causes) == pytest.approx(float(bill.list_cost or 0))
    assert {bar.cause for bar in told.causes if bar.is_wasted} == {"lost progress", "recovery", "data wait", "other"}
    assert told.hours_unit == "vCPU-Hours"


def test_gpu_hours_are_told_where_there_are_gpus() -> None:
    lines = status().bill.lines  # type: ignore[union-attr]
    gpu = lines[0].model_copy(update={"resource": "nvidia.com/gpu", "consumed_unit": "GPU-Hours"})
    bill = status().bill.model_copy(update={"lines": [gpu, *lines]})  # type: ignore[union-attr]
    assert facts(status(bill=bill)).hours_unit == "GPU-Hours"


def test_an_evaluation_is_one_point_however_often_it_is_told() -> None:
    told = facts(status()).curves
    assert [step for step, _ in told.validation] == [50, 100, 150, 200, 250, 300, 350, 400]
    assert len(told.losses) == len(told.rates) == 400


def test_a_loss_that_no_drawing_can_show_is_left_out() -> None:
    told = facts(
        status(), points=[Progress(step=1, total_steps=2, loss="1e999"), Progress(step=2, total_steps=2, loss="3")]
    )
    assert told.curves.losses == [(2.0, 3.0)]


def test_models_are_shown_by_latency_size_and_cost_beside_the_one_they_are_made_of() -> None:
    latency, size, cost = facts(status()).scatters
    assert [(mark.name, mark.kind) for mark in latency.marks] == [
        ("model", "Model"),
        ("int8", "Accepted"),
        ("thin", "Rejected"),
        ("half", "Accepted"),
    ]
    assert [mark.x for mark in latency.marks] == [1.0, 0.7, 1.9, 0.65]
    assert [mark.x for mark in size.marks] == [4.0, 1.0, 0.7, 2.1]
    # 2 vCPU at 0.04 and 4 GiB at 0.005 an hour; a pass of the model takes 1 ms.
    hourly = 2 * 0.04 + 4 * 0.005
    assert cost.marks[0].x == pytest.approx(hourly / 3600 * 0.001 * 1e6)
    assert cost.marks[1].x == pytest.approx(0.7 * cost.marks[0].x)
    assert [mark.quality for mark in cost.marks] == [2.0, 2.01, 2.3, 2.05]


@pytest.mark.parametrize("missing", ["spec", "price"])
def test_a_cost_that_is_not_known_is_no_mark_but_a_sentence(missing: str) -> None:
    found = status(book(price("cpu", "0.04"))) if missing == "price" else status()
    cost = facts(found, **({"spec": None} if missing == "spec" else {})).scatters[2]
    assert cost.marks == []
    assert "no price of its resources is known" in cost.note
    if missing == "price":
        assert any("No price is known for memory" in note for note in facts(found).notes)
        assert all(bar.cost is None for bar in facts(found).causes)


def test_classifiers_are_compared_by_accuracy() -> None:
    both = {
        "measured": measured(1000, 500, "0.3", validation_accuracy_permille=912),
        "baseline": measured(4000, 1000, "0.2", validation_accuracy_permille=934),
    }
    told = facts(status(variants=[variant_report(**both)]))
    assert (told.quality_title, told.high_is_good) == ("accuracy, %", True)
    assert [mark.quality for mark in told.scatters[0].marks] == [93.4, 91.2]
    assert (told.variants[0].quality, told.variants[0].change) == ("91.2%", "-2.2")


def test_what_was_wasted_is_told_with_its_reasons_and_no_hour_twice() -> None:
    rows = {row.what: row for row in wasted(status(), "cpu")}
    assert set(rows) == {"lost progress", "recovery", "data wait", "other", "variant thin"}
    assert "train: 1 failed (OutOfMemory 1), 2 lost to the platform" in rows["lost progress"].why
    assert rows["variant thin"].why == ("Rejected: it is 0.5x as fast as the model, and must be at least 0.9x.")
    lines = status().bill.lines  # type: ignore[union-attr]
    kept = ("Startup", "Productive", "Checkpoint")
    of_use = sum(float(line.list_cost or 0) for line in lines if line.cause in kept and line.stage != "thin")
    assert sum(float(row.cost or 0) for row in rows.values()) == pytest.approx(
        float(status().bill.list_cost or 0) - of_use
    )  # type: ignore[union-attr]
    costs = [row.cost for row in wasted(status(), "cpu")]
    assert costs == sorted(costs, reverse=True)  # type: ignore[type-var]


def test_a_training_that_ended_early_says_what_that_saved() -> None:
    told = facts(status(early_stopped=stopped_early())).saved
    assert "ended at step 400 of 1,000" in told
    assert "saved 600 steps and 0.1200 USD." in told


def test_what_was_left_out_of_the_data_and_what_that_saved_is_in_the_head() -> None:
    progress = Progress(step=9, total_steps=9, bad_samples="1 of 9 samples are bad", data_saved="Filter dropped 1 of 8")
    assert [value for name, value in facts(status(progress=progress)).summary if name == "Data"] == [
        "1 of 9 samples are bad",
        "Filter dropped 1 of 8",
    ]


def test_of_a_job_that_has_only_begun_nothing_is_made_up() -> None:
    told = facts_of("tiny", JobStatus(), None, [], MIDNIGHT)
    assert told.state == "New"
    assert dict(told.summary) == {"Cost": "unknown"}
    assert (told.causes, told.scatters, told.variants, told.wasted, told.notes) == ([], [], [], [], [])


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "unknown"),
        ("0", "0"),
        ("1234.567", "1234.57"),
        ("0.5", "0.5000"),
        ("0.000123", "0.000123"),
        ("1e-9", "1.0e-9"),
    ],
)
def test_money_is_shown_in_few_digits_and_never_as_nothing(amount: str | None, shown: str) -> None:
    assert money(None if amount is None else Decimal(amount)) == shown


def test_hours_are_shown_in_few_digits() -> None:
    assert [hours(Decimal(text)) for text in ("0.012345", "1.5", "12345.6")] == ["0.0123", "1.5", "12,346"]
