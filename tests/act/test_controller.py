"""What the controller does when the API server says no; the objects are kept in a dict, the answers are scripted."""

import asyncio
import copy
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from builders.operator import START, UID, a_given_job, a_job, child, child_json, owner, pod_json
from costopt import names
from costopt.render.labels import label_value
from costopt.render.manifests import manifests
from costopt.schema.job import CostOptJob
from costopt.schema.replica import Progress
from costopt.schema.status import Bill, EarlierJob, JobStatus
from costopt_operator.act.controller import Controller
from costopt_operator.act.failing import LOOKS, FailingLooks
from costopt_operator.act.rate_limiter import RateLimiter
from costopt_operator.decide.keys import Key
from costopt_operator.decide.objects import parse_child_job, parse_job, parse_pod
from costopt_operator.decide.observe import LogSight
from costopt_operator.decide.platform import Platform
from costopt_operator.kube.api import ApiError, NotLeading
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.work_queue import WorkQueue

Json = dict[str, Any]

KEY = ("team", UID)
JOB = "CostOptJob tiny"
ATTEMPT = "Job tiny-train-a0"
OPEN = Platform()


class PlayedApi:
    """The API server, as far as the controller knows it."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        """By kind and name, such as "Job tiny-train-a0"."""
        self.version = 100
        self.written: list[str] = []
        """What was done, such as "create Job tiny-train-a0", refused or not."""
        self.next: defaultdict[str, list[Exception]] = defaultdict(list)
        """What is answered instead, once each."""
        self.replaced: list[Json] = []
        """Documents of all PUTs, refused or not."""
        self.graces: dict[str, int | None] = {}
        """Grace in seconds with which each object was deleted first or last."""

    def put(self, kind: str, manifest: Json) -> Json:
        self.version += 1
        metadata = {"uid": f"uid-{self.version}", "creationTimestamp": "2026-03-01T12:00:00Z", **manifest["metadata"]}
        metadata["resourceVersion"] = str(self.version)
        self.objects[f"{kind} {metadata['name']}"] = {**manifest, "metadata": metadata}
        return copy.deepcopy(self.objects[f"{kind} {metadata['name']}"])

    def _write(self, what: str) -> None:
        self.written.append(what)
        if self.next[what]:
            raise self.next[what].pop(0)

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        return copy.deepcopy(self.objects.get(f"{kind} {name}"))

    async def create(self, manifest: Json) -> Json:
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        self._write(f"create {what}")
        if what in self.objects:
            raise ApiError(409, "AlreadyExists", f"{what} already exists")
        return self.put(manifest["kind"], manifest)

    async def read(self, manifest: Json) -> Json | None:
        return await self.get(manifest["kind"], "team", manifest["metadata"]["name"])

    async def replace(self, document: Json) -> Json:
        self.replaced.append(document)
        self._write(f"replace {document['kind']} {document['metadata']['name']}")
        return self.put(document["kind"], document)

    async def replace_status(self, manifest: Json) -> Json:
        self._write("status")
        known = self.objects.get(JOB)
        if known is None or known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise ApiError(404, "NotFound", "not found")
        if known["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self.put("CostOptJob", {**known, "status": manifest["status"]})

    async def remove_finalizer(self, namespace: str, pod: str, uid: str, finalizer: str) -> Json | None:
        self._write(f"release {pod}")
        known = self.objects[f"Pod {pod}"]
        known["metadata"]["finalizers"].remove(finalizer)
        return self.put("Pod", known)

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace_seconds: int | None = None, version: str = ""
    ) -> Json | None:
        self._write(f"delete {kind} {name}")
        if version and version != self.objects[f"{kind} {name}"]["metadata"]["resourceVersion"]:
            return None  # a conflict
        self.graces[f"{kind} {name}"] = grace_seconds
        return self.objects.pop(f"{kind} {name}", None)

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Json:
        if method == "POST" and path.endswith("/events"):
            self._write(f"event {body['reason']}")
            return {}
        raise ApiError(404, "NotFound", path)

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        return ""

    async def pages(self, path: str, query: Mapping[str, str], limit: int = 500) -> AsyncIterator[Json]:
        items = [self.objects[JOB]] if JOB in self.objects and path.endswith("costoptjobs") else []
        metadata = {"resourceVersion": str(self.version)}
        yield {"apiVersion": "costopt.dev/v1alpha1", "metadata": metadata, "items": items}


class Scene:
    """A controller, what it knows, and the job `tiny`."""

    def __init__(self, gang_api: str | None = None, platform: Platform = OPEN) -> None:
        self.api = PlayedApi()
        self.now = START
        api: Any = self.api
        self.queue = WorkQueue()
        self.metrics = Metrics()
        self.cluster = Cluster(api, ("team",), None, self.queue.add)
        self.steady = 0.0
        self.controller = Controller(
            api,
            self.cluster,
            self.queue,
            self.metrics,
            default_image="trainer:1",
            gang_api=gang_api,
            platform=platform,
            clock=lambda: self.now,
        )
        self.controller._failing = FailingLooks(lambda: self.steady)
        self.cluster.on_job_gone = self.controller.forget

    def add_job(self, drawn: CostOptJob | None = None, *, uid: str = UID, **spec: Any) -> None:
        job = {**(drawn or a_job(**spec)).to_plain(), "status": {}}
        job["metadata"] |= {"uid": uid, "generation": 1}
        self.cluster.learn_job(parse_job(self.api.put("CostOptJob", job)))

    def add_child(self, **changes: Any) -> None:
        data = {"apiVersion": "batch/v1", "kind": "Job", **child_json(**changes)}
        self.cluster.child_jobs.learn(parse_child_job(self.api.put("Job", data)), "team")

    def add_pod(self, index: int, **changes: Any) -> None:
        data = pod_json(index, **changes)
        self.cluster.pods.learn(parse_pod(self.api.put("Pod", data)), "team")

    async def look(self, times: int = 1, key: Key = KEY) -> None:
        """So many turns, as a worker would take them, without their pauses."""
        for _ in range(times):
            await self.controller._turn(key)
            while tasks := self.controller._logs._tasks:
                await asyncio.wait(tasks)

    @property
    def status(self) -> JobStatus:
        return JobStatus.model_validate_json(parse_job(self.api.objects[JOB]).status)

    def gone_on(self) -> bool:
        """The first stage runs, and its condition says that it waits for no name."""
        condition = self.status.condition("Succeeded")
        return self.status.stages[0].state == "Running" and "the name" not in (condition.message if condition else "")

    def count(self, what: str) -> int:
        return self.api.written.count(what)

    def errors(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value("costopt_reconcile_errors_total", {"reason": reason})
        return value or 0.0


def invalid() -> ApiError:
    return ApiError(422, "Invalid", 'Job.batch "tiny-train-a0" is invalid: spec.template.spec.volumes[0]: Not found')


def test_the_status_is_written_before_anything_is_made_and_the_job_last() -> None:
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    assert play.api.written[0] == "status"
    assert play.api.written[-1] == f"create {ATTEMPT}"
    assert len(play.api.written) == len(set(play.api.written))


def test_the_variants_of_a_given_model_have_settings_of_their_own_and_share_what_the_job_has_once() -> None:
    play = Scene()
    play.add_job(a_given_job(storage={"create": {"size": "1Gi"}}))
    asyncio.run(play.look())
    assert sorted(play.api.objects) == [
        "ConfigMap tiny-int8-a0",
        "ConfigMap tiny-small-a0",
        JOB,
        "Job tiny-int8-a0",
        "Job tiny-small-a0",
        "NetworkPolicy tiny-peers",
        "PersistentVolumeClaim tiny-storage",
    ]
    assert play.api.written[0] == "status"
    assert [stage.name for stage in play.status.stages] == ["int8", "small"]


def test_a_job_that_the_api_server_finds_invalid_fails_with_the_servers_sentence() -> None:
    play = Scene()
    play.add_job()
    play.api.next[f"create {ATTEMPT}"] = [invalid()]
    asyncio.run(play.look(3))
    condition = play.status.condition("Succeeded")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "TrainingFailed")
    assert "spec.template.spec.volumes[0]: Not found" in condition.message
    assert play.count(f"create {ATTEMPT}") == 1
    assert play.status.stages[0].failures == 1


@pytest.mark.parametrize(
    ("platform", "pods", "sentence"),
    [
        (Platform(closed_namespace="team"), {}, "must not be in the namespace of the operator (team)"),
        (Platform(), {"priorityClassName": "system-node-critical"}, "must not be system-node-critical"),
    ],
)
def test_a_job_that_the_platform_does_not_allow_fails_and_nothing_is_made_for_it(
    platform: Platform, pods: dict[str, str], sentence: str
) -> None:
    play = Scene(platform=platform)
    play.add_job(pods=pods, restarts={"maxFailures": 50})
    asyncio.run(play.look(3))
    condition = play.status.condition("Succeeded")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "TrainingFailed")
    assert sentence in condition.message
    assert not [what for what in play.api.written if what.startswith(("create", "apply"))]
    assert "event TrainingFailed" in play.api.written


def test_a_job_of_ours_that_is_there_already_is_taken_over() -> None:
    play = Scene()
    play.add_job()
    play.api.put("Job", {"apiVersion": "batch/v1", "kind": "Job", **child_json()})
    asyncio.run(play.look())
    assert [child.name for child in play.cluster.child_jobs.of(KEY)] == ["tiny-train-a0"]
    assert play.errors("AlreadyExists") == 0


def test_a_job_of_an_earlier_costoptjob_is_waited_for_until_it_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    play = Scene()
    play.add_job()
    play.api.put("Job", {"apiVersion": "batch/v1", "kind": "Job", **child_json(uid="another-job")})
    with caplog.at_level(logging.INFO):
        asyncio.run(play.look(2))
    assert play.cluster.child_jobs.of(KEY) == ()
    assert "it waits for the Job tiny-train-a0 of an earlier job to be deleted" in caplog.text
    assert play.count("event NameTaken") == 0
    del play.api.objects[ATTEMPT]
    asyncio.run(play.look())
    assert [child.job_uid for child in play.cluster.child_jobs.of(KEY)] == [UID]
    assert play.count("status") == 1


@pytest.mark.parametrize("deleted", [{}, {"deletionTimestamp": "2026-03-01T12:00:00Z"}])
def test_a_settings_object_of_an_earlier_job_of_that_name_is_waited_for_until_it_has_gone(
    deleted: dict[str, str],
) -> None:
    play = Scene()
    play.add_job()
    earlier = {
        "labels": names.MANAGED_BY,
        "ownerReferences": [owner("CostOptJob", "tiny", "earlier")],
        "name": "tiny-train-a0",
        "namespace": "team",
        **deleted,
    }
    play.api.put("ConfigMap", {"kind": "ConfigMap", "metadata": earlier, "data": {"train.json": "old"}})
    asyncio.run(play.look())
    assert play.api.objects["ConfigMap tiny-train-a0"]["data"] == {"train.json": "old"}
    assert play.count(f"create {ATTEMPT}") == 0
    del play.api.objects["ConfigMap tiny-train-a0"]
    asyncio.run(play.look())
    assert play.count(f"create {ATTEMPT}") == 1


def test_after_a_conflict_the_job_is_read_again_before_anything_is_done() -> None:
    play = Scene()
    play.add_job()
    known = play.api.objects[JOB]
    play.api.put("CostOptJob", {**known, "metadata": {**known["metadata"], "labels": {"a": "b"}}})
    asyncio.run(play.look())
    assert play.api.written == ["status"]
    asyncio.run(play.look())
    assert play.api.written[:2] == ["status", "status"]
    assert play.count(f"create {ATTEMPT}") == 1
    assert play.errors("Conflict") == 1


def test_no_finalizer_is_released_while_the_record_is_not_written() -> None:
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    play.add_child(conditions=("Complete",))
    for index in (0, 1):
        play.add_pod(index, phase="Succeeded", exit_code=0)
    play.api.next["status"] = [ApiError(500, "InternalError", "etcd"), TimeoutError(), ApiError(409, "Conflict", "")]
    asyncio.run(play.look(4))  # the first of them is for the last words of the pods
    assert play.count("status") == 4
    assert not any(what.startswith("release") for what in play.api.written)
    asyncio.run(play.look())
    assert play.count("release train-a0-0") == play.count("release train-a0-1") == 1
    assert play.status.usage is not None
    assert [record.index for record in play.status.usage.records] == [0, 1]


def test_a_job_that_is_gone_when_its_status_is_written_is_forgotten() -> None:
    play = Scene()
    play.add_job()
    del play.api.objects[JOB]
    asyncio.run(play.look(2))
    assert play.api.written == ["status"]
    assert KEY not in play.cluster.jobs


def test_a_job_that_was_made_anew_under_the_same_name_is_another() -> None:
    play = Scene()
    play.add_job()
    again = {**play.api.objects[JOB]}
    again["metadata"] = {**again["metadata"], "uid": "second"}
    play.api.put("CostOptJob", again)
    asyncio.run(play.look())
    assert play.api.written == ["status"]
    assert [job.uid for job in play.cluster.jobs.values()] == ["second"]


def test_a_job_that_is_deleted_as_its_status_is_written_starts_nothing() -> None:
    play = Scene()
    play.add_job()
    play.api.objects[JOB]["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    asyncio.run(play.look())
    assert play.api.written == ["status"]


def test_the_pods_of_a_job_that_is_gone_are_let_go_once_they_have_ended() -> None:
    play = Scene()
    play.cluster.kinship.learn(child().gang)
    play.add_pod(0, phase="Failed", exit_code=143)
    play.add_pod(1)
    asyncio.run(play.look())
    assert play.api.written == ["release train-a0-0"]
    play.add_pod(1, phase="Failed", exit_code=143)
    asyncio.run(play.look(2))
    assert play.api.written == ["release train-a0-0", "release train-a0-1"]
    assert play.metrics.registry.get_sample_value("costopt_pods_ended_after_deletion_total") == 2


def test_a_job_that_is_there_but_was_not_known_keeps_its_pods() -> None:
    play = Scene()
    play.add_job()
    play.cluster.kinship.learn(child().gang)
    play.cluster.jobs.clear()
    play.add_pod(0, phase="Failed", exit_code=143)
    asyncio.run(play.look())
    assert play.api.written == []
    assert KEY in play.cluster.jobs


def test_pods_of_an_earlier_job_of_that_name_are_let_go_without_a_record() -> None:
    play = Scene()
    play.cluster.kinship.learn(child().gang)
    play.add_job(uid="second")
    play.add_pod(0, phase="Succeeded", exit_code=0)
    asyncio.run(play.look())
    assert play.count("release train-a0-0") == 1
    asyncio.run(play.look(key=("team", "second")))
    assert play.status.usage is None


def test_a_quota_that_is_used_up_is_tried_again_later_and_later_and_told_once_a_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    play = Scene()
    play.add_job()
    sentence = 'jobs.batch "tiny-train-a0" is forbidden: exceeded quota: few, requested: count/jobs.batch=1'
    play.api.next[f"create {ATTEMPT}"] = [ApiError(403, "Forbidden", sentence)] * 4
    with caplog.at_level(logging.WARNING):
        asyncio.run(play.look(4))
    told = [record.getMessage() for record in caplog.records if "exceeded quota" in record.getMessage()]
    assert [line.rsplit(" ", 2)[1] for line in told] == ["0.1", "0.2", "0.4", "0.8"]
    assert play.errors("Forbidden") == 4
    assert play.count("status") == 1
    asyncio.run(play.look())
    assert ATTEMPT in play.api.objects
    assert play.status.stages[0].failures == 0


def test_growing_figures_wait_while_those_of_other_jobs_take_all_there_is() -> None:
    play = Scene()
    play.add_job()

    async def go() -> None:
        await play.look()
        play.add_child()
        for index in (0, 1):
            play.add_pod(index)
        for _ in range(2):
            play.now += timedelta(seconds=10)
            await play.look()
        written = play.count("status")
        play.now += timedelta(minutes=5)
        while play.controller._figures.take():
            pass
        await play.look()
        assert play.count("status") == written
        play.controller._figures = RateLimiter(1)
        await play.look()
        assert play.count("status") == written + 1

    asyncio.run(go())


PODS_OF_GANG = ["delete Pod train-a0-0", "delete Pod train-a0-1"]


def stalled_scene() -> Scene:
    """A gang that has been silent for longer than its timeout."""
    play = Scene()
    play.add_job(restarts={"stallTimeoutSeconds": 10})
    asyncio.run(play.look())
    play.add_child()
    for index in (0, 1):
        play.add_pod(index)
    sights = {pod.uid: LogSight(timedelta(seconds=11)) for pod in play.cluster.pods.of(KEY)}
    play.controller._logs.of = lambda *_: sights  # type: ignore[method-assign]
    play.api.written.clear()
    return play


def deleted(play: Scene) -> list[str]:
    return [what for what in play.api.written if what.startswith("delete")]


def test_the_pods_of_a_silent_gang_are_deleted_with_a_short_grace_before_their_job() -> None:
    """The deletion of the Job would give them their full grace, and no deletion after that could shorten it."""
    play = stalled_scene()
    asyncio.run(play.look())
    assert play.api.written[0] == "status"
    assert deleted(play) == [*PODS_OF_GANG, f"delete {ATTEMPT}"]
    assert {play.api.graces[f"Pod train-a0-{index}"] for index in (0, 1)} == {10}


def test_a_job_is_not_deleted_before_all_its_pods_are() -> None:
    play = stalled_scene()
    play.api.next[PODS_OF_GANG[1]] = [ApiError(500, "InternalError", "etcd")]
    asyncio.run(play.look())
    assert deleted(play) == PODS_OF_GANG
    asyncio.run(play.look())
    assert deleted(play)[-1] == f"delete {ATTEMPT}"


def test_what_is_left_after_a_crash_between_the_pods_and_their_job_is_deleted_too() -> None:
    play = stalled_scene()
    play.api.next[f"delete {ATTEMPT}"] = [TimeoutError()]
    asyncio.run(play.look())
    ending = "2026-03-01T12:00:30Z"
    for index in (0, 1):
        play.add_pod(index, deleted=30, grace=10)
    assert all(pod.deleted == ending for pod in play.cluster.pods.of(KEY))
    play.api.written.clear()
    asyncio.run(play.look())
    assert deleted(play) == [f"delete {ATTEMPT}"]


def test_an_event_that_cannot_be_told_holds_nothing_up() -> None:
    play = Scene()
    play.add_job(suspend=True)
    play.api.next["event Suspended"] = [ApiError(403, "Forbidden", "no events")]
    asyncio.run(play.look(2))
    assert play.count("event Suspended") == 1
    assert play.errors("Forbidden") == 0


def test_one_that_does_not_lead_any_more_goes_no_further() -> None:
    play = Scene()
    play.add_job()
    play.api.next["status"] = [NotLeading("not sent")]
    asyncio.run(play.look())
    assert play.api.written == ["status"]


def test_an_api_server_that_cannot_be_reached_is_tried_again() -> None:
    play = Scene()
    play.add_job()
    play.api.next["status"] = [ConnectionResetError("reset"), TimeoutError()]
    asyncio.run(play.look(3))
    assert play.errors("Unreachable") == 2
    assert play.count(f"create {ATTEMPT}") == 1


def test_a_mistake_of_our_own_at_one_job_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        play = Scene()
        play.add_job()
        play.queue.add(("team", "other"))
        play.api.next["status"] = [KeyError("a mistake")]
        running = asyncio.ensure_future(play.controller.run())
        while play.count(f"create {ATTEMPT}") == 0:
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        assert play.errors("Bug") == 1

    asyncio.run(asyncio.wait_for(go(), 240))
    assert "this is a mistake in the operator" in caplog.text


def with_a_gang() -> Scene:
    """A running gang; time is the test's."""
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    for made in play.cluster.child_jobs.of(KEY):
        play.cluster.child_jobs.forget(made)  # in its place comes one whose uid is known
    play.add_child()
    for index in (0, 1):
        play.add_pod(index)
    asyncio.run(play.look())
    play.api.written.clear()
    return play


