"""A pod of a batch Job that nobody wrote down is of an attempt that begins, and of no other; and thousands of them hold
nothing else up."""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from builders.operator import UID, a_job, at, moment, pod
from costopt.accounting.held import Held, Shape, mark_of, read_held, write_held
from costopt.schema.status import BatchJob, JobStatus, StageState, StageStatus
from costopt.schema.usage import HeldPods, Usage
from costopt_operator.act import strangers
from costopt_operator.act.recent import Recent
from costopt_operator.act.strangers import Strangers
from costopt_operator.decide import claims
from costopt_operator.decide.claims import claims_of
from costopt_operator.decide.objects import JobObject, Pod, parse_job
from costopt_operator.decide.ownership import Controller
from costopt_operator.kube.api import ApiError
from costopt_operator.watch.object_cache import Cluster

KNOWN = BatchJob(uid="another", stage="train", attempt=0)
GANG = 4096


def job_with(status: JobStatus) -> JobObject:
    plain = a_job().to_plain()
    plain["metadata"] |= {"resourceVersion": "5", "generation": 1}
    return parse_job({**plain, "status": json.loads(json.dumps(status.to_plain()))})


def beginning(state: StageState = "Starting", known: list[BatchJob] | None = None) -> JobStatus:
    stage = StageStatus(name="train", state=state, attempt=0, start_time=moment(0), attempt_start_time=moment(0))
    return JobStatus(stages=[stage], batch_jobs=known or None)


@pytest.mark.parametrize(
    ("state", "known", "is_its"),
    [("Starting", [], True), ("Starting", [KNOWN], False), ("Running", [], False), ("Waiting", [], False)],
)
def test_only_an_attempt_that_begins_and_names_no_batch_job_takes_pods_of_one_that_is_gone(
    state: StageState, known: list[BatchJob], is_its: bool
) -> None:
    assert pod(0).created == at(0)
    gang = claims_of(job_with(beginning(state, known))).gang_by_name(pod(0))
    assert (gang is not None) == is_its
    if gang is not None:
        assert (gang.uid, gang.stage, gang.attempt) == ("job-train-0", "train", 0)


class PlayedApi:
    """Has no batch Job; answers with `errors` first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def get(self, kind: str, namespace: str, name: str) -> None:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)


class Scene:
    """What is known when an operator begins: a job and pods with our label."""

    def __init__(self, status: JobStatus, pods: list[Pod], api: PlayedApi) -> None:
        played: Any = api
        self.released: list[str] = []
        self.cluster = Cluster(played, ("team",), None, lambda *_, **__: None)
        self.strangers = Strangers(played, self.cluster, self._release)
        self.cluster.learn_job(job_with(status))
        for each in pods:
            self.cluster.pods.learn(each, "team")

    async def _release(self, pod: Pod) -> None:
        self.released.append(pod.uid)

    @property
    def met(self) -> int:
        return len(self.cluster.pods.of(("team", UID)))


def without_an_owner(number: int, **changes: Any) -> list[Pod]:
    one = pod(0)
    uids = [f"pod-{index}" for index in range(number)]
    changes = {"controller": Controller(), **changes}
    return [replace(one, uid=uid, name=uid, gang_uid=uid, **changes) for uid in uids]


def holding(pods: list[Pod]) -> JobStatus:
    """A status that counts these pods among those that hold something."""
    shape = Shape("train", 0, (("cpu", "1"),))
    held = [Held(shape, index, mark_of(each.uid), moment(0)) for index, each in enumerate(pods)]
    return JobStatus(usage=Usage(held=write_held(held)), batch_jobs=[KNOWN])


@pytest.fixture
def statuses_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that what is held was read out of a status."""
    read: list[int] = []

    def counted(groups: list[HeldPods]) -> Iterator[Held]:
        read.append(1)
        return read_held(groups)

    monkeypatch.setattr(claims, "read_held", counted)
    claims_of.cache_clear()
    return read


async def turns_during(work: Awaitable[object]) -> int:
    """How often something else had its turn meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.ensure_future(other())
    await work
    task.cancel()
    return turns


def test_thousands_of_strangers_are_met_with_one_reading_of_the_status_and_hold_up_nothing_else(
    statuses_read: list[int],
) -> None:
    pods = without_an_owner(GANG)
    scene = Scene(holding(pods), pods, PlayedApi())
    turns = asyncio.run(turns_during(scene.strangers.meet_all()))
    assert scene.met == GANG
    assert len(statuses_read) == 1
    assert turns >= GANG - 1


def test_thousands_of_strangers_that_are_none_of_the_job_are_passed_over_with_one_reading_of_its_status(
    statuses_read: list[int],
) -> None:
    pods = without_an_owner(GANG, phase="Failed", has_finalizer=True)
    scene = Scene(holding([replace(pod(0), uid="another")]), pods, PlayedApi())

    async def pass_over_all() -> None:
        for each in pods:
            await scene.strangers.pass_over(each)

    asyncio.run(pass_over_all())
    assert (scene.met, len(scene.released), len(statuses_read)) == (0, GANG, 1)


def test_of_a_gang_whose_batch_job_is_gone_the_api_server_is_asked_once() -> None:
    pods = [replace(pod(0), uid=f"pod-{index}", name=f"pod-{index}") for index in range(8)]
    api = PlayedApi()
    scene = Scene(beginning(), pods, api)
    asyncio.run(scene.strangers.meet_all())
    assert (scene.met, api.asked) == (8, 1)


PASSES = [
    ApiError(429, "TooManyRequests", "slow down"),
    ApiError(500, "InternalError", "etcd has no leader"),
    ApiError(503, "", "no endpoints"),
    ApiError(401, "Unauthorized", "the token has just run out"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", PASSES, ids=repr)
def test_what_passes_by_itself_keeps_no_pod_from_being_met_before_the_first_look(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "PAUSE_SECONDS", 0)
    scene = Scene(beginning(), [pod(0)], PlayedApi(error, error))
    asyncio.run(scene.strangers.meet_all())
    assert scene.met == 1


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_that_will_not_pass_does_not_keep_the_operator_from_beginning(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "PAUSE_SECONDS", 0)
    api = PlayedApi(*[ApiError(status, "Refused", "no")] * 99)
    scene = Scene(beginning(), [pod(0)], api)
    asyncio.run(scene.strangers.meet_all())
    assert (scene.met, api.asked) == (0, 1)


def test_a_pod_that_goes_while_it_is_asked_about_is_not_met() -> None:
    owned = replace(pod(0), controller=Controller("Job", "somebody-elses", "gone"), gang_uid="gone")

    class Going(PlayedApi):
        async def get(self, kind: str, namespace: str, name: str) -> None:
            self.asked += 1
            (watch,) = scene.cluster.pods.watches
            watch.forget(owned)

    api = Going()
    scene = Scene(holding([owned]), [owned], api)
    asyncio.run(scene.strangers.meet_all())
    assert (scene.met, api.asked) == (0, 1)


def test_of_what_was_noted_the_last_is_remembered() -> None:
    recent = Recent(2)
    for text in ("a", "b", "a", "c"):
        recent.note(text)
    assert [text in recent for text in ("a", "b", "c")] == [True, False, True]
