"""The local shell with real processes: gangs end, fail, restart and are suspended, and every end is counted."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from builders.local import (
    INT8,
    RECIPE,
    argv_of,
    given_job,
    job,
    price_book,
    processes_below,
    recipe_job,
    runner_in,
)
from costopt.accounting.bill import make_bill
from costopt.accounting.intervals import held_of
from costopt.local import apply
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner, TurnResult
from costopt.local.supervisor import GRACE_SECONDS
from costopt.plan.decide import is_final
from costopt.refused import Refused
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus


def condition(status: JobStatus, kind: str) -> tuple[str, str]:
    found = next(condition for condition in status.conditions if condition.type == kind)
    return found.status, found.reason


def test_a_gang_that_ends_well_ends_the_job_and_each_replica_is_recorded(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    status = runner_in(tmp_path / "run", job(), "finish").run()
    took = datetime.now(UTC) - began

    assert condition(status, "Succeeded") == ("True", "Completed")
    records = RunFolder(tmp_path / "run").ledger().records
    assert sorted((record.attempt, record.index, record.outcome) for record in records) == [
        (0, 0, "Succeeded"),
        (0, 1, "Succeeded"),
    ]  # in the order in which they ended
    assert all(timedelta(seconds=0.3) <= record.held_until - record.held_from <= took for record in records)
    assert records[0].resources == {"cpu": "1", "memory": "1073741824"}
    assert processes_below(tmp_path / "run") == []


def test_the_status_on_disk_is_the_one_that_run_returns_and_its_bill_is_that_of_the_ledger(tmp_path: Path) -> None:
    status = runner_in(tmp_path / "run", job(), "finish").run()

    run_folder = RunFolder(tmp_path / "run")
    assert run_folder.status() == status
    assert status.bill is not None
    assert status.bill.list_cost is not None
    microseconds = sum(held_of(record).microseconds for record in run_folder.ledger().records)
    hours = Decimal(microseconds) / 3_600_000_000
    cpu_hours = sum(Decimal(line.consumed_quantity) for line in status.bill.lines if line.resource == "cpu")
    assert abs(cpu_hours - hours) < Decimal("1e-8")
    assert Decimal(status.bill.list_cost) == sum(Decimal(line.list_cost or "nan") for line in status.bill.lines)


def test_one_replica_that_fails_ends_the_whole_gang_and_another_attempt_follows(tmp_path: Path) -> None:
    status = runner_in(tmp_path / "run", job(), "fail once").run()

    assert condition(status, "Succeeded")[0] == "True"
    [train] = status.stages
    assert (train.attempt, train.failures, train.disruptions) == (1, 1, 0)
    assert status.failure is not None
    assert (status.failure.attempt, status.failure.replica_index, status.failure.exit_code) == (0, 1, 7)
    outcomes = {(r.attempt, r.index): r.outcome for r in RunFolder(tmp_path / "run").ledger().records}
    assert outcomes == {(0, 0): "Failed", (0, 1): "Failed", (1, 0): "Succeeded", (1, 1): "Succeeded"}


def test_a_job_that_keeps_failing_ends_failed_after_max_failures(tmp_path: Path) -> None:
    limited = job(train={"numNodes": 1}, restarts={"maxFailures": 1})
    status = runner_in(tmp_path / "run", limited, "fail").run()

    assert condition(status, "Succeeded") == ("False", "TrainingFailed")
    assert status.stages[0].failures == 2
    assert len(RunFolder(tmp_path / "run").ledger().records) == 2


def test_the_next_attempt_begins_when_its_pause_is_over_and_nothing_runs_meanwhile(tmp_path: Path) -> None:
    status = runner_in(tmp_path / "run", job(restarts={"backoffSeconds": 3}), "fail once").run()

    records = RunFolder(tmp_path / "run").ledger().records
    last_end = max(record.held_until for record in records if record.attempt == 0)
    first_begin = min(record.held_from for record in records if record.attempt == 1)
    assert first_begin - last_end >= timedelta(seconds=1.5)
    assert status.stages[0].attempt_start_time is not None
    assert first_begin >= status.stages[0].attempt_start_time


def test_suspending_stops_the_gang_and_running_again_resumes_with_the_next_attempt(tmp_path: Path) -> None:
    runner = runner_in(tmp_path / "run", job(), "wait once")

    def suspend_when_it_runs(look: TurnResult) -> None:
        runner.suspend_requested |= len(list((tmp_path / "run/replicas").glob("*/supervisor.json"))) == 2

    suspended = runner.run(suspend_when_it_runs)
    assert condition(suspended, "Suspended")[0] == "True"
    assert processes_below(tmp_path / "run") == []
    assert {record.outcome for record in RunFolder(tmp_path / "run").ledger().records} == {"Suspended"}

    resumed = runner_in(tmp_path / "run", job(), "wait once").run()
    assert condition(resumed, "Succeeded")[0] == "True"
    assert (resumed.execution, resumed.stages[0].attempt, resumed.stages[0].failures) == (2, 1, 0)
    assert resumed.stages[0].disruptions == 0


def _ran(folder: Path, tiny: CostOptJob, *, retry: bool) -> tuple[JobStatus, bool]:
    """Run the job in its folder, or resume it, as `costopt run` does."""
    run_folder = RunFolder(folder)
    run_folder.create()
    status, again = run_folder.begin(tiny, retry=retry)
    if not is_final(status):
        status = Runner(run_folder, tiny, price_book(), argv=argv_of("finish")).run()
    return status, again


def test_a_job_that_has_succeeded_goes_on_with_other_settings_if_told_to_and_its_bill_grows(tmp_path: Path) -> None:
    one = {"numNodes": 1}
    before, longer = job(train=one), job(train={**one, "command": ["true", "--steps=200"]})
    first, _ = _ran(tmp_path / "run", before, retry=False)
    with pytest.raises(Refused, match=r"spec.train.command is not what it was .* add --retry to go on from its last"):
        _ran(tmp_path / "run", longer, retry=False)
    assert RunFolder(tmp_path / "run").status() == first, "a refusal changes nothing"

    second, again = _ran(tmp_path / "run", longer, retry=True)
    run_folder = RunFolder(tmp_path / "run")
    assert again
    assert condition(second, "Succeeded")[0] == "True"
    assert (first.execution, second.execution) == (1, 2)
    assert [record.attempt for record in run_folder.ledger().records] == [0, 1]
    assert second.bill == make_bill(run_folder.ledger().records, price_book())
    assert run_folder.job() == longer
    assert _ran(tmp_path / "run", longer, retry=True) == (second, False), "it is what was asked for already"
    assert _ran(tmp_path / "run", longer, retry=False) == (second, False)


def test_a_step_that_the_job_itself_has_saved_is_no_earlier_jobs_when_it_begins_anew(tmp_path: Path) -> None:
    before, longer = job(), job(train={"command": ["true", "--steps=200"]})
    ended, _ = _ran(tmp_path / "run", before, retry=False)
    run_folder = RunFolder(tmp_path / "run")
    own = Progress(step=20, total_steps=20, resumed_from_step=12)
    run_folder.write_status(ended.model_copy(update={"progress": own}))
    status, again = run_folder.begin(longer, retry=True)
    assert again
    # Its attempts report it again; as the job's first news that would be the step that an earlier job had come to.
    assert (status.progress, status.continues_from_step) == (own, None)
    assert not is_final(status)


def test_a_suspended_job_goes_on_with_other_settings_if_told_to(tmp_path: Path) -> None:
    one = {"numNodes": 1}
    suspended, _ = _ran(tmp_path / "run", job(train=one, suspend=True), retry=False)
    assert condition(suspended, "Suspended")[0] == "True"
    status, again = _ran(tmp_path / "run", job(train={**one, "command": ["false"]}), retry=True)
    assert (again, condition(status, "Succeeded")[0]) == (True, "True")


def test_a_runner_killed_as_it_begins_anew_leaves_settings_that_still_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"numNodes": 1}
    _ran(tmp_path / "run", job(train=one), retry=False)
    longer = job(train={**one, "command": ["true", "--steps=200"]})
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "claim", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _ran(tmp_path / "run", longer, retry=True)
    assert RunFolder(tmp_path / "run").job() == job(train=one)
    status, again = _ran(tmp_path / "run", longer, retry=True)
    assert (again, condition(status, "Succeeded")[0]) == (True, "True")


def test_settings_that_do_not_fit_leave_a_run_that_has_succeeded_as_it_was(tmp_path: Path) -> None:
    one = {"numNodes": 1}
    before = recipe_job(train=one, compress=[])
    wider = recipe_job(train={**one, "recipe": {**RECIPE, "totalSteps": 40}}, compress=[])
    first, _ = _ran(tmp_path / "run", before, retry=False)
    run_folder = RunFolder(tmp_path / "run")
    earlier = run_folder.succeeded()
    assert earlier is not None

    run_folder.begin(wider, retry=True)
    tried = Runner(run_folder, wider, price_book(), argv=argv_of("refuse")).run()
    failure = earlier.refusal(tried)
    assert failure is not None
    assert (failure.reason, condition(tried, "Succeeded")[0]) == ("InvalidSettings", "False")
    run_folder.put_back(earlier, tried.bill)
    assert run_folder.job() == before
    status = run_folder.status()
    assert status == first.model_copy(update={"bill": status.bill})
    assert status.bill == make_bill(run_folder.ledger().records, price_book()), "what the try has cost is counted"
    assert len(run_folder.ledger().records) == 2

    went_on = tried.model_copy(update={"progress": Progress(step=30, total_steps=40, resumed_from_step=20)})
    assert earlier.refusal(went_on) is None, "steps were taken, so checkpoints are no longer what they were"
    crashed = tried.model_copy(update={"failure": failure.model_copy(update={"reason": "ProcessFailed"})})
    assert earlier.refusal(crashed) is None


def test_a_variant_that_runs_out_of_memory_twice_is_not_tried_again(tmp_path: Path) -> None:
    asked = given_job(INT8, restarts={"maxFailures": 9, "backoffSeconds": 0})
    status = runner_in(tmp_path / "run", asked, "run out of memory").run()
    assert condition(status, "Succeeded") == ("False", "VariantFailed")
    [stage] = status.stages
    assert (stage.state, stage.attempt, stage.failures_by_reason) == ("Failed", 1, {"OutOfMemory": 2})
    assert status.failure is not None
    assert "for model and variant are held at once" in status.failure.message
    assert status.bill is not None
    assert {line.stage for line in status.bill.lines} == {"int8"}


def test_stopping_at_once_kills_even_what_ignores_sigterm(tmp_path: Path) -> None:
    runner = runner_in(tmp_path / "run", job(), "hang")
    began = datetime.now(UTC)

    def kill_when_it_runs(look: TurnResult) -> None:
        nonlocal began
        if not runner.kill_requested and len(processes_below(tmp_path / "run")) == 6:
            # Supervisor, launcher and child, twice.
            runner.suspend_requested = runner.kill_requested = True
            began = datetime.now(UTC)

    runner.run(kill_when_it_runs)
    assert datetime.now(UTC) - began < timedelta(seconds=GRACE_SECONDS)
    assert processes_below(tmp_path / "run") == []


def test_a_suspended_manifest_starts_nothing(tmp_path: Path) -> None:
    status = runner_in(tmp_path / "run", job(suspend=True), "finish").run()

    assert condition(status, "Suspended") == ("True", "SuspendRequested")
    assert not (tmp_path / "run/replicas").exists()


def test_a_budget_that_is_used_up_suspends_the_job_and_a_larger_one_lets_it_go_on(tmp_path: Path) -> None:
    dear = price_book(cpu="3600", memory="0")  # one unit of money per vCPU-second
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()

    def run(amount: str) -> JobStatus:
        spec = job(budget={"amount": amount}, priceBookName="sample")
        run_folder.claim(spec)
        return Runner(run_folder, spec, dear, argv=argv_of("wait once")).run()

    assert condition(run("1"), "Suspended") == ("True", "BudgetExceeded")
    assert condition(run("1"), "Suspended") == ("True", "BudgetExceeded")
    assert len(run_folder.ledger().records) == 2
    assert condition(run("1000"), "Succeeded")[0] == "True"


def test_a_job_with_a_budget_begins_nothing_without_the_prices_and_goes_on_with_them(tmp_path: Path) -> None:
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    spec = job(budget={"amount": "1000"}, priceBookName="sample")

    def run(book: PriceBook | None) -> JobStatus:
        run_folder.claim(spec)
        return Runner(run_folder, spec, book, argv=argv_of("finish")).run()

    assert condition(run(None), "Suspended") == ("True", "PriceUnknown")
    assert condition(run(price_book(cpu="1")), "Suspended") == ("True", "PriceUnknown")
    assert list(run_folder.replica_paths()) == []
    assert condition(run(price_book(cpu="1", memory="0")), "Succeeded")[0] == "True"


def test_the_clock_is_an_argument(tmp_path: Path) -> None:
    far = datetime(2040, 5, 6, tzinfo=UTC)
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    run_folder.claim(job(suspend=True))
    status = Runner(run_folder, job(suspend=True), None, clock=lambda: far).run()
    assert status.start_time == far


def test_a_replica_whose_settings_are_in_its_folder_finds_them_through_its_environment(tmp_path: Path) -> None:
    runner_in(tmp_path / "run", job(), "finish").run()
    settings = json.loads((tmp_path / "run/replicas/tiny-train-a0-1/settings.json").read_text())
    assert settings["numNodes"] == 2
    assert (tmp_path / "run/logs/tiny-train-a0-1.log").read_text() == "working\n"


def test_a_users_program_may_print_its_progress(tmp_path: Path) -> None:
    status = runner_in(tmp_path / "run", job(), "print progress").run()
    assert status.progress == Progress(step=4, total_steps=9, loss="1.5")


def run_with_a_clock_that_is_set_forward(folder: Path, clock_of: str, seconds: float) -> JobStatus:
    """A job whose first attempt waits in silence, in a world whose `clock_of` is ahead while that is so."""
    ahead, looks, began = [0.0], [0], time.monotonic()

    def set_forward(look: TurnResult) -> None:
        waits = (
            bool(list(folder.glob("replicas/tiny-train-a0-*/supervisor.json"))) and look.status.stages[0].attempt == 0
        )
        looks[0] += waits
        ahead[0] += seconds if waits else 0.0
        runner.suspend_requested |= looks[0] >= 20

    run_folder = RunFolder(folder)
    run_folder.create()
    tiny = job(restarts={"stallTimeoutSeconds": 10})
    run_folder.claim(tiny)
    steady = ahead if clock_of == "the observer" else [0.0]
    runner = Runner(
        run_folder,
        tiny,
        None,
        clock=lambda: datetime.now(UTC) + timedelta(seconds=ahead[0]),
        steady_clock=lambda: time.monotonic() - began + steady[0],
        pause=lambda _: time.sleep(0.05),
        argv=argv_of("wait once"),
    )
    return runner.run(set_forward)


def test_a_silent_gang_is_restarted(tmp_path: Path) -> None:
    status = run_with_a_clock_that_is_set_forward(tmp_path / "run", "the observer", 1.5)
    assert status.failure is not None
    assert status.failure.reason == "Stalled"
    assert condition(status, "Succeeded")[0] == "True"
    outcomes = {(r.attempt, r.outcome) for r in RunFolder(tmp_path / "run").ledger().records}
    assert outcomes == {(0, "Stalled"), (1, "Succeeded")}


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_is_set_makes_nobody_silent(tmp_path: Path, seconds: float) -> None:
    status = run_with_a_clock_that_is_set_forward(tmp_path / "run", "the machine", seconds)
    assert (status.failure, condition(status, "Suspended")[0]) == (None, "True")


def test_a_machine_that_slept_for_an_hour_makes_nobody_silent(tmp_path: Path) -> None:
    """Should its steady clock go on meanwhile: one look an hour late is no hour of silence."""
    folder, asleep = tmp_path / "run", [0.0]
    run_folder = RunFolder(folder)
    run_folder.create()
    tiny = job(restarts={"stallTimeoutSeconds": 10})
    run_folder.claim(tiny)
    looks = [0]

    def sleep_once(_look: TurnResult) -> None:
        looks[0] += len(list(folder.glob("replicas/tiny-train-a0-*/supervisor.json"))) == 2
        asleep[0] = 3600.0 if looks[0] > 3 else 0.0
        runner.suspend_requested |= looks[0] > 8

    runner = Runner(
        run_folder, tiny, None, steady_clock=lambda: time.monotonic() + asleep[0], argv=argv_of("wait once")
    )
    status = runner.run(sleep_once)
    assert (status.failure, condition(status, "Suspended")[0]) == (None, "True")


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        ("raise RuntimeError('no such luck')", "ended at its start with exit code 1: RuntimeError: no such luck"),
        ("raise SystemExit(3)", "ended at its start with exit code 3"),
    ],
)
def test_a_supervisor_that_dies_at_birth_is_a_failure_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str, says: str
) -> None:
    monkeypatch.setattr(apply, "own_program", lambda *_: (sys.executable, "-c", spoiled))
    status = runner_in(tmp_path / "run", job(restarts={"maxFailures": 1}), "finish").run()
    assert condition(status, "Succeeded")[0] == "False"
    [train] = status.stages
    assert (train.failures, train.disruptions) == (2, 0)
    assert status.failure is not None
    assert status.failure.reason == "StartFailed"
    assert says in status.failure.message
    assert {record.outcome for record in RunFolder(tmp_path / "run").ledger().records} <= {"Failed", "Stopped"}


def test_a_supervisor_that_is_killed_at_birth_is_a_disruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(apply, "own_program", lambda *_: (sys.executable, "-c", kill))
    status = runner_in(tmp_path / "run", job(restarts={"maxDisruptions": 1}), "finish").run()
    [train] = status.stages
    assert (train.failures, train.disruptions) == (0, 2)


def test_a_launcher_that_dies_without_a_word_of_its_own_leaves_the_end_of_its_log(tmp_path: Path) -> None:
    tiny = job(restarts={"maxFailures": 0})
    run_folder = RunFolder(tmp_path / "run")
    run_folder.create()
    run_folder.claim(tiny)
    argv = (sys.executable, "-c", "raise ImportError('\\x1b[2J is missing')")
    status = Runner(run_folder, tiny, None, argv=argv).run()
    assert status.failure is not None
    assert status.failure.log_tail[-1].startswith("ImportError: ")
    assert "\x1b" not in status.failure.log_tail[-1]
