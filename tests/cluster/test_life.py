"""The life of a job on a cluster: done, failed, disrupted, suspended, changed while it runs."""

from decimal import Decimal
from typing import Any

import pytest

from builders.cluster import Play, play
from builders.documents import plain_given_job
from builders.operator_process import OperatorProcess
from cluster.clients import CommandFailedError
from cluster.team import ON_DEMAND, LiveJob, Team, condition_of, held_seconds, job_manifest, variant_report

pytestmark = pytest.mark.usefixtures("operator")


def outcomes(records: list[dict[str, Any]]) -> list[tuple[str, int, int, str]]:
    """Stage, attempt, index and outcome of usage records, in order."""
    return sorted((each["stage"], each["attempt"], each["index"], each["outcome"]) for each in records)


def test_a_job_succeeds_with_its_variants_and_a_bill_of_exactly_what_its_pods_held(team: Team) -> None:
    job = team.submit(variants=("int8", "int4"))
    status = job.wait_until_ended()
    records = team.check_usage(job)

    assert outcomes(records) == [
        ("int4", 0, 0, "Succeeded"),
        ("int8", 0, 0, "Succeeded"),
        ("train", 0, 0, "Succeeded"),
        ("train", 0, 1, "Succeeded"),
    ]
    assert [report["name"] for report in status["variants"]] == ["int8", "int4"]
    assert status["progress"]["step"] == 40
    assert condition_of(status, "Priced")["status"] == "True"
    assert (job.stage()["state"], job.stage("int8")["state"]) == ("Succeeded", "Succeeded")
    assert [each["metadata"]["name"] for each in job.batch_jobs()] == ["tiny-int4-a0", "tiny-int8-a0", "tiny-train-a0"]
    others = ["configmaps", "services", "networkpolicies"]
    children = [[each["metadata"]["name"] for each in team.objects(kind)] for kind in others]
    assert children == [["tiny-train-a0"], ["tiny-train-a0"], ["tiny-peers"]]
    job.wait_until_told("Completed")


def test_a_job_without_a_training_is_its_variants_each_restarted_and_billed_by_itself(team: Team) -> None:
    usual = [Play(stage=name, message=variant_report(name)) for name in ("int8", "small")]
    lost = Play(stage="small", attempt=0, exit_code=1, message={"exitCode": 1, "reason": "ProcessFailed"})
    pods = {"nodeSelector": ON_DEMAND, "annotations": play(*usual, lost)}
    manifest = plain_given_job(pods=pods, restarts={"backoffSeconds": 0}, storage={"create": {"size": "1Gi"}})
    job = team.create({**manifest, "metadata": {"name": "tiny"}})
    status = job.wait_until_ended()

    assert outcomes(team.check_usage(job)) == [
        ("int8", 0, 0, "Succeeded"),
        ("small", 0, 0, "Failed"),
        ("small", 1, 0, "Succeeded"),
    ]
    assert condition_of(status, "Succeeded")["message"] == "all variants of the model were made"
    assert [report["name"] for report in status["variants"]] == ["int8", "small"]
    assert {line["stage"] for line in status["bill"]["lines"]} == {"int8", "small"}
    settings = [each["metadata"]["name"] for each in team.objects("configmaps")]
    assert settings == ["tiny-int8-a0", "tiny-small-a0", "tiny-small-a1"]
    assert [each["metadata"]["name"] for each in team.objects("networkpolicies")] == ["tiny-peers"]
    job.wait_until_told("Restarted", "Completed")


def test_a_variant_of_which_a_step_trains_is_a_gang_whose_pods_find_each_other(team: Team) -> None:
    steps = [{"type": "FineTune", "fineTune": {"steps": 10}}]
    manifest = job_manifest("tiny", Play(stage="healed", message=variant_report("healed")), nodes=2)
    manifest["spec"]["compress"] = [{"name": "healed", "steps": steps}]
    job = team.create(manifest)
    job.wait_until_ended()
    made = [record for record in outcomes(team.check_usage(job)) if record[0] == "healed"]
    assert made == [("healed", 0, 0, "Succeeded"), ("healed", 0, 1, "Succeeded")]
    assert [each["metadata"]["name"] for each in team.objects("services")] == ["tiny-healed-a0", "tiny-train-a0"]


