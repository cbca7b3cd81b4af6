"""Where time goes: a clock that the test winds by hand."""

import json
from pathlib import Path

import pytest
import torch

from builders.session import MS, Clock
from costopt import names
from costopt.schema.replica import EarlierRounds, MeteredMilliseconds, Progress, progress_in_log
from costopt_trainer.heartbeat import Heartbeat, make_page, read_beat
from costopt_trainer.reporting import meter as meter_module
from costopt_trainer.reporting.meter import Meter, process_age_ns
from costopt_trainer.reporting.reporter import Reporter
from costopt_trainer.training.process_group import ProcessGroup


def test_every_moment_is_counted_under_exactly_one_head() -> None:
    clock = Clock()
    meter = Meter(already_ns=1500 * MS, now=clock)
    heads = ("startup", "data_wait", "training", "evaluation", "checkpoint", "data_wait", "training", "selecting")
    for milliseconds, head in enumerate(heads, start=10):
        clock.pass_ms(milliseconds)
        meter.lap(head)
    metered = meter.metered()
    assert metered.startup == 1510
    assert metered.data_wait == 11 + 15
    assert metered.since_checkpoint == 12 + 13 + 16
    assert metered.checkpoint == 14
    assert metered.selecting == 17
    assert sum(metered.model_dump().values()) == 1500 + sum(range(10, 18))


def test_what_is_set_apart_is_no_part_of_the_time_around_it() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    clock.pass_ms(10)
    with meter.apart("selecting"):
        clock.pass_ms(300)
    clock.pass_ms(7)
    assert meter.metered().selecting == meter.metered().startup == 0, "of the start nothing is counted before its end"
    meter.lap("startup")
    clock.pass_ms(5)
    meter.lap("training")
    metered = meter.metered()
    assert (metered.startup, metered.selecting, metered.since_checkpoint) == (17, 300, 5)


def test_a_completed_checkpoint_makes_the_steps_before_its_snapshot_productive() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    clock.pass_ms(100)
    meter.lap("training")
    moment = meter.in_steps_ns()
    for milliseconds, head in ((30, "training"), (4, "checkpoint")):  # while it is written
        clock.pass_ms(milliseconds)
        meter.lap(head)
    metered = meter.metered()
    assert (metered.productive, metered.since_checkpoint) == (0, 130)
    meter.checkpoint_completed(moment)
    metered = meter.metered()
    assert (metered.productive, metered.since_checkpoint) == (100, 30)


def test_the_rate_counts_steps_and_waiting_for_data_but_no_checkpoints() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    assert meter.tokens_per_second(0) is None
    for milliseconds, head in ((5000, "checkpoint"), (200, "data_wait"), (300, "training"), (900, "evaluation")):
        clock.pass_ms(milliseconds)
        meter.lap(head)
    assert meter.tokens_per_second(1000) == 2000
    assert meter.tokens_per_second(0) is None


def test_a_report_is_due_once_a_second() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    clock.pass_ms(999)
    assert not meter.report_is_due()
    clock.pass_ms(1)
    assert meter.report_is_due()
    meter.reported()
    assert not meter.report_is_due()


def test_the_age_of_this_process_is_known() -> None:
    assert 0 < process_age_ns() < 10**9 * 60 * 60 * 24


def reporter(folder: Path, *, rank: int = 0, local_rank: int = 0) -> Reporter:
    gang = ProcessGroup(rank=rank, local_rank=local_rank, world_size=4, device=torch.device("cpu"))
    return Reporter(gang, folder / "progress.json", folder / "metrics.jsonl")


def test_metrics_hold_one_line_for_a_step_however_often_it_is_told(tmp_path: Path) -> None:
    told = reporter(tmp_path)
    for step in (0, 1, 1, 2):
        told.report(Progress(step=step, total_steps=2, loss="0.5"))
    lines = [Progress.model_validate_json(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.step for line in lines] == [1, 2]
    assert Progress.model_validate_json((tmp_path / "progress.json").read_text()).step == 2


def test_what_rank_0_prints_can_be_read_back_from_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(already_ns=1500 * MS)
    meter.lap("startup")
    told = Progress(step=3, total_steps=9, loss="0.5", metered=meter.metered(), results={"lossPerByte": "1.5"})
    reporter(tmp_path).report(Progress(step=2, total_steps=9))
    reporter(tmp_path).report(told)
    reporter(tmp_path, rank=1, local_rank=1).report(Progress(step=4, total_steps=9))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert progress_in_log([*lines, "another line"]) == told


def test_a_resume_drops_the_metrics_of_steps_to_come_and_a_torn_line(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"step": 4')
    told = reporter(tmp_path)
    told.resume_after(5)
    assert metrics.read_text() == '{"step": 1}\n{"step": 5}\n'
    told.report(Progress(step=5, total_steps=9))
    told.report(Progress(step=6, total_steps=9))
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 5, 6]


def test_only_the_first_rank_of_a_replica_writes_its_progress_and_only_the_first_of_all_the_metrics(
    tmp_path: Path,
) -> None:
    reporter(tmp_path, rank=3, local_rank=1).report(Progress(step=1, total_steps=2))
    assert list(tmp_path.iterdir()) == []
    reporter(tmp_path, rank=2, local_rank=0).report(Progress(step=1, total_steps=2))
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_ranks_started_anew_go_on_with_the_account_of_those_before_them_and_their_start_is_recovery() -> None:
    clock = Clock()
    before = MeteredMilliseconds(startup=900, productive=300, data_wait=5, checkpoint=7, recovery=40, lost=60)
    meter = Meter(already_ns=100 * MS, now=clock, earlier=EarlierRounds(restarts=2, metered=before))
    for head in ("startup", "data_wait", "training", "checkpoint"):
        clock.pass_ms(10)
        meter.lap(head)  # type: ignore[arg-type]
    assert meter.metered() == MeteredMilliseconds(
        startup=900, productive=300, since_checkpoint=10, data_wait=15, checkpoint=17, recovery=150, lost=60
    )
    told = meter.goes_on_from(40)
    assert told == {"in_place_restarts": 2, "restarted_for": None}
    assert Meter().goes_on_from(0) == {"in_place_restarts": None, "restarted_for": None}


def test_what_a_rank_leaves_for_its_launcher_is_what_its_meter_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_page(tmp_path / "page")
    heart = Heartbeat()
    heart.attach({names.ENV_HEARTBEAT_FILE: str(tmp_path / "page")})
    monkeypatch.setattr(meter_module, "HEARTBEAT", heart)
    clock = Clock()
    meter = Meter(now=clock)
    meter.goes_on_from(39)
    for head in ("startup", "data_wait", "training", "evaluation"):
        clock.pass_ms(10)
        meter.lap(head)  # type: ignore[arg-type]
    meter.checkpoint_completed(meter.in_steps_ns())
    clock.pass_ms(5)
    meter.lap("checkpoint")
    meter.step_finished(40)
    clock.pass_ms(3)
    meter.lap("training")
    beat = read_beat(tmp_path / "page")
    assert beat is not None
    assert (beat.step, beat.steps_here, beat.checkpoints) == (40, 1, 1)
    assert beat.metered == meter.metered()
