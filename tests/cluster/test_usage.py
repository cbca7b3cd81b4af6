"""Attempts to remove usage from the bill, on a real API server."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from builders.cluster import Play
from cluster.rest import MERGE, Json
from cluster.team import LiveJob, Team

pytestmark = pytest.mark.usefixtures("operator")


def cost(job: LiveJob) -> Decimal:
    """What the job has cost so far."""
    return Decimal(job.status["bill"]["pricedCost"])


def test_a_pod_that_loses_its_finalizer_or_its_labels_stays_in_the_bill_and_is_recorded(team: Team) -> None:
    job = team.submit(Play(attempt=0, run_seconds="forever"))
    running = job.wait_until_running()
    job.wait_until(lambda status: _marks(status) == 2, "known to hold two pods")
    unfinalized, unlabelled = (team.path("pods", pod["metadata"]["name"]) for pod in running)
    before = cost(job)

    team.rest.must("PATCH", unfinalized, {"metadata": {"finalizers": None}}, MERGE)
    team.rest.must("PATCH", unlabelled, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, MERGE)
    team.rest.must("DELETE", unfinalized, {"gracePeriodSeconds": 0})
    seen = [before]

    def settled(what: str) -> Callable[[Json], bool]:
        def holds(status: Json) -> bool:
            seen.append(Decimal(status["bill"]["pricedCost"]))
            return (_vanished(status) if what == "vanished" else len(_recorded(status))) == 2

        return holds

    job.wait_until(settled("vanished"), "known to have lost two pods")
    job.change(suspend=True)
    job.wait_until(settled("recorded"), "recorded")
    job.wait_until_suspended()
    assert seen == sorted(seen), "the bill went down"
    records = _recorded(job.status)
    assert {record["index"] for record in records} == {0, 1}
    assert {record["outcome"] for record in records} == {"Suspended"}
    assert job.status["bill"]["estimatedRecords"] >= 2


def _marks(status: Json) -> int:
    """Pods that it is known to hold, or to have held."""
    runs = [run for group in status.get("usage", {}).get("held", []) for run in group["pods"]]
    return sum(len(run.rpartition(" ")[2]) for run in runs) // 10


def _vanished(status: Json) -> int:
    """Pods without a record whose end nobody saw."""
    runs = [run for group in status.get("usage", {}).get("held", []) for run in group["pods"]]
    return sum(len(run.rpartition(" ")[2]) for run in runs if "~" in run) // 10


def _recorded(status: Json) -> list[Json]:
    """Records of pods whose end nobody saw."""
    return [each for each in status.get("usage", {}).get("records", []) if each.get("endEstimated")]
