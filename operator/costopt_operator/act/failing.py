"""Failed reconciles: what they mean for the job, and when its gangs are stopped.

While reconciles of a job fail, nobody enforces its suspension, budget or deadline, and its usage is not recorded. So
after several failures in a row its gangs are stopped with a checkpoint, and it is retried rarely. Temporary errors (an
unavailable API server, a conflict, too many requests) do not count.
"""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from costopt.plan.foreign_text import one_line
from costopt_operator.decide.objects import ChildJob, JobObject, Pod
from costopt_operator.decide.reading import NotUnderstood
from costopt_operator.kube.api import ApiError, NotLeading, Unreachable

LOOKS = 10
"""Failed reconciles in a row after which a job's gangs are stopped."""
AT_LEAST = timedelta(seconds=30)
"""Shortest time that they must span: a state of a pod that lasts only a moment is no reason to stop."""
LONGEST_PAUSE_SECONDS = 300.0
"""Longest pause between two tries of a job whose reconciles fail."""

_PASSING = frozenset({401, 404, 408, 409, 429})
"""Refusals that say nothing about the job: our own token, a deleted job, a conflict, too many requests."""


class NotEnforced(Exception):
    """A reconcile failed before everything that must stop was stopped; its cause says why."""


def says_something_of_the_job(error: BaseException | None) -> bool:
    """Whether a reconcile would fail with this error again, because of the job or of a bug of ours."""
    if error is None or isinstance(error, (NotLeading, *Unreachable)):
        return False
    if isinstance(error, ApiError):
        return _is_too_large(error) or (400 <= error.status < 500 and error.status not in _PASSING)
    return True


def _is_too_large(error: ApiError) -> bool:
    """etcd, or something before it, refuses an object for its size; the API server reports an internal error."""
    return error.status == 413 or "too large" in error.message or "larger than max" in error.message


def told(error: BaseException | None) -> str:
    """What happens to the job for that error, why, and what would be right."""
    return (
        f"the job could not be looked at {LOOKS} times in a row, so its gangs are stopped with a checkpoint, and none "
        f"is started until it can be; it is tried again every few minutes: {_why(error)}"
    )


def _why(error: BaseException | None) -> str:
    """The reason and what would be right, as the end of a sentence."""
    if isinstance(error, NotUnderstood):
        return f"{one_line(str(error), 300)}; mend that, or use an operator of the version of the definitions"
    if isinstance(error, ApiError) and _is_too_large(error):
        return "the object is too large for etcd; remove annotations, or create a job with a shorter spec"
    if isinstance(error, ApiError):
        return f"the API server refuses: {one_line(str(error), 300)}"
    return f"a mistake in the operator ({type(error).__name__}), which its log tells of"


def still_running(
    job: JobObject, children: Iterable[ChildJob], pods: Iterable[Pod]
) -> tuple[list[ChildJob], list[Pod]]:
    """The Jobs to delete so that all of the job ends, and the pods that no Job ends."""
    jobs = [child for child in children if child.job_uid == job.uid]
    jobs = [child for child in jobs if not (child.deleting or child.complete or child.failing)]
    ending = {(child.stage, child.attempt) for child in jobs}
    mine = [pod for pod in pods if pod.job_uid == job.uid and not pod.ended and pod.deleted is None]
    return jobs, [pod for pod in mine if pod.orphan and (pod.stage, pod.attempt) not in ending]


class FailingLooks:
    """Counts failed reconciles in a row, by job uid."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}
        """How many, and when the first one failed."""

    def failed(self, uid: str) -> bool:
        """One more has failed; True when the gangs are to be stopped."""
        count, since = self._failed.get(uid, (0, self._clock()))
        self._failed[uid] = (count + 1, since)
        return count + 1 >= LOOKS and self._clock() - since >= AT_LEAST.total_seconds()

    def succeeded(self, uid: str) -> None:
        """A reconcile has succeeded, or the job is gone: earlier failures no longer count."""
        self._failed.pop(uid, None)
