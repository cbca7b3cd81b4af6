"""Ranks that failed are started anew by the same launchers: real launchers, real ranks, real signals."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.launch import Replica, python, replica
from builders.ports import free_port
from builders.trainer import recipe, run, text_file, train_in_gang
from builders.waiting import wait_for
from costopt.schema.replica import Progress

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def gang(folder: Path, *, in_place: int = 3, **settings: Any) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas of a rank each, with one storage."""
    plain = {"jobName": "demo", "stage": "train", "numNodes": 2, "processesPerNode": 1, "inPlaceRestarts": in_place}
    storage = {"COSTOPT_STORAGE_DIR": str(folder / "storage")}
    how: dict[str, Any] = {"port": free_port(), "settings": plain | settings, "environment": storage}
    with replica(folder / "0", None, index=0, **how) as first, replica(folder / "1", None, index=1, **how) as second:
        yield first, second


def rank_of(launcher: Replica) -> int:
    """Process id of the launcher's rank, once it has one."""
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    return int(wait_for(lambda: children.read_text().split())[0])


FAILS_IN_EACH_ROUND = """
    import os, signal, sys, time
    number, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    print(f"round {number} of {os.environ['TORCHELASTIC_MAX_RESTARTS']}", flush=True)
    if number == 0 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1 and rank == 0:
        print('{"step": 5, "totalSteps": 9, "lastCheckpointStep": 5}', flush=True)
        sys.exit(5)
    if number == 2 and rank == 0:
        print('{"step": 7, "totalSteps": 9, "lastCheckpointStep": 5}', flush=True)
        sys.exit(5)
    if number == 3 and rank == 1:
        raise ValueError("the last straw")
    time.sleep(600)
"""


def test_a_program_of_which_one_rank_fails_is_started_anew_everywhere_until_no_checkpoint_comes(tmp_path: Path) -> None:
    with gang(tmp_path, command=python(FAILS_IN_EACH_ROUND), in_place=2) as (first, second):
        assert (first.wait(), second.wait()) == (1, 1), first.notes + second.notes
        echo, cause = first.termination, second.termination
    said = [line for launcher in (first, second) for line in launcher.output.splitlines()]
    assert {"[rank 1] round 0 of 2", "round 1 of 2", "round 2 of 2", "[rank 1] round 3 of 3"} <= set(said)
    for launcher in (first, second):
        told = [line for line in launcher.notes.splitlines() if "anew in place" in line]
        exits = "ProcessFailed: Rank 0 ended with exit code 5.; starting all ranks anew in place"
        assert told == [
            "costopt: ProcessKilled: Rank 1 was killed by SIGKILL.; starting all ranks anew in place (1 of 2 in a row)",
            f"costopt: {exits} (1 of 2 in a row)",  # a checkpoint begins the count anew
            f"costopt: {exits} (2 of 2 in a row)",  # steps do not
            "costopt: ranks are not started anew in place: 2 restarts in a row have brought no checkpoint",
        ]
    assert (cause.reason, cause.rank, cause.replica_index, cause.echo) == ("ProcessFailed", 1, 1, False)
    assert cause.message == "ValueError: the last straw"
    assert (echo.message, echo.rank, echo.replica_index, echo.echo) == (cause.message, 1, 1, True)
    for message in (echo, cause):
        assert message.earlier_rounds is not None
        assert (message.earlier_rounds.restarts, message.earlier_rounds.metered.lost > 0) == (3, True)


FAILS_ON_REPLICA_0 = """
    import os, sys, time
    print("up", flush=True)
    if os.environ["RANK"] == "0":
        sys.stdin.read()
        while not os.path.exists(os.environ["COSTOPT_STORAGE_DIR"] + "/fail"):
            time.sleep(0.05)
        sys.exit(5)
    time.sleep(600)
"""


