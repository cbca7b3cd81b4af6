"""Checkpoints on disk: whole or not there, whatever happens meanwhile."""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from costopt.schema.recipe import Checkpointing
from costopt_trainer.errors import NotRetryable
from costopt_trainer.storage import checkpoint_files
from costopt_trainer.training import checkpoint_write
from costopt_trainer.training.async_save import Saves
from costopt_trainer.training.checkpoint import Checkpoints, folder_name
from costopt_trainer.training.checkpoint_state import name_changes, refuse_other_training
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.snapshot import Snapshot


def open_checkpoints(folder: Path, keep_last: int = 2, keep_best: int = 0) -> Checkpoints:
    checkpoints = Checkpoints(folder, job="test", keep_last=keep_last, keep_best=keep_best, gang=ALONE)
    checkpoints.prepare()
    return checkpoints


def snapshot(step: int, size: int = 100) -> Snapshot:
    return Snapshot(
        model={"weight": torch.full((size,), float(step)), "norm.num_batches": torch.tensor(step)},
        optimizer={"weight/exp_avg": torch.full((size,), -float(step)), "weight/step": torch.tensor(float(step))},
        random={"cpu": torch.get_rng_state()},
        state={"step": step, "scale": 0.1},
    )


def saves_of(checkpoints: Checkpoints, mode: str = "Async", **settings: object) -> Saves:
    """What a loop of one rank would save them with."""
    return Saves(checkpoints, ALONE, Checkpointing.model_validate({"mode": mode, **settings}), lambda _: None)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weight(checkpoints: Checkpoints, step: int) -> Tensor:
    return checkpoints.read_model(step)["weight"]


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    checkpoints.save(3, snapshot(3))
    assert checkpoints.newest() == 3
    assert checkpoints.read_state(3) == {"step": 3, "scale": 0.1}
    model = checkpoints.read_model(3)
    assert torch.equal(model["weight"], torch.full((100,), 3.0))
    assert model["norm.num_batches"].shape == ()
    assert checkpoints.read_model(3, lambda name: name == "weight").keys() == {"weight"}
    optimizer = checkpoints.read_optimizer(3, lambda name: name.startswith("weight/"))
    assert optimizer.keys() == {"weight/exp_avg", "weight/step"}
    assert torch.equal(checkpoints.read_random(3)["cpu"], torch.get_rng_state())


def test_large_states_are_cut_into_files_and_merged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "MAX_FILE_BYTES", 1000)
    checkpoints = open_checkpoints(tmp_path)
    tensors = {f"layer{n}": torch.full((100,), float(n)) for n in range(5)} | {"large": torch.ones(1000)}
    checkpoints.save(1, Snapshot(model=tensors, optimizer={}, random={}, state={}))
    assert len(list((tmp_path / folder_name(1)).glob("model-*"))) == 4
    read = checkpoints.read_model(1)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, keep_last=2)
    for step in (5, 10, 15, 20):
        checkpoints.save(step, snapshot(step))
    assert steps(tmp_path) == ["step-00000015", "step-00000020"]


def evaluated(checkpoints: Checkpoints, step: int, loss: str) -> None:
    checkpoints.save(step, snapshot(step))
    checkpoints.add_evaluation(step, {"validationLoss": loss, "results": {}})


def test_the_best_ones_are_kept_besides_and_the_best_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = open_checkpoints(tmp_path, keep_best=2)
    for step, loss in ((5, "3.5"), (10, "1.5"), (15, "2.5"), (20, "1.5"), (25, "9"), (30, "10")):
        evaluated(checkpoints, step, loss)
    checkpoints.save(35, snapshot(35))  # not evaluated
    assert steps(tmp_path) == [folder_name(step) for step in (10, 20, 30, 35)]
    assert checkpoints.best(35) == [10, 20], "by number, not by text; of equals the earlier first"
    told = [line for line in capsys.readouterr().err.splitlines() if "best" in line]
    assert told == [
        "the checkpoint of step 5 is the best so far: validation loss 3.5",
        "the checkpoint of step 10 is the best so far: validation loss 1.5",
    ]


def test_without_that_only_the_last_ones_are_kept_and_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = open_checkpoints(tmp_path)
    for step, loss in ((5, "1"), (10, "2"), (15, "3")):
        evaluated(checkpoints, step, loss)
    assert steps(tmp_path) == ["step-00000010", "step-00000015"]
    assert capsys.readouterr().err == ""


