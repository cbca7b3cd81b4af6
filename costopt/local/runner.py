"""The loop of this machine's shell: observe -> plan -> record every end -> write status -> apply.

A crash between any two lines repeats harmlessly: an end is recorded under the replica's uid as what the plan counts it,
and planned alike once more; the status is written before what it decides is done, and starting or stopping a gang twice
does nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from costopt.accounting.bill import make_bill
from costopt.accounting.outcome import outcome_in
from costopt.accounting.outlook import outlook, still_requested
from costopt.local.apply import Gangs
from costopt.local.devices import Devices
from costopt.local.observe import ReplicaReader, ReplicaSnapshot, variant_reports
from costopt.local.run_folder import RunFolder
from costopt.plan.billed import with_bill
from costopt.plan.decide import Plan, is_final, is_suspended, plan
from costopt.plan.ends import ends_of
from costopt.plan.observed import Observed
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.status import Bill, JobStatus

LOOK_EVERY_SECONDS = 0.2
"""Interval of the loop: short compared with any step that matters, and well under 1 % of a CPU."""

WRITE_EVERY_SECONDS = 1.0
"""Interval between status writes in which only progress, bill and phases have changed."""


def system_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class TurnResult:
    """The result of one turn of the loop."""

    status: JobStatus
    """As planned."""
    live_replicas: int
    """Replicas that still hold resources."""
    at_rest: bool
    """Nothing runs or will run: the job has ended or is suspended."""


class Runner:
    """Runs one job in its run folder, whose lock the caller holds."""

    def __init__(
        self,
        run_folder: RunFolder,
        job: CostOptJob,
        book: PriceBook | None,
        *,
        devices: Devices = Devices(),  # noqa: B008 -- immutable
        clock: Callable[[], datetime] = system_clock,
        steady_clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        argv: tuple[str, ...] = (),  # run in place of the launcher, for tests of this shell alone
    ) -> None:
        self._run_folder = run_folder
        self._job = job
        self._book = book
        self._clock = clock
        self._steady_clock = steady_clock
        self._pause = pause
        self._status = run_folder.status()
        self._status_on_disk = self._status
        self._ledger = run_folder.ledger()
        self._gangs = Gangs(run_folder, job, devices, argv)
        self._replicas = ReplicaReader(run_folder, steady_clock, self._gangs.supervisor_code)
        self._written_at: float | None = None
        self.suspend_requested = False
        """Set to save a checkpoint, stop, and keep the job for another run."""
        self.kill_requested = False
        """Set, besides, to stop without waiting for the checkpoint."""

    def run(self, on_look: Callable[[TurnResult], None] = lambda _look: None) -> JobStatus:
        """Turn the loop until the job has ended or is suspended and nothing of it runs; returns the last status."""
        while True:
            look = self.turn()
            on_look(look)
            if look.at_rest:
                if look.status != self._status_on_disk:
                    self._run_folder.write_status(look.status)
                self._gangs.wait()
                return look.status
            self._pause(LOOK_EVERY_SECONDS)

    def turn(self) -> TurnResult:
        """One turn of the loop."""
        now = self._clock()
        self._gangs.reap()
        snapshots = self._replicas.snapshots(now)
        replicas = tuple(snapshot.replica for snapshot in snapshots)
        suspend = self._job.spec.suspend or self.suspend_requested
        spec, bill = self._job.spec.model_copy(update={"suspend": suspend}), self._bill(snapshots)
        requested = still_requested(spec, self._status)
        decided = plan(
            Observed(
                spec=spec,
                generation=None,
                status=self._status,
                replicas=replicas,
                bill=bill,
                outlook=outlook(bill, self._book, requested, now.astimezone(UTC).date()) if spec.budget else None,
                variants=variant_reports(self._run_folder, self._job.spec),
                identity=self._job.metadata.name,
                max_parallel_variants=1,  # they share this machine, and would spoil each other's latencies
            ),
            now,
        )
        self._record(snapshots, decided)
        status = with_bill(decided.status, self._bill(snapshots), spec)
        self._write(status, at_once=bool(decided.start or decided.stop))
        for stop in decided.stop:
            self._gangs.stop(stop, replicas)
        if self.kill_requested:
            self._gangs.kill(replicas)
        for start in decided.start:
            self._gangs.start(start, now)
        live = sum(replica.live for replica in replicas) + len(decided.start)
        # A stop is carried through even if its reason has gone: such a job is suspended and resumed at once.
        resumed_at_once = decided.requeue_after == timedelta(0)
        waits = is_final(status) or (is_suspended(status) and not resumed_at_once)
        return TurnResult(status, live, at_rest=waits and live == 0)

    def _record(self, snapshots: tuple[ReplicaSnapshot, ...], decided: Plan) -> None:
        """Add to the ledger, on disk, every end whose outcome is known now, before the status that counts it."""
        ledger, known = self._ledger, ends_of(decided.status)
        for snapshot in snapshots:
            replica = snapshot.replica
            if replica.live or replica.uid in ledger.by_uid:
                continue
            outcome = outcome_in(
                (replica.stage, replica.attempt),
                ended_well=replica.state == "Succeeded",
                ends=decided.ends,
                records=ledger.records,
                known=known,
            )
            if outcome is not None:
                ledger = ledger.add(snapshot.usage.model_copy(update={"outcome": outcome}))
        if ledger is not self._ledger:
            self._run_folder.write_ledger(ledger)
            self._ledger = ledger

    def _bill(self, snapshots: tuple[ReplicaSnapshot, ...]) -> Bill:
        unrecorded = (one.usage for one in snapshots if one.usage.uid not in self._ledger.by_uid)
        return make_bill((*self._ledger.records, *unrecorded), self._book)

    def _write(self, status: JobStatus, *, at_once: bool) -> None:
        """Write the status if it decides something, or if it has not been written for a while."""
        decides = _decisive(status) != _decisive(self._status)
        now = self._steady_clock()
        due = self._written_at is None or now - self._written_at >= WRITE_EVERY_SECONDS
        if at_once or decides or (due and status != self._status_on_disk):
            self._run_folder.write_status(status)
            self._written_at = now
            self._status_on_disk = status
        self._status = status


def _decisive(status: JobStatus) -> JobStatus:
    """The status without the fields that change all the time."""
    stages = [stage.model_copy(update={"phase": None}) for stage in status.stages]
    return status.model_copy(update={"bill": None, "progress": None, "stages": stages})
