"""A job with everything that a report tells of."""

import math
from datetime import timedelta
from typing import Any

from builders.accounting import MIDNIGHT, book, record
from builders.artifacts import measured, slower, variant_report
from builders.local import RECIPE
from costopt.accounting.bill import make_bill
from costopt.schema.job import JobSpec
from costopt.schema.prices import PriceBook
from costopt.schema.replica import MeteredMilliseconds, Progress
from costopt.schema.status import Condition, EarlyStopped, Failure, JobStatus, StageStatus
from costopt.schema.usage import UsageRecord

HOUR = 3_600_000
LATER = MIDNIGHT + timedelta(hours=3)
ATTACK = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(2)>{{ 7*7 }}"


def spec() -> JobSpec:
    node = {"requests": {"cpu": 2, "memory": "4Gi"}}
    return JobSpec.model_validate(
        {
            "train": {"resourcesPerNode": node, "recipe": RECIPE},
            "compress": [
                {"name": name, "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
                for name in ("int8", "thin", "half")
            ],
        }
    )


def records() -> list[UsageRecord]:
    """A training that lost an attempt, and three variants."""
    lost = MeteredMilliseconds(
        startup=HOUR // 10, productive=HOUR // 2, since_checkpoint=HOUR // 4, data_wait=HOUR // 20
    )
    whole = MeteredMilliseconds(startup=HOUR // 10, productive=HOUR, checkpoint=HOUR // 20)
    variants = [record(name, stage=name, seconds=360, has_meter=False) for name in ("int8", "thin", "half")]
    return [
        record("a", metered=lost, outcome="Failed"),
        record("b", attempt=1, seconds=5000, metered=whole),
        *variants,
        record("thin-lost", stage="thin", seconds=90, has_meter=False, outcome="Failed"),
    ]


def points(count: int = 400) -> list[Progress]:
    """A loss that falls, with an evaluation every 50 steps."""
    return [
        Progress(
            step=step,
            total_steps=count,
            loss=f"{2 + 3 * math.exp(-step / 60) + 0.1 * math.sin(step):.4f}",
            validation_loss=None if step < 50 else f"{2.1 + 3 * math.exp(-(step // 50) * 50 / 60):.4f}",
            learning_rate=f"{1e-3 * min(step / 40, 1):.3g}",
        )
        for step in range(1, count + 1)
    ]


def status(prices: PriceBook | None = None, **changed: Any) -> JobStatus:
    """As it ended."""
    fault = slower()
    fields: dict[str, Any] = {
        "start_time": MIDNIGHT,
        "completion_time": LATER,
        "conditions": [
            Condition(
                type="Succeeded", status="True", reason="Succeeded", message="all done", last_transition_time=LATER
            )
        ],
        "stages": [
            StageStatus(
                name="train",
                state="Succeeded",
                attempt=1,
                failures=1,
                failures_by_reason={"OutOfMemory": 1},
                disruptions=2,
            ),
            *(StageStatus(name=name, state="Succeeded") for name in ("int8", "thin", "half")),
        ],
        "progress": points()[-1],
        "bill": make_bill(records(), prices or book()),
        "variants": [
            variant_report("int8", measured=measured(1_000_000, 700, "2.01")),
            variant_report("thin", measured=measured(700_000, 1900, "2.30"), faults=(fault,)),
            variant_report("half", measured=measured(2_100_000, 650, "2.05")),
        ],
        "failure": Failure(stage="train", attempt=0, reason="OutOfMemory", message="the kernel ended it"),
        **changed,
    }
    return JobStatus(**fields)


def stopped_early() -> EarlyStopped:
    return EarlyStopped(
        metric="ValidationLoss",
        best="2.1",
        best_step=300,
        stopped_at_step=400,
        total_steps=1000,
        steps_saved=600,
        list_cost_saved="0.12",
        currency="USD",
    )