def mistaken(play: Scene, **spec: Any) -> None:
    """The job becomes one that this version does not understand, however that came about."""
    known = play.api.objects[JOB]
    broken = {**known, "spec": {**known["spec"], **spec}}
    play.cluster.learn_job(parse_job(play.api.put("CostOptJob", broken)))


KINDS_MADE = ["PersistentVolumeClaim", "NetworkPolicy", "ConfigMap", "Service", "Workload", "Job"]


@pytest.mark.parametrize("kind", KINDS_MADE)
def test_nothing_of_somebody_else_is_written_over_and_the_job_says_what_it_waits_for(kind: str) -> None:
    play = Scene(gang_api="v1alpha1")
    play.add_job(storage={"create": {"size": "1Gi"}})
    drawn = manifests(a_job(storage={"create": {"size": "1Gi"}}), "train", 0, gang_api="v1alpha1")
    assert [manifest["kind"] for manifest in drawn] == KINDS_MADE
    name = next(manifest["metadata"]["name"] for manifest in drawn if manifest["kind"] == kind)
    labels = {**names.MANAGED_BY, names.LABEL_JOB_UID: UID}
    foreign = play.api.put(kind, {"metadata": {"name": name, "namespace": "team", "labels": labels}, "data": "theirs"})

    for _ in range(4):
        asyncio.run(play.look())
        play.now += timedelta(seconds=11)
    assert play.api.objects[f"{kind} {name}"] == foreign
    assert play.count("event NameTaken") == 1
    assert play.status.stages[0].state == "Starting"
    condition = play.status.condition("Succeeded")
    assert condition is not None
    assert condition.reason == "Pending"
    assert f"waits for: the name {name}, which a {kind} has that is not this job's" in condition.message

    del play.api.objects[f"{kind} {name}"]
    for _ in range(3):
        asyncio.run(play.look())
        play.now += timedelta(seconds=3)
    assert [child.name for child in play.cluster.child_jobs.of(KEY)] == ["tiny-train-a0"]
    assert play.gone_on()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"deletionTimestamp": "2026-03-01T12:00:00Z"}, "that is being deleted to be gone"),
        ({"ownerReferences": [owner("CostOptJob", "tiny", "gone")]}, "of an earlier job to be deleted"),
    ],
)
@pytest.mark.parametrize("kind", KINDS_MADE)
def test_what_will_go_by_itself_is_waited_for_and_the_job_is_told_of_it_once(
    kind: str, metadata: dict[str, Any], words: str
) -> None:
    play = Scene(gang_api="v1alpha1")
    spec = {"storage": {"create": {"size": "1Gi"}}}
    play.add_job(**spec)
    drawn = manifests(a_job(**spec), "train", 0, gang_api="v1alpha1")
    name = next(manifest["metadata"]["name"] for manifest in drawn if manifest["kind"] == kind)
    play.api.put(kind, {"metadata": {"name": name, "namespace": "team", "labels": names.MANAGED_BY, **metadata}})
    for _ in range(4):
        asyncio.run(play.look())
        play.now += timedelta(seconds=11)
    assert (play.count("event NotGoneYet"), play.count("event NameTaken")) == (1, 0)
    condition = play.status.condition("Succeeded")
    assert condition is not None
    assert f"waits for: the {kind} {name} {words}" in condition.message
    del play.api.objects[f"{kind} {name}"]
    for _ in range(3):
        asyncio.run(play.look())
        play.now += timedelta(seconds=3)
    assert [child.name for child in play.cluster.child_jobs.of(KEY)] == ["tiny-train-a0"]


