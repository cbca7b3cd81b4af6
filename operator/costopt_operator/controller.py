"""The loop of the cluster's shell, for one key at a time: gather → reconcile → write the status → do the rest."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from costopt.plan.actions import StartGang
from costopt.plan.silence import look_every
from costopt.schema.base import API_VERSION
from costopt.schema.status import JobStatus
from costopt_operator.allowance import Allowance
from costopt_operator.api import Api, ApiError, NotLeading, Unreachable, object_path
from costopt_operator.cluster import Cluster
from costopt_operator.departures import Departures
from costopt_operator.events import Event, event_manifest
from costopt_operator.failing import (
    LONGEST_PAUSE_SECONDS,
    FailingLooks,
    NotEnforced,
    says_something_of_the_job,
    still_running,
    told,
)
from costopt_operator.gangs import Gangs, NotYet
from costopt_operator.listening import Logs
from costopt_operator.logs import about
from costopt_operator.look import Nodes
from costopt_operator.metrics import Metrics
from costopt_operator.observe import World, utc_now
from costopt_operator.platform import Platform
from costopt_operator.reading import NotUnderstood, read_job
from costopt_operator.reconcile import Memory, Todo, reconcile
from costopt_operator.recording import last_speakers, leaving_speakers
from costopt_operator.run_all import run_all
from costopt_operator.sightings import JobObject, Pod, parse_job
from costopt_operator.strangers import Strangers
from costopt_operator.work_queue import LONGEST_BACKOFF_SECONDS, Key, WorkQueue

log = logging.getLogger(__name__)

WORKERS = 64
"""Jobs looked at at the same time: they wait for the API server, not for each other."""
LONGEST_WAIT_SECONDS = 10.0
"""Longest pause between two tries of an attempt whose children cannot be made yet: an object of somebody else's is not
watched, so nothing tells that it is gone."""
FIGURES_PER_SECOND = 5.0
"""Statuses of all jobs together in which only figures have grown: thousands of running jobs are no load for that."""
FIGURES_PUT_OFF = timedelta(seconds=10)


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
        platform: Platform,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._queue = queue
        self._metrics = metrics
        self._gangs = Gangs(api, cluster, default_image=default_image, gang_api=gang_api, platform=platform)
        self._clock = clock
        self._nodes = Nodes(api)
        self._logs = Logs(api, queue.add)
        self._figures = Allowance(FIGURES_PER_SECOND)
        self._failing = FailingLooks()
        self._departures = Departures(api, cluster, metrics, queue.add, lambda uid: self._logs.forget([uid]))
        self._strangers = Strangers(api, cluster, self._departures.release)
        self._memories: dict[str, Memory] = {}
        """By job uid."""

    async def run(self) -> None:
        """Work until cancelled, once it is known whose each pod is."""
        await self._strangers.meet_all()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            with about((key[0], self._cluster.name_of(key))):
                await self._turn(key)

    async def _turn(self, key: Key) -> None:
        began = time.perf_counter()
        deciding = 0.0
        try:
            deciding = await self.look_at(key)
        except NotLeading:
            pass  # the whole process is about to end
        except NotYet as reason:
            pause = self._queue.failed(key, longest=LONGEST_WAIT_SECONDS)
            log.info("it waits for %s; looking again in %.1f s", reason, pause)
        except NotEnforced as failed:
            self._again(key, failed.__cause__ or failed)
            await self._unless_too_often(key, failed.__cause__ or failed)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the other jobs go on
            self._again(key, error)
        else:
            self._queue.succeeded(key)
        finally:
            self._metrics.reconcile_seconds.observe(time.perf_counter() - began)
            self._queue.done(key, deciding)

    def _again(self, key: Key, error: BaseException) -> None:
        """Look again after a pause, and say why."""
        if isinstance(error, ApiError):
            longest = LONGEST_PAUSE_SECONDS if says_something_of_the_job(error) else LONGEST_BACKOFF_SECONDS
            pause = self._queue.failed(key, longest=longest)
            self._metrics.errors.labels(error.reason or str(error.status)).inc()
            if error.status != 409:
                log.warning("%s; looking again in %.1f s", error, pause)
        elif isinstance(error, Unreachable):
            self._metrics.errors.labels("Unreachable").inc()
            log.warning("the API server cannot be reached (%s); again in %.1f s", error, self._queue.failed(key))
        elif isinstance(error, NotUnderstood):
            pause = self._queue.failed(key, longest=LONGEST_PAUSE_SECONDS)
            self._metrics.errors.labels("NotUnderstood").inc()
            log.warning("%s; looking again in %.1f s", error, pause)
        else:
            pause = self._queue.failed(key, longest=LONGEST_PAUSE_SECONDS)
            self._metrics.errors.labels("Bug").inc()
            log.error("this is a mistake in the operator; looking again in %.1f s", pause, exc_info=error)

    async def _unless_too_often(self, key: Key, error: BaseException) -> None:
        """Stop the gangs of a job that could not be looked at so often that nothing of it is kept."""
        job = self._cluster.jobs.get(key)
        if job is None or not says_something_of_the_job(error) or not self._failing.failed(job.uid):
            return
        try:
            await self._stop_unseen(job, told(error))
        except (ApiError, *Unreachable) as failed:
            log.warning("the gangs cannot be stopped: %s", failed)

    async def _stop_unseen(self, job: JobObject, sentence: str) -> None:
        """Stop a job's gangs without looking at it: each has the grace to save its work, and nothing is started. A job
        that is being deleted goes, although what it used stands nowhere."""
        if job.deleting:
            await self._departures.let_go_unrecorded(job, self._cluster.pods.of(job.key))
        children, alone = still_running(job, self._cluster.child_jobs.of(job.key), self._cluster.pods.of(job.key))
        await run_all(self._departures.delete_job(child) for child in children)
        await run_all(self._departures.delete_pod(pod, None) for pod in alone)
        if self._gangs.is_news(job, sentence):
            await self._tell(Event("Warning", "CannotBeLookedAt", sentence), Todo(execution=job.generation), job)

    async def look_at(self, key: Key) -> float:
        """One look at one job; returns the seconds it took to decide, without the time the API server took."""
        job = self._cluster.jobs.get(key)
        pods = self._cluster.pods.of(key)
        if job is None:
            if stranger := self._cluster.pods.stranger(key):
                await self._strangers.pass_over(stranger)
            await self._departures.after(key, pods)
            return 0.0
        if job.leaves_children:
            await self._departures.leave(pods)
            return 0.0
        try:
            world, todo, written, deciding = await self._enforce(job)
        except NotLeading:
            raise
        except Exception as error:
            raise NotEnforced from error
        self._failing.succeeded(job.uid)
        await self._carry_out(todo, world, written)
        self._remember_to_look(key, todo, world)
        return deciding

    async def _enforce(self, job: JobObject) -> tuple[World, Todo, JobObject, float]:
        """Decide, write it down, and stop what is to stop. All else can wait, and must not keep this from happening."""
        world = await self._gather(job)
        memory = self._memories.get(job.uid, Memory())
        began = time.perf_counter()
        todo = reconcile(world, memory, self._clock())
        deciding = time.perf_counter() - began
        if todo.only_figures and not self._figures.take():
            again = min(FIGURES_PUT_OFF, todo.look_again_after or FIGURES_PUT_OFF)
            todo = dataclasses.replace(todo, status=None, look_again_after=again)
        if todo.status is not None:
            job = await self._write_status(job, world, todo.status)
        self._memories[job.uid] = Memory(
            self._clock() if todo.status is not None else memory.last_written, todo.noticed, todo.remembered
        )
        # Pods first: the deletion of their Job gives them their full grace, and a shorter one comes too late after that
        await run_all(self._departures.delete_pod(pod, grace) for pod, grace in todo.delete_pods)
        await run_all(self._departures.delete_job(child) for child in todo.delete_jobs)
        return world, todo, job, deciding

    async def _gather(self, job: JobObject) -> World:
        model, status = read_job(job)
        pods = self._cluster.pods.of(job.key)
        children = self._cluster.child_jobs.of(job.key)
        world = World(
            job=model,
            status=status,
            generation=job.generation,
            deleting=job.deleting,
            child_jobs=children,
            pods=pods,
            book=self._cluster.books.get(model.spec.price_book_name or ""),
            nodes=await self._nodes.of(pods),
            refused=self._gangs.refused(job),
            held_up=self._gangs.held_up(job),
            earlier=self._cluster.earlier.get((job.namespace, job.name)),
            room=job.room,
        )
        self._logs.follow(leaving_speakers(world))
        return dataclasses.replace(
            world,
            unheard=self._logs.last_words(last_speakers(world)),
            logs=self._logs.of(pods, _stall_timeout(world)),
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
        refused: ApiError | None = None
        try:
            await run_all(self._departures.release(pod) for pod in todo.releases)
        except ApiError as error:
            refused = error  # it holds nothing else up
        await run_all(self._delete_if_lost(pod) for pod in todo.overdue)
        for event in todo.events:
            await self._tell(event, todo, job)
        for child in todo.leftovers:
            try:
                await self._departures.delete_job(child)
            except ApiError as error:
                log.warning("the Job %s of an old attempt stays: %s", child.name, error)
        # Each by itself: what one attempt waits for holds no other up.
        held_up = [
            *[await self._unless_held_up(self._start(gang, todo, world, job), todo, job) for gang in todo.start],
            *[
                await self._unless_held_up(self._gangs.settle(child, world, todo.execution, job), todo, job)
                for child in todo.settle
            ],
            *[
                await self._unless_held_up(self._gangs.connect(child, world, todo.execution, job), todo, job)
                for child in todo.connect
            ],
        ]
        if any(held_up):
            raise next(filter(None, held_up))
        if todo.delete:
            log.info("the job's time to live is over")
            await self._api.delete("CostOptJob", job.namespace, job.name, uid=job.uid)
        if refused is not None:
            raise refused

    async def _unless_held_up(self, step: Coroutine[Any, Any, None], todo: Todo, job: JobObject) -> NotYet | None:
        """Do the step; what it has to wait for, if it has to. The job is told once of each object in its way."""
        try:
            await step
        except NotYet as reason:
            event = reason.event
            if event is not None and self._gangs.is_news(job, f"{event.reason}: {event.about}"):
                await self._tell(event, todo, job)
            return reason
        return None

    async def _delete_if_lost(self, pod: Pod) -> None:
        if pod.node is not None and await self._nodes.is_lost(pod.node):
            log.warning("deleting the pod %s by force: its node %s is lost", pod.name, pod.node)
            await self._api.delete("Pod", pod.namespace, pod.name, uid=pod.uid, grace_seconds=0)

    async def _start(self, gang: StartGang, todo: Todo, world: World, job: JobObject) -> None:
        # A status just written shows the job as it is; after a crash it was written long ago.
        current = job if todo.status is not None else await self._read_again(job)
        if current is None or current.deleting:
            return
        try:
            if not await self._gangs.start(gang, todo, world, job):
                self._queue.add(job.key)
        except ApiError as error:
            if error.status == 403 and self._gangs.is_news(job, error.message):
                # A quota, or a policy: somebody can mend it, and it is tried again meanwhile.
                await self._tell(Event("Warning", "CreationForbidden", error.message), todo, job)
            raise

    async def _tell(self, event: Event, todo: Todo, job: JobObject) -> None:
        status = todo.status
        attempts = "/".join(str(stage.attempt) for stage in (status.stages if status else []))
        manifest = event_manifest(
            event,
            namespace=job.namespace,
            name=job.name,
            uid=job.uid,
            key=event.about or f"{todo.execution}/{attempts}",
            now=self._clock(),
        )
        log.info("%s: %s", event.reason, event.message)
        try:
            await self._api.request("POST", object_path("Event", job.namespace), body=manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                log.warning("the event %s could not be told: %s", event.reason, error)

    def _remember_to_look(self, key: Key, todo: Todo, world: World) -> None:
        waits = [todo.look_again_after] if todo.look_again_after is not None else []
        if any(pod.running and not pod.ended for pod in world.pods):
            waits.append(look_every(_stall_timeout(world)))
        if waits:
            self._queue.add_after(key, max(0.0, min(waits).total_seconds()))

    def forget(self, uid: str) -> None:
        """The job is gone: nothing needs to be remembered of it."""
        self._memories.pop(uid, None)
        self._failing.succeeded(uid)
        self._gangs.forget(uid)


def _stall_timeout(world: World) -> timedelta:
    return timedelta(seconds=world.job.spec.restarts.stall_timeout_seconds)
