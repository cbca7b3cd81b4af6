"""Checkpoints: all that a training needs to go on as if it had never stopped; complete on disk or absent.

    checkpoints/step-00000040/      one folder per checkpoint
        model-00000-00000.safetensors       parameters and buffers: writing rank, number of the file
        optimizer-00000-00000.safetensors   "<parameter>/<name>" -> tensor
        random-00000-00000.safetensors      "<rank>/<device>" -> state of a random generator
        state.json                          step, samples consumed, scaler, latest figures, identity of model and data
        manifest.json                       size and SHA-256 of each other file; global shape of each tensor, and
                                            which piece of it is in which file; written last
        evaluation.json                     figures of the evaluation that was due, once it is done

    Checkpoints         write, find and read them, all ranks together
    random_state, restore_random_state

A checkpoint is written under a temporary name, synced, then renamed: a kill at any moment leaves the earlier ones
complete. Older ones are removed only after that. Tensors are assembled from their pieces, so it does not matter how
many ranks wrote them, nor how these had sharded them.
Nothing is pickled, so reading a checkpoint never runs code that came with it. It names its job. A checkpoint of another
job, a link, or one with an invalid manifest or state is skipped like a damaged one.
"""

import contextlib
import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from costopt.files import sync_folder, write_atomically
from costopt.hostile import read_json
from costopt_trainer.errors import NotRetryable, first_line, memory_reason
from costopt_trainer.phases import phase
from costopt_trainer.storage.checkpoint_files import (
    MANIFEST_FILE,
    FileRecord,
    Region,
    damage_in,
    manifest_content,
    not_writable,
    read_tensors,
    remove,
    storage_folder,
    tensor_names,
    write_file,
    write_tensors,
)
from costopt_trainer.storage.tensor_pieces import KINDS, PlainTensors, Shard, merge_tensors
from costopt_trainer.training.checkpoint_state import evaluation_of
from costopt_trainer.training.process_group import ProcessGroup

STATE_FILE = "state.json"
EVALUATION_FILE = "evaluation.json"
OPTIMIZER_TENSORS = "optimizerTensors"
"""In state.json: how many the optimizer kept. None that has taken no step yet, as when FP16 overflowed, keeps some."""

_NAME = re.compile(r"step-([0-9]{8,15})")
_LEFTOVER = re.compile(r"\.step-.*")


@dataclass(frozen=True)
class Snapshot:
    """What one rank puts into a checkpoint. It may hold a whole tensor or some of its shards."""

    model: Mapping[str, Tensor | Sequence[Shard]]
    """Parameters and buffers by name; empty on a rank whose part another rank writes."""
    optimizer: Mapping[str, Tensor | Sequence[Shard]]
    """Optimizer state by "<parameter>/<name>"; empty likewise."""
    random: Mapping[str, Tensor]
    """States of this rank's random generators, uint8."""
    state: Mapping[str, Any]
    """JSON data; that of rank 0 is used."""


