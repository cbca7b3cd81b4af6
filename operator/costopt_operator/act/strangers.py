"""Pods that have our label and are of no batch Job that is known: whose they are, or that they are nobody's.

A batch Job may have been made, and be gone again, without an operator that saw it. What is left are its pods, and what
the job's status says of them. Who writes labels on a pod can forge neither: the status is the operator's, uids are the
API server's. Which status to ask is all that a label decides.
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
"""Pods that were told to be of no job of ours, and need not be told of again."""
PAUSE_SECONDS = 1.0
"""Between two tries to read a batch Job before the first look."""


class Strangers:
    """Looks at such pods."""

    def __init__(self, api: Api, cluster: Cluster, release: Callable[[Pod], Awaitable[None]]) -> None:
        self._api = api
        self._cluster = cluster
        self._release = release
        self._told = Recent(STRANGERS_KEPT)

    async def meet_all(self) -> None:
        """Before the first look: a job whose pods are not known for its own yet would be given others.

        There may be thousands: between two of them everything else has its turn, the leader's lease above all.
        """
        for pod in sorted(self._cluster.pods.strangers(), key=lambda pod: pod.job_uid):
            await asyncio.sleep(0)
            await self._meet((pod.namespace, pod.uid))

    async def _meet(self, key: Key) -> None:
        """Ask about the pod as long as it is a stranger and the answer may come; it may be met, or go, meanwhile."""
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
        """Nothing is done about a pod of no job, except that our finalizer is released when it has ended: nobody else
        will ever do that."""
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
        """What is claimed by the job that the pod's label names, if it is there."""
        job = self._cluster.jobs.get((pod.namespace, pod.job_uid))
        return claims_of(job) if job is not None else None
