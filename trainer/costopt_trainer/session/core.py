"""One process' session: what it tells costopt, and what it is told.

The meter is the recipes' own. Between two calls time is that of steps, unless it is claimed by `data_wait`,
`evaluation` or `checkpoint`; before the first of these calls, or of `report` and `should_stop`, it is start-up.
"""

import atexit
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn, SupportsFloat, SupportsIndex

from costopt import names
from costopt.hostile import Hostile
from costopt.schema.replica import EXIT_DONE, EXIT_PREEMPTED, EarlierRounds, PhaseName
from costopt_trainer.agreement import Question
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.heartbeat import HEARTBEAT
from costopt_trainer.phases import VOICE, Pieces, Voice
from costopt_trainer.replica_settings import read_settings
from costopt_trainer.reporting.meter import Head, Meter, earlier_rounds, startup_ns
from costopt_trainer.reporting.reporter import Reporter
from costopt_trainer.session.complete import publish_folder
from costopt_trainer.session.figures import Figures, whole
from costopt_trainer.session.ranks import Ranks
from costopt_trainer.shutdown import leave_at_once
from costopt_trainer.storage.manifests import describe, licence_in, lineage_of

EXIT_FAILED = 1
MOST_CHARACTERS = 2000
"""Of what is told of checkpoints that were passed over."""