def test_a_name_that_is_taken_holds_up_no_other_attempt() -> None:
    play = Scene()
    variant = {"steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}]}
    play.add_job(compress=[{"name": "first", **variant}, {"name": "second", **variant}])
    asyncio.run(play.look())
    play.add_child(conditions=("Complete",))
    for index in (0, 1):
        play.add_pod(index, phase="Succeeded", exit_code=0)
    play.api.put("Job", {"kind": "Job", "metadata": {"name": "tiny-first-a0", "namespace": "team"}})
    asyncio.run(play.look(3))
    assert play.count("create Job tiny-second-a0") == 1
    assert play.count("event NameTaken") == 1


@pytest.mark.parametrize("written_meanwhile", [False, True])
def test_settings_are_changed_in_the_very_object_that_was_found_to_be_the_jobs(written_meanwhile: bool) -> None:
    play = Scene()
    play.add_job(labels={names.QUEUE_NAME_LABEL: "gpus"})
    asyncio.run(play.look())
    play.add_child(suspend=False, completions=1)
    theirs = {"labels": names.MANAGED_BY, "ownerReferences": [owner("CostOptJob", "tiny", UID)]}
    settings = {"metadata": {"name": "tiny-train-a0", "namespace": "team", **theirs}, "data": {"train.json": "old"}}
    before = play.api.put("ConfigMap", settings)
    if written_meanwhile:
        play.api.next["replace ConfigMap tiny-train-a0"] = [ApiError(409, "Conflict", "the object has been modified")]
    asyncio.run(play.look(3))
    written = play.api.replaced[0]
    assert {key: written["metadata"][key] for key in ("uid", "resourceVersion")} == {
        key: before["metadata"][key] for key in ("uid", "resourceVersion")
    }
    assert play.count("replace ConfigMap tiny-train-a0") == 1 + written_meanwhile
    assert '"numNodes": 1' in play.api.objects["ConfigMap tiny-train-a0"]["data"]["train.json"]


REFUSALS = [
    ApiError(400, "BadRequest", "the status is no JSON"),
    ApiError(403, "Forbidden", "a policy forbids it"),
    ApiError(413, "RequestEntityTooLarge", "limit is 3145728"),
    ApiError(422, "Invalid", "status.bill.lines: Too many: 3000: must have at most 2000 items"),
    ApiError(500, "InternalError", "etcdserver: request is too large"),
    ApiError(500, "InternalError", "trying to send message larger than max (2097153 vs. 2097152)"),
    KeyError("a mistake"),
    RecursionError("maximum recursion depth exceeded"),
]
PASSING = [
    ApiError(401, "Unauthorized", ""),
    ApiError(409, "Conflict", ""),
    ApiError(429, "TooManyRequests", ""),
    ApiError(500, "InternalError", "etcdserver: leader changed"),
    ApiError(503, "ServiceUnavailable", ""),
    TimeoutError(),
    ConnectionResetError("reset"),
]


def failing_looks(play: Scene, error: Exception, looks: int) -> None:
    """So many looks, ten seconds apart, of which the status is due at each and is answered with `error`."""
    began = START

    async def go() -> None:
        for number in range(looks):
            play.controller._clock = lambda now=began + timedelta(seconds=40 * (number + 1)): now
            play.steady += 10.0
            play.api.next["status"] = [error]
            await play.look()

    asyncio.run(go())


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_a_job_whose_looks_fail_is_stopped_with_a_checkpoint_and_told_once(error: Exception) -> None:
    play = with_a_gang()
    failing_looks(play, error, LOOKS - 1)
    assert deleted(play) == []
    failing_looks(play, error, 3)
    assert set(deleted(play)) == {f"delete {ATTEMPT}"}
    assert play.api.graces[ATTEMPT] is None
    assert play.count("event CannotBeLookedAt") == 1
    assert not any(what.startswith("release") for what in play.api.written), "usage that stands nowhere is let go"
    assert play.queue._failures[KEY] == LOOKS + 2


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_by_itself_stops_no_gang(error: Exception) -> None:
    play = with_a_gang()
    failing_looks(play, error, 3 * LOOKS)
    assert deleted(play) == []


def test_looks_that_fail_within_a_moment_stop_no_gang() -> None:
    play = with_a_gang()

    async def go() -> None:
        for _ in range(3 * LOOKS):
            play.controller._clock = lambda: START + timedelta(minutes=5)
            play.api.next["status"] = [KeyError("a mistake")]
            await play.look()

    asyncio.run(go())
    assert deleted(play) == []


def test_a_look_that_succeeds_forgets_those_that_failed_before() -> None:
    play = with_a_gang()
    failing_looks(play, KeyError("a mistake"), LOOKS - 1)
    asyncio.run(play.look())
    failing_looks(play, KeyError("a mistake"), LOOKS - 1)
    assert deleted(play) == []


def test_a_job_that_is_not_understood_starts_nothing_and_is_not_left_to_run(caplog: pytest.LogCaptureFixture) -> None:
    play = with_a_gang()
    mistaken(play, train={})
    failing_looks(play, KeyError("never asked for"), LOOKS)
    assert "the job is not understood (spec.train.resourcesPerNode: Field required)" in caplog.text
    assert set(deleted(play)) == {f"delete {ATTEMPT}"}
    assert play.count("event CannotBeLookedAt") == 1
    assert play.count("status") == 0


def test_the_pods_of_a_gang_that_has_lost_its_job_are_stopped_one_by_one() -> None:
    play = with_a_gang()
    for gone in play.cluster.child_jobs.of(KEY):
        play.cluster.child_jobs.watches[0].forget(gone)
    for index in (0, 1):
        data = {**play.api.objects[f"Pod train-a0-{index}"]}
        del data["metadata"]["ownerReferences"]
        play.cluster.pods.learn(parse_pod(play.api.put("Pod", data)), "team")
    mistaken(play, train={})
    failing_looks(play, KeyError("never asked for"), LOOKS)
    assert deleted(play) == PODS_OF_GANG


def being_deleted(play: Scene, *finalizers: str) -> None:
    """Somebody deletes the job, whom these finalizers keep."""
    known = play.api.objects[JOB]
    metadata = {**known["metadata"], "deletionTimestamp": "2026-03-01T12:00:00Z", "finalizers": list(finalizers)}
    play.cluster.learn_job(parse_job(play.api.put("CostOptJob", {**known, "metadata": metadata})))


def test_a_job_that_is_deleted_and_kept_by_a_finalizer_of_others_is_stopped_recorded_and_let_go_of() -> None:
    play = with_a_gang()
    being_deleted(play, "others.example/keep")
    asyncio.run(play.look())
    assert play.api.written == ["status", f"delete {ATTEMPT}"]
    assert play.api.graces == {ATTEMPT: None}
    for index in (0, 1):
        play.add_pod(index, phase="Failed", exit_code=143, deleted=60)
    asyncio.run(play.look(2))
    assert play.status.usage is not None
    assert [record.index for record in play.status.usage.records] == [0, 1]
    assert play.count("release train-a0-0") == play.count("release train-a0-1") == 1
    assert not any(what.startswith("create") for what in play.api.written)


def test_the_pods_of_a_job_that_is_deleted_without_its_children_live_on_and_are_let_go_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    play = with_a_gang()
    being_deleted(play, "orphan", "others.example/keep")
    with caplog.at_level(logging.INFO):
        asyncio.run(play.look(2))
    assert play.api.written == ["release train-a0-0", "release train-a0-1"]
    told = [record.getMessage() for record in caplog.records if "cascade=orphan" in record.getMessage()]
    assert told == ["the job is deleted without its pods (cascade=orphan): 2 of them live on unrecorded"]


def without_an_owner(play: Scene) -> None:
    """What the garbage collector does to a batch Job that is to live on. Our watch has not told of it."""
    known = play.api.objects[ATTEMPT]
    play.api.put("Job", {**known, "metadata": {**known["metadata"], "ownerReferences": []}})


def test_a_batch_job_that_has_lost_its_owner_meanwhile_is_not_stopped_but_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The job was deleted without its children, and is kept by somebody else after they have been made nobody's."""
    play = with_a_gang()
    without_an_owner(play)
    being_deleted(play, "others.example/keep")
    with caplog.at_level(logging.INFO):
        asyncio.run(play.look(3))
    assert deleted(play) == []
    assert play.count("release train-a0-0") == play.count("release train-a0-1") == 1
    assert "live on unrecorded" in caplog.text


@pytest.mark.parametrize("lives_on", [True, False], ids=["without an owner", "still its job's"])
def test_a_batch_job_whose_job_has_gone_since_the_look_is_deleted_only_if_it_still_has_its_owner(
    lives_on: bool,
) -> None:
    play = with_a_gang()
    (batch_job,) = play.cluster.child_jobs.of(KEY)
    if lives_on:
        without_an_owner(play)
    del play.api.objects[JOB]
    play.cluster.forget_job(play.cluster.jobs[KEY])
    asyncio.run(play.controller._departures.delete_job(batch_job))
    assert deleted(play) == ([] if lives_on else [f"delete {ATTEMPT}"])
    assert play.count("release train-a0-0") == play.count("release train-a0-1") == int(lives_on)


def test_a_batch_job_that_changes_between_two_requests_is_read_again_before_it_is_deleted() -> None:
    play = with_a_gang()
    being_deleted(play, "others.example/keep")
    read, changes = play.api.get, [1, 2]

    async def get(kind: str, namespace: str, name: str) -> Json | None:
        found = await read(kind, namespace, name)
        if kind == "Job" and changes:
            changes.pop()
            play.api.put("Job", play.api.objects[ATTEMPT])
        return found

    play.api.get = get  # type: ignore[method-assign]
    asyncio.run(play.look())
    assert play.count(f"delete {ATTEMPT}") == 3
    assert ATTEMPT not in play.api.objects


def test_pods_that_live_on_after_their_job_has_gone_are_let_go_of_although_nobody_saw_it_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    play = with_a_gang()
    without_an_owner(play)
    del play.api.objects[JOB]
    play.cluster.forget_job(play.cluster.jobs[KEY])
    with caplog.at_level(logging.INFO):
        asyncio.run(play.look(3))
    assert play.api.written == ["release train-a0-0", "release train-a0-1"]
    assert "live on unrecorded" in caplog.text


def test_running_pods_of_a_job_that_has_gone_are_asked_about_once_and_wait_for_their_end() -> None:
    play = with_a_gang()
    del play.api.objects[JOB]
    play.cluster.forget_job(play.cluster.jobs[KEY])
    read, asked = play.api.get, []

    async def get(kind: str, namespace: str, name: str) -> Json | None:
        asked.append(kind)
        return await read(kind, namespace, name)

    play.api.get = get  # type: ignore[method-assign]
    asyncio.run(play.look(5))
    assert (play.api.written, asked) == ([], ["CostOptJob", "Job"])


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_a_job_that_is_being_deleted_and_cannot_be_looked_at_is_let_go_of(error: Exception) -> None:
    play = with_a_gang()
    being_deleted(play, "foregroundDeletion")
    for index in (0, 1):
        play.add_pod(index, phase="Failed", exit_code=143, deleted=60)
    failing_looks(play, error, LOOKS - 1)
    assert not any(what.startswith("release") for what in play.api.written)
    failing_looks(play, error, 3)
    assert play.count("release train-a0-0") == play.count("release train-a0-1") == 1


def test_a_finalizer_that_cannot_be_removed_keeps_no_limit_from_being_kept() -> None:
    play = with_a_gang()
    stranger = {"namespace": "team", "uid": "stranger"}
    data = pod_json(1, phase="Succeeded", exit_code=0, uid="earlier")
    data["metadata"] |= {"name": "stranger", "uid": "stranger", **stranger}
    play.cluster.pods.learn(parse_pod(play.api.put("Pod", data)), "team")
    play.api.next["release stranger"] = [ApiError(403, "Forbidden", "a policy forbids it")] * 9
    mistaken(play, suspend=True)
    asyncio.run(play.look())
    assert deleted(play) == [f"delete {ATTEMPT}"]


def test_a_job_that_leaves_no_room_for_its_status_fails_at_its_beginning_and_says_why() -> None:
    play = Scene()
    play.add_job()
    known = play.api.objects[JOB]
    large = {**known, "metadata": {**known["metadata"], "annotations": {"a": "x" * (960 << 10)}}}
    play.cluster.learn_job(parse_job(play.api.put("CostOptJob", large)))
    asyncio.run(play.look(3))
    condition = play.status.condition("Succeeded")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "TrainingFailed")
    assert "spec, labels and annotations together must be at most 900 KiB" in condition.message
    assert play.count(f"create {ATTEMPT}") == 0