def test_gpus_are_billed_by_the_model_and_kind_of_capacity_of_their_node(team: Team) -> None:
    book = f"{team.namespace}-gpus"
    row = {"resource": "nvidia.com/gpu", "unit": "GPU-Hours", "effectiveFrom": "2026-01-01", "source": "a list"}
    spot = {**row, "product": "NVIDIA-H100-80GB-HBM3", "capacityType": "Spot", "listUnitPrice": "1.25"}
    team.apply_book(book, prices=[{**row, "listUnitPrice": "2.5"}, spot])
    train = job_manifest("x")["spec"]["train"]
    train["resourcesPerNode"]["limits"] = {"nvidia.com/gpu": 1}
    pods = {"nodeSelector": {"karpenter.sh/capacity-type": "spot"}}

    job = team.submit(pods=pods, priceBookName=book, train=train)
    job.wait_until_ended()
    records = team.check_usage(job)

    assert {(each["product"], each["capacityType"]) for each in records} == {("NVIDIA-H100-80GB-HBM3", "Spot")}
    lines = [line for line in job.status["bill"]["lines"] if line["resource"] == "nvidia.com/gpu"]
    assert {line.get("listUnitPrice") for line in lines} == {"1.25"}
    assert "listCost" not in job.status["bill"]
    assert job.status["bill"]["unpricedResources"] == ["cpu", "memory"]
    event = job.event("PriceUnknown")
    assert "no price for cpu, memory" in event["message"]


def test_one_failed_pod_means_a_new_attempt_and_the_first_failure_is_told(team: Team) -> None:
    said = {
        "exitCode": 1, "reason": "ProcessFailed", "message": "ValueError: no such token", "rank": 1, "replicaIndex": 1,
        "rankExitCode": 3, "time": "2026-01-01T00:00:00Z", "logTail": ["step 7", "ValueError: no such token"],
    }  # fmt: skip
    echo = {"exitCode": 1, "reason": "RendezvousFailed", "message": "connection reset", "echo": True}
    first, stopped = (
        Play(attempt=0, run_seconds="forever"),
        Play(attempt=0, index=1, stop_exit_code=1, stop_message=said),
    )
    jobs = [
        team.submit(first, Play(attempt=0, index=1, run_seconds=1, exit_code=1, message=said), name="alone"),
        team.submit(first, stopped, Play(attempt=0, index=0, run_seconds=1, exit_code=1, message=echo), name="echoed"),
    ]
    for job in jobs:
        failure = job.wait_until_ended()["failure"]
        assert (failure["stage"], failure["attempt"], failure["reason"]) == ("train", 0, "ProcessFailed"), job.name
        assert (failure["rank"], failure["replicaIndex"], failure["exitCode"]) == (1, 1, 3)
        assert failure["logTail"] == ["step 7", "ValueError: no such token"]
        stage = job.stage()
        assert (stage["attempt"], stage["failures"], stage["disruptions"]) == (1, 1, 0)
        records = outcomes(team.check_usage(job))
        job.wait_until_told("Restarted", "Completed")
        assert [record[:3] for record in records] == [
            ("train", attempt, index) for attempt in (0, 1) for index in (0, 1)
        ]
        assert [record[3] for record in records[:2]] == ["Failed", "Failed"]
        assert [record[3] for record in records[2:]] == ["Succeeded", "Succeeded"]


def test_attempts_end_after_max_failures_and_at_once_with_exit_code_78(team: Team) -> None:
    crashing = team.submit(Play(exit_code=1), name="crashing", restarts={"maxFailures": 1})
    said = {
        "exitCode": 78,
        "reason": "InvalidData",
        "message": "corpus.txt: no such file",
        "rank": 0,
        "replicaIndex": 0,
    }
    mistaken = team.submit(Play(exit_code=78, message=said), Play(index=1, run_seconds="forever"), name="mistaken")

    status = mistaken.wait_until_ended("TrainingFailed")
    assert (mistaken.stage()["attempt"], mistaken.stage()["failures"]) == (0, 1)
    assert status["failure"]["reason"] == "InvalidData"
    assert condition_of(status, "Succeeded")["message"] == "corpus.txt: no such file"
    team.check_usage(mistaken)

    crashing.wait_until_ended("TrainingFailed")
    assert (crashing.stage()["attempt"], crashing.stage()["failures"]) == (1, 2)
    assert len(team.check_usage(crashing)) == 4
    crashing.wait_until_told("Restarted", "TrainingFailed")


