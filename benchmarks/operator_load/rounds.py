"""Jobs through the whole of their lives with the operator: how soon, how many, at what expense."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.control_plane import ControlPlane
from operator_load import documents
from operator_load.baseline import STEP_SECONDS, cpu_of
from operator_load.figures import Timed, per_job, quantile, read_timed, start_times
from operator_load.program import USER, Operator
from operator_load.submitting import api_of, submit

Json = dict[str, Any]

ASKED_RATE = 5
"""Jobs a second that are to start in time, whether all their pods are borne for long or not."""
START_SECONDS = 5.0
DRAIN_SECONDS = 18.0
"""A rate is sustained if the last job ends within this time of its submission, and 99 of 100 start within the other. A
single job takes about 13 s."""
FIRST_CHILD = "-train-a0"
"""What the name of a job's first batch Job ends in."""


@dataclass(frozen=True)
class Round:
    """What became of a number of jobs submitted at one rate."""

    jobs: int
    rate: float
    """Asked for, a second."""
    submitted_rate: float
    start_p50_seconds: float
    """From the API server having the job to its having answered the creation of the first batch Job."""
    start_p99_seconds: float
    finished_rate: float
    """Jobs finished a second, from the first submission to the last end."""
    drain_seconds: float
    """From the last submission to the last end. A job alone takes about 13 s."""
    operator_requests_per_job: dict[str, float]
    operator_writes_per_job: float
    most_writes_of_one_job: int
    server_requests_per_job: dict[str, float]
    """By everybody, from the API server's own metrics, by verb; watches left out."""
    looks_per_job: float
    """Reconciliations."""
    failed_looks: int
    """Of all jobs, conflicts included; each was tried again."""
    operator_cpu_seconds_per_job: float
    operator_peak_mib: float
    """Since the operator's start."""
    cores: dict[str, float]
    """Used by each process on the average, to the last end."""

    @property
    def sustained(self) -> bool:
        """Whether the operator and the control plane kept up with the rate together."""
        kept_up = self.submitted_rate >= 0.95 * self.rate and self.drain_seconds <= DRAIN_SECONDS
        return kept_up and self.start_p99_seconds <= START_SECONDS


async def run_round(control_plane: ControlPlane, operator: Operator, num_jobs: int, rate: float, prefix: str) -> Round:
    """Submit, wait until all jobs have succeeded, and read the figures."""
    names = [f"{prefix}-{number:04d}" for number in range(num_jobs)]
    offset = control_plane.audit_offset()
    counted = _by_verb(control_plane)
    used, components = operator.used(), cpu_of(control_plane)
    before = operator.metrics()
    began = time.monotonic()
    api = await api_of(control_plane)
    try:
        submitting = await submit(api, names, rate, lambda name: [documents.job(name)])
    finally:
        await api.close()
    submitted = time.monotonic()
    while _grown(operator, before, "costopt_jobs_ended_total") < num_jobs:
        if time.monotonic() - submitted > 300:
            raise AssertionError(f"not all of {num_jobs} jobs have ended 300 s after the last submission")
        await asyncio.sleep(1)
    ended = time.monotonic()
    components_after, used_at_end = cpu_of(control_plane), operator.used()
    await asyncio.sleep(10)  # the last finalizers and events
    used_after = operator.used()
    check_results(control_plane, names)
    requests = read_timed(control_plane.folder / "audit.jsonl", offset)
    writes = [each for each in requests if each.user == USER and each.is_write and each.resource != "leases"]
    times = start_times(requests, FIRST_CHILD)
    assert len(times) == num_jobs, f"{len(times)} of {num_jobs} jobs have a first batch Job"
    cores = {name: (spent - components[name]) / (ended - began) for name, spent in components_after.items()}
    cores["costopt-operator"] = (used_at_end.cpu_seconds - used.cpu_seconds) / (ended - began)
    return Round(
        jobs=num_jobs,
        rate=rate,
        submitted_rate=(num_jobs - 1) / submitting,
        start_p50_seconds=quantile(times, 0.5),
        start_p99_seconds=quantile(times, 0.99),
        finished_rate=num_jobs / (ended - began),
        drain_seconds=ended - submitted,
        operator_requests_per_job=per_job(requests, num_jobs, USER),
        operator_writes_per_job=len(writes) / num_jobs,
        most_writes_of_one_job=max(writes_of(writes, names).values()),
        server_requests_per_job=_per_job(counted, _by_verb(control_plane), num_jobs),
        looks_per_job=_grown(operator, before, "costopt_reconcile_seconds_count") / num_jobs,
        failed_looks=int(_grown(operator, before, "costopt_reconcile_errors_total")),
        operator_cpu_seconds_per_job=(used_after.cpu_seconds - used.cpu_seconds) / num_jobs,
        operator_peak_mib=used_after.peak_mib,
        cores=cores,
    )


async def climb(control_plane: ControlPlane, operator: Operator, rates: Iterable[float]) -> list[Round]:
    """A round of half a minute at each rate, up to the first that is not sustained, but at least up to ASKED_RATE."""
    rounds = []
    for rate in rates:
        rounds.append(await run_round(control_plane, operator, int(rate * STEP_SECONDS), rate, f"climb-{rate:g}"))
        if rate >= ASKED_RATE and not rounds[-1].sustained:
            break
    return rounds


def _grown(operator: Operator, before: dict[str, float], name: str) -> float:
    return operator.metrics().get(name, 0.0) - before.get(name, 0.0)


def check_results(control_plane: ControlPlane, names: Iterable[str]) -> None:
    """Every job has succeeded with its variant, has a usage record of each pod, and a bill; no pod is held back."""
    items = control_plane.get("costoptjobs", "--all-namespaces")["items"]
    jobs = {item["metadata"]["name"]: item.get("status", {}) for item in items}
    for name in names:
        status = jobs[name]
        succeeded = [each["status"] for each in status["conditions"] if each["type"] == "Succeeded"]
        assert succeeded == ["True"], f"{name}: {status['conditions']}"
        assert len(status["usage"]["records"]) == documents.PODS, f"{name} has not {documents.PODS} usage records"
        assert status["bill"].get("listCost"), f"{name} has no price: {status['bill']}"
        assert [each["name"] for each in status["variants"]] == ["int8"], f"{name} has no variant"
    pods = control_plane.kubectl("get", "pods", "--all-namespaces", "-o", "jsonpath={.items[*].metadata.finalizers}")
    assert "costopt.dev" not in pods, "finalizers are left"


def writes_of(writes: Iterable[Timed], names: Iterable[str]) -> dict[str, int]:
    """How many of these writes were about each job: every object of a job has a name that begins with the job's."""
    counts = dict.fromkeys(names, 0)
    length = len(next(iter(counts)))
    for each in writes:
        if each.name[:length] in counts:
            counts[each.name[:length]] += 1
    return counts


def _by_verb(control_plane: ControlPlane) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (verb, resource, _), count in control_plane.request_counts().items():
        if verb != "WATCH" and resource not in ("", "leases"):
            counts[verb] = counts.get(verb, 0) + count
    return counts


def _per_job(before: dict[str, int], after: dict[str, int], num_jobs: int) -> dict[str, float]:
    return {verb: (after[verb] - before.get(verb, 0)) / num_jobs for verb in sorted(after)}
