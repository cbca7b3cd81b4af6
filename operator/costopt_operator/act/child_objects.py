"""Creates the children of an attempt. Each is created once; one that exists already is recognised and left unchanged.

An object that has a child's name and does not belong to the job (see `ownership`) is never touched: the attempt waits
until it is gone.
"""

import contextlib
import logging
from collections.abc import AsyncIterator

from costopt.accounting.outcome import Attempt
from costopt.names import QUEUE_NAME_LABEL, TRAIN_STAGE
from costopt.plan.actions import StartGang
from costopt.render.children import config_map, service
from costopt.render.manifests import begins_job, manifests
from costopt_operator.act.concurrency import run_all
from costopt_operator.decide.events import Event
from costopt_operator.decide.objects import ChildJob, JobObject, parse_child_job, parse_service
from costopt_operator.decide.observe import JobSnapshot
from costopt_operator.decide.ownership import standing
from costopt_operator.decide.platform import Platform
from costopt_operator.decide.reconcile import Decision
from costopt_operator.kube.api import Api, ApiError, Json
from costopt_operator.watch.object_cache import Cluster

log = logging.getLogger(__name__)


SMALLEST_STATUS = 524_288
"""Bytes that must be left for the status of a new job: more than any status so far has needed."""
TOO_LARGE = (
    "the job leaves too little room for its status, in which all that it uses is recorded; spec, labels and "
    "annotations together must be at most 900 KiB (put long commands and files into the image or a ConfigMap)"
)


class NotYet(Exception):
    """An attempt waits for something; the message says what. It is retried soon, with backoff."""

    event: Event | None = None
    """Event posted once on the job; None: no Event, because the wait is short."""


class NameTaken(NotYet):
    """A child's name belongs to an object of somebody else. The attempt continues when that object is gone."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"the name {name}, which a {kind} has that is not this job's")
        advice = (
            f"the {kind} {name} is not this job's, so it is left as it is, and the job waits: "
            f"delete that {kind}, or create the job under another name"
        )
        self.event = Event("Warning", "NameTaken", advice, about=f"{kind} {name}")


class NotGoneYet(NotYet):
    """A child's name belongs to an object that is being deleted; something may hold it."""

    def __init__(self, kind: str, name: str, what: str) -> None:
        super().__init__(f"the {kind} {name} {what}")
        advice = f"the job waits for the {kind} {name} {what}; what uses it, or a finalizer on it, may keep it"
        self.event = Event("Normal", "NotGoneYet", advice, about=f"{kind} {name}")


