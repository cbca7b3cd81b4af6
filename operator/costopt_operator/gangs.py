"""Making the children of an attempt. Each is made once: what is there already is recognised, and left as it is."""

import logging

from costopt.accounting.outcome import Attempt
from costopt.names import LABEL_JOB_UID, QUEUE_NAME_LABEL, TRAIN_STAGE
from costopt.plan.actions import StartGang
from costopt.render.children import config_map, service
from costopt.render.manifests import manifests
from costopt_operator.api import Api, ApiError, Json
from costopt_operator.cluster import Cluster
from costopt_operator.observe import World
from costopt_operator.reconcile import Todo
from costopt_operator.run_all import run_all
from costopt_operator.sightings import ChildJob, JobObject, parse_child_job, parse_service

log = logging.getLogger(__name__)


class NotYet(Exception):
    """Something must happen first; the sentence says what. Looked at again soon, with backoff."""


class Gangs:
    """Starts gangs and keeps them supplied."""

    def __init__(self, api: Api, cluster: Cluster, *, default_image: str, gang_api: str | None) -> None:
        self._api = api
        self._cluster = cluster
        self._default_image = default_image
        self._gang_api = gang_api
        self._refused: dict[str, dict[Attempt, str]] = {}
        """By job uid."""
        self._settled: dict[str, set[tuple[str, int]]] = {}
        """By job uid: admitted batch Jobs whose settings are there, each with the number of replicas they name."""
        self._told: dict[str, set[str]] = {}
        """By job uid: sentences that have been told."""

    def refused(self, job: JobObject) -> dict[Attempt, str]:
        """Attempts whose children the API server has refused as invalid, with its sentence."""
        return self._refused.get(job.uid, {})

    def is_news(self, job: JobObject, sentence: str) -> bool:
        """Whether the sentence has not been told before; from now on it has."""
        told = self._told.setdefault(job.uid, set())
        known = sentence in told
        told.add(sentence)
        return not known

    def forget(self, uid: str) -> None:
        """The job is gone: nothing needs to be remembered of it."""
        for memory in (self._refused, self._settled, self._told):
            memory.pop(uid, None)

    async def start(self, gang: StartGang, todo: Todo, world: World, job: JobObject) -> bool:
        """Create the children of an attempt; the batch Job last, and only once.

        Returns False if the API server refuses them as invalid, which `refused` tells from then on.
        """
        queued = QUEUE_NAME_LABEL in world.job.metadata.labels
        drawn = manifests(
            world.job,
            gang.stage,
            gang.attempt,
            execution=todo.execution,
            train_attempt=gang.attempt if gang.stage == TRAIN_STAGE else todo.train_attempt,
            default_image=self._default_image,
            # A queue places gangs whole itself, and perhaps with fewer replicas than asked for.
            gang_api=None if queued else self._gang_api,
        )
        *others, batch_job = drawn
        if queued and gang.stage == TRAIN_STAGE:
            # How many replicas there will be is the queue's to say; pods wait for their settings until then.
            others = [manifest for manifest in others if manifest["kind"] != "ConfigMap"]
        first = gang.stage == TRAIN_STAGE and gang.attempt == 0
        log.info("starting attempt %d of %s", gang.attempt, gang.stage)
        try:
            await run_all(self._ensure(manifest, likely_there=not first) for manifest in others)
            created = await self._create_or_adopt(batch_job, job)
        except ApiError as error:
            if error.reason != "Invalid":
                raise
            log.warning("%s", error)
            self._refused.setdefault(job.uid, {})[gang.stage, gang.attempt] = error.message
            return False
        self._cluster.child_jobs.learn(parse_child_job(created), job.namespace)
        return True

    async def _create_or_adopt(self, batch_job: Json, job: JobObject) -> Json:
        try:
            return await self._api.create(batch_job)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        return await self._adopt(batch_job, job)

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
        if found is None:
            if not await self._made(manifest):
                raise NotYet(f"somebody makes a {manifest['kind']} {metadata['name']} just now")
        elif _belongs_to_another(found, manifest):
            raise NotYet(f"the {manifest['kind']} {metadata['name']} is of an earlier job and must go first")

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

    async def settle(self, child: ChildJob, world: World, execution: int) -> None:
        """Give an admitted gang its settings, with the number of replicas that was admitted."""
        settled = self._settled.setdefault(child.job_uid, set())
        if (child.uid, child.completions) not in settled:
            drawn = config_map(world.job, child.attempt, execution=execution, num_nodes=child.completions)
            await self._api.apply(drawn)
            settled.add((child.uid, child.completions))

    async def connect(self, child: ChildJob, world: World, execution: int) -> None:
        """Make the gang's Service again if somebody has deleted it."""
        drawn = service(world.job, child.stage, child.attempt, execution=execution)
        there = self._cluster.services.of((child.namespace, child.job_label))
        if drawn["metadata"]["name"] not in {found.name for found in there}:
            await self._ensure(drawn)


def _belongs_to_another(found: Json, manifest: Json) -> bool:
    """The object was made for an earlier job of the same name."""
    wanted = manifest["metadata"].get("labels", {}).get(LABEL_JOB_UID)
    kept = not manifest["metadata"].get("ownerReferences")  # a claim that outlives its job is meant to be found again
    return not kept and bool(found["metadata"].get("labels", {}).get(LABEL_JOB_UID) != wanted)