class Session:
    """A program's side of costopt. Not under costopt it measures and tells nothing, and is never asked to stop."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], int] = time.monotonic_ns,
        voice: Voice = VOICE,
    ) -> None:
        """`environment`: as the launcher has made it; `now`: a monotonic clock; `voice`: tells long phases."""
        self.ranks = Ranks(environment)
        folder, progress = (environment.get(name) for name in (names.ENV_STORAGE_DIR, names.ENV_PROGRESS_FILE))
        self._storage = Path(folder) if folder else None
        self._job = _job_name(environment.get(names.ENV_SETTINGS_FILE))
        self.asked = False
        """Whether this rank has been asked to end."""
        self.stopping = False
        """Whether all ranks have agreed to end: `should_stop` has said so."""
        self.passed_over: list[str] = []
        """Which newer checkpoints were not complete, and how."""
        self._question: Question | None = None
        self._pid = os.getpid()
        self._listens = self._begun = self._speaks = False
        if self._storage is not None:
            HEARTBEAT.attach(environment)  # so that the launcher knows where the time of a killed rank went
            HEARTBEAT.show_stacks_when_asked()
        self._meter = Meter(startup_ns(), now, earlier_rounds() if self._storage is not None else EarlierRounds())
        self._head: Head = "training"
        self._reporter: Reporter | None = None
        if self._storage is not None:
            progress_file = Path(progress) if progress else None
            self._reporter = Reporter(self.ranks, progress_file, self._storage / names.METRICS_FILE)
        self._voice = voice
        self._figures = Figures(self._say)
        self._earlier: dict[str, object] = {}
        """What is told of the ranks before this one, if it was started anew in place."""
        self._has_news = False
        self._said: set[str] = set()

    def is_under_costopt(self) -> bool:
        """Whether costopt has started this process."""
        return self._storage is not None

    def get_storage(self) -> Path | None:
        """The job's folder in its storage, which outlives the attempt. None: not under costopt."""
        return self._storage

    def checkpoints(self, otherwise: str | Path = "checkpoints") -> Path:
        """The folder for checkpoints, made if need be: in the job's storage, or `otherwise`, when not under costopt."""
        folder = self._storage / names.CHECKPOINTS_DIR if self._storage is not None else Path(otherwise)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # ---- what it tells

    def resumed(self, step: int) -> None:
        """This attempt goes on from the checkpoint of `step`. Before the first report."""
        self._figures.count(resumed_from_step=step, last_checkpoint_step=step)
        if self._reporter is not None:
            self._try_to(lambda reporter: reporter.resume_after(step))

    def report(
        self,
        *,
        step: SupportsIndex,
        total_steps: SupportsIndex,
        loss: SupportsFloat | None = None,
        validation_loss: SupportsFloat | None = None,
        learning_rate: SupportsFloat | None = None,
        samples_consumed: SupportsIndex | None = None,
        tokens_per_second: SupportsFloat | None = None,
        results: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """`step` steps of `total_steps` are finished. Call it once before the first step, and then after each.

        It costs next to nothing: what is told is written about once a second, at the end, and after a checkpoint or an
        evaluation, and only then is a `loss` (a number, or a tensor of one) read from its device. `samples_consumed`,
        over all ranks, gives the samples per second. Figures that are infinite or no number are left out, with a line.
        Raises ValueError for steps that are no whole numbers from 0, and for what no report can hold.
        """
        before = self._figures.step
        self._has_news |= before is None
        self._begin()
        self._meter.lap(self._head)
        self._figures.count(step=step, total_steps=total_steps, samples_consumed=samples_consumed)
        now = whole("step", step)
        if before is None:
            self._earlier = self._meter.goes_on_from(now)
        elif now > before:
            self._meter.step_finished(now)
        self._figures.measure(
            results,
            loss=loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            tokens_per_second=tokens_per_second,
        )
        if self._has_news or self._meter.report_is_due() or step == total_steps:
            self._write()

    def data_wait(self) -> contextlib.AbstractContextManager[None]:
        """What is done in this block is waiting for samples."""
        return self._spent_on("data_wait")

    def evaluation(self) -> contextlib.AbstractContextManager[Pieces]:
        """What is done in this block is evaluation. Call `done(finished, of)` of what it gives now and then: a long
        evaluation is then no silence, and shows how far it is."""
        return self._in_phase("evaluation", "Evaluating")

    def checkpoint(self) -> contextlib.AbstractContextManager[Pieces]:
        """What is done in this block is saving a checkpoint; `checkpoint_saved` says that it is there."""
        return self._in_phase("checkpoint", "SavingCheckpoint")

    def checkpoint_saved(self, step: int) -> None:
        """The checkpoint of `step`, the latest, is complete: what was done so far is kept. On all ranks."""
        self._figures.count(last_checkpoint_step=step)
        self._meter.lap(self._head if self._begun else "startup")
        self._meter.checkpoint_completed(self._meter.in_steps_ns())
        self._write()

    def artifact(self, folder: str | Path) -> Path | None:
        """Publish `folder`, the trained model, as the job's artifact: a copy, whole or not at all.

        All ranks may call it; rank 0 does it. Returns where it is; None: not under costopt. Raises ValueError if
        `folder` is no folder with something in it, and OSError if it cannot be copied.
        """
        if self._storage is None:
            return None
        target = self._storage / names.ARTIFACTS_DIR / names.MODEL_DIR
        if self.ranks.rank == 0:
            with self._in_phase("checkpoint", "SavingModel"):
                publish_folder(Path(folder), target, self._describe)
            self._write()
        return target

    def _describe(self, folder: Path, known: Mapping[str, str]) -> None:
        """Write the manifest of the trained model into `folder`, which is whole otherwise."""
        describe(folder, names.MODEL_DIR, lineage_of(self._job), known=known, licence=licence_in(folder))

    # ---- what it is told

    def should_stop(self) -> bool:
        """Whether all ranks are to save and end now: the same answer on all of them, which must call it equally often.

        From the first call on SIGTERM only asks for this. Ranks agree about once a second, if torch.distributed is
        initialised; a program without it stops alone. Raises RuntimeError if not first called in the main thread.
        """
        if self._storage is None:
            return False
        self._begin()
        if not self._listens:
            self.listen()
        if not self.stopping:
            others = self.ranks.others()
            if others is None:
                self.stopping = self.asked
            else:
                self._question = self._question or Question(others, self)
                self.stopping = self._question.all_end()
        return self.stopping

    def listen(self) -> None:
        """From now on SIGTERM asks `should_stop`, whoever heard it before. Raises RuntimeError likewise."""
        if self._storage is None:
            return
        try:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        except ValueError as error:
            sentence = "should_stop must first be called in the main thread, which alone hears signals"
            raise RuntimeError(sentence) from error
        self._listens = True

    def leave(self) -> None:
        """End this process at once: with 143 if all ranks agreed to stop, which says that it has saved, else with 0.

        Its functions for the exit (atexit) are run, but no destructors: that of a gloo group may wait for ever. Does
        nothing when not under costopt.
        """
        if self._storage is not None:
            self._end(EXIT_PREEMPTED if self.stopping else EXIT_DONE)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A program's whole work: however it ends, this process `leave`s, after an error with its traceback and 1.

        A rank that lost its connection to another after it was asked to stop ends as stopped. Nothing of this
        happens when not under costopt.
        """
        if self._storage is None:
            yield
            return
        try:
            yield
        except SystemExit as end:
            code = EXIT_DONE if end.code is None else end.code
            if not isinstance(code, int):
                print(code, file=sys.stderr)
                code = EXIT_FAILED
            self._end(code)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must end, and say why
            if self.asked and isinstance(error, RuntimeError) and self.ranks.others() is not None:
                self._say(f"stopped with the other ranks: {first_line(error)}")
                self._end(EXIT_PREEMPTED)
            sys.excepthook(type(error), error, error.__traceback__)
            self._end(EXIT_FAILED)
        self.leave()

    # ---- within

    def lap(self, head: Head) -> None:
        """The time since the last call of any kind was spent on `head`; for callbacks, which see only ends."""
        self._begin()
        self._meter.lap(head)

    def tell_passed_over(self) -> None:
        """Say which checkpoints are `passed_over`; reports say so, too."""
        for each in self.passed_over:
            self._say(f"a checkpoint is passed over: {each}")

    def _begin(self) -> None:
        """Start-up is over."""
        if not self._begun:
            self._meter.lap("startup")
            self._begun = True

    @contextlib.contextmanager
    def _spent_on(self, head: Head) -> Iterator[None]:
        self._begin()
        self._meter.lap(self._head)
        outer, self._head = self._head, head
        try:
            yield
        finally:
            self._meter.lap(head)
            self._head = outer

    @contextlib.contextmanager
    def _in_phase(self, head: Head, name: PhaseName) -> Iterator[Pieces]:
        if self._storage is not None and not self._speaks:
            self._speaks = True
            self._voice.speak_up(aloud=self.ranks.local_rank == 0)
        with self._spent_on(head), self._voice.phase(name) as pieces:
            yield pieces
        self._has_news = True

    def _write(self) -> None:
        """Tell the latest figures; before the first report there is nothing to tell."""
        if self._reporter is None or self._figures.step is None or self.ranks.local_rank != 0:
            return
        passed_over = "; ".join(self.passed_over)[:MOST_CHARACTERS] or None
        progress = self._figures.progress(
            self._meter.metered(),
            self._meter.tokens_per_second,
            checkpoints_passed_over=passed_over,
            **self._earlier,
        )
        self._try_to(lambda reporter: reporter.report(progress))
        self._meter.reported()
        self._has_news = False

    def tell_last(self) -> None:
        """Tell what was not told because it came too soon after another report; not in a process that was forked."""
        if os.getpid() == self._pid:
            self._meter.lap(self._head)
            self._write()

    def _try_to(self, act: Callable[[Reporter], None]) -> None:
        """A report that cannot be written is told, and ends no training."""
        try:
            if self._reporter is not None:
                act(self._reporter)
        except (NotRetryable, Hostile, OSError) as error:
            self._say(f"progress is not reported: {first_line(error)}")

    def _say(self, sentence: str) -> None:
        """One line, and each but once."""
        if sentence not in self._said:
            self._said.add(sentence)
            print(f"costopt: {sentence}", file=sys.stderr, flush=True)

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a helper that was forked, such as a data loader's: not asked to save anything
            os._exit(128 + signal.SIGTERM)
        self.asked = True

    def _end(self, code: int) -> NoReturn:
        with contextlib.suppress(Exception):  # what fails at the exit does not decide how a program ends: see Python
            atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way, and os._exit would leave them out
        leave_at_once(code)


def _job_name(settings_file: str | None) -> str:
    """Empty if it is not known."""
    try:
        return read_settings(Path(settings_file)).job_name if settings_file else ""
    except NotRetryable:
        return ""
