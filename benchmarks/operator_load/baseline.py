"""How many jobs a second the control plane and kwok bear here without the operator: plain objects at rising rates."""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

from cluster.control_plane import ControlPlane
from costopt_operator.kube.api import Api
from operator_load import documents
from operator_load.figures import quantile
from operator_load.program import used_by
from operator_load.submitting import api_of, submit

RATES = (3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
"""Jobs a second, tried in this order until one is not sustained."""
STEP_SECONDS = 30
"""How long each rate is kept up."""
SUSTAINED_SECONDS = documents.RUN_SECONDS + 5.0
"""A rate is sustained if 99 of 100 Jobs complete within this time of their creation. A single one takes about 7 s."""


@dataclass(frozen=True)
class Step:
    """One rate."""

    rate: float
    """Asked for."""
    submitted_rate: float
    """Reached."""
    p50_seconds: float
    """From a Job's creation to its completion, by the API server's timestamps of whole seconds."""
    p99_seconds: float
    cores: float
    """Used by all components together while submitting."""

    @property
    def sustained(self) -> bool:
        """Whether the control plane kept up."""
        return self.submitted_rate >= 0.95 * self.rate and self.p99_seconds <= SUSTAINED_SECONDS


async def climb(control_plane: ControlPlane, rates: tuple[float, ...] = RATES) -> list[Step]:
    """Try rate after rate, up to the first that is not sustained."""
    api = await api_of(control_plane)
    steps: list[Step] = []
    try:
        for rate in rates:
            steps.append(await _step(control_plane, api, rate))
            if not steps[-1].sustained:
                break
    finally:
        await api.close()
    return steps


async def _step(control_plane: ControlPlane, api: Api, rate: float) -> Step:
    names = [f"plain-{rate:g}-{number}" for number in range(int(rate * STEP_SECONDS))]
    before, began = cpu_of(control_plane), time.monotonic()
    spent = await submit(api, names, rate, documents.plain_objects)
    cores = (sum(cpu_of(control_plane).values()) - sum(before.values())) / (time.monotonic() - began)
    deadline = time.monotonic() + 120
    while (times := await _completions(api, rate)) is None and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    worst = times or [float("inf")]
    return Step(rate, (len(names) - 1) / spent, quantile(worst, 0.5), quantile(worst, 0.99), cores)


async def _completions(api: Api, rate: float) -> list[float] | None:
    """Seconds from creation to completion of all Jobs of this rate; None while one is not complete."""
    times = []
    async for page in api.pages("/apis/batch/v1/jobs", {}):
        for item in page["items"]:
            if item["metadata"]["name"].startswith(f"plain-{rate:g}-"):
                if "completionTime" not in item["status"]:
                    return None
                times.append(_between(item["metadata"]["creationTimestamp"], item["status"]["completionTime"]))
    return times


def _between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def cpu_of(control_plane: ControlPlane) -> dict[str, float]:
    """CPU seconds that each component has used so far."""
    return {name: used_by(pid).cpu_seconds for name, pid in control_plane.pids.items()}
