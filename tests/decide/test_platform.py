"""What a platform does not allow is refused before any pod is made, and says what would be right."""

from typing import Any

import pytest

from builders.documents import plain_job
from costopt.schema.job import CostOptJob
from costopt_operator.__main__ import _platform
from costopt_operator.decide.platform import Platform


def a_job(namespace: str = "team", priority: str | None = None) -> CostOptJob:
    plain = plain_job()
    plain["metadata"]["namespace"] = namespace
    pods: dict[str, Any] = {} if priority is None else {"priorityClassName": priority}
    plain["spec"]["pods"] = pods
    return CostOptJob.model_validate(plain)


@pytest.mark.parametrize(
    ("namespace", "priority", "platform", "sentence"),
    [
        ("team", None, Platform("costopt-system"), None),
        ("team", "high", Platform("costopt-system"), None),
        ("costopt-system", None, Platform("costopt-system"), "jobs must not be in the namespace of the operator"),
        ("costopt-system", None, Platform(None), None),
        ("team", "system-node-critical", Platform(), "must not be system-node-critical"),
        ("team", "system-cluster-critical", Platform(), "must not be system-cluster-critical"),
        ("team", "system-of-mine", Platform(), "must not be system-of-mine"),
        ("team", "my-system-class", Platform(), None),
        ("team", "system-node-critical", Platform(system_priority=True), None),
    ],
)
def test_a_job_is_refused_for_its_namespace_or_priority(
    namespace: str, priority: str | None, platform: Platform, sentence: str | None
) -> None:
    refusal = platform.refusal(a_job(namespace, priority))
    assert (refusal is None) == (sentence is None)
    assert (sentence or "") in (refusal or "")


def test_the_operators_namespace_is_closed_unless_it_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "costopt-system")
    assert _platform(None, allow_system_priority=False) == Platform("costopt-system")
    assert _platform(["team"], allow_system_priority=True) == Platform("costopt-system", system_priority=True)
    assert _platform(["team", "costopt-system"], allow_system_priority=False) == Platform(None)
