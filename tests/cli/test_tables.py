"""However narrow the terminal: every figure is there as a whole."""

import io
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

import costopt.cli
from costopt.accounting.bill import make_bill
from costopt.cli.live import TerminalView
from costopt.cli.safe_console import SafeConsole
from costopt.cli.status import jobs_table
from costopt.cli.tables import table
from costopt.cli.variants import variants_table
from costopt.cli.views import bill_views, failure_text, local_place, progress_text, stages_table
from costopt.cluster.jobs import ClusterJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import Progress
from costopt.schema.status import Failure, JobStatus, StageStatus
from costopt.schema.usage import UsageRecord
from costopt.schema.variant_report import Measurement, VariantStatus

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
WIDTHS = st.integers(20, 200)
NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True)
COUNTS = st.integers(0, 10**15)
PRICES = st.decimals("0.000000001", "999999999", places=9)


def book(prices: dict[str, Decimal]) -> PriceBook:
    units = {"cpu": "vCPU-Hours", "memory": "GiB-Hours"}
    rows = [
        {"resource": resource, "unit": units[resource], "listUnitPrice": f"{price:f}", "effectiveFrom": "2020-01-01"}
        | {"source": "a list of prices"}
        for resource, price in prices.items()
    ]
    spec = {"currency": "USD", "prices": rows}
    plain = {"apiVersion": "costopt.dev/v1alpha1", "kind": "PriceBook", "metadata": {"name": "sample"}, "spec": spec}
    return PriceBook.model_validate(plain)


