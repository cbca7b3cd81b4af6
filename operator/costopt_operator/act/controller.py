"""The loop of the cluster's shell, one key at a time: gather → reconcile → write the status → carry out the rest."""

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
from costopt_operator.act.child_objects import ChildObjects, NotYet
from costopt_operator.act.concurrency import run_all
from costopt_operator.act.departures import Departures
from costopt_operator.act.failing import (
    LONGEST_PAUSE_SECONDS,
    FailingLooks,
    NotEnforced,
    says_something_of_the_job,
    still_running,
    told,
)
from costopt_operator.act.rate_limiter import RateLimiter
from costopt_operator.act.strangers import Strangers
from costopt_operator.decide.events import Event, event_manifest
from costopt_operator.decide.keys import Key
from costopt_operator.decide.objects import JobObject, Pod, parse_job
from costopt_operator.decide.observe import JobSnapshot, utc_now
from costopt_operator.decide.platform import Platform
from costopt_operator.decide.reading import NotUnderstood, read_job
from costopt_operator.decide.reconcile import Decision, WriteHistory, reconcile
from costopt_operator.decide.recording import last_speakers, leaving_speakers
from costopt_operator.kube.api import Api, ApiError, NotLeading, Unreachable, object_path
from costopt_operator.serve.log_format import about
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch.node_reader import Nodes
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.pod_log_reader import Logs
from costopt_operator.watch.work_queue import LONGEST_BACKOFF_SECONDS, WorkQueue

log = logging.getLogger(__name__)

