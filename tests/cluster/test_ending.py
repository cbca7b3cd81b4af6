"""Jobs that end early leave nothing behind: deletion in every state, with the namespace, by a deadline, by a time to
live, without a start."""

import time
from decimal import Decimal

import pytest

from builders.cluster import Play, ended_container
from builders.operator_process import OperatorProcess
from cluster.team import LiveJob, Team, condition_of, job_manifest

pytestmark = pytest.mark.usefixtures("operator")

FOREVER = Play(run_seconds="forever")
STUBBORN = Play(run_seconds="forever", stop_seconds=3)


def state_of(job: LiveJob) -> str:
    return str(job.stage().get("state", ""))


def test_a_silent_gang_is_restarted_and_one_that_logs_is_not(team: Team) -> None:
    """The silent one heeds no SIGTERM for a while, so that what it is given to end can be seen."""
    silent = team.submit(
        Play(attempt=0, run_seconds="forever", stop_seconds=4),
        name="silent", restarts={"stallTimeoutSeconds": 10, "maxFailures": 1},
    )  # fmt: skip
    talking = team.submit(FOREVER, name="talking", restarts={"stallTimeoutSeconds": 10})
    stepping = team.submit(FOREVER, name="stepping")
    for job in (silent, talking, stepping):
        job.wait_until_running()
    deadline = time.monotonic() + 120
    graces: set[int] = set()
    while condition_of(silent.status, "Succeeded").get("status") != "True":
        ending = [pod["metadata"] for pod in silent.pods() if "deletionTimestamp" in pod["metadata"]]
        graces |= {pod["deletionGracePeriodSeconds"] for pod in ending if pod.get("deletionGracePeriodSeconds")}
        assert time.monotonic() < deadline, silent.status
        team.control_plane.write_log(team.namespace, "talking-train-a0-1", "still here")
        team.control_plane.write_log(team.namespace, "stepping-train-a0-0", '{"step": 7, "totalSteps": 40}')
        time.sleep(1)

    assert (silent.stage()["attempt"], silent.stage()["failures"]) == (1, 1)
    failure = silent.status["failure"]
    assert failure["reason"] == "Stalled"
    assert "no replica of train finished a step or logged a line for 10 s" in failure["message"]
    assert graces == {10}, "pods of a broken gang have their full grace, or none was seen to end"
    outcomes = [(record["attempt"], record["outcome"]) for record in team.check_usage(silent)]
    assert sorted(outcomes) == [(0, "Stalled"), (0, "Stalled"), (1, "Succeeded"), (1, "Succeeded")]
    assert talking.stage()["attempt"] == 0
    stepping.wait_until(lambda status: status.get("progress", {}).get("step") == 7, "at step 7")
    silent.wait_until_told("Restarted", "Completed")


def test_the_last_line_of_a_log_is_in_the_final_status_although_the_run_was_too_short_to_be_looked_at(
    team: Team,
) -> None:
    job = team.submit(Play(stage="train", run_seconds=2, message={"exitCode": 0}), name="short")
    team.control_plane.write_log(team.namespace, "short-train-a0-0", '{"step": 39, "totalSteps": 40, "loss": "1.25"}')
    progress = job.wait_until_ended()["progress"]
    assert (progress["step"], progress["loss"]) == (39, "1.25")


@pytest.mark.parametrize("cascade", ["Background", "Foreground"])
def test_a_job_deleted_in_any_state_leaves_nothing_behind(team: Team, cascade: str) -> None:
    """A stranger's Job in the way keeps one of them from starting."""
    container = {"name": "main", "image": "registry.invalid/any:1"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    stranger = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "starting-train-a0"}}
    team.rest.must("POST", team.path("jobs"), {**stranger, "spec": {"suspend": True, "template": template}})
    jobs = {
        "Starting": team.submit(name="starting"),
        "Pending": team.submit(name="pending", pods={"nodeSelector": {"no": "where"}}),
        "Unpulled": team.submit(Play(waiting_reason="ImagePullBackOff"), name="unpulled"),
        "Running": team.submit(FOREVER, name="running"),
        "Compressing": team.submit(Play(stage="int8", run_seconds="forever"), name="compressing", variants=("int8",)),
        "Stopping": team.submit(STUBBORN, name="stopping"),
        "Suspended": team.submit(FOREVER, name="suspended"),
        "Succeeded": team.submit(name="succeeded", storage={"create": {"size": "1Gi", "keepAfterDeletion": False}}),
        "Failed": team.submit(Play(exit_code=78), name="failed"),
    }
    running = [jobs[name] for name in ("Running", "Stopping", "Suspended")]
    for job in running:
        job.wait_until_running()
    jobs["Suspended"].change(suspend=True)
    jobs["Suspended"].wait_until_suspended()
    jobs["Succeeded"].wait_until_ended()
    jobs["Failed"].wait_until_ended("TrainingFailed")
    jobs["Compressing"].wait_until_running(1, stage="int8")
    team.wait_for(lambda: len(jobs["Unpulled"].pods()) == len(jobs["Pending"].pods()) == 2, "pods that wait")
    jobs["Stopping"].change(suspend=True)
    jobs["Stopping"].wait_until(lambda _: state_of(jobs["Stopping"]) == "Stopping", "stopping")
    assert state_of(jobs["Starting"]) == "Starting"

    for job in jobs.values():
        job.delete(cascade)
    for job in jobs.values():
        job.wait_until_gone()
    team.wait_for(lambda: not team.leftovers(), "nothing left")
    claims = team.path("persistentvolumeclaims")
    team.wait_for(lambda: not team.rest.items(claims), "no claim left")
    left = [each["metadata"]["name"] for each in team.rest.items(team.path("jobs"))]
    assert left == ["starting-train-a0"]


