"""What all children's metadata has in common: the owner, and the labels to find it again."""

import hashlib
from typing import Any

from costopt import names
from costopt.schema.base import API_VERSION
from costopt.schema.job import CostOptJob

Manifest = dict[str, Any]


def job_labels(job: CostOptJob) -> dict[str, str]:
    """Labels of everything that belongs to the job. A dry run has no UID yet, so that label is missing."""
    uid = {} if job.metadata.uid is None else {names.LABEL_JOB_UID: job.metadata.uid}
    return {**names.MANAGED_BY, names.LABEL_JOB: label_value(job.metadata.name), **uid}


def attempt_labels(job: CostOptJob, stage: str, attempt: int) -> dict[str, str]:
    """Labels that select the pods of exactly one attempt."""
    return {**job_labels(job), names.LABEL_STAGE: stage, names.LABEL_ATTEMPT: str(attempt)}


def child_labels(job: CostOptJob, stage: str, attempt: int, execution: int) -> dict[str, str]:
    """Labels of every child of an attempt: its job, stage, attempt and execution."""
    return {**attempt_labels(job, stage, attempt), names.LABEL_EXECUTION: str(execution)}


def label_value(name: str) -> str:
    """A name as a label value: at most 63 characters, shortened with a hash of the whole. For people and selectors;
    decisions use uids, because another job may have this very text as its name."""
    if len(name) <= 63:
        return name
    return f"{name[:54].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def metadata(job: CostOptJob, name: str, labels: dict[str, str], *, owned: bool = True) -> Manifest:
    """A child's metadata; an `owned` child is deleted with the job."""
    drawn: Manifest = {"name": name, "labels": labels}
    if job.metadata.namespace is not None:
        drawn["namespace"] = job.metadata.namespace
    if owned and job.metadata.uid is not None:
        drawn["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": job.kind,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return drawn
