"""Being told to stop, and being killed: SIGTERM, SIGINT, the end of the lifeline, SIGKILL."""

import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from builders.launch import is_alive, python, replica, wait_until_dead
from builders.trainer import recipe, text_file
from builders.waiting import wait_for

pytestmark = pytest.mark.slow

SAVES = """
    import os, signal, sys, time
    def save(number, frame):
        print("saving", flush=True)
        time.sleep({seconds})
        print("saved", flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    print("ready", os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_ranks_save_and_ends_with_143(tmp_path: Path, way: str) -> None:
    with replica(tmp_path, python(SAVES.format(seconds=0.5)), processes_per_node=2) as launcher:
        while launcher.output.count("ready") < 2:
            time.sleep(0.05)
        launcher.process.send_signal(getattr(signal, way))
        launcher.wait_for_output("saving")
        launcher.process.send_signal(signal.SIGTERM)  # a second one changes nothing
        assert launcher.wait() == 143
        assert launcher.output.count("saving") == launcher.output.count("saved") == 2
        message = launcher.termination
    assert (message.exit_code, message.reason) == (143, "Preempted")
    assert f"stopping on {way}" in launcher.notes


def test_a_training_told_to_stop_ends_with_143_at_a_checkpoint_of_its_last_step(tmp_path: Path) -> None:
    settings = {
        "jobName": "demo",
        "stage": "train",
        "numNodes": 1,
        "processesPerNode": 2,
        "recipe": recipe(text_file(tmp_path), totalSteps=10**6, checkpointing={"everySteps": 10**6}).to_plain(),
    }
    with replica(tmp_path, None, settings=settings) as launcher:
        launcher.wait_for_output('"loss":')
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
        message = launcher.termination
    assert (message.exit_code, message.reason) == (143, "Preempted")
    assert message.progress is not None
    step = message.progress.last_checkpoint_step
    assert step == message.progress.step > 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{step:08d}"]


def test_the_end_of_the_supervisor_is_like_sigterm(tmp_path: Path) -> None:
    with replica(tmp_path, python(SAVES.format(seconds=0))) as launcher:
        launcher.wait_for_output("ready")
        launcher.cut_lifeline()
        assert launcher.wait() == 143
    assert "saved" in launcher.output


def test_a_rank_that_saves_is_given_all_the_time_it_needs_although_the_other_has_stopped(tmp_path: Path) -> None:
    program = SAVES.format(seconds="7 * (os.environ['RANK'] == '0')")
    with replica(tmp_path, python(program), processes_per_node=2) as launcher:
        launcher.wait_for_output("[rank 1] ready")
        launcher.wait_for_output("\nready" if launcher.output.startswith("[") else "ready")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
    assert launcher.output.count("saved") == 2


def test_a_program_that_does_not_catch_sigterm_counts_as_preempted_when_told_to_stop(tmp_path: Path) -> None:
    with replica(tmp_path, python("import time; print('up'); time.sleep(600)")) as launcher:
        launcher.wait_for_output("up")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
        message = launcher.termination
    assert message.reason == "Preempted"
    assert message.message == "Stopped on SIGTERM; rank 0 ended with exit code -15."


def test_a_replica_is_preempted_when_only_its_ranks_were_told_by_another_replica(tmp_path: Path) -> None:
    with replica(tmp_path, python("import sys; sys.exit(143)"), processes_per_node=2) as launcher:
        assert launcher.wait() == 143


def hears_sigterm(pid: int) -> bool:
    """Whether a process has a handler of it."""
    (caught,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells which signals a process hears")
def test_a_replica_that_waits_for_the_others_stops_at_once(tmp_path: Path) -> None:
    with (
        replica(tmp_path / "0", ["true"], num_nodes=2) as holding_the_store,
        replica(tmp_path / "1", ["true"], num_nodes=2, index=1) as waiting,
    ):
        for launcher in (holding_the_store, waiting):
            wait_for(partial(hears_sigterm, launcher.process.pid), "hearing SIGTERM")
        time.sleep(3)  # to wait for the others; should one not have come so far, it is to stop all the same
        for launcher in (holding_the_store, waiting):
            launcher.process.send_signal(signal.SIGTERM)
            assert launcher.wait() == 143
            assert launcher.termination.message == "Stopped on SIGTERM before any rank started."


def test_ranks_that_finish_although_told_to_stop_are_done(tmp_path: Path) -> None:
    program = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("ready")
        time.sleep(600)
    """
    with replica(tmp_path, python(program)) as launcher:
        launcher.wait_for_output("ready")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 0


def test_a_launcher_killed_outright_takes_its_ranks_with_it(tmp_path: Path) -> None:
    program = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid())
        time.sleep(600)
    """
    with replica(tmp_path, python(program), processes_per_node=2) as launcher:
        launcher.wait_for_output("[rank 1] pid")
        launcher.wait_for_output("\npid" if launcher.output.startswith("[") else "pid")
        pids = [int(line.split()[-1]) for line in launcher.output.splitlines()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        launcher.process.kill()
        launcher.wait()
        wait_until_dead(pids)


def test_where_the_kernel_ties_nothing_the_worker_passes_sigterm_on_to_the_program(tmp_path: Path) -> None:
    code = f"""
        from costopt_trainer.rank import start_program
        start_program({python(SAVES.format(seconds=0))!r}, becomes_it=False)
    """
    with replica(tmp_path, python(code)) as launcher:
        launcher.wait_for_output("ready")
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
    assert "saved" in launcher.output
