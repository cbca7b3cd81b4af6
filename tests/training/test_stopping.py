"""A stop is heard between micro-batches, in steps and in evaluations, and changes no bit of a training's result."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from builders.launch import replica
from builders.stopping import stop_at_micro_batch
from builders.trainer import (
    image_file,
    image_recipe,
    losses,
    recipe,
    run,
    text_file,
    train_here,
    train_in_gang,
    written,
)
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.agreement import Question
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

GRACE_SECONDS = 30.0
"""A pod's, where nothing else is said."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


def metrics(storage: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what differs from run to run: times."""
    lines = [json.loads(line) for line in (storage / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("metered", "tokensPerSecond", "resumedFromStep", "lastCheckpointStep"):
            line.pop(name, None)
    return lines


@pytest.mark.parametrize("checkpoint_every", [4, 3])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_training_stopped_in_an_evaluation_ends_as_if_it_had_not_been(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, checkpoint_every: int
) -> None:
    settings = recipe(text, checkpointing={"everySteps": checkpoint_every})
    assert train_here(settings, tmp_path / "whole") == 0
    with monkeypatch.context() as context:
        stop_at_micro_batch(context, "evaluation", number)
        assert train_here(settings, tmp_path / "stopped") == EXIT_PREEMPTED
    step = 4 if number <= 4 else 8
    newest = max(path.name for path in (tmp_path / "stopped/checkpoints").iterdir())
    assert newest == f"step-{step:08d}"
    assert train_here(settings, tmp_path / "stopped") == 0
    assert written(tmp_path / "stopped", 8) == written(tmp_path / "whole", 8)
    model = "artifacts/model/model.safetensors"
    assert (tmp_path / "stopped" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["text", "images"])
def test_a_training_stopped_within_a_step_ends_as_if_it_had_not_been(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    batch = {"globalBatchSize": 8, "microBatchSize": 2}
    settings: Recipe = recipe(text) if kind == "text" else image_recipe(image_file(tmp_path), batch=batch)
    assert train_here(settings, tmp_path / "whole") == 0
    with monkeypatch.context() as context:
        stop_at_micro_batch(context, "step", 8)  # of three between the four micro-batches of a step: within the third
        assert train_here(settings, tmp_path / "stopped") == EXIT_PREEMPTED
    assert [path.name for path in (tmp_path / "stopped/checkpoints").iterdir()] == ["step-00000002"]
    assert train_here(settings, tmp_path / "stopped") == 0
    assert written(tmp_path / "stopped", 8) == written(tmp_path / "whole", 8)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_due_checkpoint_is_saved_before_a_due_evaluation(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    for name in ("save", "evaluate"):
        act = getattr(Training, name)
        monkeypatch.setattr(
            Training, name, lambda self, act=act, name=name: (acts.append(f"{name} {self.step}"), act(self))[1]
        )
    assert train_here(recipe(text), tmp_path) == 0
    assert acts == ["save 4", "evaluate 4", "save 8", "evaluate 8"]


def test_an_evaluation_that_was_done_is_not_done_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "run", stop_after=5) == EXIT_PREEMPTED
    (tmp_path / "run/checkpoints/step-00000005").rename(tmp_path / "run/gone")
    evaluated: list[int] = []
    evaluate = Training.evaluate
    monkeypatch.setattr(Training, "evaluate", lambda self: (evaluated.append(self.step), evaluate(self))[1])
    assert train_here(settings, tmp_path / "run") == 0
    assert evaluated == [8]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


SAVES = [("Sync", "a due one"), ("Async", "a due one"), ("Sync", "that of the stop"), ("Async", "that of the stop")]


@pytest.mark.parametrize(("mode", "which"), SAVES)
def test_sigterm_while_a_checkpoint_is_written_leaves_it_whole_and_the_training_ends_as_if_undisturbed(
    text: Path, tmp_path: Path, mode: str, which: str
) -> None:
    settings = recipe(text, checkpointing={"everySteps": 4, "mode": mode})
    assert train_here(settings, tmp_path / "whole") == 0
    how = {"told_in_save": 4} if which == "a due one" else {"stop_after": 5, "told_in_save": 5}
    assert train_here(settings, tmp_path / "stopped", **how) == EXIT_PREEMPTED
    told = Progress.model_validate_json((tmp_path / "stopped/progress-0.json").read_text())
    assert told.step == told.last_checkpoint_step
    assert 4 <= told.step < 8
    kept = sorted(path.name for path in (tmp_path / "stopped/checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in sorted({4, told.step})], "nothing half written"
    assert train_here(settings, tmp_path / "stopped") == 0
    assert written(tmp_path / "stopped", 8) == written(tmp_path / "whole", 8)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_grace_period_that_is_over_within_the_last_save_leaves_the_checkpoint_before_and_the_next_attempt_says_so(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(text)
    assert train_here(settings, tmp_path / "whole") == 0
    codes, errors = train_in_gang([run(settings, tmp_path / "killed", signal_after=6, killed_in_save=6)], 1, tmp_path)
    assert codes == [-signal.SIGKILL], errors
    kept = sorted(path.name for path in (tmp_path / "killed/checkpoints").iterdir())
    assert kept == [".step-00000006.partial", "step-00000004"]
    capsys.readouterr()
    assert train_here(settings, tmp_path / "killed") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "step 6" in line] == [
        "the checkpoint of step 6 was not written to its end: it is removed"
    ]
    assert "resuming after step 4" in lines
    assert written(tmp_path / "killed", 8) == written(tmp_path / "whole", 8)


@pytest.mark.slow
def test_ranks_stop_together_within_an_evaluation_although_only_one_was_told(text: Path, tmp_path: Path) -> None:
    settings = recipe(text, evaluation={"everySteps": 4, "maxSamples": 40})
    runs = [run(settings, tmp_path / "whole"), run(settings, tmp_path / "told", signal_after=4)]
    codes, errors = train_in_gang([*runs, run(settings, tmp_path / "told")], 2, tmp_path)
    assert codes == [0, 0], errors
    assert written(tmp_path / "told", 8) == written(tmp_path / "whole", 8)
    assert metrics(tmp_path / "told") == metrics(tmp_path / "whole")


class TwoRanks:
    """Rank 0 of a gang of two; the other was asked to end, or not."""

    rank, world_size = 0, 2

    def __init__(self) -> None:
        self.exchanges = 0
        self.other_asked = False

    def sum_integers(self, *values: int) -> list[int]:
        self.exchanges += 1
        return [values[0] + self.other_asked, values[1]]


def test_ranks_exchange_a_word_about_once_a_second() -> None:
    seconds = [0.0]
    gang = TwoRanks()
    question = Question(gang, Stop(), lambda: seconds[0])  # type: ignore[arg-type]
    for _ in range(10_000):
        seconds[0] += 0.01
        assert not question.all_end()
    assert 90 <= gang.exchanges <= 120
    for slow in range(1, 250):
        seconds[0] += 5
        gang.other_asked = slow > 200
        if question.all_end():
            break
    assert slow == 201  # after the first exchange at the new pace, at every micro-batch


@pytest.mark.slow
def test_a_stop_in_a_long_evaluation_ends_a_real_replica_at_once_and_loses_no_step(tmp_path: Path) -> None:
    changes = {
        "totalSteps": 400,
        "evaluation": {"everySteps": 5, "maxSamples": 10**6},
        "checkpointing": {"everySteps": 400},
        "batch": {"globalBatchSize": 4, "microBatchSize": 1},
    }
    data = {"type": "Text", "text": {"path": str(text_file(tmp_path, words=300_000))}, "validationPercent": 50}
    settings = {
        "jobName": "demo",
        "stage": "train",
        "numNodes": 1,
        "processesPerNode": 1,
        "recipe": recipe(tmp_path, data=data, **changes).to_plain(),
    }
    with replica(tmp_path, None, settings=settings) as launcher:
        while "Evaluating" not in launcher.phases:
            launcher.wait_for_output("", 1)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == EXIT_PREEMPTED
        message = launcher.termination
    assert message.progress is not None
    assert message.progress.step == message.progress.last_checkpoint_step == 5
    assert message.progress.validation_loss is None


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["Tokenizing", "LoadingCheckpoint"])
def test_a_stop_before_the_first_step_ends_a_real_replica_in_its_grace_period_and_changes_nothing(
    tmp_path: Path, moment: str
) -> None:
    words = 400_000 if moment == "Tokenizing" else 4000
    source = {"type": "Text", "text": {"path": str(text_file(tmp_path, words=words))}}
    data = {**source, "tokenizer": {"type": "BPE", "vocabularySize": 300}}
    whole, storage = tmp_path / "whole", tmp_path / "stopped"
    once = {"everySteps": 60}
    plain = recipe(tmp_path, data=data, totalSteps=60, checkpointing=once, evaluation={**once, "maxSamples": 7})
    if moment == "LoadingCheckpoint":
        assert train_here(plain, storage, stop_after=3) == EXIT_PREEMPTED
    settings = {"jobName": "test", "stage": "train", "numNodes": 1, "processesPerNode": 1, "recipe": plain.to_plain()}
    with replica(storage, None, settings=settings) as launcher:
        while moment not in launcher.phases:
            launcher.wait_for_output("", 1)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait(GRACE_SECONDS) == EXIT_PREEMPTED
        said, message = launcher.output, launcher.termination
    assert (message.exit_code, message.reason) == (EXIT_PREEMPTED, "Preempted")
    kept = [path.name for path in (storage / "checkpoints").glob("step-*")]
    if "ending before the first step; what checkpoints hold stays: SIGTERM" in said:
        assert kept == (["step-00000003"] if moment == "LoadingCheckpoint" else [])
    else:  # so small a checkpoint was read before the signal came
        assert moment == "LoadingCheckpoint"
        assert "resuming after step 3" in said
        assert len(kept) == 2
    assert train_here(plain, whole) == 0
    assert train_here(plain, storage) == 0
    assert written(storage, 60) == written(whole, 60)
    assert losses(storage) == losses(whole)