class ChildObjects:
    """Starts gangs and keeps them supplied."""

    def __init__(
        self, api: Api, cluster: Cluster, *, default_image: str, gang_api: str | None, platform: Platform
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._default_image = default_image
        self._gang_api = gang_api
        self._platform = platform
        self._refused: dict[str, dict[Attempt, str]] = {}
        """By job uid."""
        self._published: dict[str, set[tuple[str, int]]] = {}
        """By job uid: admitted batch Jobs whose settings are there, each with the number of replicas they name."""
        self._held_up: dict[str, dict[Attempt, str]] = {}
        """By job uid: attempts whose children cannot be created yet, and what they wait for."""
        self._told: dict[str, set[str]] = {}
        """By job uid: sentences that have been reported already."""

    def refused(self, job: JobObject) -> dict[Attempt, str]:
        """Attempts whose children the platform or the API server has refused, each with a sentence that says so."""
        return self._refused.get(job.uid, {})

    def held_up(self, job: JobObject) -> dict[Attempt, str]:
        """Attempts whose children cannot be made yet, and what they wait for."""
        return dict(self._held_up.get(job.uid, {}))

    def is_news(self, job: JobObject, sentence: str) -> bool:
        """Whether the sentence has not been reported before; marks it as reported."""
        told = self._told.setdefault(job.uid, set())
        known = sentence in told
        told.add(sentence)
        return not known

    def forget(self, uid: str) -> None:
        """The job is gone: nothing needs to be remembered of it."""
        for memory in (self._refused, self._published, self._held_up, self._told):
            memory.pop(uid, None)

    async def start(self, gang: StartGang, decision: Decision, snapshot: JobSnapshot, job: JobObject) -> bool:
        """Create the children of an attempt; the batch Job last, and only once.

        Returns False if the platform does not allow them or the API server refuses them as invalid, which `refused`
        tells from then on. Raises NotYet.
        """
        refusal = self._platform.refusal(snapshot.job)
        first = gang.attempt == 0 and begins_job(snapshot.job, gang.stage)
        if refusal is None and first and job.room < SMALLEST_STATUS:
            refusal = TOO_LARGE
        if refusal is not None:
            log.warning("%s", refusal)
            self._refused.setdefault(job.uid, {})[gang.stage, gang.attempt] = refusal
            return False
        queued = QUEUE_NAME_LABEL in snapshot.job.metadata.labels
        drawn = manifests(
            snapshot.job,
            gang.stage,
            gang.attempt,
            execution=decision.execution,
            train_attempt=gang.attempt if gang.stage == TRAIN_STAGE else decision.train_attempt,
            default_image=self._default_image,
            # A queue admits whole gangs itself, perhaps with fewer replicas than requested.
            gang_api=None if queued else self._gang_api,
        )
        *others, batch_job = drawn
        if queued and gang.stage == TRAIN_STAGE:
            # The queue decides the number of replicas; until then the pods wait for their settings.
            others = [manifest for manifest in others if manifest["kind"] != "ConfigMap"]
        log.info("starting attempt %d of %s", gang.attempt, gang.stage)
        try:
            async with self._holding_up(job, (gang.stage, gang.attempt)):
                await run_all(self._ensure(manifest, job, likely_there=not first) for manifest in others)
                created = await self._ensure(batch_job, job, likely_there=False)
        except ApiError as error:
            if error.reason != "Invalid":
                raise
            log.warning("%s", error)
            self._refused.setdefault(job.uid, {})[gang.stage, gang.attempt] = error.message
            return False
        self._cluster.child_jobs.learn(parse_child_job(created), job.namespace)
        return True

    async def _ensure(self, manifest: Json, job: JobObject, *, likely_there: bool = True) -> Json:
        """The child as it is on the API server, made if it is not there. Raises NotYet if its name is not free.

        Reading first is cheaper than writing, except when a job begins.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if not likely_there and (made := await self._made(manifest)) is not None:
            return made
        found = await self._api.read(manifest)
        if found is None:
            if (made := await self._made(manifest)) is not None:
                return made
            raise NotYet(f"somebody else who makes a {kind} {name} just now")
        self._demand_ours(found, manifest, job)
        return found

    @staticmethod
    def _demand_ours(found: Json, manifest: Json, job: JobObject) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        match standing(found, manifest, job_uid=job.uid):
            case "Foreign":
                raise NameTaken(kind, name)
            case "Going":
                raise NotGoneYet(kind, name, "that is being deleted to be gone")
            case "Earlier":
                raise NotGoneYet(kind, name, "of an earlier job to be deleted")

    async def _made(self, manifest: Json) -> Json | None:
        """What was created; None if there is one of that name."""
        try:
            created = await self._api.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return None
        if manifest["kind"] == "Service":
            self._cluster.services.learn(parse_service(created), manifest["metadata"]["namespace"])
        return created

    async def publish_admitted_settings(
        self, child: ChildJob, snapshot: JobSnapshot, execution: int, job: JobObject
    ) -> None:
        """Give an admitted gang its settings, with the number of replicas that was admitted.

        Only the very object that was found to be this job's is changed: one written meanwhile is a conflict (409).
        """
        published = self._published.setdefault(job.uid, set())
        if (child.uid, child.completions) in published:
            return
        drawn = config_map(snapshot.job, child.stage, child.attempt, execution=execution, num_nodes=child.completions)
        async with self._holding_up(job, (child.stage, child.attempt)):
            found = await self._ensure(drawn, job)
            if found.get("data") != drawn["data"]:
                await self._api.replace({**found, "apiVersion": "v1", "kind": "ConfigMap", "data": drawn["data"]})
        published.add((child.uid, child.completions))

    async def ensure_service(self, child: ChildJob, snapshot: JobSnapshot, execution: int, job: JobObject) -> None:
        """Make the gang's Service again if somebody has deleted it."""
        drawn = service(snapshot.job, child.stage, child.attempt, execution=execution)
        there = self._cluster.services.of(job.key)
        if not any(found.name == drawn["metadata"]["name"] for found in there):
            async with self._holding_up(job, (child.stage, child.attempt)):
                await self._ensure(drawn, job)

    @contextlib.asynccontextmanager
    async def _holding_up(self, job: JobObject, attempt: Attempt) -> AsyncIterator[None]:
        """What the block waits for is what the attempt waits for."""
        try:
            yield
        except NotYet as reason:
            self._held_up.setdefault(job.uid, {})[attempt] = str(reason)
            raise
        self._held_up.get(job.uid, {}).pop(attempt, None)
