"""The chart grants the operator exactly what it calls, according to the API server's audit log."""

import pytest

from builders.charts import NAMESPACE
from builders.cluster import Play
from builders.operator_process import ACCOUNT
from cluster.team import Team

pytestmark = pytest.mark.usefixtures("operator")

OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
CALLED = {
    ("costoptjobs", "status"): {"update"},
    ("pods", ""): {"list", "watch", "patch", "delete"},
    ("events", ""): {"create"},
}
"""Of these the operator uses every verb that it is granted in such a life."""


def test_a_job_lives_without_a_request_that_is_forbidden_and_with_every_one_of_these(team: Team) -> None:
    since = team.control_plane.audit_offset()
    broken = team.submit(Play(index=0, attempt=0, exit_code=1), Play(index=1, attempt=0, run_seconds="forever"))
    broken.wait_until_ended()
    team.check_usage(broken)
    requests = team.control_plane.audit_requests(since, OPERATOR_USER)
    # In a namespace that is being deleted, of another test, everything that is made is forbidden.
    assert [one for one in requests if one.code == 403 and one.namespace in ("", team.namespace, NAMESPACE)] == []
    for (resource, subresource), verbs in CALLED.items():
        called = {one.verb for one in requests if (one.resource, one.subresource) == (resource, subresource)}
        assert called <= verbs, f"{resource}/{subresource}"
        assert verbs - {"list", "watch"} <= called, f"{resource}/{subresource}"
