"""What jobs write is never data: neither a job's own checkpoints nor those of another job on the same claim.

is_storage                a folder where some job keeps its files: a file search skips all of it
writing_job               a path -> the storage whose job writes there; a user may keep other files beside that
refuse_what_jobs_write    the same as an error, for a path that the settings name
"""

import os
from pathlib import Path

from costopt import names
from costopt_trainer.errors import NotRetryable

WRITTEN_IN_A_STORAGE = (names.CHECKPOINTS_DIR, names.ARTIFACTS_DIR, names.CACHE_DIR, names.METRICS_FILE)
"""By every job."""

WRITTEN_IN_A_RUN_FOLDER = (
    *(names.REPLICAS_DIR, names.LOGS_DIR),
    *(names.JOB_FILE, names.STATUS_FILE, names.LEDGER_FILE, names.RUN_LOCK_FILE),
)
"""Also by `costopt run`. On a claim such a name, for example `logs`, is the user's."""

_OF_A_RUN_FOLDER = (names.JOB_FILE, names.STATUS_FILE, names.RUN_LOCK_FILE)
"""Every run folder has all of them; run folders of earlier versions have no mark."""


def is_storage(folder: Path) -> bool:
    """Whether it has the mark of a storage, or the three files of a run folder."""
    return os.path.lexists(folder / names.STORAGE_MARK) or all(
        os.path.lexists(folder / name) for name in _OF_A_RUN_FOLDER
    )


def writing_job(path: Path, own_folder: Path | None = None) -> Path | None:
    """The storage that `path`, with links resolved, is or is in, if the job writes that path.

    `own_folder`, the job's own storage, counts as one even without a mark: the claim may have refused the mark.
    """
    real = Path(os.path.realpath(path))
    own = None if own_folder is None else Path(os.path.realpath(own_folder))
    for folder in (real, *real.parents):
        if (folder == own or is_storage(folder)) and _is_written_in(real, folder):
            return folder
    return None


def refuse_what_jobs_write(path: Path, name: str, own_folder: Path | None = None) -> None:
    """Raise NotRetryable("InvalidData") if the data at `path` is a job's storage, or what a job keeps there.

    `name` is the data's name in the sentence. `own_folder` is the job's own storage.
    """
    storage = writing_job(path, own_folder)
    if storage is None:
        return
    is_own = own_folder is not None and storage == Path(os.path.realpath(own_folder))
    whose = f"this job writes itself ({own_folder})" if is_own else f"a job writes itself ({storage})"
    raise NotRetryable("InvalidData", f"{name} is what {whose}; give data that lies elsewhere")


def _is_written_in(path: Path, storage: Path) -> bool:
    below = path.relative_to(storage).parts
    if not below or below[0] in WRITTEN_IN_A_STORAGE:
        return True
    return below[0] in WRITTEN_IN_A_RUN_FOLDER and os.path.lexists(storage / names.JOB_FILE)
