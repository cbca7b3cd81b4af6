"""What lies in a run folder, and whose it is.

.costopt-storage  says that a job keeps its things here
job.json        the manifest as first run: the folder's identity
status.json     schema.status.JobStatus, as the last plan wrote it
ledger.jsonl    usage records of ended replicas
lock            see lock.py
replicas/       a folder for each replica, see replica_folder.py
logs/           a log for each replica
checkpoints/ artifacts/ cache/ metrics.jsonl    the job's storage, written by the trainer
"""

import json
from pathlib import Path

from costopt.accounting.ledger import Ledger
from costopt.files import mark_storage, write_atomically
from costopt.hostile import Hostile, make_folder, parse_json, read_file, real_folder
from costopt.local.files import write_json
from costopt.local.models import Model, damaged, read_ours, read_theirs
from costopt.names import (
    ARTIFACTS_DIR,
    JOB_FILE,
    LEDGER_FILE,
    LOGS_DIR,
    REPLICAS_DIR,
    REPORT_FILE,
    RUN_LOCK_FILE,
    STATUS_FILE,
    STORAGE_MARK,
)
from costopt.refused import Refused
from costopt.schema.job import CostOptJob
from costopt.schema.status import JobStatus
from costopt.schema.variant_report import VariantStatus

IDENTITY = ("train", "compress", "evaluation")
"""Parts of the spec that may not change between runs: checkpoints and artifacts belong to them."""

MAX_LEDGER_BYTES = 2**26
"""64 MiB: some 100,000 replicas, more than a run folder could be looked through for."""


class RunFolder:
    """One job's folder on this machine; `path` is absolute."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def lock_file(self) -> Path:
        """Held by the one runner."""
        return self.path / RUN_LOCK_FILE

    def log_file(self, replica_name: str) -> Path:
        """Output of a replica's launcher and ranks."""
        return self.path / LOGS_DIR / f"{replica_name}.log"

    def create(self) -> None:
        """Make the folder, if it is not there. Raises Refused if it cannot be made or is something else's."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = [entry.name for entry in self.path.iterdir() if not _is_ours_before_the_first_run(entry.name)]
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be used as a run folder ({error.strerror}); "
                "name another with --run-dir, in a place you may write to"
            ) from None
        if foreign and not (self.path / JOB_FILE).exists():
            raise Refused(
                f"{self.path} is not a run folder and not empty ({sorted(foreign)[0]} is in it); "
                "name a new or an empty folder with --run-dir"
            )
        mark_storage(self.path)

    def claim(self, job: CostOptJob, *, anew: bool = False) -> None:
        """Make the folder `job`'s, or check that it is. Raises Refused if it is another job's. Hold the lock.

        `anew`: settings may have changed; whether a checkpoint fits them is then the trainer's to say.
        """
        if not (self.path / JOB_FILE).exists():
            write_json(self.path / JOB_FILE, job.to_plain())
            return
        first = self.job()
        if first.metadata.name != job.metadata.name:
            raise Refused(
                f"{self.path} holds the run of job {first.metadata.name}, not of {job.metadata.name}; "
                "name another folder with --run-dir"
            )
        then, now = first.spec.to_plain(), job.spec.to_plain()
        changed = [part for part in IDENTITY if then.get(part) != now.get(part)]
        if changed and anew:
            write_json(self.path / JOB_FILE, job.to_plain())
        elif changed:
            part = changed[0]
            raise Refused(
                f"spec.{_first_difference(then.get(part), now.get(part), part)} is not what it was when "
                f"{self.path} was first run; restore it, or start afresh in another folder "
                "with --run-dir, or in this one after removing it"
            )

    def job(self) -> CostOptJob:
        """The manifest as first run. Raises Refused if this is no run folder, or a damaged one."""
        return self._read_model(JOB_FILE, CostOptJob) or self._refuse_stranger()

    def status(self) -> JobStatus:
        """The status as last written; an empty one before the first plan."""
        return self._read_model(STATUS_FILE, JobStatus) or JobStatus()

    def write_status(self, status: JobStatus) -> None:
        """Replace the status."""
        write_json(self.path / STATUS_FILE, status.to_plain())

    def ledger(self) -> Ledger:
        """Usage of all replicas whose end has been recorded. Raises Refused if the file is damaged."""
        path = self.path / LEDGER_FILE
        try:
            lines = read_file(path, max_bytes=MAX_LEDGER_BYTES).decode().split("\n")
            for line in lines:
                if line.strip():
                    parse_json(line.encode())
            return Ledger.from_lines(lines)
        except FileNotFoundError:
            return Ledger()
        except OSError as error:
            raise Refused(f"{path} cannot be read ({error.strerror}); it must be a file you may read") from None
        except ValueError as error:
            raise damaged(path, str(error), "remove it, and it is made again from replicas/") from None

    def write_ledger(self, ledger: Ledger) -> None:
        """Replace the ledger."""
        write_atomically(self.path / LEDGER_FILE, ledger.to_lines().encode())

    def replica_paths(self) -> list[Path]:
        """The folders of all replicas ever created, in order of name; a link to another place is none.

        Raises Refused if a link has the place of all of them.
        """
        root = self.path / REPLICAS_DIR
        try:
            real_folder(root)
            return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()]
        except FileNotFoundError:
            return []
        except Hostile as error:
            raise Refused(str(error)) from None
        except OSError as error:
            raise Refused(f"{root} cannot be read ({error.strerror}); it must be a folder you may read") from None

    def replica_path(self, replica_name: str) -> Path:
        """A replica's folder."""
        return self.path / REPLICAS_DIR / replica_name

    def make_folders(self) -> None:
        """Make the folders that replicas have theirs and their logs in. Raises Refused if links have their names."""
        try:
            for name in (REPLICAS_DIR, LOGS_DIR):
                make_folder(self.path / name)
        except Hostile as error:
            raise Refused(str(error)) from None

    def variant_report(self, variant: str) -> VariantStatus | None:
        """The variant's measurements, if it has been made; without a readable report, it has not."""
        folder = self.path / ARTIFACTS_DIR / variant
        try:
            real_folder(folder.parent)
            real_folder(folder)
        except (OSError, Hostile):
            return None
        return read_theirs(folder / REPORT_FILE, VariantStatus)

    def check(self) -> None:
        """Raise Refused unless this is a run folder."""
        self.job()

    def _read_model(self, file: str, model: type[Model]) -> Model | None:
        return read_ours(self.path / file, model, "restore it, or run the job in a new folder")

    def _refuse_stranger(self) -> CostOptJob:
        what = "is not a run folder (it has no job.json)" if self.path.is_dir() else "is not a folder"
        if not self.path.exists():
            what = "does not exist"
        raise Refused(f"{self.path} {what}; name the folder that `costopt run` made, such as runs/<job>")


def _is_ours_before_the_first_run(name: str) -> bool:
    return name in (RUN_LOCK_FILE, STORAGE_MARK) or name.startswith(f".{JOB_FILE}.")


def _first_difference(then: object, now: object, path: str) -> str:
    """The path of the first field that differs, so that a user need not compare two manifests."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}, key=str):
            if json.dumps(then.get(key), sort_keys=True) != json.dumps(now.get(key), sort_keys=True):
                return _first_difference(then.get(key), now.get(key), f"{path}.{key}")
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            if old != new:
                return _first_difference(old, new, f"{path}[{index}]")
    return path