def test_a_best_one_of_a_path_that_was_left_pushes_out_no_other(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, keep_best=1)
    for step, loss in ((5, "2"), (10, "3"), (15, "3"), (20, "1")):
        evaluated(checkpoints, step, loss)
    truncate(tmp_path / folder_name(20))
    assert checkpoints.newest() == 15
    evaluated(checkpoints, 18, "4")
    assert steps(tmp_path) == [folder_name(step) for step in (5, 15, 18)]


def test_an_evaluation_that_cannot_be_read_is_not_the_best(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, keep_best=1)
    for step in (5, 10, 15, 20):
        evaluated(checkpoints, step, f"{step}")
        if step == 5:
            (tmp_path / folder_name(5) / "evaluation.json").write_text("{}")
    assert steps(tmp_path) == [folder_name(step) for step in (10, 15, 20)]


def test_a_tensor_in_one_piece_is_read_from_its_file_when_it_is_used(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(3, snapshot(3))
    file = str(tmp_path / folder_name(3) / "model-00000-00000.safetensors")
    model = checkpoints.read_model(3)
    assert file in Path("/proc/self/maps").read_text(), "no memory of its own"
    assert torch.equal(model["weight"], torch.full((100,), 3.0))


def truncate(checkpoint: Path) -> None:
    with (checkpoint / "model-00000-00000.safetensors").open("r+b") as stream:
        stream.truncate(50)


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "optimizer-00000-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def remove_a_file(checkpoint: Path) -> None:
    (checkpoint / "random-00000-00000.safetensors").unlink()


def remove_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def empty_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_bytes(b"")


def mistake_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('["model"]')


def change_the_state(checkpoint: Path) -> None:
    path = checkpoint / "state.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))


DAMAGES = [
    (truncate, "model-00000-00000.safetensors has 50 bytes instead of"),
    (flip_a_bit, "optimizer-00000-00000.safetensors has other contents than were written"),
    (remove_a_file, "random-00000-00000.safetensors: No such file"),
    (remove_the_manifest, "manifest.json: No such file"),
    (empty_the_manifest, "manifest.json must be JSON"),
    (mistake_the_manifest, "manifest.json is not a manifest"),
    (change_the_state, "state.json has other contents than were written"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so_in_one_line(
    damage: Callable[[Path], None], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(10, snapshot(10))
    checkpoints.save(20, snapshot(20))
    damage(tmp_path / folder_name(20))
    assert checkpoints.newest() == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.startswith("the checkpoint of step 20 cannot be used (")
    assert line.endswith("trying that of step 10")


def test_when_all_are_damaged_training_does_not_silently_start_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = open_checkpoints(tmp_path)
    for step in (10, 20):
        checkpoints.save(step, snapshot(step))
        flip_a_bit(tmp_path / folder_name(step))
    with pytest.raises(NotRetryable, match=r"no checkpoint in .* can be used; .*: restore one") as refused:
        checkpoints.newest()
    assert refused.value.reason == "CheckpointUnreadable"
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert steps(tmp_path) == ["step-00000010", "step-00000020"]


def test_a_damaged_one_makes_room_when_training_gets_there_again(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(10, snapshot(10))
    checkpoints.save(20, snapshot(20))
    truncate(tmp_path / folder_name(20))
    checkpoints.save(20, snapshot(20))
    assert checkpoints.newest() == 20
    assert steps(tmp_path) == ["step-00000010", "step-00000020"]


def test_a_damaged_one_of_a_later_step_does_not_push_out_the_good_ones(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(10, snapshot(10))
    checkpoints.save(20, snapshot(20))
    truncate(tmp_path / folder_name(20))
    checkpoints.save(15, snapshot(15))
    assert steps(tmp_path) == ["step-00000010", "step-00000015"]


class Killed(BaseException):
    """The process ends here: nothing is caught, nothing is cleaned up."""


def kill_at(moment: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every change of the disk counts; the one of number `moment` is not done any more (of a write some bytes are)."""
    done: list[str] = []

    def counted(name: str, act: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object, **keywords: object) -> object:
            if len(done) == moment:
                if name.startswith("write"):
                    path = arguments[0]
                    assert isinstance(path, Path)
                    path.write_bytes(b"{")
                if name == "rmtree":
                    folder = arguments[0]
                    assert isinstance(folder, Path)
                    next(folder.iterdir()).unlink()
                raise Killed
            done.append(name)
            return act(*arguments, **keywords)

        return instead

    for module, name in (
        (checkpoint_files, "write_tensor_file"),
        (checkpoint_write, "write_file"),
        (checkpoint_write, "sync_folder"),
    ):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    monkeypatch.setattr(Path, "rename", counted("rename", Path.rename))
    monkeypatch.setattr(Path, "mkdir", counted("mkdir", Path.mkdir))
    monkeypatch.setattr(shutil, "rmtree", counted("rmtree", shutil.rmtree))
    return done


def a_kill_at_any_moment_leaves_a_whole_checkpoint(
    save: Callable[[Checkpoints, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`save` writes the checkpoint of a step; a Killed in it is raised, or the thread that it runs in ends."""
    moments = 0
    while True:
        folder = tmp_path / str(moments)
        checkpoints = open_checkpoints(folder)
        checkpoints.save(10, snapshot(10))
        checkpoints.save(20, snapshot(20))
        with monkeypatch.context() as patch:
            done = kill_at(moments, patch)
            try:
                save(checkpoints, 30)
            except Killed:
                pass
            else:
                break
        checkpoints = open_checkpoints(folder)
        newest = checkpoints.newest()
        assert newest in (20, 30)
        assert torch.equal(weight(checkpoints, newest), torch.full((100,), float(newest)))
        assert all(name.startswith("step-") for name in steps(folder)), "leftovers are removed at the next start"
        checkpoints.save(40, snapshot(40))
        assert checkpoints.newest() == 40
        moments += 1
    assert moments == len(done) > 9
    assert {"mkdir", "write_tensor_file", "write_file", "sync_folder", "rename", "rmtree"} <= set(done)


@pytest.mark.parametrize("mode", ["Async", "Sync"])
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(checkpoints: Checkpoints, step: int) -> None:
        saves = saves_of(checkpoints, mode)
        saves.begin(step, snapshot(step), 0)
        saves.settle()

    a_kill_at_any_moment_leaves_a_whole_checkpoint(save, tmp_path, monkeypatch)
    assert "cannot be used" not in capsys.readouterr().err


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 6,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_ones_before_and_is_not_worth_a_retry(tmp_path: Path, small_files: None) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(10, snapshot(10))
    with pytest.raises(NotRetryable, match=r"cannot write to .*File too large.*: free some space") as refused:
        checkpoints.save(20, snapshot(20, size=5000))
    assert refused.value.reason == "CheckpointNotWritable"
    assert steps(tmp_path) == ["step-00000010"]
    assert checkpoints.newest() == 10


def test_a_full_disk_leaves_the_ones_before_and_gets_its_room_back(small_disk: Path) -> None:
    checkpoints = open_checkpoints(small_disk / "checkpoints")
    checkpoints.save(10, snapshot(10, size=10000))
    with pytest.raises(NotRetryable, match=r"cannot write to .*No space left on device.*: free some space") as refused:
        checkpoints.save(20, snapshot(20, size=40000))
    assert refused.value.reason == "CheckpointNotWritable"
    assert steps(small_disk / "checkpoints") == ["step-00000010"]
    checkpoints.save(30, snapshot(30, size=10000))
    assert checkpoints.newest() == 30


def test_a_disk_that_is_full_from_the_start_is_noticed_before_any_step(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(bytes(2**20))
    with pytest.raises(NotRetryable, match="No space left on device"):
        open_checkpoints(small_disk / "checkpoints")


def test_storage_that_is_a_file_is_refused_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(NotRetryable, match="it must be a folder that this user may write to") as refused:
        open_checkpoints(tmp_path / "checkpoints")
    assert refused.value.reason == "CheckpointNotWritable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_storage_without_write_permission_is_refused_before_any_step(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NotRetryable, match="Permission denied"):
        open_checkpoints(tmp_path / "checkpoints")


def test_an_error_that_may_pass_is_left_to_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    checkpoints = open_checkpoints(tmp_path)
    monkeypatch.setattr(checkpoint_files, "write_tensor_file", fail)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints.save(1, snapshot(1))


def test_another_training_is_refused_and_the_difference_is_named() -> None:
    saved = {"seed": 0, "data": "abc", "model": {"settings": {"numLayers": 2}, "vocabularySize": 256}}
    refuse_other_training(20, saved, saved)
    now = {"seed": 0, "data": "abd", "model": {"settings": {"numLayers": 4}, "vocabularySize": 256}}
    with pytest.raises(NotRetryable) as refused:
        refuse_other_training(20, saved, now)
    assert refused.value.reason == "InvalidSettings"
    assert "of step 20 is of another training: data was abc and is abd, model.settings.numLayers was 2 and is 4" in str(
        refused.value
    )


def test_changes_are_named_by_their_path() -> None:
    assert name_changes({"a": {"b": 1, "c": True}}, {"a": {"b": 1}, "d": "x"}) == [
        "a.c was true and is not set",
        "d was not set and is x",
    ]