OTHERS = "others.example/keep"


@pytest.mark.parametrize("cascade", ["Background", "Foreground"])
def test_a_deleted_job_that_somebody_keeps_is_stopped_and_recorded_and_goes_when_it_may(
    team: Team, cascade: str
) -> None:
    saved = {"exitCode": 143, "reason": "Preempted"}
    job = team.submit(Play(stage="train", run_seconds="forever", stop_seconds=2, stop_message=saved))
    unborn = team.submit(name="unborn", suspend=True)
    for each in (job, unborn):
        each.keep(OTHERS)
    job.wait_until_running()
    for each in (job, unborn):
        each.delete(cascade)
    job.wait_until_suspended("DeletionRequested")
    assert [ended_container(pod)["exitCode"] for pod in team.pods_ever(job)] == [143, 143], (
        "ended before they had saved"
    )
    records = team.check_usage(job)
    assert len(records) == 2
    team.wait_for(lambda: not job.pods() and not job.batch_jobs(), "nothing of it running")
    assert job.status["bill"]["lines"]
    assert (job.stage()["attempt"], job.stage()["failures"], job.stage()["disruptions"]) == (0, 0, 0)
    for each in (job, unborn):
        each.keep()
        each.wait_until_gone()
    team.wait_for(lambda: not team.leftovers(), "nothing left")


@pytest.mark.parametrize("kept", [False, True])
def test_the_pods_of_a_job_deleted_without_its_children_live_on_and_nothing_of_ours_holds_them(
    team: Team, operator: OperatorProcess, kept: bool
) -> None:
    job = team.submit(FOREVER)
    if kept:
        job.keep(OTHERS)
    pods = {pod["metadata"]["uid"] for pod in job.wait_until_running()}
    told_before = len(operator.log)
    job.delete("Orphan")
    (batch_job,) = team.objects("jobs")
    team.wait_for(lambda: not team.objects("jobs")[0]["metadata"].get("ownerReferences"), "its batch Job nobody's")
    team.wait_for(lambda: not any(map(team.holds_back, job.pods())), "let go of")
    if kept:
        job.keep()
    team.wait_for(job.is_gone, "the job gone")
    submitted = team.submit(name="later")
    submitted.wait_until_ended()  # so the operator has looked at everything meanwhile
    living = [pod for pod in job.pods() if "deletionTimestamp" not in pod["metadata"]]
    assert {pod["metadata"]["uid"] for pod in living} == pods
    assert {pod["status"]["phase"] for pod in living} == {"Running"}
    assert "cascade=orphan" in operator.log[told_before:]
    team.rest.must("DELETE", team.path("jobs", batch_job["metadata"]["name"]), {"propagationPolicy": "Background"})
    job.wait_until_gone()


def test_a_namespace_with_running_jobs_can_be_deleted(team: Team) -> None:
    jobs = [team.submit(FOREVER, name=f"job-{index}") for index in range(3)]
    team.submit(name="done").wait_until_ended()
    for job in jobs:
        job.wait_until_running()
    team.rest.must("DELETE", f"/api/v1/namespaces/{team.namespace}")
    team.wait_for(lambda: team.rest.get(f"/api/v1/namespaces/{team.namespace}") is None, "the namespace gone", 120)
    team.control_plane.kubectl("create", "namespace", team.namespace)


