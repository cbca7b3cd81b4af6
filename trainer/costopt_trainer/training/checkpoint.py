"""Checkpoints: all that a training needs to go on as if it had never stopped; complete on disk or absent.

    checkpoints/step-00000040/      one folder per checkpoint
        model-00000-00000.safetensors       parameters and buffers: writing rank, number of the file
        optimizer-00000-00000.safetensors   "<parameter>/<name>" -> tensor
        random-00000-00000.safetensors      "<rank>/<device>" -> state of a random generator
        carried-00000-00000.safetensors     states that go from sample to sample, if the training carries any
        state.json                          step, samples consumed, scaler, latest figures, identity of model and data
        manifest.json                       size and SHA-256 of each other file; global shape of each tensor, and
                                            which piece of it is in which file; written last
        evaluation.json                     figures of the evaluation that was due, once it is done

    Checkpoints         write, find, read and keep them, all ranks together

A checkpoint is written under a temporary name, synced, then renamed: a kill at any moment leaves the earlier ones
complete. Older ones are removed only after that. Tensors are assembled from their pieces, so it does not matter how
many ranks wrote them, nor how these had sharded them.
Nothing is pickled, so reading a checkpoint never runs code that came with it. It names its job. A checkpoint of another
job, a link, or one with an invalid manifest or state is skipped like a damaged one.
"""

import contextlib
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from costopt.files import write_atomically
from costopt.hostile import read_json
from costopt_trainer.errors import NotRetryable, first_line, memory_reason
from costopt_trainer.phases import phase
from costopt_trainer.storage.checkpoint_files import (
    Region,
    damage_in,
    read_tensors,
    tensor_names,
)
from costopt_trainer.storage.folders import remove, storage_folder
from costopt_trainer.storage.tensor_file import write_file
from costopt_trainer.training.checkpoint_state import evaluation_of
from costopt_trainer.training.checkpoint_write import (
    OPTIMIZER_TENSORS,
    STATE_FILE,
    to_json,
    together,
    write_checkpoint,
)
from costopt_trainer.training.measures import VALIDATION_LOSS, Measure
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.snapshot import Snapshot

EVALUATION_FILE = "evaluation.json"

_NAME = re.compile(r"step-([0-9]{8,15})")
_LEFTOVER = re.compile(r"\.step-.*")
_UNFINISHED = re.compile(r"\.step-([0-9]{8,15})\.partial")


