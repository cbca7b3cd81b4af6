"""A status in which every part has its maximum size."""

from datetime import UTC, datetime

from costopt.schema.replica import Progress
from costopt.schema.status import (
    Bill,
    BillLine,
    Condition,
    EarlyStopped,
    Failure,
    JobStatus,
    SavedHours,
    StageStatus,
    Total,
)
from costopt.schema.usage import FoldedUsage, Usage, UsageRecord

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CAUSES = ("Startup", "Selecting", "Productive", "DataWait", "Checkpoint", "LostProgress", "Recovery", "Other")
STAGES = ["train", *(f"variant-{number}" for number in range(16))]


def failure(stage: str) -> Failure:
    """A failure of maximum length."""
    tail = ["é<" * 1000] * 40
    return Failure(stage=stage, attempt=3, reason="ProcessFailed", message="why<" * 750, exit_code=1, log_tail=tail)


def line(stage: str, resource: int, cause: int) -> BillLine:
    """One line of the bill: 1.5 unit-hours at 2."""
    return BillLine(
        stage=stage,
        resource=f"example.com/{'n' * 40}{resource}",
        cause=CAUSES[cause],  # type: ignore[arg-type]
        product="p" * 60,
        consumed_quantity="1.500000000",
        consumed_unit="Unit-Hours",
        list_unit_price="2",
        list_cost="3",
        price_source="s" * 256,
        price_effective_from="2026-01-01",
    )


def record(number: int) -> UsageRecord:
    """A typical record, on a node with all kept labels."""
    return UsageRecord(
        uid=f"11111111-2222-3333-4444-{number:012}",
        stage="train",
        attempt=3,
        index=number,
        resources={"cpu": "64", "memory": "549755813888", "nvidia.com/gpu": "8"},
        product="NVIDIA-H100-80GB-HBM3",
        node="gke-a-rather-long-name-of-a-node-pool-12345678-abcd",
        node_labels={f"label-{number}": "v" * 60 for number in range(10)},
        held_from=NOW,
        held_until=NOW,
        outcome="Failed",
    )


def largest_status() -> JobStatus:
    """All parts at once, each at its maximum."""
    lines = [line(stage, resource, cause) for stage in STAGES for resource in range(16) for cause in range(7)]
    sums = [
        FoldedUsage(
            stage="train", resource="cpu", cause="Other", day="2026-01-01", quantity_microseconds=str(10**30 + n)
        )
        for n in range(600)
    ]
    return JobStatus(
        conditions=[
            Condition(type=kind, status="True", reason="Why", message="long<" * 800, last_transition_time=NOW)
            for kind in ("Succeeded", "Suspended", "Stalled", "BudgetExceeded", "Priced")
        ],
        stages=[
            StageStatus(name=name, state="Failed", phase="p" * 256, failures=4, failure=failure(name))
            for name in STAGES
        ],
        early_stopped=EarlyStopped(
            metric="ValidationLoss",
            best="1.5",
            best_step=10**15,
            stopped_at_step=10**15,
            total_steps=10**15,
            steps_saved=10**15,
            hours_saved=[
                SavedHours(resource="n" * 256, quantity="9" * 60, unit="Unit-Hours", list_cost="9" * 60)
                for _ in range(64)
            ],
            list_cost_saved="9" * 60,
            currency="USD",
        ),
        progress=Progress(step=1, total_steps=2, checkpoints_passed_over="damaged " * 500),
        bill=Bill(
            currency="USD", lines=lines[:2000], by_cause=[Total(key="Other", list_cost="6000")], list_cost="6000"
        ),
        usage=Usage(records=[record(number) for number in range(256)], folded=sums),
        failure=failure("train"),
    )
