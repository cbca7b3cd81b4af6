"""Samples prepared a step ahead: no bit of a training is another, and its thread ends with it, however it ends."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training import loop as train
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

PATIENCE = 240


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def no_thread_outlives_its_training() -> Iterator[None]:
    yield
    assert prefetch_threads() == []


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@contextlib.contextmanager
def prepared_when_asked_for(
    prepare: Callable[[int], Any], positions: Iterable[int], *, workers: int, told_to_end: Callable[[], bool]
) -> Iterator[Iterator[Any]]:
    yield map(prepare, positions)


def fail_in_step(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread that reads the samples of step `number` meets `error`; the result lists who read what."""
    original, threads = Training.batches_at, []

    def batches_at(self: Training, position: int, *, whole: bool = False) -> Any:
        if self.stop.in_steps:
            threads.append(threading.get_ident())
            if position == (number - 1) * self.recipe.batch.global_batch_size:
                raise error
        return original(self, position, whole=whole)

    monkeypatch.setattr(Training, "batches_at", batches_at)
    return threads


@pytest.mark.parametrize("kind", ["text, three workers", "images"])
def test_a_training_ends_in_the_same_bits_as_without_also_after_a_stop(
    kind: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"type": "Text", "text": {"path": str(text)}, "workers": 3}
    settings = image_recipe(image_file(tmp_path)) if kind == "images" else recipe(text, data=data)
    assert train_here(settings, tmp_path / "ahead") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=5) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    monkeypatch.setattr(train, "prepared_ahead", prepared_when_asked_for)
    assert train_here(settings, tmp_path / "plain") == 0
    assert written(tmp_path / "ahead", 8) == written(tmp_path / "plain", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "ahead") == losses(tmp_path / "plain") == losses(tmp_path / "parts")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), NotRetryable("InvalidData", "the text is gone")], ids=str
)
def test_an_error_of_the_thread_ends_the_training_after_the_steps_before_it(
    error: Exception, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = fail_in_step(6, error, monkeypatch)
    with pytest.raises(type(error)) as raised:
        train_here(recipe(text), tmp_path)
    assert raised.value is error
    assert list(losses(tmp_path)) == [1, 2, 3, 4]  # what is told of step 5 is told with the samples of step 6
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir()
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("workers", [1, 3])
def test_a_training_told_to_end_ends_with_its_threads_and_goes_on_in_the_same_bits(
    workers: int, text: Path, tmp_path: Path
) -> None:
    settings = recipe(text, data={"type": "Text", "text": {"path": str(text)}, "workers": workers})
    assert train_here(settings, tmp_path / "told", signal_after=3) == EXIT_PREEMPTED
    assert prefetch_threads() == []
    newest = max((tmp_path / "told/checkpoints").iterdir()).name
    assert "step-00000003" <= newest < "step-00000008"
    assert train_here(settings, tmp_path / "told") == 0
    assert train_here(settings, tmp_path / "whole") == 0
    assert written(tmp_path / "told", 8) == written(tmp_path / "whole", 8)


def test_sigterm_while_samples_are_waited_for_that_never_come_ends_in_a_checkpoint(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three workers hang in their storage: those that read the samples of steps 6, 7 and 8."""
    settings = recipe(text, data={"type": "Text", "text": {"path": str(text)}, "workers": 3})
    original, answered, hanging = Training.batches_at, threading.Event(), []

    def batches_at(self: Training, position: int, *, whole: bool = False) -> Any:
        if self.stop.in_steps and position >= 5 * 8:
            hanging.append(position)
            if len(hanging) == 3:
                while self.step < 5:  # the samples of which are there
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGTERM)
            assert answered.wait(PATIENCE)
        return original(self, position, whole=whole)

    try:
        with monkeypatch.context() as context:
            context.setattr(Training, "batches_at", batches_at)
            assert train_here(settings, tmp_path / "told") == EXIT_PREEMPTED
    finally:
        answered.set()
    for thread in prefetch_threads():
        thread.join(PATIENCE)
    newest = max((tmp_path / "told/checkpoints").iterdir()).name
    assert newest == "step-00000005"
    assert train_here(settings, tmp_path / "told") == 0
    assert train_here(settings, tmp_path / "whole") == 0
    assert written(tmp_path / "told", 8) == written(tmp_path / "whole", 8)


def test_a_loop_that_fails_ends_with_its_thread(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_step(*_step: object) -> None:
        raise RuntimeError("another rank is gone")

    monkeypatch.setattr(Training, "take_step", take_step)
    with pytest.raises(RuntimeError, match="another rank"):
        train_here(recipe(text), tmp_path)


def test_a_process_whose_training_is_told_to_end_ends(text: Path, tmp_path: Path) -> None:
    told = run(recipe(text, totalSteps=10**6), tmp_path / "told", signal_after=3, signal=signal.SIGTERM)
    codes, _ = train_in_gang([told], 1, tmp_path)
    assert codes == [EXIT_PREEMPTED]


def test_reading_that_goes_on_while_a_step_is_taken_is_no_wait_for_data(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time goes by only while samples are read: a second for those of each step, while the one before is taken."""
    seconds, read, taken = [0], [threading.Event() for _ in range(8)], [threading.Event() for _ in range(8)]
    original = Training.batches_at, Training.take_step

    def batches_at(self: Training, position: int, *, whole: bool = False) -> Any:
        batches = original[0](self, position, whole=whole)
        step = position // 8
        if self.stop.in_steps:
            assert step == 0 or taken[step - 1].wait(PATIENCE)
            seconds[0] += 1
            read[step].set()
        return batches

    def take_step(self: Training, *step: Any) -> None:
        taken[self.step].set()
        for samples in read[self.step + 1 : self.step + 2]:
            assert samples.wait(PATIENCE)
        original[1](self, *step)

    monkeypatch.setattr(Training, "batches_at", batches_at)
    monkeypatch.setattr(Training, "take_step", take_step)
    meter = Meter(now=lambda: seconds[0] * 10**9)
    begun = Training(recipe(text), tmp_path, ALONE, meter, Stop(), job="test")
    begun.resume()
    run_steps(begun)
    assert meter.metered().data_wait == 1000, "of the first step alone, for which nothing could be done before"
    assert meter.metered().productive == 7000
