"""A job and its status as models, each parsed once however often it is used."""

import functools

from pydantic import ValidationError

from costopt.schema.job import CostOptJob
from costopt.schema.lenient_parse import read_known
from costopt.schema.status import JobStatus
from costopt_operator.decide.objects import JobObject

PARSED_KEPT = 128
"""Cached models of jobs and statuses: a job is read about ten times between two writes, mostly soon after one."""


class NotUnderstood(Exception):
    """This version cannot read the job or its status; the sentence says where."""


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