class Checkpoints:
    """The checkpoints below one folder, for all ranks of a gang together.

    `prepare`, `newest` and `save` must be called by all ranks; an error of one is raised on all.
    """

    def __init__(self, folder: Path, *, job: str, keep_last: int, gang: ProcessGroup) -> None:
        """`job`: name of their job."""
        self.folder = folder
        self._job = job
        self._keep_last = keep_last
        self._gang = gang
        self.passed_over: str | None = None
        """What `newest` skipped as damaged, in words."""

    def prepare(self) -> None:
        """Create the folder, remove what a killed writer left, and check that all ranks can write here.

        Raises NotRetryable("CheckpointNotWritable"), before any step is paid for.
        """
        probe = self.folder / self._gang.broadcast(f".step-probe-{secrets.token_hex(8)}")

        def begin() -> None:
            storage_folder(self.folder)
            for path in self.folder.iterdir():
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

        self._together(begin, rank_0_only=True)
        try:
            self._together(try_writing)
        finally:
            if self._gang.rank == 0:
                shutil.rmtree(probe, ignore_errors=True)

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
            self._together(look, rank_0_only=True)
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
        return None if there == written else f"{there} of {written} tensors of the optimizer are there"

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

    def read_random(self, step: int) -> dict[str, Tensor]:
        """This rank's random states; empty if no rank with its number wrote any."""
        own = f"{self._gang.rank}/"
        states = read_tensors(self.folder / folder_name(step), "random", lambda name: name.startswith(own))
        return {name.removeprefix(own): state for name, state in states.items()}

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Write a checkpoint and, once it is complete, remove those no longer kept.

        Raises NotRetryable("CheckpointNotWritable") if a rank may not write or the disk is full; earlier checkpoints
        are then untouched.
        """
        rank, final = self._gang.rank, self.folder / folder_name(step)
        partial = self.folder / f".{final.name}.partial"
        files: dict[str, FileRecord] = {}
        held: PlainTensors = {}

        def begin() -> None:
            remove(partial)
            partial.mkdir()

        def write_part() -> None:
            random = {f"{rank}/{name}": state for name, state in snapshot.random.items()}
            for kind, tensors in zip(KINDS, (snapshot.model, snapshot.optimizer, random), strict=True):
                records, table = write_tensors(partial, kind, rank, tensors, pieces.done)
                files.update(records)
                held.update(table)

        def finish() -> None:
            tensors = merge_tensors(table for _, table in written)
            # The manifest alone would not miss what is no longer in it.
            state = {**snapshot.state, OPTIMIZER_TENSORS: len(tensors.get("optimizer", {}))}
            records = {name: record for each, _ in written for name, record in each.items()}
            records[STATE_FILE] = write_file(partial / STATE_FILE, _to_json(state))
            write_file(partial / MANIFEST_FILE, manifest_content(step, self._job, records, tensors))
            sync_folder(partial)
            remove(final)  # only exists if it was skipped as damaged
            partial.rename(final)
            sync_folder(self.folder)

        with phase("SavingCheckpoint") as pieces:
            try:
                self._together(begin, rank_0_only=True)
                self._together(write_part)
                written = self._gang.gather((files, held))
                self._together(finish, rank_0_only=True)
            except Exception:
                if rank == 0:
                    with contextlib.suppress(OSError):
                        remove(partial)  # frees its space on a full disk
                raise
            if rank == 0:
                self._remove_old(step)

    def add_evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Rank 0 writes the figures of an evaluation beside the checkpoint written before it."""
        self._together(
            lambda: write_atomically(self.folder / folder_name(step) / EVALUATION_FILE, _to_json(figures)),
            rank_0_only=True,
        )

    def read_evaluation(self, step: int) -> dict[str, Any] | None:
        """What `add_evaluation` wrote, on all ranks; None if it is missing or damaged."""
        figures: dict[str, Any] | None = None
        if self._gang.rank == 0:
            with contextlib.suppress(OSError, ValueError):
                figures = evaluation_of(read_json(self.folder / folder_name(step) / EVALUATION_FILE))
        return self._gang.broadcast(figures)

    def _remove_old(self, newest: int) -> None:
        # Later steps were skipped as damaged when the training went back; it is now on a new path.
        steps = sorted(_steps_in(self.folder))
        kept = [step for step in steps if step <= newest][-self._keep_last :]
        for step in steps:
            if step not in kept:
                try:
                    remove(self.folder / folder_name(step))
                except OSError as error:
                    _say(f"the old checkpoint of step {step} could not be removed: {error}")

    def _together(self, act: Callable[[], None], *, rank_0_only: bool = False) -> None:
        """Run `act` on all ranks (or only on the first), and raise an error of one on all."""
        problem: Exception | None = None
        if self._gang.rank == 0 or not rank_0_only:
            try:
                act()
            except OSError as error:
                problem = not_writable(self.folder, error)
            except Exception as error:  # noqa: BLE001  whatever it is, the other ranks must not wait for this one
                problem = error
        self._gang.agree(problem)


def folder_name(step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}"


def _steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, whole or damaged, in no order."""
    return [int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's random generators that dropout draws from on `device`, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` took; missing states, and those of unused devices, change nothing."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _to_json(data: Any) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