def test_a_job_made_again_under_its_name_says_which_step_it_goes_on_from_and_what_the_one_before_cost() -> None:
    play = with_a_gang()
    play.cluster.forget_job(play.cluster.jobs[KEY])
    known = play.api.objects.pop(JOB)
    spent = JobStatus(bill=Bill(currency="USD", list_cost="12.5", priced_cost="12.5"))
    play.cluster.learn_job(parse_job({**known, "status": spent.to_plain()}))
    play.cluster.forget_job(play.cluster.jobs[KEY])
    for pod in play.cluster.pods.of(KEY):
        play.cluster.pods.watches[0].forget(pod)
    again = ("team", "second")
    play.add_job(uid="second")
    asyncio.run(play.look(key=again))
    play.add_child(uid="second", metadata={"uid": "job-again"})
    for index in (0, 1):
        data = pod_json(index, uid="second")
        data["metadata"] |= {"uid": f"again-{index}", "ownerReferences": [owner("Job", "tiny-train-a0", "job-again")]}
        play.cluster.pods.learn(parse_pod(play.api.put("Pod", data)), "team")
    progress = Progress(step=410, total_steps=1000, resumed_from_step=400)
    sights = {pod.uid: LogSight(timedelta(0), progress=progress) for pod in play.cluster.pods.of(again)}
    play.controller._logs.of = lambda *_: sights  # type: ignore[method-assign]
    play.controller._clock = lambda: START + timedelta(minutes=1)
    asyncio.run(play.look(key=again))
    play.controller._clock = lambda: START + timedelta(minutes=2)
    asyncio.run(play.look(key=again))
    assert play.status.continues_from_step == 400
    assert play.status.earlier_job == EarlierJob(uid=UID, priced_cost="12.5", currency="USD")
    assert play.status.bill is not None
    assert play.status.bill.priced_cost != "12.5"


