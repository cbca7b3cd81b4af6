"""A pod of a batch Job that nobody wrote down is of an attempt that begins, and of no other."""

import json

import pytest

from builders.operator import a_job, at, moment, pod
from costopt.schema.status import BatchJob, JobStatus, StageState, StageStatus
from costopt_operator.act.strangers import gang_by_name
from costopt_operator.decide.objects import JobObject, parse_job

KNOWN = BatchJob(uid="another", stage="train", attempt=0)


def job_with(status: JobStatus) -> JobObject:
    plain = a_job().to_plain()
    plain["metadata"] |= {"resourceVersion": "5", "generation": 1}
    return parse_job({**plain, "status": json.loads(json.dumps(status.to_plain()))})


@pytest.mark.parametrize(
    ("state", "known", "is_its"),
    [("Starting", [], True), ("Starting", [KNOWN], False), ("Running", [], False), ("Waiting", [], False)],
)
def test_only_an_attempt_that_begins_and_names_no_batch_job_takes_pods_of_one_that_is_gone(
    state: StageState, known: list[BatchJob], is_its: bool
) -> None:
    stage = StageStatus(name="train", state=state, attempt=0, start_time=moment(0), attempt_start_time=moment(0))
    status = JobStatus(stages=[stage], batch_jobs=known or None)
    assert pod(0).created == at(0)
    gang = gang_by_name(pod(0), job_with(status), status)
    assert (gang is not None) == is_its
    if gang is not None:
        assert (gang.uid, gang.stage, gang.attempt) == ("job-train-0", "train", 0)
