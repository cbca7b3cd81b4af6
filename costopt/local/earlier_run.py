"""A run that has succeeded, kept while other settings are tried in its folder (`costopt run --retry`)."""

from dataclasses import dataclass

from costopt.names import TRAIN_STAGE
from costopt.plan.causes import CAUSES
from costopt.plan.decide import has_succeeded
from costopt.schema.job import CostOptJob
from costopt.schema.status import Failure, JobStatus


@dataclass(frozen=True)
class EarlierRun:
    """What it was."""

    job: CostOptJob
    status: JobStatus

    def refusal(self, tried: JobStatus) -> Failure | None:
        """Why the other settings do not fit what the run has saved, if they were refused before a step was taken: then
        checkpoints and artifacts are what they were. None: they were not, or a program of the user's own ran."""
        failure = tried.failure
        if self.job.spec.recipe is None or has_succeeded(tried) or failure is None:
            return None
        refused = failure.stage == TRAIN_STAGE and CAUSES[failure.reason].kind == "NotRetryable"
        return failure if refused and tried.progress == self.status.progress else None
