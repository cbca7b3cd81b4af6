"""What jobs write is data for none: neither a job's own checkpoints nor those of another job on the same claim."""

import os
from pathlib import Path

from costopt import names
from costopt_trainer.errors import NotRetryable

_WRITTEN_BY_A_JOB = (
    names.CHECKPOINTS_DIR,
    names.ARTIFACTS_DIR,
    names.CACHE_DIR,
    names.METRICS_FILE,
    names.REPLICAS_DIR,
    names.LOGS_DIR,
)
"""In its storage, where a user may keep other things as well."""


def refuse_what_jobs_write(path: Path, name: str, own_folder: Path | None = None) -> None:
    """Raise NotRetryable("InvalidData") if the data at `path` is a job's storage, or what a job keeps there.

    `name` is how the sentence calls the data. `own_folder` is the job's own storage; others are known by their marks.
    """
    real = Path(os.path.realpath(path))
    if own_folder is not None and _is_written_in(real, Path(os.path.realpath(own_folder))):
        raise NotRetryable(
            "InvalidData", f"{name} is what this job writes itself ({own_folder}); give data that lies elsewhere"
        )
    for folder in (real, *real.parents):
        if os.path.lexists(folder / names.STORAGE_MARK) and _is_written_in(real, folder):
            raise NotRetryable(
                "InvalidData", f"{name} is what a job writes itself ({folder}); give data that lies elsewhere"
            )


def _is_written_in(path: Path, storage: Path) -> bool:
    if not path.is_relative_to(storage):
        return False
    below = path.relative_to(storage).parts
    return not below or below[0] in _WRITTEN_BY_A_JOB