class Checkpoints:
    """The checkpoints below one folder, for all ranks of a gang together.

    `prepare`, `newest` and `save` must be called by all ranks; an error of one is raised on all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        job: str,
        keep_last: int,
        gang: ProcessGroup,
        keep_best: int = 0,
        measure: Measure = VALIDATION_LOSS,
    ) -> None:
        """`job`: name of their job. The newest `keep_last` are kept, and the best `keep_best` by their `measure`."""
        self.folder = folder
        self._job = job
        self._keep_last, self._keep_best = keep_last, keep_best
        self._measure = measure
        self._gang = gang
        self.passed_over: str | None = None
        """What `newest` skipped as damaged, in words."""

    def prepare(self) -> None:
        """Create the folder, remove what a killed writer left (with a line), and check that all ranks can write here.

        Raises NotRetryable("CheckpointNotWritable"), before any step is paid for.
        """
        probe = self.folder / self._gang.broadcast(f".step-probe-{secrets.token_hex(8)}")

        def begin() -> None:
            storage_folder(self.folder)
            for path in self.folder.iterdir():
                if match := _UNFINISHED.fullmatch(path.name):
                    _say(f"the checkpoint of step {int(match[1])} was not written to its end: it is removed")
                if _LEFTOVER.fullmatch(path.name):
                    remove(path)
            probe.mkdir()

        def try_writing() -> None:
            if not probe.is_dir():
                raise NotRetryable(
                    "CheckpointNotWritable",
                    f"rank {self._gang.rank} does not see what rank 0 wrote to {self.folder}: all replicas must share "
                    "one storage folder",
                )
            write_file(probe / f"{self._gang.rank}", bytes(4096))

        together(self._gang, self.folder, begin, rank_0_only=True)
        try:
            together(self._gang, self.folder, try_writing)
        finally:
            if self._gang.rank == 0:
                shutil.rmtree(probe, ignore_errors=True)

    def part(self, name: str) -> "Checkpoints":
        """Those of one of several trainings, in a folder of that name within this one: the newest, prepared."""
        part = Checkpoints(self.folder / name, job=self._job, keep_last=self._keep_last, gang=self._gang)
        part.prepare()
        return part

    def newest(self, fault_of_state: Callable[[Any, int], str | None] = lambda _state, _step: None) -> int | None:
        """The step of the newest undamaged checkpoint; None if there are none at all. The same on all ranks.

        `fault_of_state` says what is wrong with a state of a step. A damaged checkpoint is skipped with a line on
        stderr. Raises NotRetryable("CheckpointUnreadable") if all are damaged: silently starting over would throw away
        what was paid for.
        """
        found: int | None = None
        damaged: list[str] = []

        def look() -> None:
            nonlocal found
            steps = sorted(_steps_in(self.folder), reverse=True)
            for number, step in enumerate(steps, start=1):
                damage = damage_in(self.folder / folder_name(step), step, self._job, pieces.done)
                if damage is None:
                    damage = self._damage_of_state(step, fault_of_state)
                if damage is None:
                    found = step
                    return
                damaged.append(f"the checkpoint of step {step} cannot be used ({damage})")
                way_out = f"trying that of step {steps[number]}" if number < len(steps) else "there is none before it"
                _say(f"{damaged[-1]}: {way_out}")
            if steps:
                raise NotRetryable(
                    "CheckpointUnreadable",
                    f"no checkpoint in {self.folder} can be used; {damaged[0]}: restore one from a copy, or remove the "
                    "folder to start over",
                )

        with phase("LoadingCheckpoint") as pieces:
            together(self._gang, self.folder, look, rank_0_only=True)
        found, self.passed_over = self._gang.broadcast((found, "; ".join(damaged)[:4000] or None))
        return found

    def _damage_of_state(self, step: int, fault_of_state: Callable[[Any, int], str | None]) -> str | None:
        try:
            state = read_json(self.folder / folder_name(step) / STATE_FILE)
            fault = fault_of_state(state, step)
        except ValueError as error:
            fault = str(error)
        if fault:
            return f"{STATE_FILE}: {fault}"
        if not isinstance(state, Mapping) or OPTIMIZER_TENSORS not in state:
            return None
        there, written = len(tensor_names(self.folder / folder_name(step), "optimizer")), state[OPTIMIZER_TENSORS]
        return None if there == written else f"{there} of {str(written)[:40]} tensors of the optimizer are there"

    @contextlib.contextmanager
    def loading(self, step: int) -> Iterator[None]:
        """A mismatch while loading a checkpoint will not go away: raise NotRetryable("CheckpointUnreadable").

        Running out of memory, or a failing disk, is not one.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, SafetensorError) as error:
            if memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None:
                raise
            raise NotRetryable(
                "CheckpointUnreadable",
                f"the checkpoint of step {step} does not fit the model that is trained ({first_line(error)}): restore "
                f"it from a copy, or remove {self.folder / folder_name(step)} to go on from the one before",
            ) from error

    def read_state(self, step: int) -> dict[str, Any]:
        """The JSON state of a checkpoint, as it was given."""
        state: dict[str, Any] = read_json(self.folder / folder_name(step) / STATE_FILE)
        return {name: value for name, value in state.items() if name != OPTIMIZER_TENSORS}

    def read_model(
        self, step: int, wanted: Callable[[str], bool] | None = None, region: Region | None = None
    ) -> dict[str, Tensor]:
        """Parameters and buffers whose names are wanted (None: all), from all ranks' files; see `read_tensors`."""
        return read_tensors(self.folder / folder_name(step), "model", wanted, region)

    def read_optimizer(
        self, step: int, wanted: Callable[[str], bool], region: Region | None = None
    ) -> dict[str, Tensor]:
        """The optimizer's tensors by "<parameter>/<name>", likewise."""
        return read_tensors(self.folder / folder_name(step), "optimizer", wanted, region)

    def read_carried(self, step: int, region: Region) -> dict[str, Tensor]:
        """A region of each state that the training carries from sample to sample; empty if it carries none."""
        return read_tensors(self.folder / folder_name(step), "carried", None, region)

    def read_averages(
        self, step: int, wanted: Callable[[str], bool] | None = None, region: Region | None = None
    ) -> dict[str, Tensor]:
        """Averages of weights by name, likewise; empty if the training kept none."""
        return read_tensors(self.folder / folder_name(step), "average", wanted, region)

    def read_random(self, step: int) -> dict[str, Tensor]:
        """This rank's random states; empty if no rank with its number wrote any."""
        own = f"{self._gang.rank}/"
        states = read_tensors(self.folder / folder_name(step), "random", lambda name: name.startswith(own))
        return {name.removeprefix(own): state for name, state in states.items()}

    def save(self, step: int, snapshot: Snapshot) -> None:
        """`write` at once, with all ranks of this object's own group."""
        with phase("SavingCheckpoint") as pieces:
            self.write(step, lambda: snapshot, self._gang, pieces.done)

    def write(
        self, step: int, take: Callable[[], Snapshot], gang: ProcessGroup, on_block: Callable[[], object]
    ) -> None:
        """Write a checkpoint and, once it is complete, remove those no longer kept. For any thread.

        All ranks of `gang` must call it; see `write_checkpoint`. Earlier checkpoints are untouched if it fails.
        """
        write_checkpoint(self.folder / folder_name(step), step, take, job=self._job, gang=gang, on_block=on_block)
        if gang.rank == 0:
            self._remove_old(step)

    def add_evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Rank 0 writes the figures of an evaluation beside the checkpoint written before it."""

        def write() -> None:
            write_atomically(self.folder / folder_name(step) / EVALUATION_FILE, to_json(figures))
            if self._keep_best and self.best(step)[:1] == [step]:
                told = f"{self._measure.words} {self._measure.of(figures)}"
                _say(f"the checkpoint of step {step} is the best so far: {told}")

        together(self._gang, self.folder, write, rank_0_only=True)

    def read_evaluation(self, step: int) -> dict[str, Any] | None:
        """What `add_evaluation` wrote, on all ranks; None if it is missing or damaged."""
        figures = self._evaluation(step) if self._gang.rank == 0 else None
        return self._gang.broadcast(figures)

    def best(self, newest: int) -> list[int]:
        """The steps of the `keep_best` checkpoints whose evaluation was best, best first; of equals the earlier.

        Those after `newest` do not count.
        """
        steps = [step for step in _steps_in(self.folder) if step <= newest]
        worse = {step: self._measure.worse(figures) for step in steps if (figures := self._evaluation(step))}
        return sorted(worse, key=lambda step: (worse[step], step))[: self._keep_best]

    def best_whole(self, newest: int) -> int:
        """The first of `best` that is undamaged, else `newest`. For rank 0."""
        with phase("LoadingCheckpoint") as pieces:
            for step in self.best(newest):
                damage = damage_in(self.folder / folder_name(step), step, self._job, pieces.done)
                if damage is None:
                    return step
                _say(f"the checkpoint of step {step}, the best one, cannot be used ({damage}): another is taken")
        return newest

    def _evaluation(self, step: int) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            figures = evaluation_of(read_json(self.folder / folder_name(step) / EVALUATION_FILE))
            if figures is not None:
                self._measure.of(figures)  # it is among them
            return figures
        return None

    def _remove_old(self, newest: int) -> None:
        # Later steps were skipped as damaged when the training went back; it is now on a new path.
        steps = sorted(step for step in _steps_in(self.folder) if step <= newest)
        kept = {*steps[-self._keep_last :], *(self.best(newest) if self._keep_best else ())}
        for step in _steps_in(self.folder):
            if step > newest or step not in kept:
                try:
                    remove(self.folder / folder_name(step))
                except OSError as error:
                    _say(f"the old checkpoint of step {step} could not be removed: {error}")


def folder_name(step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}"


def _steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, whole or damaged, in no order."""
    return [int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
