"""Pods that have our label and belong to no known batch Job: finds their job, or that they have none.

A batch Job may be created and deleted while no operator runs. Its pods are left, and what the job's status says about
them. Whoever writes labels on a pod can forge neither: the operator writes the status, and the API server gives uids. A
label only decides which status is checked.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from costopt.schema.base import OBJECT_NAME_PATTERN
from costopt_operator.act.failing import says_something_of_the_job
from costopt_operator.act.recent import Recent
from costopt_operator.decide.claims import Claims, claims_of
from costopt_operator.decide.keys import Key
from costopt_operator.decide.objects import Pod, parse_child_job
from costopt_operator.decide.ownership import is_marked
from costopt_operator.kube.api import Api, ApiError, Unreachable
from costopt_operator.watch.object_cache import Cluster

log = logging.getLogger(__name__)

STRANGERS_KEPT = 10_000
"""Pods already logged as belonging to no job of ours."""
PAUSE_SECONDS = 1.0
"""Between two tries to read a batch Job before the first look."""


class Strangers:
    """Finds the jobs of such pods."""

    def __init__(self, api: Api, cluster: Cluster, release: Callable[[Pod], Awaitable[None]]) -> None:
        self._api = api
        self._cluster = cluster
        self._release = release
        self._told = Recent(STRANGERS_KEPT)

    async def meet_all(self) -> None:
        """Before the first reconcile: a job whose pods are not known yet would get new ones.

        There may be thousands: between two of them other tasks run, above all the renewal of the lease.
        """
        for pod in sorted(self._cluster.pods.strangers(), key=lambda pod: pod.job_uid):
            await asyncio.sleep(0)
            await self._meet((pod.namespace, pod.uid))

    async def _meet(self, key: Key) -> None:
        """Retry while the pod has no known job and an answer is possible; meanwhile it may be matched, or deleted."""
        while (pod := self._cluster.pods.stranger(key)) is not None and self._may_be_met(pod):
            try:
                await self.is_met(pod)
            except ApiError as error:
                if error.status == 404 or says_something_of_the_job(error):
                    log.warning("the batch Job of pod %s cannot be read: %s", pod.name, error)
                    return
                log.warning("the batch Job of pod %s cannot be read yet: %s", pod.name, error)
            except Unreachable:
                pass
            else:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def pass_over(self, pod: Pod) -> None:
        """Do nothing about a pod without a job, except releasing our finalizer when it has ended: nobody else ever
        would."""
        is_news = pod.uid not in self._told
        if not is_news and not (pod.ended and pod.has_finalizer):
            return
        if await self.is_met(pod):
            return
        if is_news:
            log.warning("the pod %s has our label but is of no batch Job of ours: it is passed over", pod.name)
            self._told.note(pod.uid)
        if pod.ended and pod.has_finalizer:
            await self._release(pod)

    async def is_met(self, pod: Pod) -> bool:
        """Whether the pod belongs to a batch Job of ours after all; if so, this is remembered."""
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
        claims = self._claims(pod)
        if claims is None:
            return False
        if (gang := claims.gang_by_mark(pod)) is not None:
            there = self._cluster.pods.stranger((pod.namespace, pod.uid))
            if there is not None:  # it may have gone while the API server was asked
                self._cluster.pods.adopt(there, gang)
        elif data is None and (gang := claims.gang_by_name(pod)) is not None:
            log.info("the pod %s is of a batch Job that is gone, and was not written down yet", pod.name)
            self._cluster.learn_gang(gang)
        return gang is not None

    def _may_be_met(self, pod: Pod) -> bool:
        claims = self._claims(pod)
        return claims is not None and (claims.gang_by_mark(pod) or claims.gang_by_name(pod)) is not None

    def _claims(self, pod: Pod) -> Claims | None:
        """What the job named by the pod's label claims, if that job exists."""
        job = self._cluster.jobs.get((pod.namespace, pod.job_uid))
        return claims_of(job) if job is not None else None
