"""Deletes children, one request each, and releases their pods when the job is deleted.

in the background   the job goes at once; its pods are let go of as they end
kept by a finalizer its gangs are stopped and recorded as long as it is there (see `reconcile`), then let go of
cascade=orphan      its pods live on: they are let go of at once, and never stopped
"""

import logging
from collections.abc import Callable, Iterable

from costopt.names import USAGE_FINALIZER
from costopt_operator.act.concurrency import run_all
from costopt_operator.act.recent import Recent
from costopt_operator.decide.keys import Key
from costopt_operator.decide.objects import ChildJob, JobObject, Pod, parse_job, parse_pod
from costopt_operator.decide.ownership import belongs_to
from costopt_operator.kube.api import Api, ApiError
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch.object_cache import Cluster

log = logging.getLogger(__name__)

TRIES = 5
"""Tries to delete a batch Job that its controller changes in between."""
ASKED_KEPT = 10_000
"""Batch Jobs of deleted jobs for which the API server was asked whether they live on."""


class Departures:
    """Deletes children and releases their finalizers."""

    def __init__(
        self, api: Api, cluster: Cluster, metrics: Metrics, look: Callable[[Key], None], released: Callable[[str], None]
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._metrics = metrics
        self._look = look
        self._released = released
        """Called with the uid of each released pod."""
        self._asked = Recent(ASKED_KEPT)

    async def release(self, pod: Pod) -> None:
        """Take our finalizer off the pod."""
        answer = await self._api.remove_finalizer(pod.namespace, pod.name, pod.uid, USAGE_FINALIZER)
        if answer is not None:
            self._cluster.pods.learn(parse_pod(answer), pod.namespace)
        self._released(pod.uid)

    async def delete_pod(self, pod: Pod, grace_seconds: int | None) -> None:
        """Delete the pod, with this grace period (None: with its own)."""
        await self._api.delete("Pod", pod.namespace, pod.name, uid=pod.uid, grace_seconds=grace_seconds)

    async def delete_job(self, child: ChildJob) -> None:
        """Delete the batch Job and, with their own grace period, its pods.

        If its job is being deleted or is gone, somebody may have used cascade=orphan, which removes the owner from the
        children. This process may not know it yet: so the Job is read first, and deleted only with its owner.
        """
        job = self._cluster.jobs.get(child.key)
        if job is not None and not job.deleting:
            log.info("deleting the Job %s", child.name)
            await self._api.delete("Job", child.namespace, child.name, uid=child.uid)
            return
        for _ in range(TRIES):
            data = await self._api.get("Job", child.namespace, child.name)
            if data is None or data["metadata"]["uid"] != child.uid or "deletionTimestamp" in data["metadata"]:
                return
            if not belongs_to(data["metadata"], child.job_uid):
                left = [pod for pod in self._cluster.pods.of(child.key) if pod.gang_uid == child.uid]
                self._cluster.child_jobs.forget(child)
                await self.leave(left)
                return
            log.info("deleting the Job %s: its job is being deleted, or is gone", child.name)
            version = data["metadata"]["resourceVersion"]
            if await self._api.delete("Job", child.namespace, child.name, uid=child.uid, version=version) is not None:
                return
        raise ApiError(409, "Conflict", f"the Job {child.name} changes all the time")

    async def leave(self, pods: Iterable[Pod]) -> None:
        """Release pods that live on without their job."""
        held = [pod for pod in pods if pod.has_finalizer]
        if held:
            log.info("the job is deleted without its pods (cascade=orphan): %d of them live on unrecorded", len(held))
        await run_all(self.release(pod) for pod in held)

    async def after(self, key: Key, pods: Iterable[Pod]) -> None:
        """Release the pods of a deleted job, after making sure that it is gone."""
        held = [pod for pod in pods if pod.has_finalizer]
        left = [pod for pod in held if pod.ended]
        orphans = [pod for pod in pods if pod.orphan and pod.deleted is None]
        running = [pod for pod in held if not pod.ended and pod.deleted is None and pod.gang_uid not in self._asked]
        if not left and not orphans and not running:
            return
        data = await self._api.get("CostOptJob", key[0], self._cluster.name_of(key))
        if data is not None and data["metadata"]["uid"] == key[1]:
            self._cluster.learn_job(parse_job(data))
            self._look(key)
            return
        await run_all(self._let_go(pod) for pod in left)
        await run_all(self.delete_pod(pod, None) for pod in orphans)
        for gang in {pod.gang_uid for pod in running}:
            await self._leave_if_it_lives_on(key, [pod for pod in running if pod.gang_uid == gang])

    async def _leave_if_it_lives_on(self, key: Key, gang: list[Pod]) -> None:
        """Asked once: with cascade=orphan the children lose their owner before the job is gone."""
        first = gang[0]
        data = await self._api.get("Job", first.namespace, first.controller.name) if first.controller.name else None
        if data is not None and data["metadata"]["uid"] == first.gang_uid and not belongs_to(data["metadata"], key[1]):
            await self.leave(gang)
        self._asked.note(first.gang_uid)

    async def let_go_unrecorded(self, job: JobObject, pods: Iterable[Pod]) -> None:
        """Release the ended pods of a job that is being deleted and cannot be reconciled, so that it can go."""
        held = [pod for pod in pods if pod.ended and pod.has_finalizer]
        if held:
            log.warning("%d pods of %s are let go of unrecorded: it is being deleted", len(held), job.name)
        await run_all(self.release(pod) for pod in held)

    async def _let_go(self, pod: Pod) -> None:
        log.info("pod %s ended after its job was deleted: its usage stands in no status any more", pod.name)
        self._metrics.unrecorded.inc()
        await self.release(pod)