FORGED = {
    "no controller": {"ownerReferences": None},
    "a Job that is not there": {"ownerReferences": [owner("Job", "nowhere", "no-such-uid")]},
    "a Job of its name, of another uid": {"ownerReferences": [owner("Job", "tiny-train-a0", "no-such-uid")]},
    "a Job of somebody else": {"ownerReferences": [owner("Job", "theirs", "their-uid")]},
    "another controller of the Job's uid and name": {"ownerReferences": [owner("CostOptJob", "tiny", UID)]},
}


@pytest.mark.parametrize("metadata", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("stage", ["train", "A_b.c", "int8"])
@pytest.mark.parametrize("attempt", [0, 1, 9999999999999999])
def test_a_pod_that_only_says_it_is_ours_is_neither_billed_nor_counted_nor_touched(
    metadata: Json, stage: str, attempt: int, caplog: pytest.LogCaptureFixture
) -> None:
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    play.add_child()
    for index in (0, 1):
        play.add_pod(index)
    theirs = {"metadata": {"name": "theirs", "namespace": "team", "uid": "their-uid", "labels": names.MANAGED_BY}}
    play.api.put("Job", {"kind": "Job", "spec": {}, **theirs})
    forged = pod_json(0, stage=stage, attempt=attempt, phase="Failed", exit_code=78, finalizer=False)
    forged["metadata"] |= {"uid": "forged", "name": "forged", **metadata}
    forged["metadata"]["labels"]["app"] = "theirs"
    play.cluster.pods.learn(parse_pod(play.api.put("Pod", forged)), "team")
    play.api.written.clear()
    keys = [KEY, *(("team", pod.uid) for pod in play.cluster.pods.watches[0].objects.values())]
    for key in (*keys, *keys):
        play.now += timedelta(seconds=31)
        asyncio.run(play.look(key=key))
    assert play.errors("Bug") == 0
    assert play.status.stages[0].state == "Running"
    assert (play.status.stages[0].failures, play.status.stages[0].attempt) == (0, 0)
    assert {pod.uid for pod in play.cluster.pods.of(KEY)} == {"pod-train-0-0", "pod-train-0-1"}
    assert [what for what in play.api.written if what != "status"] == []
    passed_over = [record for record in caplog.records if "the pod forged has our label" in record.getMessage()]
    assert len(passed_over) == 1


def test_our_finalizer_on_a_pod_of_nobody_is_released_when_it_has_ended() -> None:
    play = Scene()
    play.add_job()
    play.add_pod(0, phase="Running")
    asyncio.run(play.look(key=("team", "pod-train-0-0")))
    assert play.api.written == []
    play.add_pod(0, phase="Failed", exit_code=1)
    asyncio.run(play.look(key=("team", "pod-train-0-0")))
    assert play.api.written == ["release train-a0-0"]


def test_a_pod_whose_batch_job_was_not_heard_of_yet_is_met_through_it() -> None:
    play = Scene()
    play.add_job()
    play.api.put("Job", {"kind": "Job", **child_json()})
    play.add_pod(0)
    assert play.cluster.pods.of(KEY) == ()
    asyncio.run(play.look(key=("team", "pod-train-0-0")))
    assert [pod.uid for pod in play.cluster.pods.of(KEY)] == ["pod-train-0-0"]


def test_pods_of_a_batch_job_that_is_gone_are_still_the_jobs_also_after_a_restart() -> None:
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    play.add_child()
    for index in (0, 1):
        play.add_pod(index)
    for _ in range(2):
        play.now += timedelta(seconds=3)
        asyncio.run(play.look())
    assert "job-train-0" in {entry.uid for entry in play.status.batch_jobs or []}
    (watch,) = play.cluster.child_jobs.watches
    watch.forget(watch.objects["job-train-0"])
    assert len(play.cluster.pods.of(KEY)) == 2

    again = Scene()
    again.api.objects = {JOB: play.api.objects[JOB], "Pod train-a0-0": play.api.objects["Pod train-a0-0"]}
    again.cluster.learn_job(parse_job(again.api.objects[JOB]))
    again.add_pod(0, phase="Failed", exit_code=143, deleted=60, finished=61)
    again.now = play.now + timedelta(minutes=1)
    asyncio.run(again.look(3))
    assert again.status.usage is not None
    vanished, recorded = sorted(again.status.usage.records, key=lambda record: -record.index)
    assert recorded.uid == "pod-train-0-0"
    assert (vanished.index, vanished.end_estimated) == (1, True)
    assert again.count("release train-a0-0") == 1


def test_a_pod_stays_the_jobs_when_somebody_takes_its_references_and_labels_away() -> None:
    play = Scene()
    play.add_job()
    play.add_child()
    play.add_pod(0)
    data = pod_json(0, phase="Failed", exit_code=1)
    data["metadata"] |= {"ownerReferences": [owner("Job", "theirs", "their-uid")]}
    data["metadata"]["labels"] |= {names.LABEL_JOB_UID: "another", names.LABEL_ATTEMPT: "7"}
    play.cluster.pods.learn(parse_pod(play.api.put("Pod", data)), "team")
    (pod,) = play.cluster.pods.of(KEY)
    assert (pod.job_uid, pod.stage, pod.attempt, pod.phase) == (UID, "train", 0, "Failed")
    (watch,) = play.cluster.pods.watches
    watch.forget(watch.objects[pod.uid])
    assert play.cluster.pods.of(KEY) == ()


def test_nothing_is_remembered_of_a_job_of_which_nothing_is_left() -> None:
    play = Scene()
    play.add_job()
    play.add_child()
    play.add_pod(0)
    play.cluster.forget_job(next(iter(play.cluster.jobs.values())))
    (jobs,), (pods,) = play.cluster.child_jobs.watches, play.cluster.pods.watches
    jobs.forget(jobs.objects["job-train-0"])
    assert play.cluster.kinship.get("team", "job-train-0") is not None
    pods.forget(pods.objects["pod-train-0-0"])
    assert play.cluster.kinship.get("team", "job-train-0") is None


def test_a_job_named_as_the_label_of_a_longer_one_displaces_nothing() -> None:
    play = Scene()
    longer = "a" * 100
    for version, name in enumerate([longer, label_value(longer)], start=1):
        made = {"name": name, "namespace": "team", "uid": f"uid-{version}", "resourceVersion": str(version)}
        plain = a_job().to_plain()
        play.cluster.learn_job(parse_job({**plain, "metadata": {**made, "generation": 1}}))
    assert {job.name for job in play.cluster.jobs.values()} == {longer, label_value(longer)}
    assert len({job.key for job in play.cluster.jobs.values()}) == 2


def test_an_old_attempts_job_that_may_not_be_deleted_stays_and_the_running_gang_goes_on() -> None:
    play = Scene()
    play.add_job(restarts={"backoffSeconds": 0, "maxFailures": 50})
    asyncio.run(play.look())
    for attempt in range(5):
        play.add_child(attempt=attempt, conditions=("Failed",) if attempt < 4 else ())
        ended = {"phase": "Failed", "exit_code": 1, "finalizer": False} if attempt < 4 else {}
        for index in (0, 1):
            play.add_pod(index, attempt=attempt, **ended)
    job = play.api.objects[JOB]
    status = copy.deepcopy(job["status"])
    status["stages"][0].update(attempt=4, state="Running")
    play.cluster.learn_job(parse_job(play.api.put("CostOptJob", {**job, "status": status})))
    play.api.next["delete Job tiny-train-a0"] = [ApiError(403, "Forbidden", "kept for the auditors")] * 99
    for _ in range(15):
        play.now += timedelta(seconds=5)
        play.steady += 5
        asyncio.run(play.look())
    assert play.count("delete Job tiny-train-a0") > 10
    assert play.count("delete Job tiny-train-a4") == 0
    assert (play.status.stages[0].attempt, play.status.stages[0].state) == (4, "Running")


def test_a_finalizer_that_may_not_be_released_holds_no_other_step_up() -> None:
    play = Scene()
    play.add_job(restarts={"backoffSeconds": 0})
    asyncio.run(play.look())
    play.add_child(conditions=("Failed",))
    for index in (0, 1):
        play.add_pod(index, phase="Failed", exit_code=1)
        play.api.next[f"release train-a0-{index}"] = [ApiError(403, "Forbidden", "a policy forbids it")] * 99
    for _ in range(6):
        play.now += timedelta(seconds=15)
        asyncio.run(play.look())
    assert play.count("create Job tiny-train-a1") == 1


def test_a_record_whose_writing_was_never_answered_is_made_once_though_its_pods_have_gone() -> None:
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    play.add_child()
    for index in (0, 1):
        play.add_pod(index)
    for _ in range(4):
        play.now += timedelta(seconds=15)
        asyncio.run(play.look())
    play.add_child(conditions=("Complete",))
    for index in (0, 1):
        play.add_pod(index, phase="Succeeded", exit_code=0)
    answer = play.api.replace_status

    async def lost(manifest: dict[str, Any]) -> dict[str, Any]:
        await answer(manifest)
        raise TimeoutError

    play.api.replace_status = lost  # type: ignore[method-assign]
    play.now += timedelta(seconds=15)
    asyncio.run(play.look(2))
    play.api.replace_status = answer  # type: ignore[method-assign]
    play.cluster.learn_job(parse_job(play.api.objects[JOB]))
    for pod in play.cluster.pods.of(KEY):
        play.cluster.pods.watches[0].forget(pod)
    for _ in range(4):
        play.now += timedelta(seconds=15)
        asyncio.run(play.look())
    assert play.status.usage is not None
    assert len(play.status.usage.records) == 2


def as_another_operator_sees_it(play: Scene) -> Scene:
    """The same objects, after a restart."""
    again = Scene()
    again.api.objects, again.api.version, again.now = play.api.objects, play.api.version, play.now
    for name, data in play.api.objects.items():
        match name.split(" ")[0]:
            case "CostOptJob":
                again.cluster.learn_job(parse_job(data))
            case "Job":
                again.cluster.child_jobs.learn(parse_child_job(data), "team")
            case "Pod":
                again.cluster.pods.learn(parse_pod(data), "team")
    asyncio.run(again.controller._strangers.meet_all())
    again.api.written.clear()
    return again


def a_gang_nobody_wrote_down(**changes: Any) -> Scene:
    """The operator has made a batch Job and died; somebody has deleted the Job, and its pods are held."""
    play = Scene()
    play.add_job()
    asyncio.run(play.look())
    del play.api.objects[ATTEMPT]
    for index in (0, 1):
        data = pod_json(index, phase="Failed", exit_code=143, deleted=60)
        data["metadata"] |= changes
        play.api.put("Pod", data)
    play.now += timedelta(minutes=2)
    return play


def test_pods_of_a_batch_job_that_nobody_wrote_down_are_the_jobs_after_a_restart() -> None:
    again = as_another_operator_sees_it(a_gang_nobody_wrote_down())
    assert [pod.uid for pod in again.cluster.pods.of(KEY)] == ["pod-train-0-0", "pod-train-0-1"]
    asyncio.run(again.look(3))
    assert again.status.usage is not None
    assert [record.index for record in again.status.usage.records] == [0, 1]
    assert again.count("release train-a0-0") == again.count("release train-a0-1") == 1
    assert again.count(f"create {ATTEMPT}") == 0, "the attempt would have been made twice"
    assert (again.status.stages[0].attempt, again.status.stages[0].disruptions) == (1, 1)


def test_an_operator_knows_whose_each_pod_is_before_its_first_look() -> None:
    """It would make the attempt again."""
    play = a_gang_nobody_wrote_down()
    again = Scene()
    again.api.objects, again.now = play.api.objects, play.now
    again.cluster.learn_job(parse_job(play.api.objects[JOB]))
    for index in (0, 1):
        again.cluster.pods.learn(parse_pod(play.api.objects[f"Pod train-a0-{index}"]), "team")

    async def go() -> None:
        running = asyncio.ensure_future(again.controller.run())
        while not any(what.startswith(("create Job", "release")) for what in again.api.written):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(go(), 240))
    assert again.count(f"create {ATTEMPT}") == 0


