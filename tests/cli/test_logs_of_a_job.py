"""Logs of a job's pods: chosen, followed, read on after a loss, and what is left when the pods are gone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.fake_api import JOBS, PODS, FakeApi, Plain, refused, serving, write_kubeconfig
from builders.on_cluster import Command, add_job, add_pod, at_home, command, failed, running, succeeded
from costopt.cluster.pods import replica_pod
from costopt.names import LABEL_ATTEMPT, LABEL_STAGE
from costopt.render.pods import INDEX_ANNOTATION

TINY = f"{JOBS}/tiny"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr("costopt.cli.logs_of_job.LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr("costopt.cluster.pod_logs.AGAIN_AFTER_SECONDS", 0.01)
    fake = FakeApi()
    with serving(fake) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        yield fake


@pytest.fixture
def costopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capsys)


def log_of(pod: Plain) -> tuple[str, str]:
    return "GET", f"{PODS}/{pod['metadata']['name']}/log"


def test_of_an_old_attempt_it_is_said_that_its_pods_are_gone(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    for attempt in (4, 5):
        add_pod(api, owner, "train", attempt, 0)
    ended = costopt("logs", "tiny", "--attempt", "3")
    assert (ended.code, ended.out) == (2, "")
    assert "--attempt of train must be from 4 to 5; it is 3. Pods of attempts before these are gone" in ended.err
    assert "are gone" not in costopt("logs", "tiny", "--attempt", "6").err


def test_logs_are_chosen_by_stage_attempt_index_and_name(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    add_pod(api, add_job(api, "other"), "train", 7, 0)
    for attempt in (0, 1):
        for index in (0, 1):
            pod = add_pod(api, owner, "train", attempt, index)
            api.instead[log_of(pod)] = (200, f"attempt {attempt}\nindex {index}\n")
    assert costopt("logs", "tiny").out.splitlines() == [
        "train-a1-0 | attempt 1",
        "train-a1-0 | index 0",
        "train-a1-1 | attempt 1",
        "train-a1-1 | index 1",
    ]
    assert costopt("logs", "tiny", "--attempt", "0", "--index", "1").out == "attempt 0\nindex 1\n"
    named = costopt("logs", "tiny", "--replica", "train-a0-1", "--tail", "5", "--output", "json")
    assert json.loads(named.out.splitlines()[1]) == {"replica": "train-a0-1", "line": "index 1"}
    assert api.requests[-1].query == {"container": "trainer", "tailLines": "5"}
    for wrong, said in [
        (("--stage", "int9"), "--stage must be one of train; it is int9"),
        (("--attempt", "5"), "--attempt of train must be from 0 to 1; it is 5"),
        (("--replica", "x"), "--replica must be one of train-a0-0, train-a0-1, train-a1-0, train-a1-1; it is x"),
        (("--replica", "train-a0-0", "--index", "0"), "leave --stage, --attempt and --index out"),
    ]:
        ended = costopt("logs", "tiny", *wrong)
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.err


def test_a_replica_that_does_not_run_yet_says_what_it_waits_for(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pod = add_pod(api, owner, "train", 0, 0, phase="Pending", containerStatuses=[waiting])
    api.instead[log_of(pod)] = refused(400, "BadRequest", "container is waiting to start")
    ended = costopt("logs", "tiny")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "train-a0-0: not running yet, waits for ImagePullBackOff: no such image\n"


def test_of_a_job_whose_pods_are_gone_the_last_lines_are_in_its_status(api: FakeApi, costopt: Command) -> None:
    add_job(api, status=failed())
    ended = costopt("logs", "tiny", "--follow")
    assert (ended.code, ended.out) == (0, "a line\nthe last line\n")
    assert "job tiny has no pods any more, and their logs went with them; the last lines" in ended.err
    add_job(api, status=succeeded())
    assert "have kept them" in costopt("logs", "tiny").err
    add_job(api)
    ended = costopt("logs", "tiny")
    assert ended.code == 2
    assert "job tiny has no logs yet: none of its pods was created" in ended.err


def test_following_goes_from_attempt_to_attempt_until_the_job_ends(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    stamp = "2026-03-04T12:00:0"

    def first_ends() -> tuple[int, str]:
        second = add_pod(api, owner, "train", 1, 0, phase="Succeeded")
        api.instead[log_of(second)] = second_ends
        add_pod(api, owner, "train", 0, 0, phase="Failed")
        return 200, f"{stamp}1Z one\n{stamp}1.5Z two\n"

    def second_ends() -> tuple[int, str]:
        api.stored[TINY]["status"] = succeeded()
        return 200, f"{stamp}2Z three\n"

    looks = iter([1, 2])

    def appears() -> tuple[int, Plain]:
        if next(looks) == 2:
            api.instead.pop(("GET", PODS))
            first = add_pod(api, owner, "train", 0, 0)
            api.instead[log_of(first)] = first_ends
        return 200, {"metadata": {}, "items": []}

    api.instead["GET", PODS] = appears
    ended = costopt("logs", "tiny", "--follow")
    assert ended.code == 0
    assert ended.out.splitlines() == ["train-a0-0 | one", "train-a0-0 | two", "train-a1-0 | three"]
    assert ended.err == "no replica has begun yet; waiting for one\n"


def test_a_lost_connection_is_made_again_and_no_line_is_lost_or_told_twice(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    pod = add_pod(api, owner, "train", 0, 0)
    moment = "2026-03-04T12:00:01"
    pieces = iter(
        [
            refused(400, "BadRequest", 'container "trainer" is waiting to start: ContainerCreating'),
            (200, f"{moment}.1Z a\n{moment}.12Z b\n{moment}.12Z c\n"),
            refused(500, "InternalError", "the kubelet is away"),
            (200, f"{moment}.1Z a\n{moment}.12Z b\n{moment}.12Z c\n{moment}.12Z d\n{moment}.125Z e\n"),
        ]
    )

    def log() -> tuple[int, object]:
        piece = next(pieces, None)
        if piece is None:
            add_pod(api, owner, "train", 0, 0, phase="Succeeded")
            return 200, f"{moment}.125Z e\n"
        return piece

    api.instead[log_of(pod)] = log
    ended = costopt("logs", "tiny", "--follow", "--replica", "train-a0-0", "--tail", "3")
    assert ended.code == 0
    lost, back = ended.err.splitlines()
    assert lost.endswith("has failed at it (code 500: the kubelet is away); trying again for up to 10 minutes")
    assert back == "the cluster answers again"
    assert ended.out.splitlines() == ["a", "b", "c", "d", "e"]
    queries = [request.query for request in api.asked(*log_of(pod))]
    assert [query.get("tailLines") for query in queries] == ["3", "3", None, None, None]
    assert [query.get("sinceTime") for query in queries] == [None, None] + [f"{moment}Z"] * 3


def test_a_log_that_cannot_be_read_is_one_sentence(api: FakeApi, costopt: Command) -> None:
    owner = add_job(api, status=running())
    pod = add_pod(api, owner, "train", 0, 0)
    api.instead[log_of(pod)] = refused(403, "Forbidden", 'User "ada" cannot get resource "pods/log"')
    for more in ((), ("--follow",)):
        ended = costopt("logs", "tiny", *more)
        assert (ended.code, ended.out) == (2, "")
        assert 'does not allow this: User "ada" cannot get resource "pods/log"' in ended.err


def test_what_a_kubelet_says_instead_of_a_log_is_not_printed_as_one(api: FakeApi, costopt: Command) -> None:
    pod = add_pod(api, add_job(api, status=running()), "train", 0, 0)
    for excuse in (
        "unable to retrieve container logs for containerd://1f2e",
        'failed to try resolving symlinks in path "/var/log/pods/x/trainer/0.log": lstat: no such file or directory',
    ):
        api.instead[log_of(pod)] = (200, f"{excuse}\n")
        ended = costopt("logs", "tiny", "--tail", "1")
        assert (ended.code, ended.out) == (2, "")
        assert "has no log of that container any more: its node has removed it" in ended.err
    api.instead[log_of(pod)] = (200, "step 1\nunable to retrieve container logs for me\n")
    assert costopt("logs", "tiny").out.splitlines() == ["step 1", "unable to retrieve container logs for me"]


@pytest.mark.parametrize("attempt", ["9" * 5000, "-1", "1_0", "", "x", None])
def test_a_pod_whose_marks_no_replica_has_is_none(attempt: str | None) -> None:
    marks = {LABEL_STAGE: "train", **({LABEL_ATTEMPT: attempt} if attempt is not None else {})}
    metadata = {"name": "forged", "namespace": "a", "uid": "1", "creationTimestamp": "2026-03-04T12:00:00Z"}
    for index in ("0", attempt):
        annotations = {INDEX_ANNOTATION: index}
        assert replica_pod({"metadata": {**metadata, "labels": marks, "annotations": annotations}}) is None
    good = {**metadata, "labels": {**marks, LABEL_ATTEMPT: "1"}, "annotations": {INDEX_ANNOTATION: "0"}}
    assert replica_pod({"metadata": good}) is not None
