"""Whose a pod is, says its batch Job of the same namespace, as it was first seen."""

from typing import Any

from builders.operator import UID, child_json, pod_json
from cases.mistakes import plain_job
from costopt_operator.decide.objects import parse_child_job, parse_job, parse_pod
from costopt_operator.watch.object_cache import Cluster

KEY = ("team", UID)


def cluster() -> Cluster:
    nobody: Any = None
    return Cluster(nobody, (), None, lambda key, new=False: None)


def meet(known: Cluster, data: dict[str, Any]) -> None:
    if data.get("kind") == "Job":
        known.child_jobs.watches[0].learn(parse_child_job(data))
    else:
        known.pods.watches[0].learn(parse_pod(data))


def a_batch_job(owner: str = UID, version: str = "10") -> dict[str, Any]:
    data = {"kind": "Job", **child_json()}
    data["metadata"]["ownerReferences"][0]["uid"] = owner
    data["metadata"]["resourceVersion"] = version
    return data


def test_a_pod_of_another_namespace_that_names_a_batch_job_as_its_owner_is_none_of_its_pods() -> None:
    known = cluster()
    meet(known, a_batch_job())
    forged = pod_json(0, phase="Failed", exit_code=1)
    forged["metadata"] |= {"namespace": "elsewhere", "uid": "forged"}
    meet(known, forged)
    assert known.pods.of(KEY) == ()
    meet(known, pod_json(0))
    assert [pod.namespace for pod in known.pods.of(KEY)] == ["team"]


def test_a_status_of_another_namespace_claims_no_batch_job_of_this_one() -> None:
    known = cluster()
    job = plain_job(compress=[])
    job["metadata"] = {"name": "x", "namespace": "elsewhere", "uid": "x", "generation": 1, "resourceVersion": "5"}
    job["status"] = {"batchJobs": [{"uid": child_json()["metadata"]["uid"], "stage": "train", "attempt": 0}]}
    known.learn_job(parse_job(job))
    meet(known, a_batch_job())
    meet(known, pod_json(0))
    assert len(known.pods.of(KEY)) == 1
    assert known.pods.of(("elsewhere", "x")) == ()


def test_a_batch_job_that_is_given_another_owner_leaves_the_first_and_goes_when_it_is_deleted() -> None:
    known = cluster()
    meet(known, a_batch_job())
    assert len(known.child_jobs.of(KEY)) == 1
    meet(known, a_batch_job(owner="another", version="11"))
    assert known.child_jobs.of(KEY) == ()
    assert len(known.child_jobs.of(("team", "another"))) == 1
    known.child_jobs.watches[0].forget(parse_child_job(a_batch_job(owner="another", version="12")))
    assert known.child_jobs.keys() == set()