NOT_OF_IT = {
    "another name": {"ownerReferences": [owner("Job", "tiny-train-a1", "job-train-0")]},
    "another kind": {"ownerReferences": [owner("ReplicaSet", "tiny-train-a0", "job-train-0")]},
    "made before the attempt began": {"creationTimestamp": "2026-03-01T11:59:59Z"},
    "labels alone": {"ownerReferences": None},
}


@pytest.mark.parametrize("changes", NOT_OF_IT.values(), ids=NOT_OF_IT)
def test_a_pod_of_a_batch_job_that_nobody_knows_is_the_jobs_only_as_one_of_the_attempt_that_begins(
    changes: Json,
) -> None:
    assert as_another_operator_sees_it(a_gang_nobody_wrote_down(**changes)).cluster.pods.of(KEY) == ()


def test_a_pod_of_a_job_of_somebody_else_that_took_the_attempts_name_is_none_of_it() -> None:
    play = a_gang_nobody_wrote_down()
    theirs = {"name": "tiny-train-a0", "namespace": "team", "uid": "job-train-0"}
    play.api.objects[ATTEMPT] = {"kind": "Job", "metadata": theirs}
    again = Scene()
    again.api.objects = play.api.objects
    again.cluster.learn_job(parse_job(play.api.objects[JOB]))
    again.cluster.pods.learn(parse_pod(play.api.objects["Pod train-a0-0"]), "team")
    asyncio.run(again.controller._strangers.meet_all())
    assert again.cluster.pods.of(KEY) == ()