WORKERS = 64
"""Jobs reconciled concurrently: they wait for the API server, not for each other."""
LONGEST_WAIT_SECONDS = 10.0
"""Longest pause between two tries of an attempt whose children cannot be created yet: objects of others are not
watched, so nothing reports that they are gone."""
FIGURES_PER_SECOND = 5.0
"""Upper bound, over all jobs, on status writes that only update figures; thousands of jobs cause no more load."""
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
        self._child_objects = ChildObjects(
            api, cluster, default_image=default_image, gang_api=gang_api, platform=platform
        )
        self._clock = clock
        self._nodes = Nodes(api)
        self._logs = Logs(api, queue.add)
        self._figures = RateLimiter(FIGURES_PER_SECOND)
        self._failing = FailingLooks()
        self._departures = Departures(api, cluster, metrics, queue.add, lambda uid: self._logs.forget([uid]))
        self._strangers = Strangers(api, cluster, self._departures.release)
        self._histories: dict[str, WriteHistory] = {}
        """By job uid."""

    async def run(self) -> None:
        """Work until cancelled, once the job of each pod is known."""
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
            deciding = await self.reconcile_key(key)
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
        """Reconcile again after a pause, and log why."""
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
        """Stop the gangs of a job whose reconciles failed too often in a row: its limits are no longer enforced."""
        job = self._cluster.jobs.get(key)
        if job is None or not says_something_of_the_job(error) or not self._failing.failed(job.uid):
            return
        try:
            await self._stop_unseen(job, told(error))
        except (ApiError, *Unreachable) as failed:
            log.warning("the gangs cannot be stopped: %s", failed)

    async def _stop_unseen(self, job: JobObject, sentence: str) -> None:
        """Stop a job's gangs without a reconcile: each has its grace period to save its work, and nothing is started.
        A job that is being deleted is let go, although its usage is recorded nowhere."""
        if job.deleting:
            await self._departures.let_go_unrecorded(job, self._cluster.pods.of(job.key))
        children, alone = still_running(job, self._cluster.child_jobs.of(job.key), self._cluster.pods.of(job.key))
        await run_all(self._departures.delete_job(child) for child in children)
        await run_all(self._departures.delete_pod(pod, None) for pod in alone)
        if self._child_objects.is_news(job, sentence):
            await self._tell(Event("Warning", "CannotBeLookedAt", sentence), Decision(execution=job.generation), job)

    async def reconcile_key(self, key: Key) -> float:
        """One reconcile of one job; returns the seconds spent on deciding, without the time of the API server."""
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
            snapshot, decision, written, deciding = await self._enforce(job)
        except NotLeading:
            raise
        except Exception as error:
            raise NotEnforced from error
        self._failing.succeeded(job.uid)
        await self._carry_out(decision, snapshot, written)
        self._remember_to_look(key, decision, snapshot)
        return deciding

    async def _enforce(self, job: JobObject) -> tuple[JobSnapshot, Decision, JobObject, float]:
        """Decide, write the status, and stop what must stop. Everything else comes later and must not delay this."""
        snapshot = await self._gather(job)
        history = self._histories.get(job.uid, WriteHistory())
        began = time.perf_counter()
        decision = reconcile(snapshot, history, self._clock())
        deciding = time.perf_counter() - began
        if decision.only_figures and not self._figures.take():
            again = min(FIGURES_PUT_OFF, decision.requeue_after or FIGURES_PUT_OFF)
            decision = dataclasses.replace(decision, status=None, requeue_after=again)
        if decision.status is not None:
            job = await self._write_status(job, snapshot, decision.status)
        self._histories[job.uid] = WriteHistory(
            self._clock() if decision.status is not None else history.last_written,
            decision.noticed,
            decision.remembered,
        )
        await self._logs.followed(leaving_speakers(snapshot, decision.delete_jobs))
        # Pods first: deleting their Job gives them the full grace period, and a shorter one is then too late.
        await run_all(self._departures.delete_pod(pod, grace) for pod, grace in decision.delete_pods)
        await run_all(self._departures.delete_job(child) for child in decision.delete_jobs)
        return snapshot, decision, job, deciding

    async def _gather(self, job: JobObject) -> JobSnapshot:
        model, status = read_job(job)
        pods = self._cluster.pods.of(job.key)
        children = self._cluster.child_jobs.of(job.key)
        snapshot = JobSnapshot(
            job=model,
            status=status,
            generation=job.generation,
            deleting=job.deleting,
            child_jobs=children,
            pods=pods,
            book=self._cluster.books.get(model.spec.price_book_name or ""),
            nodes=await self._nodes.of(pods),
            refused=self._child_objects.refused(job),
            held_up=self._child_objects.held_up(job),
            earlier=self._cluster.earlier.get((job.namespace, job.name)),
            room=job.room,
        )
        self._logs.follow(leaving_speakers(snapshot))
        return dataclasses.replace(
            snapshot,
            unheard=self._logs.last_words(last_speakers(snapshot)),
            logs=self._logs.of(pods, _stall_timeout(snapshot)),
        )

    async def _write_status(self, job: JobObject, snapshot: JobSnapshot, status: JobStatus) -> JobObject:
        """PUT the status; the answer of the API server becomes the known job."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "CostOptJob",
            "metadata": {
                "name": job.name,
                "namespace": job.namespace,
                "uid": job.uid,
                "resourceVersion": str(job.resource_version),
            },
            "spec": snapshot.job.spec.to_plain(),
            "status": status.to_plain(),
        }
        try:
            written = parse_job(await self._api.replace_status(body))
        except ApiError as error:
            if error.status in (404, 409):
                await self._read_again(job)
            raise
        self._cluster.learn_job(written)
        self._metrics.count(snapshot.status, status, job.namespace)
        return written

    async def _read_again(self, job: JobObject) -> JobObject | None:
        """The job as the API server has it now; None if it is gone or replaced by another of its name. Such a job is
        forgotten."""
        data = await self._api.get("CostOptJob", job.namespace, job.name)
        if data is None:
            self._cluster.forget_job(job)
            return None
        found = parse_job(data)
        if found.uid != job.uid:
            self._cluster.forget_job(job)
        self._cluster.learn_job(found)
        return found if found.uid == job.uid else None

    async def _carry_out(self, decision: Decision, snapshot: JobSnapshot, job: JobObject) -> None:
        refused: ApiError | None = None
        try:
            await run_all(self._departures.release(pod) for pod in decision.releases)
        except ApiError as error:
            refused = error  # raised at the end, so that it blocks nothing else
        await run_all(self._delete_if_lost(pod) for pod in decision.force_delete)
        for event in decision.events:
            await self._tell(event, decision, job)
        for child in decision.leftovers:
            try:
                await self._departures.delete_job(child)
            except ApiError as error:
                log.warning("the Job %s of an old attempt stays: %s", child.name, error)
        # Each by itself: an attempt that has to wait does not block the others.
        held_up = [
            *[
                await self._unless_held_up(self._start(gang, decision, snapshot, job), decision, job)
                for gang in decision.start
            ],
            *[
                await self._unless_held_up(
                    self._child_objects.publish_admitted_settings(child, snapshot, decision.execution, job),
                    decision,
                    job,
                )
                for child in decision.publish_admitted_settings
            ],
            *[
                await self._unless_held_up(
                    self._child_objects.ensure_service(child, snapshot, decision.execution, job), decision, job
                )
                for child in decision.ensure_service
            ],
        ]
        if any(held_up):
            raise next(filter(None, held_up))
        if decision.delete:
            log.info("the job's time to live is over")
            await self._api.delete("CostOptJob", job.namespace, job.name, uid=job.uid)
        if refused is not None:
            raise refused

    async def _unless_held_up(
        self, step: Coroutine[Any, Any, None], decision: Decision, job: JobObject
    ) -> NotYet | None:
        """Run the step; returns what it has to wait for, if anything. One Event on the job for each blocking object."""
        try:
            await step
        except NotYet as reason:
            event = reason.event
            if event is not None and self._child_objects.is_news(job, f"{event.reason}: {event.about}"):
                await self._tell(event, decision, job)
            return reason
        return None

    async def _delete_if_lost(self, pod: Pod) -> None:
        if pod.node is not None and await self._nodes.is_lost(pod.node):
            log.warning("deleting the pod %s by force: its node %s is lost", pod.name, pod.node)
            await self._api.delete("Pod", pod.namespace, pod.name, uid=pod.uid, grace_seconds=0)

    async def _start(self, gang: StartGang, decision: Decision, snapshot: JobSnapshot, job: JobObject) -> None:
        # After a status write the job is known as it is now. After a crash the write was long ago, so it is read again.
        current = job if decision.status is not None else await self._read_again(job)
        if current is None or current.deleting:
            return
        try:
            if not await self._child_objects.start(gang, decision, snapshot, job):
                self._queue.add(job.key)
        except ApiError as error:
            if error.status == 403 and self._child_objects.is_news(job, error.message):
                # A quota or a policy: somebody can change it, and it is retried meanwhile.
                await self._tell(Event("Warning", "CreationForbidden", error.message), decision, job)
            raise

    async def _tell(self, event: Event, decision: Decision, job: JobObject) -> None:
        status = decision.status
        attempts = "/".join(str(stage.attempt) for stage in (status.stages if status else []))
        manifest = event_manifest(
            event,
            namespace=job.namespace,
            name=job.name,
            uid=job.uid,
            key=event.about or f"{decision.execution}/{attempts}",
            now=self._clock(),
        )
        log.info("%s: %s", event.reason, event.message)
        try:
            await self._api.request("POST", object_path("Event", job.namespace), body=manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                log.warning("the event %s could not be told: %s", event.reason, error)

    def _remember_to_look(self, key: Key, decision: Decision, snapshot: JobSnapshot) -> None:
        waits = [decision.requeue_after] if decision.requeue_after is not None else []
        if any(pod.running and not pod.ended for pod in snapshot.pods):
            waits.append(look_every(_stall_timeout(snapshot)))
        if waits:
            self._queue.add_after(key, max(0.0, min(waits).total_seconds()))

    def forget(self, uid: str) -> None:
        """The job is gone: nothing needs to be remembered of it."""
        self._histories.pop(uid, None)
        self._failing.succeeded(uid)
        self._child_objects.forget(uid)


def _stall_timeout(snapshot: JobSnapshot) -> timedelta:
    return timedelta(seconds=snapshot.job.spec.restarts.stall_timeout_seconds)