@st.composite
def statuses(draw: st.DrawFn) -> JobStatus:
    """Statuses with a bill, variants, stages, progress and a failure, with figures of any size."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    records = [
        UsageRecord(
            uid=name,
            stage=name,
            attempt=0,
            index=0,
            resources={"cpu": str(draw(st.integers(1, 10**6))), "memory": str(draw(st.integers(1, 10**15)))},
            held_from=NOON,
            held_until=NOON + timedelta(microseconds=draw(st.integers(1, 10**13))),
            outcome="Succeeded",
        )
        for name in names
    ]
    prices = draw(st.dictionaries(st.sampled_from(["cpu", "memory"]), PRICES, min_size=1))

    def measured() -> Measurement:
        return Measurement(
            size_bytes=draw(st.integers(1, 10**15)),
            parameters=draw(COUNTS),
            nonzero_permille=draw(st.integers(0, 1000)),
            latency_microseconds=draw(COUNTS),
            validation_loss=f"{draw(PRICES):f}",
            engine="TorchEager",
        )

    variants = [
        VariantStatus(
            name=name,
            measured=measured(),
            baseline=measured(),
            size_ratio="123456.7",
            speedup="0.01",
            validation_loss_increase=f"-{draw(PRICES):f}",
            artifact="a",
            reloaded=True,
        )
        for name in names
    ]
    stages = [
        StageStatus(
            name=name,
            state="Running",
            attempt=draw(COUNTS),
            failures=draw(COUNTS),
            disruptions=draw(COUNTS),
            phase="tokenizing 40 %",
        )
        for name in ("train", *names)
    ]
    failure = Failure(stage=names[0], attempt=draw(COUNTS), reason="OutOfMemory", message="its limit is 123456Mi")
    return JobStatus(
        start_time=NOON,
        bill=make_bill(records, book(prices)),
        variants=variants,
        stages=stages,
        progress=Progress(
            step=draw(COUNTS), total_steps=10**15, loss=f"{draw(PRICES):f}", tokens_per_second=draw(COUNTS)
        ),
        failure=failure,
    )


def job_of(status: JobStatus) -> ClusterJob:
    metadata = {"name": "a-job", "namespace": "team-1", "uid": "1", "creationTimestamp": "2026-03-04T12:00:00Z"}
    return ClusterJob({"metadata": metadata, "spec": {}, "status": status.to_plain()})


def views_of(status: JobStatus) -> dict[str, list[RenderableType]]:
    """Everything that the commands print about a job, by what prints it."""
    assert status.bill is not None
    assert status.progress is not None
    assert status.failure is not None
    jobs = [job_of(status)]
    return {
        "bill": bill_views(status.bill),
        "variants": [variants_table(status.variants)],
        "stages": [stages_table(status)],
        "jobs": [jobs_table(jobs, "Jobs", NOON + timedelta(days=12345), everywhere=True)],
        "progress": [progress_text(status.progress)],
        "failure": [failure_text(status.failure, local_place("runs/tiny"))],
    }


def printed(views: list[RenderableType], width: int) -> str:
    stream = io.StringIO()
    out = SafeConsole(file=stream, width=width, highlight=False, color_system=None)
    for view in views:
        out.print(view, markup=False)
    return stream.getvalue()


def figures(text: str) -> Counter[str]:
    return Counter(word for word in text.split() if re.search(r"[0-9]", word))


@given(statuses(), WIDTHS)
def test_every_figure_is_whole_at_every_width(status: JobStatus, width: int) -> None:
    for name, views in views_of(status).items():
        wide, narrow = figures(printed(views, 5000)), figures(printed(views, width))
        assert wide, name
        assert not wide - narrow, (name, printed(views, width))


@given(statuses(), WIDTHS)
def test_the_bills_own_figures_are_in_what_is_printed(status: JobStatus, width: int) -> None:
    assert status.bill is not None
    text = printed(bill_views(status.bill), width).split()
    shown = {Decimal(word) for word in text if re.fullmatch(r"[0-9]+(\.[0-9]+)?", word)}
    for line in status.bill.lines:
        assert Decimal(line.consumed_quantity) in shown
        if line.list_cost is not None:
            assert {Decimal(line.list_cost), Decimal(line.list_unit_price or "nan")} <= shown


def test_a_cost_of_more_digits_than_decimals_usually_have_is_shown_to_the_last_one() -> None:
    record = UsageRecord(
        uid="a",
        stage="train",
        attempt=0,
        index=0,
        resources={"cpu": "1123458"},
        held_from=NOON,
        held_until=NOON + timedelta(microseconds=3600000002),
        outcome="Succeeded",
    )
    bill = make_bill([record], book({"cpu": Decimal("999999999.999999999")}))
    cost = bill.lines[0].list_cost
    assert cost is not None
    assert len(cost) > 30
    assert printed(bill_views(bill), 200).count(cost) == 3, "of its line, of all lines, of its cause"


@given(statuses(), WIDTHS)
def test_the_panel_folds_and_crops_nothing(status: JobStatus, width: int) -> None:
    view = TerminalView(io.StringIO(), status)
    view.close()
    out = SafeConsole(file=io.StringIO(), width=width, highlight=False, color_system=None)
    lines = out.render_lines(view._panel(status, NOON), pad=False)
    text = "".join("".join(segment.text for segment in line).rstrip() for line in lines)
    assert status.progress is not None
    assert f"{status.progress.step}/{status.progress.total_steps}" in text.replace(" ", "")


@given(st.lists(st.tuples(st.text(max_size=40), COUNTS, COUNTS), min_size=1, max_size=4), WIDTHS)
def test_no_text_however_odd_pushes_a_figure_out(rows: list[tuple[str, int, int]], width: int) -> None:
    drawn = table("Title", ("name", "a", "b"), [(name, f"{first:,}", str(second)) for name, first, second in rows])
    words = printed([drawn], width).split()
    for _, first, second in rows:
        assert {f"{first:,}", str(second)} <= set(words)


def test_a_wide_terminal_shows_rows_and_a_narrow_one_names_and_values() -> None:
    drawn = table("Bill", ("stage", "hours", "cost"), [("train", "0.5", "1617321.096"), ("total", "", "1617321.096")])
    assert [line.rstrip() for line in printed([drawn], 40).splitlines()] == [
        "Bill",
        "",
        " stage  hours         cost",
        " ─────────────────────────",
        " train    0.5  1617321.096",
        " total         1617321.096",
        "",
    ]
    assert printed([drawn], 20).split("\n") == [
        "Bill",
        "",
        "stage: train",
        "hours: 0.5",
        "cost: 1617321.096",
        "",
        "stage: total",
        "cost: 1617321.096",
        "",
        "",
    ]


def test_only_one_module_draws_tables() -> None:
    folder = Path(costopt.cli.__file__).parent
    drawing = {path.name for path in folder.glob("*.py") if re.search(r"rich\.(table|columns)", path.read_text())}
    assert drawing == {"tables.py"}