def test_an_attempt_whose_batch_job_is_written_down_takes_no_pod_of_another() -> None:
    play = with_a_gang()
    play.now += timedelta(minutes=1)
    asyncio.run(play.look())
    del play.api.objects[ATTEMPT]
    data = pod_json(0, phase="Failed", exit_code=1)
    data["metadata"] |= {"name": "forged", "uid": "forged"}
    data["metadata"]["ownerReferences"] = [owner("Job", "tiny-train-a0", "no-such-uid")]
    play.api.put("Pod", data)
    again = as_another_operator_sees_it(play)
    assert "forged" not in {pod.uid for pod in again.cluster.pods.of(KEY)}


def test_pods_without_an_owner_are_the_jobs_after_a_restart_if_its_status_says_that_they_hold_something() -> None:
    play = with_a_gang()
    play.now += timedelta(minutes=1)
    asyncio.run(play.look())
    del play.api.objects[ATTEMPT]
    forged = pod_json(0)
    forged["metadata"] |= {"name": "forged", "uid": "forged", "ownerReferences": None}
    play.api.put("Pod", forged)
    for index in (0, 1):
        del play.api.objects[f"Pod train-a0-{index}"]["metadata"]["ownerReferences"]
    again = as_another_operator_sees_it(play)
    assert [pod.name for pod in again.cluster.pods.of(KEY)] == ["train-a0-0", "train-a0-1"]
    again.add_pod(0, phase="Failed", exit_code=1)
    assert {(pod.name, pod.phase) for pod in again.cluster.pods.of(KEY)} >= {("train-a0-0", "Failed")}
    (watch,) = again.cluster.pods.watches
    for pod in list(watch.objects.values()):
        watch.forget(pod)
    assert again.cluster.pods.of(KEY) == ()


