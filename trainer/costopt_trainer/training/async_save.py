"""Saving while the training goes on: a thread writes, and at most one checkpoint is being written.

    begin            at a step's end: take a snapshot, and let the thread copy, check, hash, write and sync it
    before_change    before the optimizer's next step: wait until the snapshot is copied
    is_over          has this rank's thread ended? Ranks add up the answers in the exchange that each step does anyway
    settle           once it has on all: the checkpoint is complete, or its error is raised, on all at the same point

A checkpoint that is due while one is being written waits for that: two at a time would double the memory and halve
the speed of each, and skipping one would leave it to chance which steps can be gone back to. The thread exchanges words
with the other ranks' threads over connections of their own, so that a checkpoint becomes complete also in a long
evaluation, and no collective of the loop meets one of the thread. With `mode: Sync`, `begin` does all of it at once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread

from costopt.schema.recipe import Checkpointing
from costopt_trainer.phases import phase
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.snapshot import HostCopies, Snapshot

LOOK_EVERY_SECONDS = 1.0
"""While the loop waits for the thread, it looks this often whether a block was written: a sign of life."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    step: int
    moment_ns: int
    """What the meter had counted in steps when its snapshot was taken."""


class Saves:
    """The checkpoints of a training, written one after another. All ranks must make one together."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        gang: ProcessGroup,
        settings: Checkpointing,
        refuse: Callable[[Snapshot], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refuse` raises NotRetryable for a snapshot that must not be saved. It may be called by the thread."""
        self._checkpoints, self._settings, self._refuse, self._now = checkpoints, settings, refuse, now
        self._is_async = settings.mode == "Async"
        self._gang = gang.apart() if self._is_async else gang
        self._copies = HostCopies(gang.device)
        self._copied = Event()
        self._copied.set()
        self._thread: Thread | None = None
        self._saved: Saved | None = None
        self._problem: BaseException | None = None
        self._blocks = 0
        self._began = now()
        self.step: int | None = None
        """Of the checkpoint that was begun last, complete or not."""
        self.is_copying = False
        """Must `before_change` be called before the optimizer's next step?"""

    def is_due(self, step: int) -> bool:
        """Is a checkpoint due after `step`, because of its number?"""
        return step % self._settings.every_steps == 0

    def is_due_by_time(self) -> bool:
        """Is one due by this rank's clock? The first rank's is the one that counts."""
        every = self._settings.every_seconds
        return every is not None and self._now() - self._began >= every

    def begin(self, step: int, snapshot: Snapshot, moment_ns: int) -> None:
        """Begin to save; `settle` must have been called since the last time. No error is raised yet."""
        if self._thread is not None:
            raise RuntimeError(f"the checkpoint of step {self.step} is still being written")
        self.step, self._began, self._blocks = step, self._now(), 0
        saved = Saved(step, moment_ns)
        if not self._is_async:
            self._thread = Thread(name="save")  # never started: what `settle` finds is over
            with phase("SavingCheckpoint") as pieces:
                self._write(saved, lambda: snapshot, pieces.done)
            return
        begun = self._copies.begin(snapshot)
        self._copied.clear()
        self.is_copying = True
        self._thread = Thread(target=self._write_copy, args=(saved, begun), name="save", daemon=True)
        self._thread.start()

    def before_change(self) -> None:
        """Return when the optimizer may take a step: once after each `begin`. No host-device sync point."""
        self._copied.wait()
        self._copies.wait_on_device()
        self.is_copying = False

    def is_over(self) -> bool:
        """Is there something to `settle`, without waiting?"""
        return self._thread is not None and not self._thread.is_alive()

    def settle(self) -> Saved | None:
        """Wait for the thread; a checkpoint that is complete since the last call. Raises its error, on all ranks."""
        thread, self._thread = self._thread, None
        if thread is None:
            return None
        if thread.is_alive():
            with phase("SavingCheckpoint") as pieces:
                seen = self._blocks
                while thread.is_alive():
                    thread.join(LOOK_EVERY_SECONDS)
                    if self._blocks != seen:
                        seen = self._blocks
                        pieces.done()
        saved, self._saved = self._saved, None
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem
        return saved

    def let_end(self, seconds: float) -> None:
        """The training fails for another reason: a checkpoint that is being written may still become complete."""
        if self._thread is not None and self._thread.is_alive():
            with phase("SavingCheckpoint"):  # so that this is not taken for a rank that hangs
                self._thread.join(seconds)

    def _write_copy(self, saved: Saved, begun: Snapshot) -> None:
        failure: Exception | None = None
        copy = begun
        try:
            copy = self._copies.copy(begun)
        except Exception as error:  # noqa: BLE001  such as no memory: all ranks must hear of it
            failure = error
        finally:
            self._copied.set()

        def take() -> Snapshot:
            if failure is not None:
                raise failure
            self._copies.wait_on_host()
            return copy

        def one_more_block() -> None:
            self._blocks += 1

        self._write(saved, take, one_more_block)

    def _write(self, saved: Saved, take: Callable[[], Snapshot], on_block: Callable[[], object]) -> None:
        def checked() -> Snapshot:
            snapshot = take()
            self._refuse(snapshot)
            return snapshot

        try:
            self._checkpoints.write(saved.step, checked, self._gang, on_block)
            self._saved = saved
        except BaseException as error:  # noqa: BLE001  raised again by `settle`, in the loop's own thread
            self._problem = error
