"""Replica folders -> what the plan needs to know, and the usage that the bill counts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from costopt.local.files import last_text
from costopt.local.lost_replicas import log_tail, record_if_lost
from costopt.local.replica_folder import End, LaunchRecord, ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.plan.evidence import NOTHING, OUT_OF_MEMORY
from costopt.plan.observed import Replica
from costopt.plan.silence import Silence
from costopt.schema.job import JobSpec
from costopt.schema.replica import (
    EXIT_DONE,
    MeteredMilliseconds,
    Progress,
    TerminationMessage,
    log_lines,
    phase_in_log,
    progress_in_log,
)
from costopt.schema.usage import UsageRecord
from costopt.schema.variant_report import VariantStatus

LONGEST_LOOK = timedelta(seconds=2)
"""Longest gap between two readings that counts as silence: after a longer one this process was held up, perhaps with
its whole machine, and then the replicas could not write either."""


@dataclass(frozen=True)
class ReplicaSnapshot:
    """One replica, as the plan and the ledger see it."""

    replica: Replica
    usage: UsageRecord
    """What it holds, or has held; its outcome is known when its attempt has been counted."""


class ReplicaReader:
    """Reads the replicas of a run folder; an ended replica never changes, so it is read only once."""

    def __init__(
        self,
        run_folder: RunFolder,
        steady_clock: Callable[[], float] = time.monotonic,
        supervisor_code: Callable[[str], int | None] = lambda _name: None,
    ) -> None:
        """`supervisor_code`: how the supervisor of the replica of that name ended; None: unknown."""
        self._run_folder = run_folder
        self._steady_clock = steady_clock
        self._supervisor_code = supervisor_code
        self._ended: dict[str, ReplicaSnapshot] = {}
        self._silences: dict[str, Silence] = {}
        """Of live replicas, by the names of their folders."""
        self._begun: dict[str, timedelta] = {}
        """When each of them was first seen to have been started, by the steady clock."""

    def snapshots(self, now: datetime) -> tuple[ReplicaSnapshot, ...]:
        """All replicas ever created. If a supervisor was killed, the end of its replica is written down first."""
        return tuple(self._look(now))

    def _look(self, now: datetime) -> Iterator[ReplicaSnapshot]:
        for path in self._run_folder.replica_paths():
            if path.name not in self._ended:
                folder = ReplicaFolder(path)
                launch = folder.launch_record()
                if launch is None:
                    continue
                if folder.is_unwatched():
                    code = self._supervisor_code(folder.name)
                    record_if_lost(folder, launch, self._run_folder.log_file(folder.name), code)
                snapshot = sight(self._run_folder, folder, launch, now)
                if snapshot.replica.live:
                    yield replace(snapshot, replica=self._timed(folder, snapshot.replica))
                    continue
                self._ended[path.name] = snapshot
                self._silences.pop(path.name, None)
                self._begun.pop(path.name, None)
            yield self._ended[path.name]

    def _timed(self, folder: ReplicaFolder, replica: Replica) -> Replica:
        """A live replica with the time it has been starting and silent, by a monotonic clock."""
        if folder.supervised() is None:
            return replica
        mark, now = folder.activity(self._run_folder.log_file(folder.name)), timedelta(seconds=self._steady_clock())
        before = self._silences.get(folder.name, Silence())
        heard = before.heard(mark, asked=now, answered=now, longest=LONGEST_LOOK)
        self._silences[folder.name] = heard
        starting_for = now - self._begun.setdefault(folder.name, now)
        return replace(
            replica, silent_for=heard.length, starting_for=starting_for if replica.progress is None else None
        )


def sight(run_folder: RunFolder, folder: ReplicaFolder, launch: LaunchRecord, now: datetime) -> ReplicaSnapshot:
    """One replica as its folder shows it, but for what takes two looks to know."""
    # The end is read first: if it is there, everything else is final.
    end = folder.end()
    log_file = run_folder.log_file(folder.name)
    progress = folder.progress()
    # The first replica speaks for its gang; a user's own program may print its progress, as it would in a cluster.
    said = log_lines(last_text(log_file)) if launch.index == 0 and end is None else []
    if progress is None and not launch.has_meter and launch.index == 0:
        progress = progress_in_log(said or log_lines(last_text(log_file)))
    supervised = folder.supervised()
    started_at = supervised.started_at if supervised else None
    replica = Replica(
        uid=launch.uid,
        stage=launch.stage,
        attempt=launch.attempt,
        index=launch.index,
        state="Running" if end is None else "Succeeded" if end.exit_code == EXIT_DONE else "Failed",
        exit_code=end.exit_code if end else None,
        disrupted=end is not None and end.exit_code is None,
        evidence=OUT_OF_MEMORY if end is not None and end.out_of_memory else NOTHING,
        ended_at=end.ended_at if end else None,
        termination=(folder.termination() or _said_nothing(end, log_file)) if end else None,
        progress=progress,
        phase=phase_in_log(said),
    )
    held_from = end.started_at if end else started_at or now
    usage = UsageRecord(
        uid=launch.uid,
        stage=launch.stage,
        attempt=launch.attempt,
        index=launch.index,
        resources=launch.resources,
        product=launch.product,
        capacity_type=launch.capacity_type,
        held_from=held_from,
        held_until=end.ended_at if end else max(now, held_from),
        end_estimated=end is not None and end.estimated,
        outcome="Running",
        has_meter=launch.has_meter,
        metered=_metered(progress, replica.termination),
    )
    return ReplicaSnapshot(replica, usage)


def _metered(progress: Progress | None, said: TerminationMessage | None) -> MeteredMilliseconds | None:
    """The replica's account: its launcher's last word if there is one, else the latest report."""
    if said is not None and said.progress is not None:
        return said.progress.metered
    if progress is not None:
        return progress.metered
    return said.earlier_rounds.metered if said is not None and said.earlier_rounds is not None else None


def _said_nothing(end: End, log_file: Path) -> TerminationMessage | None:
    """In place of the message of a launcher that left none, perhaps because it ended at its start: its log's end."""
    if end.exit_code is None or end.exit_code == EXIT_DONE:
        return None
    return TerminationMessage(exit_code=end.exit_code, log_tail=log_tail(log_file))


def variant_reports(run_folder: RunFolder, spec: JobSpec) -> tuple[VariantStatus, ...]:
    """The reports of the variants made so far. Read the replicas first (see costopt.plan.observed)."""
    reports = (run_folder.variant_report(variant.name) for variant in spec.compress)
    return tuple(report for report in reports if report is not None)
