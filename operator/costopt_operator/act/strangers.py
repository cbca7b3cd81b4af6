"""Pods that have our label and are of no batch Job that is known: whose they are, or that they are nobody's.

A batch Job may have been made, and be gone again, without an operator that saw it. What is left are its pods, and what
the job's status says of them. Who writes labels on a pod can forge neither: the status is the operator's, uids are the
API server's. Which status to ask is all that a label decides.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable

from costopt.accounting.held import mark_of, read_held
from costopt.names import child_name
from costopt.schema.base import OBJECT_NAME_PATTERN
from costopt.schema.status import JobStatus
from costopt_operator.decide.kinship import Gang
from costopt_operator.decide.objects import JobObject, Pod, parse_child_job, parse_time
from costopt_operator.decide.ownership import is_marked
from costopt_operator.decide.reading import NotUnderstood, read_job
from costopt_operator.kube.api import Api, ApiError, Unreachable
from costopt_operator.watch.object_cache import Cluster

log = logging.getLogger(__name__)

STRANGERS_KEPT = 10_000
"""Pods that were told to be of no job of ours, and need not be told of again."""
PAUSE_SECONDS = 1.0
"""Between two tries to reach the API server before the first look."""


def gang_by_mark(pod: Pod, job: JobObject, status: JobStatus) -> Gang | None:
    """The batch Job of a pod that the status counts among those that hold something, whatever the pod's owners say."""
    mark = mark_of(pod.uid)
    known = {(entry.stage, entry.attempt): entry.uid for entry in status.batch_jobs or ()}
    for held in read_held(status.usage.held if status.usage else ()):
        attempt = (held.shape.stage, held.shape.attempt)
        if held.mark == mark and attempt in known:
            return Gang(known[attempt], job.namespace, job.uid, job.name, *attempt)
    return None


def gang_by_name(pod: Pod, job: JobObject, status: JobStatus) -> Gang | None:
    """The batch Job of a pod whose owner has the name of an attempt that was decided, and of which nothing was written
    since: it was made, and the operator that made it saw it no more. To be asked only where there is no such Job now.
    """
    for stage in status.stages:
        begun = stage.attempt_start_time
        is_it = child_name(job.name, stage.name, stage.attempt) == pod.controller.name
        known = any((entry.stage, entry.attempt) == (stage.name, stage.attempt) for entry in status.batch_jobs or ())
        if stage.state != "Starting" or begun is None or known or pod.controller.kind != "Job" or not is_it:
            continue
        if parse_time(pod.created) >= begun.replace(microsecond=0):  # not of an earlier job of that name
            return Gang(pod.controller.uid, job.namespace, job.uid, job.name, stage.name, stage.attempt)
    return None


class Strangers:
    """Looks at such pods."""

    def __init__(self, api: Api, cluster: Cluster, release: Callable[[Pod], Awaitable[None]]) -> None:
        self._api = api
        self._cluster = cluster
        self._release = release
        self._told: deque[str] = deque(maxlen=STRANGERS_KEPT)

    async def meet_all(self) -> None:
        """Before the first look: a job whose pods are not known for its own yet would be given others."""
        for pod in self._cluster.pods.strangers():
            while self._may_be_met(pod):
                try:
                    await self.is_met(pod)
                    break
                except ApiError as error:
                    log.warning("the batch Job of pod %s cannot be read: %s", pod.name, error)
                    break
                except Unreachable:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def pass_over(self, pod: Pod) -> None:
        """Nothing is done about a pod of no job, except that our finalizer is released when it has ended: nobody else
        will ever do that."""
        is_news = pod.uid not in self._told
        if not is_news and not (pod.ended and pod.has_finalizer):
            return
        if await self.is_met(pod):
            return
        if is_news:
            log.warning("the pod %s has our label but is of no batch Job of ours: it is passed over", pod.name)
            self._told.append(pod.uid)
        if pod.ended and pod.has_finalizer:
            await self._release(pod)

    async def is_met(self, pod: Pod) -> bool:
        """Whether the pod is of a batch Job of ours after all; from now on it is known for that."""
        data = None
        if pod.controller.kind == "Job" and re.fullmatch(OBJECT_NAME_PATTERN, pod.controller.name):
            data = await self._api.get("Job", pod.namespace, pod.controller.name)
            if data is not None and data["metadata"]["uid"] == pod.gang_uid:
                if not is_marked(data["metadata"]):
                    return False
                try:
                    self._cluster.child_jobs.learn(parse_child_job(data), pod.namespace)
                except ValueError:
                    return False
                return True
        found = self._job_of(pod)
        if found is None:
            return False
        if (gang := gang_by_mark(pod, *found)) is not None:
            self._cluster.pods.adopt(pod, gang)
        elif data is None and (gang := gang_by_name(pod, *found)) is not None:
            log.info("the pod %s is of a batch Job that is gone, and was not written down yet", pod.name)
            self._cluster.learn_gang(gang)
        return gang is not None

    def _may_be_met(self, pod: Pod) -> bool:
        found = self._job_of(pod)
        return found is not None and (gang_by_mark(pod, *found) or gang_by_name(pod, *found)) is not None

    def _job_of(self, pod: Pod) -> tuple[JobObject, JobStatus] | None:
        """The job that the pod's label names, if it is there, and its status as it was written last."""
        job = self._cluster.jobs.get((pod.namespace, pod.job_uid))
        if job is None:
            return None
        try:
            return job, read_job(job)[1]
        except NotUnderstood:
            return None
