"""Which job a pod belongs to: that of its batch Job, by uid only. Pure.

    pod ── controller ──▶ batch Job ── controller ──▶ CostOptJob

A pod's own labels are ignored: anybody may write them. Its stage and attempt are those of its Job, whose name holds
them. A deleted Job disappears before its pods, so what is known of it is kept as long as it may have pods, and in the
job's status (`batchJobs`) to survive a restart.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from costopt.schema.status import BatchJob


@dataclass(frozen=True, slots=True)
class Gang:
    """A batch Job that belongs, or belonged, to a CostOptJob."""

    uid: str
    """The batch Job's."""
    namespace: str
    job_uid: str
    job_name: str
    stage: str
    attempt: int


class Kinship:
    """The batch Jobs that pods may belong to."""

    def __init__(self) -> None:
        self._gangs: dict[tuple[str, str], Gang] = {}
        """By namespace and uid: a status cannot claim a batch Job of another namespace."""
        self._of_jobs: defaultdict[str, dict[str, Gang]] = defaultdict(dict)

    def learn(self, gang: Gang) -> bool:
        """Remember it; True if it is new. A Gang never changes."""
        if (gang.namespace, gang.uid) in self._gangs:
            return False
        self._gangs[gang.namespace, gang.uid] = self._of_jobs[gang.job_uid][gang.uid] = gang
        return True

    def get(self, namespace: str, uid: str) -> Gang | None:
        """The batch Job of that uid; None if it never belonged to a CostOptJob of the namespace."""
        return self._gangs.get((namespace, uid))

    def of(self, job_uid: str) -> tuple[Gang, ...]:
        """Those of one CostOptJob."""
        return tuple(self._of_jobs[job_uid].values()) if job_uid in self._of_jobs else ()

    def forget(self, gang: Gang) -> None:
        """Nothing of it is left."""
        if self._gangs.pop((gang.namespace, gang.uid), None) is not None:
            self._of_jobs[gang.job_uid].pop(gang.uid, None)
            if not self._of_jobs[gang.job_uid]:
                del self._of_jobs[gang.job_uid]


def gangs_in(status: bytes, *, namespace: str, job_uid: str, job_name: str) -> Iterator[Gang]:
    """The batch Jobs that a written status remembers; entries that are not ours are skipped."""
    written = json.loads(status).get("batchJobs")
    for entry in written if isinstance(written, list) else ():
        try:
            known = BatchJob.model_validate(entry)
        except ValidationError:
            continue
        yield Gang(known.uid, namespace, job_uid, job_name, known.stage, known.attempt)
