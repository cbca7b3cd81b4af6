"""Saving while training goes on: what is saved is of the moment; what fails is told at the loop's next point."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.trainer import losses, recipe, text_file, train_here, written
from costopt.schema.recipe import Checkpointing
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage import checkpoint_files
from costopt_trainer.training import loop as train
from costopt_trainer.training.async_save import Saved, Saves
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.snapshot import HostCopies, Snapshot, random_state
from costopt_trainer.training.training import Training


class Gate:
    """A place where the thread waits until it is let through. `reached` is set when it is there."""

    def __init__(self) -> None:
        self.reached, self.is_open = threading.Event(), threading.Event()

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def wait_then_act(*arguments: Any, **keywords: Any) -> Any:
            self.reached.set()
            assert self.is_open.wait(120)
            return act(*arguments, **keywords)

        return wait_then_act


@pytest.fixture
def at_writing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The thread waits before it writes a file of tensors."""
    gate = Gate()
    monkeypatch.setattr(checkpoint_files, "write_tensor_file", gate.before(checkpoint_files.write_tensor_file))
    yield gate
    gate.is_open.set()


@pytest.fixture
def at_copying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The thread waits before it copies."""
    gate = Gate()
    monkeypatch.setattr(HostCopies, "copy", gate.before(HostCopies.copy))
    yield gate
    gate.is_open.set()


def open_saves(folder: Path, *, now: Callable[[], float] = lambda: 0.0, **settings: object) -> Saves:
    checkpoints = Checkpoints(folder, job="test", keep_last=2, gang=ALONE)
    checkpoints.prepare()
    return Saves(checkpoints, ALONE, Checkpointing.model_validate(settings), lambda _: None, now)


def weights(folder: Path, step: int) -> torch.Tensor:
    return checkpoint_files.read_tensors(folder / f"step-{step:08d}", "model")["weight"]


def snapshot(weight: torch.Tensor, **buffers: torch.Tensor) -> Snapshot:
    return Snapshot(
        model={"weight": weight, **buffers},
        optimizer={"weight/exp_avg": weight},
        random=random_state(ALONE.device),
        state={"step": 1},
        parameters=frozenset({"weight"}),
    )


# ------------------------------------------------------------------------------------------- what is saved, and when


def test_what_is_saved_is_of_the_moment_however_long_it_takes_to_write(tmp_path: Path, at_writing: Gate) -> None:
    saves = open_saves(tmp_path)
    weight, average = torch.ones(3), torch.ones(3)
    saves.begin(1, snapshot(weight, average=average), 7)
    average.fill_(5)  # as a forward pass does
    saves.before_change()
    weight.fill_(5)  # as the optimizer does
    assert not saves.is_over()
    at_writing.is_open.set()
    assert saves.settle() == Saved(1, 7)
    tensors = checkpoint_files.read_tensors(tmp_path / "step-00000001", "model")
    assert all(torch.equal(tensor, torch.ones(3)) for tensor in tensors.values())
    assert saves.settle() is None


def test_the_optimizers_step_waits_until_all_is_copied(tmp_path: Path, at_copying: Gate) -> None:
    saves = open_saves(tmp_path)
    weight = torch.ones(3)
    saves.begin(1, snapshot(weight), 0)
    changed = threading.Thread(target=lambda: (saves.before_change(), weight.fill_(5)))
    changed.start()
    assert at_copying.reached.wait(120)
    changed.join(0.05)
    assert changed.is_alive()
    at_copying.is_open.set()
    changed.join(120)
    saves.settle()
    assert torch.equal(weights(tmp_path, 1), torch.ones(3))


def test_the_next_copies_are_made_in_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = open_saves(tmp_path)
    held: list[set[int]] = []
    copy = HostCopies.copy

    def observed(self: HostCopies, begun: Snapshot) -> Snapshot:
        copied = copy(self, begun)
        held.append({shards[0].tensor.data_ptr() for shards in copied.optimizer.values()})  # type: ignore[union-attr]
        return copied

    monkeypatch.setattr(HostCopies, "copy", observed)
    for step in (1, 2):
        saves.begin(step, snapshot(torch.full((3,), float(step))), 0)
        saves.settle()
    assert held[0] == held[1]
    assert torch.equal(weights(tmp_path, 2), torch.full((3,), 2.0))


def test_no_second_checkpoint_is_begun_while_one_is_written(tmp_path: Path, at_writing: Gate) -> None:
    saves = open_saves(tmp_path)
    saves.begin(1, snapshot(torch.ones(3)), 0)
    with pytest.raises(RuntimeError, match="the checkpoint of step 1 is still being written"):
        saves.begin(2, snapshot(torch.ones(3)), 0)


def test_a_checkpoint_is_due_by_steps_or_by_the_time_since_the_last_one_began(tmp_path: Path) -> None:
    seconds = [0.0]
    saves = open_saves(tmp_path, now=lambda: seconds[0], everySteps=10, everySeconds=60)
    assert [step for step in range(1, 31) if saves.is_due(step)] == [10, 20, 30]
    seconds[0] = 59
    assert not saves.is_due_by_time()
    seconds[0] = 61
    assert saves.is_due_by_time()
    saves.begin(7, snapshot(torch.ones(3)), 0)
    saves.settle()
    assert not saves.is_due_by_time()
    seconds[0] = 121
    assert saves.is_due_by_time()
    assert not open_saves(tmp_path / "other", now=lambda: 1e9).is_due_by_time()


# ------------------------------------------------------------------------------------------------------- what fails


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (disk / "other").write_bytes(bytes(2**20))


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (fill, r"No space left on device\): free some space or use a larger volume"),
        (make_read_only, r"Read-only file system\): it must be a folder that this user may write to"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_goes_bad_is_one_sentence_at_the_next_point_and_the_earlier_ones_stay(
    spoil: Callable[[Path], None], words: str, small_disk: Path
) -> None:
    folder = small_disk / "checkpoints"
    saves = open_saves(folder)
    saves.begin(1, snapshot(torch.ones(5000)), 0)
    saves.settle()
    spoil(small_disk)
    saves.begin(2, snapshot(torch.ones(5000)), 0)
    with pytest.raises(NotRetryable, match=rf"cannot write to {folder} \({words}") as refused:
        saves.settle()
    assert refused.value.reason == "CheckpointNotWritable"
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert Checkpoints(folder, job="test", keep_last=2, gang=ALONE).newest() == 1


def test_memory_that_is_not_there_for_the_copies_is_told_by_the_loop_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(HostCopies, "_copy", fail)
    saves = open_saves(tmp_path)
    saves.begin(1, snapshot(torch.ones(3)), 0)
    saves.before_change()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        saves.settle()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- in a training


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_in_the_same_bits(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_here(recipe(text, checkpointing={"everySteps": 4, "mode": "Sync"}), tmp_path / "sync") == 0
    acts: list[str] = []
    gate = Gate()
    written_by_thread = checkpoint_files.write_tensor_file

    def write(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if "step-00000004" in str(path):
            assert gate.is_open.wait(120)
            acts.append("write 4")
        return written_by_thread(path, *arguments, **keywords)

    class Observed(Training):
        def take_step(self, *step: Any) -> None:
            super().take_step(*step)
            acts.append(f"step {self.step}")
            if self.step == 7:
                assert not (tmp_path / "async/checkpoints/step-00000004").exists()
                assert self.progress.last_checkpoint_step is None
                assert self.meter.metered().productive == 0
                gate.is_open.set()

    monkeypatch.setattr(train, "Training", Observed)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_tensor_file", write)
        assert train_here(recipe(text), tmp_path / "async") == 0
    assert acts.index("step 7") < acts.index("write 4")
    for step in (4, 8):
        assert written(tmp_path / "async", step) == written(tmp_path / "sync", step)
    assert losses(tmp_path / "async") == losses(tmp_path / "sync")
    model = "artifacts/model/model.safetensors"
    assert (tmp_path / "async" / model).read_bytes() == (tmp_path / "sync" / model).read_bytes()
    told = json.loads((tmp_path / "async/progress-0.json").read_text())
    assert told["lastCheckpointStep"] == 8
    assert told["metered"]["sinceCheckpoint"] == 0
    for step in (4, 8):
        assert json.loads((tmp_path / f"async/checkpoints/step-{step:08d}/evaluation.json").read_text())["results"]


def test_a_stop_while_one_is_written_waits_for_it_and_saves_the_step_it_came_in(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    class Observed(Training):
        def end_early(self) -> Any:
            assert gate.reached.wait(120)
            gate.is_open.set()
            super().end_early()

    monkeypatch.setattr(train, "Training", Observed)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_tensor_file", gate.before(checkpoint_files.write_tensor_file))
        assert train_here(recipe(text), tmp_path / "stopped", stop_after=5) == EXIT_PREEMPTED
    names = sorted(path.name for path in (tmp_path / "stopped/checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000005"]
    assert (tmp_path / "stopped/checkpoints/step-00000004/evaluation.json").is_file()
    monkeypatch.undo()
    assert train_here(recipe(text), tmp_path / "stopped") == 0
    assert train_here(recipe(text), tmp_path / "whole") == 0
    assert written(tmp_path / "stopped", 8) == written(tmp_path / "whole", 8)


def test_a_training_that_fails_lets_the_checkpoint_be_completed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    class Failing(Training):
        def take_step(self, *step: Any) -> None:
            super().take_step(*step)
            if self.step == 5:
                assert gate.reached.wait(120)
                threading.Timer(0.2, gate.is_open.set).start()
                raise ValueError("something else")

    monkeypatch.setattr(train, "Training", Failing)
    monkeypatch.setattr(checkpoint_files, "write_tensor_file", gate.before(checkpoint_files.write_tensor_file))
    with pytest.raises(ValueError, match="something else"):
        train_here(recipe(text), tmp_path)
    assert (tmp_path / "checkpoints/step-00000004/manifest.json").is_file()


def test_time_makes_a_checkpoint_due_at_any_step(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Saves, "is_due_by_time", lambda self: self.step is None)
    saved: list[int] = []
    save = Training.save
    monkeypatch.setattr(Training, "save", lambda self: (saved.append(self.step), save(self))[1])
    assert train_here(recipe(text, checkpointing={"everySteps": 1000, "everySeconds": 60}), tmp_path) == 0
    assert saved == [1, 8]
