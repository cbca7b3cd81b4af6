"""What a job's status says about pods whose batch Job is unknown. Pure.

The index is built once per status: a gang has thousands of pods, and each one is looked up.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from costopt.accounting.held import mark_of, read_held
from costopt.names import child_name
from costopt_operator.decide.kinship import Gang
from costopt_operator.decide.objects import JobObject, Pod, parse_time
from costopt_operator.decide.reading import NotUnderstood, read_job

CLAIMS_KEPT = 64
"""Statuses whose index is cached: lookups alternate between pods of several jobs."""

_Attempt = tuple[str, int]


@dataclass(frozen=True)
class Claims:
    """The pods that one status claims."""

    job: JobObject
    held: Mapping[str, tuple[str, _Attempt]] = field(default_factory=dict)
    """Mark of a pod that holds resources -> the batch Job that the status names for its attempt."""
    beginning: Mapping[str, tuple[_Attempt, datetime]] = field(default_factory=dict)
    """Batch Job name -> an attempt that was decided, and since when; nothing was written since."""

    def gang_by_mark(self, pod: Pod) -> Gang | None:
        """The batch Job of a pod that holds resources according to the status, whatever its owners say."""
        found = self.held.get(mark_of(pod.uid))
        return self._gang(*found) if found is not None else None

    def gang_by_name(self, pod: Pod) -> Gang | None:
        """The batch Job of a pod whose owner has the name of an attempt that was decided but not written about since:
        the operator created the Job and did not see it again. Only for pods whose batch Job no longer exists."""
        found = self.beginning.get(pod.controller.name) if pod.controller.kind == "Job" else None
        if found is None:
            return None
        attempt, begun = found
        if parse_time(pod.created) < begun.replace(microsecond=0):  # an earlier job of that name
            return None
        return self._gang(pod.controller.uid, attempt)

    def _gang(self, uid: str, attempt: _Attempt) -> Gang:
        return Gang(uid, self.job.namespace, self.job.uid, self.job.name, *attempt)


@functools.lru_cache(maxsize=CLAIMS_KEPT)
def claims_of(job: JobObject) -> Claims:
    """What the job's status claims; nothing if the job cannot be read."""
    try:
        status = read_job(job)[1]
    except NotUnderstood:
        return Claims(job)
    known = {(entry.stage, entry.attempt): entry.uid for entry in status.batch_jobs or ()}
    held: dict[str, tuple[str, _Attempt]] = {}
    for one in read_held(status.usage.held if status.usage else ()):
        attempt = (one.shape.stage, one.shape.attempt)
        if attempt in known:
            held.setdefault(one.mark, (known[attempt], attempt))
    beginning = {
        child_name(job.name, stage.name, stage.attempt): ((stage.name, stage.attempt), stage.attempt_start_time)
        for stage in status.stages
        if stage.state == "Starting" and stage.attempt_start_time and (stage.name, stage.attempt) not in known
    }
    return Claims(job, held, beginning)