def test_a_deleted_an_evicted_and_a_drained_pod_are_disruptions_and_not_failures(team: Team) -> None:
    first_attempt_stays = Play(attempt=0, run_seconds="forever")
    deleted = team.submit(first_attempt_stays, name="deleted")
    evicted = team.submit(first_attempt_stays, name="evicted")
    drained = team.submit(first_attempt_stays, name="drained")
    cluster, namespace = team.control_plane, team.namespace

    pod = deleted.wait_until_running()[0]["metadata"]["name"]
    team.rest.must("DELETE", team.path("pods", pod))
    pod = evicted.wait_until_running()[1]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    team.rest.must("POST", f"{team.path('pods', pod)}/eviction", eviction)
    node = drained.wait_until_running()[0]["spec"]["nodeName"]
    chosen = f"--pod-selector=costopt.dev/job-uid={drained.uid}"
    try:
        cluster.kubectl("drain", node, chosen, "--delete-emptydir-data", "--force", "--timeout=60s")
    finally:
        cluster.kubectl("uncordon", node)

    for job, reason in ((deleted, "Preempted"), (evicted, "Evicted"), (drained, "Evicted")):
        status = job.wait_until_ended()
        stage = job.stage()
        assert (stage["attempt"], stage["failures"], stage["disruptions"]) == (1, 0, 1), job.name
        assert status["failure"]["reason"] == reason, job.name
        records = team.check_usage(job)
        assert {each["outcome"] for each in records if each["attempt"] == 0} == {"Disrupted"}, outcomes(records)
        job.wait_until_told("Disrupted", "Completed")


def test_a_suspended_job_saves_ends_its_pods_and_goes_on_as_a_new_execution(team: Team) -> None:
    saved = {"exitCode": 143, "reason": "Preempted", "progress": {"step": 7, "totalSteps": 40, "lastCheckpointStep": 7}}
    job = team.submit(Play(execution=1, run_seconds="forever", stop_message=saved), variants=("int8",))
    job.wait_until_running()
    job.change(suspend=True)
    status = job.wait_until_suspended()

    assert job.stage()["state"] == "Waiting"
    assert (job.stage()["failures"], job.stage()["disruptions"], status["execution"]) == (0, 0, 1)
    assert status["progress"]["lastCheckpointStep"] == 7
    assert "failure" not in status
    assert outcomes(team.check_usage(job)) == [("train", 0, 0, "Suspended"), ("train", 0, 1, "Suspended")]
    team.wait_for(lambda: not job.pods() and not job.batch_jobs(), "nothing running of a suspended job")

    job.change(suspend=False)
    status = job.wait_until_ended()
    assert (status["execution"], job.stage()["attempt"]) == (2, 1)
    assert len(team.check_usage(job)) == 5
    job.wait_until_told("Suspended", "Resumed", "Completed")


def test_while_a_job_runs_its_training_cannot_be_changed_but_its_limits_can(team: Team) -> None:
    job = team.submit(Play(run_seconds="forever"))
    job.wait_until_running()
    train = {**(job.document or {})["spec"]["train"], "numNodes": 1}
    refused = team.rest.send(
        "PATCH", team.path("costoptjobs", job.name), {"spec": {"train": train}}, "application/merge-patch+json"
    )
    assert refused.status == 422
    assert "train cannot be changed after creation; create another job" in refused.message
    refusal = '{"spec":{"priceBookName":"other"}}'
    with pytest.raises(CommandFailedError, match="priceBookName cannot be changed after creation; create another job"):
        team.control_plane.kubectl("patch", "coj", job.name, "--type=merge", "-p", refusal, namespace=team.namespace)

    job.change(restarts={"maxFailures": 7}, budget={"amount": "1000000"})
    changed = (job.document or {})["metadata"]["generation"]
    job.wait_until(
        lambda status: (
            (status["observedGeneration"], condition_of(status, "BudgetExceeded").get("status")) == (changed, "False")
        ),
        "aware of its budget",
    )
    assert job.stage()["attempt"] == 0
    job.change(activeDeadlineSeconds=1)
    job.wait_until_ended("DeadlineExceeded")
    team.check_usage(job)


