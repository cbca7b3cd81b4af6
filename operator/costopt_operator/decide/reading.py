"""A job and its status as models, each read once however often it is looked at."""

import functools

from pydantic import ValidationError

from costopt.schema.job import CostOptJob
from costopt.schema.lenient_parse import read_known
from costopt.schema.status import JobStatus
from costopt_operator.decide.objects import JobObject

PARSED_KEPT = 128
"""Jobs and statuses kept as models: a job is looked at some ten times between two of its writes, most of them soon."""


class NotUnderstood(Exception):
    """The job, or its status, is not what this version can read; the sentence says where."""


def read_job(job: JobObject) -> tuple[CostOptJob, JobStatus]:
    """The job and its status. Raises NotUnderstood."""
    try:
        return _job_of(job.document), _status_of(job.status)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NotUnderstood(f"the job is not understood ({where}: {first['msg']})") from error


@functools.lru_cache(maxsize=PARSED_KEPT)
def _job_of(document: bytes) -> CostOptJob:
    return read_known(CostOptJob, document)


@functools.lru_cache(maxsize=PARSED_KEPT)
def _status_of(document: bytes) -> JobStatus:
    return read_known(JobStatus, document)
