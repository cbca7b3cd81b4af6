"""Batch Jobs of old attempts that nobody needs: deleted with their pods, once those are recorded. Pure.

A job may restart thousands of times. Each attempt leaves a Job and pods, which every reconcile reads and etcd stores.
The last few of a stage stay for their logs. Attempt numbers come from the status, never from what still exists.
"""

from costopt.schema.status import JobStatus
from costopt_operator.decide.objects import ChildJob
from costopt_operator.decide.observe import JobSnapshot

ATTEMPTS_KEPT = 3
"""Ended attempts of a stage whose pods are kept, besides the current one."""
DELETED_AT_ONCE = 100
"""Jobs deleted in one reconcile: there may be thousands after a long absence of the operator."""


def leftovers(snapshot: JobSnapshot, written: JobStatus) -> tuple[ChildJob, ...]:
    """Jobs to delete, oldest first, given the status as written so far."""
    found: list[ChildJob] = []
    for stage in written.stages:
        older = [child for child in snapshot.child_jobs if child.stage == stage.name and child.attempt < stage.attempt]
        older.sort(key=lambda child: child.attempt)
        found += [child for child in older[:-ATTEMPTS_KEPT] if _is_over(child, snapshot)]
    return tuple(found[:DELETED_AT_ONCE])


def _is_over(child: ChildJob, snapshot: JobSnapshot) -> bool:
    """It has ended, and all its pods are recorded and released."""
    pods = snapshot.gang((child.stage, child.attempt))
    ended = (child.failing or child.complete) and not child.deleting
    return ended and all(pod.ended and not pod.has_finalizer for pod in pods)
