"""What lies in a run folder, and whose it is.

.costopt-storage  says that a job keeps its things here
job.json        the manifest as last begun: the folder's identity
status.json     schema.status.JobStatus, as the last plan wrote it
ledger.jsonl    usage records of ended replicas
lock            see lock.py
replicas/       a folder for each replica, see replica_folder.py
logs/           a log for each replica
checkpoints/ artifacts/ cache/ metrics.jsonl    the job's storage, written by the trainer
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from costopt.accounting.ledger import Ledger
from costopt.files import mark_storage, write_atomically
from costopt.hostile import Hostile, make_folder, parse_json, read_file, real_folder
from costopt.local.earlier_run import EarlierRun
from costopt.local.files import write_json
from costopt.local.models import Model, damaged, read_ours, read_theirs
from costopt.names import (
    CACHE_DIR,
    CHECKPOINTS_DIR,
    JOB_FILE,
    LEDGER_FILE,
    LOGS_DIR,
    REPLICAS_DIR,
    REPORT_FILE,
    RUN_LOCK_FILE,
    STATUS_FILE,
    STORAGE_MARK,
    variant_folders,
)
from costopt.plan.billed import with_bill
from costopt.plan.decide import has_succeeded, is_final
from costopt.refused import Refused
from costopt.schema.job import CostOptJob
from costopt.schema.status import Bill, JobStatus
from costopt.schema.variant_details import VariantReport
from costopt.schema.variant_report import VariantStatus

IDENTITY = ("train", "model", "compress", "evaluation")
"""Parts of the spec that change only if the user says so: checkpoints and artifacts belong to them."""

MOST_TOLD = 5
"""Settings that are named where they differ."""

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
            foreign = self._foreign()
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

    @property
    def has_tokens_alone(self) -> bool:
        """Whether it is as `costopt data` leaves it, before any run."""
        marked = (self.path / STORAGE_MARK).exists() and not (self.path / JOB_FILE).exists()
        return marked and not self._foreign()

    def _foreign(self) -> list[str]:
        entries = [entry.name for entry in self.path.iterdir()]
        # `costopt data` leaves tokens, and the mark.
        tokens = CACHE_DIR if STORAGE_MARK in entries else None
        return [name for name in entries if name != tokens and not _is_ours_before_the_first_run(name)]

    def claim(self, job: CostOptJob, *, anew: bool = False) -> None:
        """Make the folder `job`'s, or check that it is. Hold the lock.

        `anew`: settings may have changed; whether a checkpoint fits them is then the trainer's to say. Raises Refused
        if it is another job's, or of other settings.
        """
        changed = self._changed(job)
        if changed and not anew:
            are, they = ("are not what they were", "they are") if changed[1:] else ("is not what it was", "it is")
            raise Refused(
                f"{_listed(changed)} {are} when {self.path} was last run; add --retry to go on from its last "
                f"checkpoint with what {they} now, restore {'them' if changed[1:] else 'it'}, or start afresh in "
                "another folder with --run-dir"
            )
        if changed or not (self.path / JOB_FILE).exists():
            write_json(self.path / JOB_FILE, job.to_plain())

    def begin(self, job: CostOptJob, *, retry: bool) -> tuple[JobStatus, bool]:
        """Claim the folder; the status to go on from, and whether that begins anew. Hold the lock.

        With `retry` it does if the job has failed, or is of other settings now: attempts and usage then come from the
        replicas, progress from the checkpoint. Raises Refused as `claim` does.
        """
        status = self.status()
        failed = is_final(status) and not has_succeeded(status)
        again = retry and (failed or bool(self._changed(job)))
        if again:  # before the claim: should this process be killed between the two, the settings still differ
            # What its attempts went on from is not an earlier job's.
            kept = {"progress": status.progress, "continues_from_step": status.continues_from_step}
            status = JobStatus(execution=status.execution).model_copy(update=kept)
            self.write_status(status)
        self.claim(job, anew=retry)
        return status, again

    def succeeded(self) -> EarlierRun | None:
        """The run that has succeeded here; None if none has."""
        if not (self.path / JOB_FILE).exists():
            return None
        status = self.status()
        return EarlierRun(self.job(), status) if has_succeeded(status) else None

    def put_back(self, earlier: EarlierRun, bill: Bill | None) -> None:
        """Make the folder that of an `earlier` run again, with the bill of all that was run since. Hold the lock."""
        write_json(self.path / JOB_FILE, earlier.job.to_plain())
        self.write_status(with_bill(earlier.status, bill or earlier.status.bill, earlier.job.spec))

    def _changed(self, job: CostOptJob) -> list[str]:
        """The paths of the settings that belong to the folder's identity and are others now.

        Raises Refused if the folder is another job's.
        """
        if not (self.path / JOB_FILE).exists():
            return []
        first = self.job()
        if first.metadata.name != job.metadata.name:
            raise Refused(
                f"{self.path} holds the run of job {first.metadata.name}, not of {job.metadata.name}; "
                "name another folder with --run-dir"
            )
        then, now = first.spec.to_plain(), job.spec.to_plain()
        return [path for part in IDENTITY for path in _differences(then.get(part), now.get(part), f"spec.{part}")]

    def has_checkpoint(self) -> bool | None:
        """Whether a recipe has saved one here; None: a program of the user's own knows where its are."""
        if self.job().spec.recipe is None:
            return None
        try:
            real_folder(self.path / CHECKPOINTS_DIR)
            return any(entry.name.startswith("step-") for entry in (self.path / CHECKPOINTS_DIR).iterdir())
        except (OSError, Hostile):
            return False

    def job(self) -> CostOptJob:
        """The manifest as last begun. Raises Refused if this is no run folder, or a damaged one."""
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
        reports = (self._report_in(self.path / folder) for folder in variant_folders(variant))
        return next((report for report in reports if report is not None), None)

    def _report_in(self, folder: Path) -> VariantStatus | None:
        try:
            for inner in reversed(folder.relative_to(self.path).parents[:-1]):
                real_folder(self.path / inner)
            real_folder(folder)
        except (OSError, Hostile):
            return None
        report = read_theirs(folder / REPORT_FILE, VariantReport)
        return report and report.in_short()

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


def _differences(then: object, now: object, path: str) -> Iterator[str]:
    """The paths of the fields that differ, so that a user need not compare two manifests."""
    if json.dumps(then, sort_keys=True) == json.dumps(now, sort_keys=True):
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}, key=str):
            yield from _differences(then.get(key), now.get(key), f"{path}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _differences(old, new, f"{path}[{index}]")
    else:
        yield path


def _listed(paths: Sequence[str]) -> str:
    """The first few of them."""
    told = list(paths[:MOST_TOLD])
    if len(paths) > MOST_TOLD:
        told.append(f"{len(paths) - MOST_TOLD} more settings")
    return " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))