def test_old_attempts_are_deleted_while_the_next_waits_for_a_name_that_is_taken() -> None:
    play = Scene()
    play.add_job(restarts={"backoffSeconds": 0, "maxFailures": 50})
    asyncio.run(play.look())
    for attempt in range(5):
        play.add_child(attempt=attempt, conditions=("Failed",))
        for index in (0, 1):
            play.add_pod(index, attempt=attempt, phase="Failed", exit_code=1, finalizer=False)
    job = play.api.objects[JOB]
    status = copy.deepcopy(job["status"])
    status["stages"][0].update(attempt=5, state="Starting")
    play.cluster.learn_job(parse_job(play.api.put("CostOptJob", {**job, "status": status})))
    play.api.put("Job", {"kind": "Job", "metadata": {"name": "tiny-train-a5", "namespace": "team"}})
    asyncio.run(play.look(2))
    assert play.count("event NameTaken") == 1
    assert play.count("delete Job tiny-train-a0") >= 1


@pytest.mark.parametrize("name", ["", "..", "../../secrets/s", "x?watch=true", "x/y"])
def test_an_owner_that_can_be_no_objects_name_is_not_asked_for(name: str) -> None:
    play = Scene()
    data = pod_json(0, phase="Failed", exit_code=1)
    data["metadata"]["ownerReferences"][0]["name"] = name
    stranger = parse_pod(play.api.put("Pod", data))
    asked: list[str] = []

    async def get(kind: str, namespace: str, asked_for: str) -> None:
        asked.append(asked_for)

    play.api.get = get  # type: ignore[method-assign,assignment]
    assert asyncio.run(play.controller._strangers.is_met(stranger)) is False
    assert asked == []