def test_usage_keeps_the_price_of_its_time_and_a_missing_book_may_come_later(team: Team) -> None:
    def priced(price: str) -> list[dict[str, str]]:
        row = {"effectiveFrom": "2026-01-01", "source": f"list of {price}"}
        cpu = {"resource": "cpu", "unit": "vCPU-Hours", "listUnitPrice": price, **row}
        return [cpu, {"resource": "memory", "unit": "GiB-Hours", "listUnitPrice": "0", **row}]

    changing, late = f"{team.namespace}-changing", f"{team.namespace}-late"
    team.apply_book(changing, prices=priced("1"))
    dearer = team.submit(
        Play(attempt=0, run_seconds="forever"), Play(attempt=0, index=1, exit_code=1, run_seconds=1.5),
        Play(attempt=1, run_seconds="forever"), name="dearer", priceBookName=changing,
    )  # fmt: skip
    waiting = team.submit(Play(run_seconds="forever"), name="waiting", priceBookName=late)

    dearer.wait_until_running(attempt="1")
    dearer.wait_until(lambda status: len(status["usage"]["records"]) == 2, "recorded for its first attempt")
    team.apply_book(changing, prices=priced("3"))
    waiting.wait_until(lambda status: condition_of(status, "Priced").get("reason") == "NoPriceBook", "without prices")
    team.apply_book(late, prices=priced("2"))
    waiting.wait_until(lambda status: condition_of(status, "Priced")["status"] == "True", "priced")
    for job in (dearer, waiting):
        job.change(suspend=True)
        job.wait_until_suspended()

    records = team.check_usage(dearer)
    assert {(each["attempt"], each["prices"][0]["listUnitPrice"]) for each in records} == {(0, "1"), (1, "3")}
    cost = sum(_hours(record) * Decimal(record["prices"][0]["listUnitPrice"]) for record in records)
    assert abs(Decimal(dearer.status["bill"]["listCost"]) - cost) < Decimal("1e-7")
    records = team.check_usage(waiting)
    assert abs(Decimal(waiting.status["bill"]["listCost"]) - 2 * sum(map(_hours, records))) < Decimal("1e-7")


def _hours(record: dict[str, Any]) -> Decimal:
    return Decimal(record["resources"]["cpu"]) * held_seconds(record) / 3600


def test_names_may_be_as_long_as_kubernetes_allows(team: Team) -> None:
    long = ".".join(["a" * 49] * 5 + ["bbb"])
    jobs = [team.submit(name=long, variants=("int8",)), team.submit(name=f"{long[:-1]}c", variants=("int8",))]
    for job in jobs:
        assert len(job.name) == 253
        job.wait_until_ended()
        assert len(team.check_usage(job)) == 3
        job.wait_until_told("Completed")
    assert len(team.objects("networkpolicies")) == 2
    for job in jobs:
        job.delete()
    for job in jobs:
        job.wait_until_gone()
    team.wait_for(lambda: not team.leftovers(), "nothing left")


def test_pods_are_admitted_where_only_restricted_ones_are_and_their_storage_is_kept(
    team: Team, operator: OperatorProcess
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    team.control_plane.kubectl("label", "namespace", team.namespace, label)
    kept: LiveJob = team.submit(name="kept", storage={"create": {"size": "1Gi"}})
    dropped = team.submit(name="dropped", storage={"create": {"size": "1Gi", "keepAfterDeletion": False}})
    for job in (kept, dropped):
        job.wait_until_ended()
        pod = job.pods()[0]
        claim = team.rest.must("GET", team.path("persistentvolumeclaims", f"{job.name}-storage"))
        assert claim["status"]["phase"] == "Bound"
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (policy,) = team.objects("networkpolicies", job=job.name)
        own = {"matchLabels": policy["spec"]["podSelector"]["matchLabels"]}
        assert policy["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]
        assert own["matchLabels"].items() <= pod["metadata"]["labels"].items()
        job.delete()
    for job in (kept, dropped):
        job.wait_until_gone()
    claims = team.path("persistentvolumeclaims")
    team.wait_for(
        lambda: [each["metadata"]["name"] for each in team.rest.items(claims)] == ["kept-storage"], "one claim kept"
    )
    again = team.submit(name="kept", storage={"create": {"size": "1Gi"}})
    again.wait_until_ended()
    assert operator.is_acting()
