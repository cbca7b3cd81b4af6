"""Replicas that form one gang: they find each other, sum over gloo, and end together when one fails."""

import os
import socket
import time
from pathlib import Path

import pytest

from builders.launch import ALL_REDUCE, is_alive, python, replica
from builders.ports import free_port

pytestmark = pytest.mark.slow


def test_two_replicas_form_one_gang_although_the_second_starts_first(tmp_path: Path) -> None:
    port = free_port()
    with replica(tmp_path / "1", python(ALL_REDUCE), port=port, index=1, num_nodes=2) as second:
        time.sleep(3)
        assert second.process.poll() is None
        with replica(tmp_path / "0", python(ALL_REDUCE), port=port, index=0, num_nodes=2) as first:
            assert (first.wait(), second.wait()) == (0, 0), first.notes + second.notes
    assert first.output == "sum 3 of 2\n"
    assert second.output == "[rank 1] sum 3 of 2\n"


def test_ranks_of_one_replica_know_their_places(tmp_path: Path) -> None:
    program = "import os; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')))"
    with replica(tmp_path, python(program), processes_per_node=2) as launcher:
        assert launcher.wait() == 0
    assert sorted(launcher.output.splitlines()) == ["0 0 2 2", "[rank 1] 1 1 2 2"]


def test_the_rank_that_failed_is_named_and_not_the_one_that_lost_its_connection(tmp_path: Path) -> None:
    program = """
        import torch, torch.distributed as dist
        dist.init_process_group("gloo")
        if dist.get_rank() == 1:
            raise ZeroDivisionError("the cause")
        dist.all_reduce(torch.zeros(1))
    """
    began = time.monotonic()
    with replica(tmp_path, python(program), processes_per_node=2) as launcher:
        assert launcher.wait() == 1
        message = launcher.termination
    assert (message.rank, message.message, message.echo) == (1, "ZeroDivisionError: the cause", False)
    assert time.monotonic() - began < 600, "the other one's connection is not waited for, which takes half an hour"


def test_a_replica_whose_rank_only_lost_its_connection_says_that_it_is_an_echo(tmp_path: Path) -> None:
    program = """
        import os, signal, torch, torch.distributed as dist
        dist.init_process_group("gloo")
        dist.all_reduce(torch.zeros(1))
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.zeros(1))
    """
    port = free_port()
    with (
        replica(tmp_path / "0", python(program), port=port, index=0, num_nodes=2) as first,
        replica(tmp_path / "1", python(program), port=port, index=1, num_nodes=2) as second,
    ):
        assert (first.wait(), second.wait()) == (1, 1)
    echo, cause = first.termination, second.termination
    assert (echo.rank, echo.replica_index, echo.rank_exit_code, echo.echo) == (0, 0, 1, True), echo
    assert (cause.rank, cause.replica_index, cause.rank_exit_code, cause.echo) == (1, 1, -9, False), cause
    assert cause.reason == "ProcessKilled"


def test_ranks_that_hang_and_ignore_sigterm_are_ended_soon_after_another_failed(tmp_path: Path) -> None:
    program = """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("pid", os.getpid())
        if os.environ["RANK"] == "0":
            time.sleep(600)
        sys.exit(5)
    """
    with replica(tmp_path, python(program), processes_per_node=2) as launcher:
        assert launcher.wait() == 1
        message = launcher.termination
        pids = [int(line.split()[-1]) for line in launcher.output.splitlines()]
    assert (message.rank, message.rank_exit_code) == (1, 5)
    assert not any(is_alive(pid) for pid in pids)


def test_the_gang_gives_up_when_replica_0_does_not_come(tmp_path: Path) -> None:
    with replica(tmp_path, ["true"], index=1, num_nodes=2, options=["--rendezvous-timeout", "1"]) as launcher:
        assert launcher.wait() == 1
        message = launcher.termination
    assert message.reason == "RendezvousFailed"
    assert "Replica 0 was not reachable at 127.0.0.1:" in message.message
    assert message.message.endswith("in 1 s (Connection refused).")
    assert "Traceback" not in launcher.notes


def test_a_name_that_never_resolves_ends_in_a_sentence(tmp_path: Path) -> None:
    place = {"COSTOPT_RENDEZVOUS_HOST": "replica-0.nowhere.invalid"}
    options = ["--rendezvous-timeout", "1"]
    with replica(tmp_path, ["true"], index=1, num_nodes=2, options=options, environment=place) as launcher:
        assert launcher.wait() == 1
        assert "the name does not resolve" in launcher.termination.message


def test_replica_0_gives_up_when_the_others_do_not_come(tmp_path: Path) -> None:
    with replica(tmp_path, ["true"], num_nodes=3, options=["--rendezvous-timeout", "1"]) as launcher:
        assert launcher.wait() == 1
        message = launcher.termination
    assert message.reason == "RendezvousFailed"
    assert message.message.startswith("Not all 3 replicas reached the rendezvous at 127.0.0.1:")
    assert "Traceback" not in launcher.notes


def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with replica(tmp_path, ["true"], port=port) as launcher:
            assert launcher.wait() == 1
            message = launcher.termination
    assert message.reason == "RendezvousFailed"
    assert message.message == f"Replica 0 cannot listen at 127.0.0.1:{port}: Address already in use."


def test_replica_0_stays_until_the_others_are_done(tmp_path: Path) -> None:
    program = "import os, time; time.sleep(2 * int(os.environ['RANK'])); print('done')"
    port = free_port()
    with (
        replica(tmp_path / "0", python(program), port=port, index=0, num_nodes=2) as first,
        replica(tmp_path / "1", python(program), port=port, index=1, num_nodes=2) as second,
    ):
        first.wait_for_output("done")
        time.sleep(0.5)
        assert first.process.poll() is None
        assert second.process.poll() is None
        assert (second.wait(), first.wait()) == (0, 0)


def test_a_gang_on_this_machine_is_not_reachable_from_outside(tmp_path: Path) -> None:
    port = free_port()
    with replica(tmp_path, python("import time; print('up'); time.sleep(600)"), port=port) as launcher:
        launcher.wait_for_output("up")
        listening = {
            (line.split()[1].split(":")[0])
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            if os.path.exists(table)  # noqa: PTH110
            for line in Path(table).read_text().splitlines()[1:]
            if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == port
        }
    assert listening == {"0100007F"}


def test_replica_0_does_not_wait_for_its_own_name_to_resolve(tmp_path: Path) -> None:
    port, nowhere = free_port(), {"COSTOPT_RENDEZVOUS_HOST": "replica-0.nowhere.invalid"}
    with (
        replica(tmp_path / "0", ["true"], port=port, num_nodes=2, environment=nowhere) as first,
        replica(tmp_path / "1", ["true"], port=port, num_nodes=2, index=1) as second,
    ):
        assert (first.wait(), second.wait()) == (0, 0), first.notes


def test_a_gang_of_one_needs_no_name(tmp_path: Path) -> None:
    nowhere = {"COSTOPT_RENDEZVOUS_HOST": "replica-0.nowhere.invalid"}
    with replica(tmp_path, python(ALL_REDUCE), processes_per_node=2, environment=nowhere) as launcher:
        assert launcher.wait() == 0, launcher.notes
    assert sorted(launcher.output.splitlines()) == ["[rank 1] sum 3 of 2", "sum 3 of 2"]
