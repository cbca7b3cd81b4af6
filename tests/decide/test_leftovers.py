"""Jobs and pods of old attempts go once they are recorded; the last few stay for their logs."""

import dataclasses

import pytest

from builders.operator import Story, a_job, child, failed, moment, pod
from costopt.schema.status import JobStatus, StageStatus
from costopt_operator.decide.leftovers import ATTEMPTS_KEPT, DELETED_AT_ONCE, leftovers
from costopt_operator.decide.objects import ChildJob, Pod
from costopt_operator.decide.observe import JobSnapshot

ATTEMPTS = 12


class Place:
    """A namespace in which every attempt of a job fails: what is deleted goes, and what is released is let go of."""

    def __init__(self) -> None:
        self.story = Story(a_job(restarts={"maxFailures": 1000}))
        self.jobs: dict[str, ChildJob] = {}
        self.pods: dict[str, Pod] = {}
        self.most_jobs = 0
        self.seconds = 0.0

    def look(self) -> None:
        self.seconds += 5
        todo = self.story.look(self.seconds, *self.jobs.values(), *self.pods.values())
        for released in todo.releases:
            self.pods[released.uid] = dataclasses.replace(released, has_finalizer=False)
        for job in (*todo.delete_jobs, *todo.leftovers):
            gone = [pod for pod in self.pods.values() if (pod.stage, pod.attempt) == (job.stage, job.attempt)]
            assert not any(pod.has_finalizer for pod in gone), "a pod goes that is not recorded"
            del self.jobs[job.uid]
            for lost in gone:
                del self.pods[lost.uid]
        for start in todo.start:
            made = child(start.stage, start.attempt, conditions=("Failed",))
            self.jobs[made.uid] = made
            ends = [failed(index, attempt=start.attempt, scheduled=1, finished=2 + start.attempt) for index in (0, 1)]
            self.pods |= {ended.uid: ended for ended in ends}
        self.most_jobs = max(self.most_jobs, len(self.jobs))


def test_however_many_attempts_there_are_only_the_last_few_are_left_and_all_are_numbered_and_recorded() -> None:
    place = Place()
    for _ in range(ATTEMPTS):
        place.look()
    [stage] = place.story.status.stages
    assert stage.attempt == stage.failures > ATTEMPTS / 2
    assert place.most_jobs == ATTEMPTS_KEPT + 1
    left = sorted(job.attempt for job in place.jobs.values())
    assert left == list(range(stage.attempt - ATTEMPTS_KEPT, stage.attempt + 1))
    usage = place.story.status.usage
    assert usage is not None
    assert sorted(record.attempt for record in usage.records) == sorted(2 * list(range(stage.attempt)))


def world_of(jobs: list[ChildJob], pods: list[Pod]) -> JobSnapshot:
    return JobSnapshot(job=a_job(), status=JobStatus(), child_jobs=tuple(jobs), pods=tuple(pods))


WRITTEN = JobStatus(stages=[StageStatus(name="train", state="Running", attempt=9, start_time=moment(0))])
STAYS = {
    "a pod that is not recorded": ([child(conditions=("Failed",))], [failed(0)]),
    "a pod that has not ended": ([child(conditions=("Failed",))], [pod(0, finalizer=False)]),
    "a Job that has not ended": ([child()], [failed(0, finalizer=False)]),
    "a Job that is being deleted": (
        [child(conditions=("Failed",), metadata={"deletionTimestamp": "2026-03-01T12:00:00Z"})],
        [failed(0, finalizer=False)],
    ),
    "a stage that the job has no more": ([child("int8", conditions=("Failed",))], []),
}


@pytest.mark.parametrize("why", STAYS)
def test_what_may_still_be_needed_stays(why: str) -> None:
    jobs, pods = STAYS[why]
    kept = [child(attempt=attempt, conditions=("Failed",)) for attempt in range(6, 10)]
    assert leftovers(world_of([*jobs, *kept], pods), WRITTEN) == ()


def test_what_is_recorded_goes_and_not_all_of_thousands_at_once() -> None:
    jobs = [child(attempt=attempt, conditions=("Complete",)) for attempt in range(2000)]
    written = WRITTEN.model_copy(update={"stages": [WRITTEN.stages[0].model_copy(update={"attempt": 2000})]})
    assert leftovers(world_of(jobs, []), written) == tuple(jobs[:DELETED_AT_ONCE])
    few = jobs[:4]
    assert leftovers(world_of(few, [failed(0, finalizer=False)]), WRITTEN) == tuple(few[:1])
