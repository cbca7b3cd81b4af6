"""When a search has paid, in money: exact, and unknown where a price is."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from builders.accounting import MIDNIGHT, book, price
from builders.plan import World, running, spec
from costopt.accounting.bill import make_bill
from costopt.accounting.payback import cost_told, hourly_cost, with_payback
from costopt.plan.billed import with_bill
from costopt.schema.status import Bill, JobStatus
from costopt.schema.usage import UsageRecord
from costopt.schema.variant_report import Measurement, Search, VariantStatus

ASKED = {"cpu": Decimal(2), "memory": Decimal(2**30)}
FOUND = {"name": "found", "auto": {"minimize": "Latency"}}


def bill_of_search(*prices: tuple[str, str], hours: int = 2, stage: str = "found", attempts: int = 1) -> Bill:
    """Of a replica of two vCPUs and a GiB that held them so long in each attempt."""
    records = [
        UsageRecord(
            uid=f"a{attempt}",
            stage=stage,
            attempt=attempt,
            index=0,
            resources={"cpu": "2", "memory": str(2**30)},
            held_from=MIDNIGHT,
            held_until=MIDNIGHT + timedelta(hours=hours),
            outcome="Succeeded",
        )
        for attempt in range(attempts)
    ]
    return make_bill(records, book(*(price(*each) for each in prices)) if prices else None)


def found(before: int = 3000, after: int = 1000) -> VariantStatus:
    def measured(latency: int) -> Measurement:
        return Measurement(
            size_bytes=1, parameters=1, nonzero_permille=1000, latency_microseconds=latency, validation_loss="1"
        )

    return VariantStatus(
        name="found",
        measured=measured(after),
        baseline=measured(before),
        size_ratio="1",
        speedup="1",
        validation_loss_increase="0",
        artifact="artifacts/found",
        reloaded=True,
        search=Search(trials=3, seconds=9, chosen="int8", payback_batches=4),
    )


def search_of(report: VariantStatus, bill: Bill | None) -> Search:
    search = with_payback(report, ASKED, bill).search
    assert search is not None
    return search


def test_a_search_is_paid_after_its_cost_over_what_a_pass_saves() -> None:
    search = search_of(found(), bill_of_search(("cpu", "0.04"), ("memory", "0.005")))
    # 2 h x (2 x 0.04 + 0.005) an hour; a pass saves 2 ms at 0.085 an hour.
    assert (search.list_cost, search.currency, search.payback_batches_by_cost) == ("0.17", "USD", 3_600_000)
    assert cost_told(search) == "search and making cost 0.17 USD, paid back in money after 3,600,000 passes"
    assert (search.payback_batches, search.trials) == (4, 3), "the rest stays"


def test_an_attempt_that_was_lost_is_paid_for_too() -> None:
    once, twice = (
        search_of(found(), bill_of_search(("cpu", "0.04"), ("memory", "0.005"), attempts=attempts))
        for attempts in (1, 2)
    )
    assert (twice.list_cost, twice.payback_batches_by_cost) == ("0.34", 2 * (once.payback_batches_by_cost or 0))


def test_what_saves_no_time_never_pays_and_says_so() -> None:
    search = search_of(found(after=3000), bill_of_search(("cpu", "0.04"), ("memory", "0.005")))
    assert (search.list_cost, search.payback_batches_by_cost) == ("0.17", None)
    assert cost_told(search) == "search and making cost 0.17 USD, which no pass pays back"


def test_without_a_price_the_cost_is_unknown_and_not_zero() -> None:
    of_another_stage = bill_of_search(("cpu", "0.04"), ("memory", "0.005"), stage="other")
    for bill in (None, bill_of_search(), bill_of_search(("cpu", "0.04")), of_another_stage):
        search = search_of(found(), bill)
        assert (search.list_cost, search.currency, search.payback_batches_by_cost) == (None, None, None)
        assert cost_told(search) == "what the search cost is not known: not all that its stage used has a price"


def test_variants_with_steps_of_their_own_have_no_search_to_pay_for() -> None:
    plain = found().model_copy(update={"search": None})
    assert with_payback(plain, ASKED, bill_of_search(("cpu", "0.04"), ("memory", "0.005"))) == plain


@given(
    before=st.integers(2, 10**7),
    saved=st.integers(1, 10**7),
    hours=st.integers(1, 10**4),
    cpu=st.decimals("0.0001", "100", places=4),
)
def test_after_the_payback_the_money_is_back_and_not_one_pass_earlier(
    before: int, saved: int, hours: int, cpu: Decimal
) -> None:
    bill = bill_of_search(("cpu", f"{cpu:f}"), ("memory", "0.005"), hours=hours)
    after = max(0, before - saved)
    search = search_of(found(before, after), bill)
    assert search.list_cost is not None
    hourly = hourly_cost(ASKED, bill.lines)
    assert hourly == 2 * cpu + Decimal("0.005")
    a_pass = Fraction(hourly) * (before - after) / 3_600_000_000
    passes = search.payback_batches_by_cost
    assert passes is not None
    assert passes * a_pass >= Fraction(search.list_cost) > (passes - 1) * a_pass


def test_the_price_of_an_hour_is_the_mean_of_several_and_unknown_where_one_is() -> None:
    lines = bill_of_search(("cpu", "0.04"), ("memory", "0.005")).lines
    cheaper = [line.model_copy(update={"list_unit_price": "0.02"}) for line in lines if line.resource == "cpu"]
    assert hourly_cost({"cpu": Decimal(1)}, [*lines, *cheaper]) == Decimal("0.03")
    assert hourly_cost({"cpu": Decimal(1), "nvidia.com/gpu": Decimal(1)}, lines) is None
    assert hourly_cost({"cpu": Decimal(1), "nvidia.com/gpu": Decimal(0)}, lines) == Decimal("0.04")


def test_the_status_of_a_job_has_it_and_a_later_bill_changes_it() -> None:
    world: World = running(spec(FOUND))
    status = JobStatus(variants=[found()])
    first = with_bill(status, bill_of_search(("cpu", "0.04"), ("memory", "0.005")), world.spec)
    later = with_bill(first, bill_of_search(("cpu", "0.04"), ("memory", "0.005"), hours=4), world.spec)
    costs = [each.variants[0].search.list_cost for each in (first, later) if each.variants[0].search]
    assert costs == ["0.17", "0.34"]
    assert with_bill(status, None, world.spec) == status
