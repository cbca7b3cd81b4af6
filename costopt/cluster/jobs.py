"""CostOptJobs of a cluster: read, apply, suspend, resume, delete."""

import difflib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from costopt.cluster.api import APPLY_PATCH, FIELD_MANAGER, MERGE_PATCH, Cluster, Plain
from costopt.cluster.patience import Patience
from costopt.cluster.pods import pods_of
from costopt.cluster.refusals import Conflict, Expired, Forbidden, NotThere, Unreachable
from costopt.cluster.shapes import mapping, mappings, moment, text
from costopt.names import storage_claim_name
from costopt.plan.foreign_text import one_line
from costopt.refused import Refused
from costopt.schema.kinds import COST_OPT_JOB
from costopt.schema.lenient_parse import read_known
from costopt.schema.status import JobStatus

PAGE = 500
"""Jobs asked for at a time."""

NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""A list without specs and statuses, if only names are needed."""

LIST_TRIES = 3

LOOK_EVERY_SECONDS = 0.5

Change = Literal["created", "changed", "unchanged"]


class ClusterJob:
    """A CostOptJob as the API server has it."""

    def __init__(self, plain: Plain) -> None:
        self.metadata: Plain = mapping(plain.get("metadata"))
        created = moment(self.metadata.get("creationTimestamp"))
        if created is None or not all(text(self.metadata.get(key)) for key in ("name", "namespace", "uid")):
            raise Unreachable("what answers is no API server: it sent a job without a name; check the kubeconfig")
        self.plain = plain
        self.spec: Plain = mapping(plain.get("spec"))
        self.created = created
        """When it was submitted."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.metadata["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.metadata["namespace"])

    @property
    def uid(self) -> str:
        """Distinguishes it from a job of the same name before or after it."""
        return str(self.metadata["uid"])

    @property
    def is_being_deleted(self) -> bool:
        """Whether it is being deleted but something still holds it."""
        return "deletionTimestamp" in self.metadata

    @property
    def is_to_be_suspended(self) -> bool:
        """spec.suspend."""
        return bool(self.spec.get("suspend"))

    @property
    def kept_claim(self) -> str | None:
        """The claim with checkpoints and artifacts that outlives the job; None if none does."""
        storage = mapping(self.spec.get("storage"))
        if storage.get("create") is None:
            return text(storage.get("claimName"))
        return storage_claim_name(self.name) if mapping(storage["create"]).get("keepAfterDeletion", True) else None

    @property
    def claim(self) -> str | None:
        """The claim that its storage is a folder of; None: it has none, and its files go with its pods."""
        storage = mapping(self.spec.get("storage"))
        return text(storage.get("claimName")) if storage.get("create") is None else storage_claim_name(self.name)

    @cached_property
    def status(self) -> JobStatus:
        """Its status; empty before the operator has seen it."""
        return read_status(mapping(self.plain.get("status")), f"job {self.name}")


def read_status(plain: Plain, whose: str) -> JobStatus:
    """A status, without the fields that only a newer operator knows. Raises Refused if it cannot be read."""
    try:
        return read_known(JobStatus, json.dumps(plain).encode())
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(('status', *(str(part) for part in mistake['loc'])))}: {mistake['msg']}"
        raise Refused(
            f"the status of {whose} cannot be read ({one_line(why, 300)}); "
            "install the costopt of the cluster's operator here"
        ) from None


