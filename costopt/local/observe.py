"""Replica folders -> what the plan needs to know, and the usage that the bill counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from costopt.local.bury import bury_if_dead
from costopt.local.files import last_lines
from costopt.local.replica_folder import Birth, End, ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.plan.evidence import NOTHING, OUT_OF_MEMORY
from costopt.plan.observed import Replica
from costopt.schema.job import JobSpec
from costopt.schema.replica import EXIT_DONE, EXIT_PREEMPTED, phase_in_log, progress_in_log
from costopt.schema.usage import Outcome, UsageRecord
from costopt.schema.variant_report import VariantStatus

SUSPENDING = ("SuspendRequested", "BudgetExceeded")
"""Reasons of a stop after which the job goes on another day."""


@dataclass(frozen=True)
class Sighting:
    """One replica, as the plan and as the ledger sees it."""

    replica: Replica
    usage: UsageRecord


class Lookout:
    """Sees a run folder's replicas; what has ended never changes, so it is read just once."""

    def __init__(self, run_folder: RunFolder) -> None:
        self._run_folder = run_folder
        self._ended: dict[str, Sighting] = {}

    def sightings(self, now: datetime) -> tuple[Sighting, ...]:
        """All replicas ever created. One whose supervisor was killed is buried first, so its end is seen at once."""
        return tuple(self._look(now))

    def _look(self, now: datetime) -> Iterator[Sighting]:
        for path in self._run_folder.replica_paths():
            if path.name not in self._ended:
                folder = ReplicaFolder(path)
                birth = folder.birth()
                if birth is None:
                    continue
                bury_if_dead(folder, birth)
                sighting = sight(self._run_folder, folder, birth, now)
                if sighting.replica.live:
                    yield sighting
                    continue
                self._ended[path.name] = sighting
            yield self._ended[path.name]


def sight(run_folder: RunFolder, folder: ReplicaFolder, birth: Birth, now: datetime) -> Sighting:
    """One replica as its folder shows it."""
    # The end is read first: if it is there, everything else is final.
    end = folder.end()
    log_file = run_folder.log_file(folder.name)
    progress = folder.progress()
    # The first replica speaks for its gang; a user's own program may print its progress, as it would in a cluster.
    said = last_lines(log_file) if birth.index == 0 and end is None else []
    if progress is None and not birth.has_meter and birth.index == 0:
        progress = progress_in_log(said or last_lines(log_file))
    supervised = folder.supervised()
    started_at = supervised.started_at if supervised else None
    activity = folder.last_activity(log_file)
    replica = Replica(
        uid=birth.uid,
        stage=birth.stage,
        attempt=birth.attempt,
        index=birth.index,
        state="Running" if end is None else "Succeeded" if end.exit_code == EXIT_DONE else "Failed",
        exit_code=end.exit_code if end else None,
        disrupted=end is not None and end.exit_code is None,
        evidence=OUT_OF_MEMORY if end is not None and end.out_of_memory else NOTHING,
        ended_at=end.ended_at if end else None,
        termination=folder.termination() if end else None,
        last_activity=started_at and max(started_at, activity or started_at),
        progress=progress,
        phase=phase_in_log(said),
        starting_for=now - started_at if started_at and progress is None else None,
    )
    held_from = end.started_at if end else started_at or now
    usage = UsageRecord(
        uid=birth.uid,
        stage=birth.stage,
        attempt=birth.attempt,
        index=birth.index,
        resources=birth.resources,
        product=birth.product,
        capacity_type=birth.capacity_type,
        held_from=held_from,
        held_until=end.ended_at if end else max(now, held_from),
        end_estimated=end is not None and end.estimated,
        outcome=_outcome(folder, end),
        has_meter=birth.has_meter,
        metered=progress.metered if progress else None,
    )
    return Sighting(replica, usage)


def _outcome(folder: ReplicaFolder, end: End | None) -> Outcome:
    if end is None:
        return "Running"
    if end.exit_code == EXIT_DONE:
        return "Succeeded"
    stop = folder.stop_request()
    if stop is not None and stop.reason in SUSPENDING:
        return "Suspended"
    # Nobody but the platform can have ended it: its supervisor was killed, or it was told to end and not by a plan.
    if end.exit_code is None or (end.exit_code == EXIT_PREEMPTED and stop is None):
        return "Disrupted"
    return "Failed"


def variant_reports(run_folder: RunFolder, spec: JobSpec) -> tuple[VariantStatus, ...]:
    """The reports of the variants made so far. Look at the replicas first (see costopt.plan.observed)."""
    reports = (run_folder.variant_report(variant.name) for variant in spec.compress)
    return tuple(report for report in reports if report is not None)