def test_a_stop_between_two_rounds_ends_at_once_and_says_which_checkpoint_there_is(tmp_path: Path) -> None:
    with gang(tmp_path, command=python(FAILS_ON_REPLICA_0)) as (first, second):
        first.wait_for_output("up")
        second.wait_for_output("up")
        second.process.send_signal(signal.SIGSTOP)  # it does not come back, so replica 0 waits for it
        (tmp_path / "storage/fail").touch()
        wait_for(lambda: not Path(f"/proc/{first.process.pid}/task/{first.process.pid}/children").read_text())
        first.process.send_signal(signal.SIGTERM)
        assert first.wait() == 143
        message = first.termination
    assert message.reason == "Preempted"
    assert message.message == "Stopped on SIGTERM while ranks were started anew in place; no progress was reported yet."


def test_a_lost_launcher_ends_the_attempt_within_a_bound(tmp_path: Path) -> None:
    with gang(tmp_path, command=python(FAILS_ON_REPLICA_0)) as (first, second):
        first.wait_for_output("up")
        second.wait_for_output("up")
        second.process.kill()
        second.wait()
        (tmp_path / "storage/fail").touch()
        assert first.wait() == 1
        assert "not started anew in place: replica 1 did not come back" in first.notes
        assert first.termination.message == "Rank 0 ended with exit code 5."


def progress_of(launcher: Replica) -> Progress | None:
    """Its latest report."""
    file = launcher.folder / "progress.json"
    return Progress.model_validate_json(file.read_text()) if file.exists() else None


def restarts(launcher: Replica) -> int:
    """How often its ranks were started anew, as they say."""
    progress = progress_of(launcher)
    return (progress.in_place_restarts or 0) if progress is not None else 0


def has_gone_on(launcher: Replica) -> bool:
    """Whether its ranks have taken a step since they began anew."""
    progress = progress_of(launcher)
    return progress is not None and progress.step > (progress.resumed_from_step or 0)


def test_a_training_whose_ranks_are_killed_and_hang_ends_with_the_weights_of_one_undisturbed(tmp_path: Path) -> None:
    text = text_file(tmp_path)
    changes = {"totalSteps": 100, "evaluation": {"everySteps": 100, "maxSamples": 8}}
    settings = recipe(text, checkpointing={"everySteps": 10}, **changes)
    codes, errors = train_in_gang([run(settings, tmp_path / "whole")], 2, tmp_path)
    assert codes == [0, 0], errors
    with gang(tmp_path, recipe=settings.to_plain(), hangTimeoutSeconds=5) as (first, second):
        wait_for(lambda: (found := progress_of(second)) is not None and found.last_checkpoint_step)
        for number, victim in enumerate((second, first), start=1):
            os.kill(rank_of(victim), signal.SIGKILL)
            wait_for(lambda number=number: restarts(second) == number)
        # Stopped before its own first step, rank 0 would have hung in its recovery.
        wait_for(lambda: restarts(first) == 2 and has_gone_on(first))
        os.kill(rank_of(first), signal.SIGSTOP)
        assert (first.wait(), second.wait()) == (0, 0), first.notes + second.notes
        ended = [first.termination.progress, second.termination.progress]
    model = "artifacts/model/model.safetensors"
    assert (tmp_path / "storage" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    for progress in ended:
        assert progress is not None
        assert (progress.step, progress.in_place_restarts) == (100, 3)
        assert progress.restarted_for is not None
        assert (progress.restarted_for.reason, progress.restarted_for.rank) == ("Stalled", 0)
        assert progress.restarted_for.message.startswith("rank 0 has been stopped (SIGSTOP) after step ")
        assert progress.metered is not None
        assert progress.metered.recovery > 0
        assert progress.metered.lost >= 5000, "the time in which it hung"
    assert "costopt: rank 0 is stopped (SIGSTOP) and cannot show its stack" in first.output
    assert "costopt: stacks of rank 1:" in second.output
    assert "most recent call first" in second.output
    lines = [json.loads(line) for line in (tmp_path / "storage/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines}), "no step twice"
