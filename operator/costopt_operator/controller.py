"""The loop of the cluster's shell, for one key at a time: gather → reconcile → write the status → do the rest."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from costopt.names import LABEL_JOB_UID, QUEUE_NAME_LABEL, TRAIN_STAGE, USAGE_FINALIZER
from costopt.plan.actions import StartGang
from costopt.render.children import config_map, service
from costopt.render.manifests import manifests
from costopt.schema.base import API_VERSION
from costopt.schema.job import CostOptJob
from costopt.schema.status import JobStatus
from costopt_operator.api import Api, ApiError, Json, NotLeading, Unreachable, object_path
from costopt_operator.cluster import Cluster
from costopt_operator.events import Event, event_manifest
from costopt_operator.known_fields import read_known
from costopt_operator.logs import about
from costopt_operator.look import LOG_EVERY, Logs, Nodes
from costopt_operator.metrics import Metrics
from costopt_operator.observe import Attempt, World, utc_now
from costopt_operator.reconcile import Memory, Todo, reconcile
from costopt_operator.sightings import ChildJob, JobObject, Pod, parse_child_job, parse_job, parse_pod, parse_service
from costopt_operator.work_queue import Key, WorkQueue

log = logging.getLogger(__name__)

WORKERS = 16
"""Jobs looked at at the same time: they wait for the API server, not for each other."""
PARSED_KEPT = 128
"""Jobs and statuses kept as models: a job is looked at some ten times between two of its writes, most of them soon."""
HASHED_LABEL_LENGTH = 55
"""A label this long may be a hash of a longer name."""


class NotYet(Exception):
    """Something must happen first; the sentence says what. Looked at again soon, with backoff."""


class Controller:
    """Carries out what is decided for each job."""

    def __init__(
        self,
        api: Api,
        cluster: Cluster,
        queue: WorkQueue,
        metrics: Metrics,
        *,
        default_image: str,
        gang_api: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._queue = queue
        self._metrics = metrics
        self._default_image = default_image
        self._gang_api = gang_api
        self._clock = clock
        self._nodes = Nodes(api)
        self._logs = Logs(api)
        self._memories: dict[str, Memory] = {}
        """By job uid."""
        self._refused: dict[str, dict[Attempt, str]] = {}
        """By job uid."""
        self._settled: dict[str, set[str]] = {}
        """By job uid: uids of admitted batch Jobs whose settings are there."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            with about(key):
                await self._turn(key)

    async def _turn(self, key: Key) -> None:
        began = time.perf_counter()
        deciding = 0.0
        try:
            deciding = await self.look_at(key)
        except NotLeading:
            pass  # the whole process is about to end
        except NotYet as reason:
            log.info("%s; looking again in %.1f s", reason, self._queue.failed(key))
        except ApiError as error:
            pause = self._queue.failed(key)
            self._metrics.errors.labels(error.reason or str(error.status)).inc()
            if error.status != 409:
                log.warning("%s; looking again in %.1f s", error, pause)
        except Unreachable as error:
            self._metrics.errors.labels("Unreachable").inc()
            log.warning("the API server cannot be reached (%s); again in %.1f s", error, self._queue.failed(key))
        except Exception:
            self._metrics.errors.labels("Bug").inc()
            log.exception("this is a mistake in the operator; looking again in %.1f s", self._queue.failed(key))
        else:
            self._queue.succeeded(key)
        finally:
            self._metrics.reconcile_seconds.observe(time.perf_counter() - began)
            self._queue.done(key, deciding)

    async def look_at(self, key: Key) -> float:
        """One look at one job; returns the seconds it took to decide, without the time the API server took."""
        job = self._cluster.jobs.get(key)
        pods = self._cluster.pods.of(key)
        if job is None:
            await self._after_its_job(key, pods)
            return 0.0
        await self._release_strangers(job, pods)
        world = await self._gather(job)
        if world is None:
            return 0.0
        memory = self._memories.get(job.uid, Memory())
        began = time.perf_counter()
        todo = reconcile(world, memory, self._clock())
        deciding = time.perf_counter() - began
        if todo.status is not None:
            job = await self._write_status(job, world, todo.status)
        self._memories[job.uid] = Memory(
            self._clock() if todo.status is not None else memory.last_written, todo.noticed
        )
        await self._carry_out(todo, world, job)
        self._remember_to_look(key, todo, world)
        return deciding

    async def _gather(self, job: JobObject) -> World | None:
        try:
            model, status = _job_of(job.document), _status_of(job.status)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            log.warning("the job is not understood (%s: %s), so it is left alone", where, first["msg"])
            return None
        pods = tuple(pod for pod in self._cluster.pods.of(job.key) if pod.job_uid == job.uid)
        children = tuple(child for child in self._cluster.child_jobs.of(job.key) if child.job_uid == job.uid)
        now = self._clock()
        timeout = timedelta(seconds=model.spec.restarts.stall_timeout_seconds)
        return World(
            job=model,
            status=status,
            generation=job.generation,
            deleting=job.deleting,
            child_jobs=children,
            pods=pods,
            book=self._cluster.books.get(model.spec.price_book_name or ""),
            nodes=await self._nodes.of(pods),
            logs=await self._logs.of(pods, timeout, now),
            refused=self._refused.get(job.uid, {}),
        )

    async def _write_status(self, job: JobObject, world: World, status: JobStatus) -> JobObject:
        """PUT the status; what the API server answers is the job from now on."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "CostOptJob",
            "metadata": {
                "name": job.name,
                "namespace": job.namespace,
                "uid": job.uid,
                "resourceVersion": str(job.resource_version),
            },
            "spec": world.job.spec.to_plain(),
            "status": status.to_plain(),
        }
        try:
            written = parse_job(await self._api.replace_status(body))
        except ApiError as error:
            if error.status in (404, 409):
                await self._read_again(job)
            raise
        self._cluster.learn_job(written)
        self._metrics.count(world.status, status, job.namespace)
        return written

    async def _read_again(self, job: JobObject) -> JobObject | None:
        """The job as the API server has it now; None, and forgotten, if it is gone or another of its name."""
        data = await self._api.get("CostOptJob", job.namespace, job.name)
        if data is None:
            self._cluster.forget_job(job)
            return None
        found = parse_job(data)
        if found.uid != job.uid:
            self._cluster.forget_job(job)
        self._cluster.learn_job(found)
        return found if found.uid == job.uid else None

    async def _carry_out(self, todo: Todo, world: World, job: JobObject) -> None:
        await _all(self._release(pod) for pod in todo.releases)
        await _all(self._delete_job(child) for child in todo.delete_jobs)
        await _all(self._delete_pod(pod, grace) for pod, grace in todo.delete_pods)
        await _all(self._delete_if_lost(pod) for pod in todo.overdue)
        for gang in todo.start:
            await self._start(gang, todo, world, job)
        for child in todo.settle:
            await self._settle(child, world, todo.execution)
        for child in todo.connect:
            await self._connect(child, world, todo.execution)
        for event in todo.events:
            await self._tell(event, todo, job)
        if todo.delete:
            log.info("the job's time to live is over")
            await self._api.delete("CostOptJob", job.namespace, job.name, uid=job.uid)

    async def _release(self, pod: Pod) -> None:
        answer = await self._api.remove_finalizer(pod.namespace, pod.name, pod.uid, USAGE_FINALIZER)
        if answer is not None:
            self._cluster.pods.learn(parse_pod(answer), pod.namespace)
        self._logs.forget([pod.uid])

    async def _delete_job(self, child: ChildJob) -> None:
        log.info("deleting the Job %s", child.name)
        await self._api.delete("Job", child.namespace, child.name, uid=child.uid)

    async def _delete_pod(self, pod: Pod, grace_seconds: int | None) -> None:
        await self._api.delete("Pod", pod.namespace, pod.name, uid=pod.uid, grace_seconds=grace_seconds)

    async def _delete_if_lost(self, pod: Pod) -> None:
        if pod.node is not None and await self._nodes.is_lost(pod.node):
            log.warning("deleting the pod %s by force: its node %s is lost", pod.name, pod.node)
            await self._api.delete("Pod", pod.namespace, pod.name, uid=pod.uid, grace_seconds=0)

    async def _start(self, gang: StartGang, todo: Todo, world: World, job: JobObject) -> None:
        """Create the children of an attempt; the batch Job last, and only once."""
        # A status just written shows the job as it is; after a crash it was written long ago.
        current = job if todo.status is not None else await self._read_again(job)
        if current is None or current.deleting:
            return
        drawn = manifests(
            world.job,
            gang.stage,
            gang.attempt,
            execution=todo.execution,
            train_attempt=gang.attempt if gang.stage == TRAIN_STAGE else todo.train_attempt,
            default_image=self._default_image,
            gang_api=self._gang_api,
        )
        *others, batch_job = drawn
        if QUEUE_NAME_LABEL in world.job.metadata.labels and gang.stage == TRAIN_STAGE:
            # How many replicas there will be is the queue's to say; pods wait for their settings until then.
            others = [manifest for manifest in others if manifest["kind"] != "ConfigMap"]
        first = gang.stage == TRAIN_STAGE and gang.attempt == 0
        await _all(self._ensure(manifest, likely_there=not first) for manifest in others)
        log.info("starting attempt %d of %s", gang.attempt, gang.stage)
        try:
            created = await self._api.create(batch_job)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                created = await self._adopt(batch_job, job)
            elif error.reason == "Invalid":
                log.warning("%s", error)
                self._refused.setdefault(job.uid, {})[gang.stage, gang.attempt] = error.message
                self._queue.add(job.key)
                return
            else:
                raise
        self._cluster.child_jobs.learn(parse_child_job(created), job.namespace)

    async def _adopt(self, batch_job: Json, job: JobObject) -> Json:
        """The Job of that name, if it is of this very CostOptJob: made before a crash."""
        name = batch_job["metadata"]["name"]
        found = await self._api.get("Job", job.namespace, name)
        if found is None:
            raise NotYet(f"the Job {name} has just gone")
        if found["metadata"].get("labels", {}).get(LABEL_JOB_UID) != job.uid:
            raise NotYet(f"a Job {name} that is not this job's must go first")
        return found

    async def _ensure(self, manifest: Json, *, likely_there: bool = True) -> None:
        """Make what is not there. Reading first is cheaper than writing, except when a job begins."""
        metadata = manifest["metadata"]
        if "scheduling.k8s.io" in manifest["apiVersion"]:
            await self._ensure_group(manifest)
            return
        if not likely_there and await self._made(manifest):
            return
        found = await self._api.get(manifest["kind"], metadata["namespace"], metadata["name"])
        if found is not None and not _belongs_to_another(found, manifest):
            return
        if found is not None and found["metadata"].get("deletionTimestamp"):
            raise NotYet(f"the {manifest['kind']} {metadata['name']} of an earlier job must go first")
        self._learn_child(await self._api.apply(manifest), manifest)

    async def _made(self, manifest: Json) -> bool:
        """Create it; False if there is one of that name."""
        try:
            self._learn_child(await self._api.create(manifest), manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return False
        return True

    def _learn_child(self, answer: Json, manifest: Json) -> None:
        if manifest["kind"] == "Service":
            self._cluster.services.learn(parse_service(answer), manifest["metadata"]["namespace"])

    async def _ensure_group(self, manifest: Json) -> None:
        plural = "workloads" if manifest["kind"] == "Workload" else "podgroups"
        path = f"/apis/{manifest['apiVersion']}/namespaces/{manifest['metadata']['namespace']}/{plural}"
        try:
            await self._api.request("POST", path, body=manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def _settle(self, child: ChildJob, world: World, execution: int) -> None:
        """Give an admitted gang its settings, with the number of replicas that was admitted."""
        settled = self._settled.setdefault(child.job_uid, set())
        if child.uid not in settled:
            drawn = config_map(world.job, child.attempt, execution=execution, num_nodes=child.completions)
            await self._ensure(drawn)
            settled.add(child.uid)

    async def _connect(self, child: ChildJob, world: World, execution: int) -> None:
        """Make the gang's Service again if somebody has deleted it."""
        drawn = service(world.job, child.stage, child.attempt, execution=execution)
        there = self._cluster.services.of((child.namespace, child.job_label))
        if drawn["metadata"]["name"] not in {found.name for found in there}:
            await self._ensure(drawn)

    async def _tell(self, event: Event, todo: Todo, job: JobObject) -> None:
        status = todo.status
        attempts = "/".join(str(stage.attempt) for stage in (status.stages if status else []))
        manifest = event_manifest(
            event,
            namespace=job.namespace,
            name=job.name,
            uid=job.uid,
            key=f"{todo.execution}/{attempts}",
            now=self._clock(),
        )
        log.info("%s: %s", event.reason, event.message)
        try:
            await self._api.request("POST", object_path("Event", job.namespace), body=manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                log.warning("the event %s could not be told: %s", event.reason, error)

    async def _release_strangers(self, job: JobObject, pods: tuple[Pod, ...]) -> None:
        """Let go of pods of an earlier job of the same name, which has no status any more to record them in."""
        await _all(self._let_go(pod) for pod in pods if pod.job_uid != job.uid and pod.ended and pod.has_finalizer)

    async def _after_its_job(self, key: Key, pods: tuple[Pod, ...]) -> None:
        """Let go of the pods of a job that is gone, after making sure that it is."""
        left = [pod for pod in pods if pod.ended and pod.has_finalizer]
        orphans = [pod for pod in pods if pod.orphan and pod.deleted is None]
        if not left and not orphans:
            return
        namespace, label = key
        data = await self._api.get("CostOptJob", namespace, label)
        if data is not None:
            self._cluster.learn_job(parse_job(data))
            self._queue.add(key)
            return
        if len(label) >= HASHED_LABEL_LENGTH:
            await self._cluster.list_all()
            if key in self._cluster.jobs:
                self._queue.add(key)
                return
        await _all(self._let_go(pod) for pod in left)
        await _all(self._delete_pod(pod, None) for pod in orphans)

    async def _let_go(self, pod: Pod) -> None:
        log.info("pod %s ended after its job was deleted: its usage stands in no status any more", pod.name)
        self._metrics.unrecorded.inc()
        await self._release(pod)

    def _remember_to_look(self, key: Key, todo: Todo, world: World) -> None:
        waits = [todo.look_again_after] if todo.look_again_after is not None else []
        if any(pod.running and not pod.ended for pod in world.pods):
            waits.append(LOG_EVERY)
        if waits:
            self._queue.add_after(key, max(0.0, min(waits).total_seconds()))

    def forget(self, uid: str) -> None:
        """The job is gone: nothing needs to be remembered of it."""
        self._memories.pop(uid, None)
        self._refused.pop(uid, None)
        self._settled.pop(uid, None)


@functools.lru_cache(maxsize=PARSED_KEPT)
def _job_of(document: bytes) -> CostOptJob:
    return read_known(CostOptJob, document)


@functools.lru_cache(maxsize=PARSED_KEPT)
def _status_of(document: bytes) -> JobStatus:
    return read_known(JobStatus, document)


def _belongs_to_another(found: Json, manifest: Json) -> bool:
    """The object was made for an earlier job of the same name."""
    wanted = manifest["metadata"].get("labels", {}).get(LABEL_JOB_UID)
    kept = not manifest["metadata"].get("ownerReferences")  # a claim that outlives its job is meant to be found again
    return not kept and bool(found["metadata"].get("labels", {}).get(LABEL_JOB_UID) != wanted)


async def _all(steps: Any) -> None:
    """Run all steps, at most a few dozen at a time; raises the first failure once all have ended."""
    pending: list[Coroutine[Any, Any, None]] = list(steps)
    for begin in range(0, len(pending), 32):
        results = await asyncio.gather(*pending[begin : begin + 32], return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                for rest in pending[begin + 32 :]:
                    rest.close()
                raise result