class Jobs:
    """The jobs of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str | None = None) -> None:
        self.cluster = cluster
        self.namespace = namespace or cluster.namespace

    def get(self, name: str) -> ClusterJob:
        """The job of that name. Raises NotThere, naming the existing ones, if there is none."""
        try:
            return ClusterJob(self.cluster.ask("GET", self._path(name)))
        except NotThere as error:
            raise self._not_there(error, name) from None

    def find(self, name: str) -> ClusterJob | None:
        """The job of that name, if there is one."""
        try:
            return ClusterJob(self.cluster.ask("GET", self._path(name)))
        except NotThere as error:
            if error.name != name:
                raise
            return None

    def list(self, *, everywhere: bool = False) -> list[ClusterJob]:
        """The jobs of the namespace, or of all namespaces, in order of submission."""
        path = COST_OPT_JOB.path() if everywhere else self._path()
        return sorted(map(ClusterJob, self._pages(path)), key=lambda job: (job.created, job.namespace, job.name))

    def apply(self, document: Plain, *, dry_run: bool, force: bool) -> tuple[ClusterJob, Change]:
        """Apply the job's manifest. Raises Conflict if others have set its fields, unless `force`."""
        name = document["metadata"]["name"]
        before = self.find(name)
        if before is not None:
            _refuse_if_over(before)
        query = apply_query(dry_run=dry_run, force=force)
        answer = self.cluster.ask("PATCH", self._path(name), query, document, content_type=APPLY_PATCH)
        return ClusterJob(answer), change(before.plain if before else None, answer)

    def set_suspend(self, name: str, suspend: bool) -> ClusterJob:
        """Ask the operator to suspend or resume the job."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        body: Plain = {"spec": {"suspend": suspend}}
        return ClusterJob(self.cluster.ask("PATCH", self._path(name), query, body, content_type=MERGE_PATCH))

    def delete(self, job: ClusterJob) -> None:
        """Delete this very job, not one of the same name that replaced it."""
        body: Plain = {"propagationPolicy": "Background", "preconditions": {"uid": job.uid}}
        try:
            self.cluster.ask("DELETE", self._path(job.name), body=body)
        except (NotThere, Conflict):  # deleted meanwhile, perhaps replaced by one of its name
            return

    def wait_until_gone(self, job: ClusterJob, patience: Patience) -> None:
        """Wait until the job and its pods are gone."""
        while (found := patience.ask(lambda: self.find(job.name))) is not None and found.uid == job.uid:
            time.sleep(LOOK_EVERY_SECONDS)
        while patience.ask(lambda: pods_of(self.cluster, job.namespace, job.uid)):
            time.sleep(LOOK_EVERY_SECONDS)

    def _path(self, name: str | None = None) -> str:
        return COST_OPT_JOB.path(namespace=self.namespace, name=name)

    def _pages(self, path: str, accept: str = "application/json") -> Sequence[Plain]:
        """All entries of a list; starts again if the list expires between two pages."""
        for _ in range(LIST_TRIES - 1):
            try:
                return list(self._walk(path, accept))
            except Expired:
                continue
        return list(self._walk(path, accept))

    def _walk(self, path: str, accept: str) -> Iterator[Plain]:
        query = {"limit": str(PAGE)}
        while True:
            page = self.cluster.ask("GET", path, query, accept=accept)
            yield from mappings(page.get("items"))  # a list of only names has null if empty
            following = text(page["metadata"].get("continue"))
            if following is None:
                return
            query = {"limit": str(PAGE), "continue": following}

    def _not_there(self, error: NotThere, name: str) -> Refused:
        if error.name != name:  # the resource itself is unknown
            return error
        try:
            entries = self._pages(self._path(), NAMES_ONLY)
            names = sorted(found for entry in entries if (found := text(mapping(entry.get("metadata")).get("name"))))
        except Forbidden:
            names = []
        similar = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        there = f"did you mean {' or '.join(similar)}?" if similar else f"there {_enumerated(names)}"
        return NotThere(
            f"there is no job {name} in namespace {self.namespace} of {self.cluster} (-n names another); {there}",
            COST_OPT_JOB.plural,
            name,
        )


def _enumerated(names: list[str]) -> str:
    if not names:
        return "is none at all in it"
    some = ", ".join(names[:5])
    return f"is {some}" if len(names) == 1 else f"are {some}{' and others' if len(names) > 5 else ''}"


def _refuse_if_over(job: ClusterJob) -> None:
    if job.is_being_deleted:
        raise Refused(f"job {job.name} is being deleted; submit it again when `costopt delete {job.name} --wait` ends")
    succeeded = job.status.condition("Succeeded")
    if succeeded is not None and succeeded.status != "Unknown":
        kept = "; its checkpoints stay where they are, and the next one goes on from them" if job.kept_claim else ""
        raise Refused(
            f"job {job.name} has ended ({succeeded.reason}) and is not run again; give the new one another name, "
            f"or delete the old one first{kept}"
        )


def apply_query(*, dry_run: bool, force: bool) -> Mapping[str, str]:
    """How to apply a document: we own its fields, unknown fields are mistakes."""
    return {
        "fieldManager": FIELD_MANAGER,
        "fieldValidation": "Strict",
        "force": str(force).lower(),
        **({"dryRun": "All"} if dry_run else {}),
    }


def change(before: Plain | None, after: Plain) -> Change:
    """What applying did to a document, or would do in a dry run."""
    if before is None:
        return "created"
    parts = ("spec", "labels", "annotations")
    same = all(_part(before, part) == _part(after, part) for part in parts)
    return "unchanged" if same else "changed"


def _part(plain: Plain, part: str) -> Any:
    return plain.get(part) if part in plain else plain["metadata"].get(part)
