"""What a program of the user's own tells: progress, and where its time went. The clock is moved by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from builders.session import Clock, progress_of, session_in, told_in
from costopt import names
from costopt.schema.replica import EarlierRounds, MeteredMilliseconds, RestartCause


def test_time_that_is_not_claimed_is_that_of_steps_and_productive_once_a_checkpoint_holds_it(tmp_path: Path) -> None:
    clock = Clock()
    session = session_in(tmp_path, clock)
    before = session._meter._now() - session._meter._last_ns  # what had passed when this process made it
    clock.pass_ms(1000)
    session.report(step=0, total_steps=2)
    with session.data_wait():
        clock.pass_ms(20)
    clock.pass_ms(300)
    session.report(step=1, total_steps=2)
    with session.evaluation() as pieces:
        clock.pass_ms(50)
        pieces.done(1, 2)
    with session.checkpoint():
        clock.pass_ms(70)
    session.checkpoint_saved(1)
    assert progress_of(tmp_path).metered == MeteredMilliseconds(
        startup=before // 10**6 + 1000, data_wait=20, productive=350, checkpoint=70
    )
    clock.pass_ms(400)
    session.report(step=2, total_steps=2)
    told = progress_of(tmp_path)
    assert told.metered is not None
    assert (told.metered.productive, told.metered.since_checkpoint) == (350, 400)
    assert (told.step, told.total_steps, told.last_checkpoint_step) == (2, 2, 1)


def test_a_program_that_was_started_anew_in_place_tells_so_and_its_start_is_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = RestartCause(reason="ProcessKilled", message="Rank 1 was killed by SIGKILL.", rank=1)
    earlier = EarlierRounds(restarts=2, metered=MeteredMilliseconds(startup=700, productive=300, lost=40), cause=cause)
    monkeypatch.setenv(names.ENV_EARLIER_ROUNDS, earlier.model_dump_json(by_alias=True, exclude_none=True))
    clock = Clock()
    session = session_in(tmp_path, clock)
    clock.pass_ms(1000)
    session.resumed(5)
    session.report(step=5, total_steps=9)
    clock.pass_ms(60)
    session.report(step=6, total_steps=9)
    session.checkpoint_saved(6)
    told = progress_of(tmp_path)
    assert (told.in_place_restarts, told.restarted_for) == (2, cause)
    assert told.metered is not None
    assert (told.metered.startup, told.metered.productive, told.metered.lost) == (700, 360, 40)
    assert told.metered.recovery >= 1000


def test_a_claim_within_another_is_its_own(tmp_path: Path) -> None:
    clock = Clock()
    session = session_in(tmp_path, clock)
    session.report(step=0, total_steps=1)
    with session.evaluation():
        clock.pass_ms(10)
        with session.data_wait():
            clock.pass_ms(5)
        clock.pass_ms(10)
        with session.checkpoint():
            clock.pass_ms(3)
    session.report(step=1, total_steps=1)
    metered = progress_of(tmp_path).metered
    assert metered is not None
    assert (metered.since_checkpoint, metered.data_wait, metered.checkpoint) == (20, 5, 3)


class Loss:
    """A number on a device: reading it makes the host wait."""

    def __init__(self) -> None:
        self.reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return 1.5


def test_reports_are_written_about_once_a_second_and_only_then_is_a_loss_read(tmp_path: Path) -> None:
    clock, loss = Clock(), Loss()
    session = session_in(tmp_path, clock)
    session.report(step=0, total_steps=1000, loss=loss)
    assert loss.reads == 1, "the first is told at once"
    for step in range(1, 40):
        clock.pass_ms(100)
        session.report(step=step, total_steps=1000, loss=loss)
    assert loss.reads == 4
    session.report(step=1000, total_steps=1000, loss=loss)
    assert (loss.reads, progress_of(tmp_path).step) == (5, 1000), "the last is told at once"


def test_rank_0_prints_what_it_tells_and_only_the_first_of_a_replica_writes_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_in(tmp_path, rank=1).report(step=1, total_steps=3)
    assert not (tmp_path / "progress.json").exists()
    session_in(tmp_path, rank=2, local_rank=0).report(step=1, total_steps=3)
    assert progress_of(tmp_path).step == 1
    assert capsys.readouterr().out == ""
    session_in(tmp_path).report(step=2, total_steps=3, loss=0.25, results={"accuracyPermille": 913})
    told = told_in(capsys.readouterr().out)
    assert told == progress_of(tmp_path)
    assert told is not None
    assert (told.loss, told.results) == ("0.25", {"accuracyPermille": "913"})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_samples_give_a_rate_of_steps_and_waiting_alone(tmp_path: Path) -> None:
    clock = Clock()
    session = session_in(tmp_path, clock)
    session.report(step=0, total_steps=10, samples_consumed=0)
    with session.data_wait():
        clock.pass_ms(500)
    clock.pass_ms(500)
    with session.checkpoint():
        clock.pass_ms(9000)
    session.report(step=1, total_steps=10, samples_consumed=64)
    assert progress_of(tmp_path).samples_per_second == 64


def test_a_resume_is_told_and_drops_the_metrics_of_steps_that_are_taken_again(tmp_path: Path) -> None:
    first = session_in(tmp_path)
    for step in (0, 1, 2, 3):
        first.report(step=step, total_steps=4)
        first.checkpoint_saved(step)
    again = session_in(tmp_path)
    again.passed_over = ["checkpoint-3: model.bin is missing"]
    again.resumed(2)
    again.report(step=2, total_steps=4)
    told = progress_of(tmp_path)
    assert (told.resumed_from_step, told.last_checkpoint_step) == (2, 2)
    assert told.checkpoints_passed_over == "checkpoint-3: model.bin is missing"
    assert [line.partition(",")[0] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        '{"step":1',
        '{"step":2',
    ]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_left_out_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float
) -> None:
    session = session_in(tmp_path)
    for _ in range(3):
        session.report(step=7, total_steps=7, loss=loss, learning_rate=0.5)
    told = progress_of(tmp_path)
    assert (told.step, told.loss, told.learning_rate) == (7, None, "0.5")
    assert capsys.readouterr().err == f"costopt: loss is {loss} after step 7, which is not reported\n"


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        ({"step": -1, "total_steps": 2}, "step must be a whole number from 0, not -1"),
        ({"step": 1, "total_steps": 2.5}, "total_steps must be a whole number from 0, not 2.5"),
        ({"step": "1", "total_steps": 2}, "step must be a whole number from 0, not '1'"),
        ({"step": 1, "total_steps": 2, "loss": [1, 2]}, "loss must be one number"),
        ({"step": 1, "total_steps": 2, "results": {str(n): n for n in range(65)}}, "results of a report: "),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path: Path, report: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace(".", r"\.")):
        session_in(tmp_path).report(**report)


def test_a_report_that_cannot_be_written_ends_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    session = session_in(tmp_path)
    for step in range(4):
        session.report(step=step, total_steps=3)
        session.checkpoint_saved(step)
    assert progress_of(tmp_path).step == 3, "what can be written is"
    said = capsys.readouterr().err
    assert said.startswith("costopt: progress is not reported: ")
    assert said.count("\n") == 1
