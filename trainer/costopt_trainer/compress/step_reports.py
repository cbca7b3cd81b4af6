"""What is told of a training within a compression step: how far it is, and where its time goes.

StepMeter     the time of all trainings within one variant, for the bill
StepReports   fulfils Reports: the phase with its steps, a line for each tenth of them, and the replica's account

The rest of a variant's time is not told: the bill counts it as the variant's work.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from costopt import names
from costopt.files import write_atomically
from costopt.schema.replica import Progress
from costopt_trainer.heartbeat import HEARTBEAT
from costopt_trainer.phases import Pieces
from costopt_trainer.reporting.meter import Meter, startup_ns
from costopt_trainer.training.process_group import ProcessGroup


class StepMeter(Meter):
    """One for all trainings of a variant in this process. What comes before the first of them is its start-up."""

    def __init__(self, **how: Any) -> None:
        """`how`: as of a Meter."""
        super().__init__(**{"already_ns": startup_ns(), **how})
        self._is_first = True

    def begin(self) -> "StepMeter":
        """A training begins: what was done since the one before is no training's."""
        if not self._is_first:
            self._last_ns = self._now()
        self._is_first = False
        return self

    def step_finished(self, step: int) -> None:  # noqa: ARG002
        """The launcher hears that work goes on; a number of steps would tell it of a training."""
        HEARTBEAT.beat()

    def goes_on_from(self, step: int) -> dict[str, object]:  # noqa: ARG002
        """As above."""
        return {}


class StepReports:
    """Tells of one training."""

    def __init__(self, pieces: Pieces, say: Callable[[str], None], group: ProcessGroup, steps: int) -> None:
        """`say` is for the first rank; `steps` is how many are taken."""
        self._pieces, self._say, self._group = pieces, say, group
        self._steps, self._tenths = steps, 0
        file = os.environ.get(names.ENV_PROGRESS_FILE)
        self._account_file = Path(file) if file and group.local_rank == 0 else None

    def resume_after(self, step: int) -> None:
        """Steps after `step` are taken again."""
        self._tenths = 10 * step // self._steps

    def report(self, progress: Progress, *, keep: bool = True) -> None:  # noqa: ARG002
        """A piece of the phase is done."""
        self._pieces.step_done(progress.step, self._steps)
        tenths = 10 * progress.step // self._steps
        if tenths > self._tenths and progress.loss is not None and self._group.rank == 0:
            self._tenths = tenths
            self._say(f"step {progress.step} of {self._steps}, loss {float(progress.loss):.4f}")
        if self._account_file is not None:
            # A report on the variant may stand beside it in a termination message, so it is short.
            account = Progress(
                step=progress.step,
                total_steps=self._steps,
                last_checkpoint_step=progress.last_checkpoint_step,
                metered=progress.metered,
            )
            with contextlib.suppress(OSError):  # the work goes on without it
                write_atomically(self._account_file, account.model_dump_json(by_alias=True).encode(), durable=False)