def test_a_job_applied_again_under_its_name_at_once_is_another_job(team: Team) -> None:
    first = team.submit(STUBBORN)
    first_pods = {pod["metadata"]["uid"] for pod in first.wait_until_running()}
    first.delete()
    second = team.create(job_manifest("tiny", variants=("int8",)))
    assert second.uid != first.uid
    second.wait_until_ended()

    records = team.check_usage(second)
    assert len(records) == 3
    assert not first_pods & {record["uid"] for record in records}
    assert (second.stage()["failures"], second.stage()["disruptions"]) == (0, 0)
    children = [*team.objects("configmaps"), *team.objects("services"), *team.objects("jobs"), *team.objects("pods")]
    team.wait_for(lambda: not first.pods(), "the first one's pods gone")
    assert {child["metadata"]["labels"]["costopt.dev/job-uid"] for child in children} <= {first.uid, second.uid}
    owners = {owner["uid"] for child in team.objects("configmaps") for owner in child["metadata"]["ownerReferences"]}
    assert owners == {second.uid}
    settings = team.rest.must("GET", team.path("configmaps", "tiny-train-a0"))
    assert sorted(settings["data"]) == ["int8.json", "train.json"]


def test_time_to_live_deletes_a_finished_job_and_a_deadline_ends_a_running_one(team: Team) -> None:
    saved = {"exitCode": 143, "reason": "Preempted"}
    short = team.submit(name="short", ttlSecondsAfterFinished=1)
    failed = team.submit(Play(exit_code=78), name="failed", ttlSecondsAfterFinished=0)
    kept = team.submit(name="kept")
    late = team.submit(Play(run_seconds="forever", stop_message=saved), name="late", activeDeadlineSeconds=3)

    late.wait_until_ended("DeadlineExceeded")
    assert {record["outcome"] for record in team.check_usage(late)} == {"Stopped"}
    short.wait_until_gone()
    failed.wait_until_gone()
    kept.wait_until_ended()
    short.wait_until_told("Completed")
    kept.change(ttlSecondsAfterFinished=0)
    kept.wait_until_gone()


def test_a_gang_that_never_starts_fails_and_says_what_it_waited_for(team: Team) -> None:
    unpulled = team.submit(
        Play(index=1, waiting_reason="ImagePullBackOff"), Play(index=0, run_seconds="forever"),
        name="unpulled", restarts={"startTimeoutSeconds": 3},
    )  # fmt: skip
    nowhere = team.submit(name="nowhere", pods={"nodeSelector": {"no": "where"}}, restarts={"startTimeoutSeconds": 3})
    status = unpulled.wait_until_ended("NotStarted")
    assert "which cannot be pulled" in condition_of(status, "Succeeded")["message"]
    assert status["failure"]["reason"] == "NotStarted"
    assert unpulled.stage()["attempt"] == 0
    status = nowhere.wait_until_ended("NotStarted")
    message = condition_of(status, "Succeeded")["message"]
    assert "not all replicas of train ran within startTimeoutSeconds (3 s); they waited for: a node" in message
    assert team.check_usage(nowhere) == []
    team.wait_for(lambda: not unpulled.pods(), "no pod left of a job that did not start")


def test_a_job_over_its_budget_is_suspended_and_goes_on_with_a_larger_one(team: Team) -> None:
    book = f"{team.namespace}-enormous"
    row = {"effectiveFrom": "2026-01-01", "source": "a bad dream"}
    cpu = {"resource": "cpu", "unit": "vCPU-Hours", "listUnitPrice": "1000000", **row}
    team.apply_book(book, prices=[cpu, {"resource": "memory", "unit": "GiB-Hours", "listUnitPrice": "0", **row}])
    held = team.submit(
        Play(execution=1, run_seconds="forever"), name="held", priceBookName=book, budget={"amount": "100"}
    )
    failing = team.submit(FOREVER, name="failing", priceBookName=book, budget={"amount": "100", "onExceeded": "Fail"})
    status = held.wait_until_suspended("BudgetExceeded")
    assert condition_of(status, "BudgetExceeded")["status"] == "True"
    assert Decimal(status["bill"]["listCost"]) > 100
    failing.wait_until_ended("BudgetExceeded")
    team.check_usage(failing)

    held.change(budget={"amount": "100000000"})
    status = held.wait_until_ended()
    assert (status["execution"], held.stage()["failures"], held.stage()["disruptions"]) == (2, 0, 0)
    team.check_usage(held)
    held.wait_until_told("BudgetExceeded", "Suspended", "Resumed", "Completed")


def test_of_many_attempts_the_last_three_leave_jobs_and_pods_and_all_are_recorded(team: Team) -> None:
    job = team.submit(Play(exit_code=1), nodes=1, restarts={"maxFailures": 6, "backoffSeconds": 0})
    job.wait_until_ended("TrainingFailed")
    assert (job.stage()["attempt"], job.stage()["failures"]) == (6, 7)

    def attempts(plural: str) -> list[int]:
        return sorted(int(one["metadata"]["labels"]["costopt.dev/attempt"]) for one in team.objects(plural))

    for plural in ("jobs", "pods"):
        team.wait_for(lambda plural=plural: attempts(plural) == [3, 4, 5, 6], f"only the last {plural} left")
    team.check_usage(job)
