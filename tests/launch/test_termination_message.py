"""The termination message: which rank it names, what it keeps of a long story, and how an echo is told."""

import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.hostile import within
from costopt.oom_kills import count_oom_kills
from costopt.schema.replica import (
    EXIT_PREEMPTED,
    FailureReason,
    MeteredMilliseconds,
    Progress,
    RestartCause,
    TerminationMessage,
)
from costopt.schema.variant_report import (
    MAX_PARETO,
    Measurement,
    ParetoRow,
    QualityChange,
    Search,
    VariantFault,
    VariantStatus,
)
from costopt_trainer.cgroup import usable_processors
from costopt_trainer.errors import memory_reason
from costopt_trainer.launch.log_relay import Line
from costopt_trainer.launch.rank_error import RankError, error_from_lines, read_error, record_error
from costopt_trainer.launch.termination_message import (
    RankEnd,
    describe,
    first_failure,
    replica_exit_code,
    to_bytes,
    write,
)

LOST = RankError("RuntimeError", "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
OWN = RankError("ValueError", "loss is wrong")

FIRST = [
    ("the earlier of two failures", [RankEnd(0, 1, 5.0), RankEnd(1, 1, 4.0)], 1, 1),
    ("the cause before an earlier echo", [RankEnd(0, 1, 4.0, LOST), RankEnd(1, 1, 5.0, OWN)], 1, 1),
    ("a failure before a stop", [RankEnd(0, 143, 1.0), RankEnd(1, 1, 2.0, OWN)], 1, 1),
    ("a stop before an echo of it", [RankEnd(0, 1, 1.0, LOST), RankEnd(1, 143, 2.0)], 1, 143),
    ("not the one the launcher ended", [RankEnd(0, -9, 4.0, by_itself=False), RankEnd(1, 1, 5.0, LOST)], 1, 1),
    ("a rank killed by SIGTERM on a stop", [RankEnd(0, -15, 4.0, told_to_stop=True)], 0, 143),
    ("settings that no retry mends", [RankEnd(0, 1, 4.0, LOST), RankEnd(1, 78, 4.1)], 1, 78),
    ("nobody", [RankEnd(0, 0, 4.0), RankEnd(1, 0, 5.0)], None, 0),
]


@pytest.mark.parametrize(("ends", "rank", "exit_code"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
def test_the_message_names(ends: list[RankEnd], rank: int | None, exit_code: int) -> None:
    first = first_failure(ends)
    assert (first.rank if first else None) == rank
    assert replica_exit_code(first) == exit_code


VERIFIER_KILLED = "the process that verifies the artifact was killed by signal: Killed"
WORKER_KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "

REASONS = [
    (RankEnd(0, -9, 1.0), True, "OutOfMemory"),
    (RankEnd(0, -9, 1.0), False, "ProcessKilled"),
    (RankEnd(0, 137, 1.0), True, "OutOfMemory"),
    (RankEnd(0, 137, 1.0), False, "ProcessKilled"),
    (RankEnd(0, 1, 1.0, RankError("OutOfMemoryError", "CUDA out of memory.")), False, "DeviceOutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", "CUDA error: out of memory")), False, "DeviceOutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", "CUBLAS_STATUS_ALLOC_FAILED when")), False, "DeviceOutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("MemoryError", "")), False, "OutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", "DefaultCPUAllocator: can't allocate memory")), False, "OutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("OSError", "[Errno 12] Cannot allocate memory")), False, "OutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", WORKER_KILLED)), True, "OutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", VERIFIER_KILLED)), True, "OutOfMemory"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", VERIFIER_KILLED)), False, "ProcessFailed"),
    (RankEnd(0, 1, 1.0, RankError("RuntimeError", WORKER_KILLED)), False, "ProcessFailed"),
    (RankEnd(0, 127, 1.0), False, "CommandNotFound"),
    (RankEnd(0, 126, 1.0), False, "CommandNotFound"),
    (RankEnd(0, 139, 1.0), False, "ProcessFailed"),
    (RankEnd(0, 1, 1.0, OWN), True, "ProcessFailed"),
    (RankEnd(0, 78, 1.0, RankError("", "No text.", reason="InvalidData")), False, "InvalidData"),
]


@pytest.mark.parametrize(("end", "memory_ran_out", "reason"), REASONS)
def test_reasons(end: RankEnd, memory_ran_out: bool, reason: FailureReason) -> None:
    message = describe(end, replica_index=3, memory_ran_out=memory_ran_out, progress=None)
    assert (message.reason, message.replica_index) == (reason, 3)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=3000)
PROGRESS = st.builds(
    lambda step, total_steps, results, passed_over: Progress(
        step=step, total_steps=total_steps, results=results, checkpoints_passed_over=passed_over
    ),
    step=st.integers(0, 10**15),
    total_steps=st.integers(0, 10**15),
    passed_over=st.none() | st.text(max_size=4000) | st.just("x" * 4000),
    results=st.dictionaries(st.text(min_size=1, max_size=256), st.just("1.5"), max_size=64),
)


@settings(max_examples=150, deadline=None)
@given(
    error=ANY_TEXT,
    kind=ANY_TEXT,
    lines=st.lists(ANY_TEXT, max_size=60) | st.just(["x" * 5000] * 60) | st.just(["\U0001f680" * 2000] * 3),
    progress=st.none() | PROGRESS,
    code=st.integers(-64, 255).filter(lambda code: code not in (0, EXIT_PREEMPTED)),  # that one names no rank
)
def test_a_message_is_valid_and_within_its_limit_whatever_was_said(
    error: str, kind: str, lines: list[str], progress: Progress | None, code: int
) -> None:
    end = RankEnd(2**31, code, 1.7e9, RankError(kind, error), log_tail=tuple(lines))
    message = describe(end, replica_index=10**6, memory_ran_out=False, progress=progress)
    data = to_bytes(message)
    assert len(data) <= 4096
    again = TerminationMessage.model_validate_json(data)
    assert message.message.startswith(again.message)
    assert (again.rank, again.rank_exit_code, again.reason) == (message.rank, code, message.reason)
    # What is kept of the log is its end: whole lines, or the end of the last one.
    kept = again.log_tail
    if kept and kept != message.log_tail[-len(kept) :]:
        assert len(kept) == 1
        assert message.log_tail[-1].endswith(kept[0])
    if again.message != message.message:
        assert again.log_tail == []


def test_a_message_full_of_results_keeps_its_sentence_and_drops_the_results() -> None:
    progress = Progress(
        step=1, total_steps=2, results={f"{number:03}" + "\U0001f680" * 250: "1" for number in range(64)}
    )
    end = RankEnd(0, 1, 1.0, OWN, log_tail=("last line",))
    again = TerminationMessage.model_validate_json(
        to_bytes(describe(end, replica_index=0, memory_ran_out=False, progress=progress))
    )
    assert again.message == OWN.sentence
    assert again.progress == Progress(step=1, total_steps=2)


LONGEST = "\x01" * 256
"""Six bytes for each character, as JSON writes them."""
FIGURE = "-" + "1" * 59 + "e100"
SHORT_FIGURE = "-1." + "1" * 16 + "e-100"


def longest_report() -> VariantStatus:
    measured = Measurement(
        size_bytes=10**15,
        parameters=10**15,
        nonzero_permille=1000,
        latency_microseconds=10**15,
        latency_p95_microseconds=10**15,
        validation_loss=SHORT_FIGURE,
        validation_accuracy_permille=1000,
        validation_macro_f1_permille=1000,
        engine="TorchQuantized",
        metrics={f"m{number}" + "x" * 30: SHORT_FIGURE for number in range(8)},
    )
    return VariantStatus(
        name="n" * 63,
        measured=measured,
        baseline=measured,
        size_ratio=SHORT_FIGURE,
        speedup=SHORT_FIGURE,
        validation_loss_increase=FIGURE,
        artifact="a" * 128,
        reloaded=False,
        trivial_loss=SHORT_FIGURE,
        loss_per="MaskedToken",
        bytes_per_token="1" * 16,
        quality_change=QualityChange(metric="Accuracy", change=SHORT_FIGURE, low=SHORT_FIGURE, high=SHORT_FIGURE),
        validation_samples=10**15,
        faults=[VariantFault(reason="NoBetterThanGuessing", message="x" * 128)] * 5,
        verdict="Rejected",
        search=Search(
            trials=10**15,
            seconds=10**15,
            chosen="x" * 96,
            payback_batches=10**15,
            pareto=[
                ParetoRow(
                    steps="x" * 96,
                    latency_microseconds=10**15,
                    size_bytes=10**15,
                    quality_drop_percent=SHORT_FIGURE,
                )
            ]
            * MAX_PARETO,
        ),
    )


@settings(max_examples=50, deadline=None)
@given(progress=st.none() | PROGRESS)
def test_of_the_report_on_a_variant_at_most_what_no_other_beats_is_cut(progress: Progress | None) -> None:
    message = describe(None, replica_index=0, memory_ran_out=False, progress=progress, variant=longest_report())
    data = to_bytes(message)
    assert len(data) <= 4096
    again = TerminationMessage.model_validate_json(data)
    longest = longest_report()
    assert longest.search is not None
    without = longest.model_copy(update={"search": longest.search.model_copy(update={"pareto": []})})
    assert again.exit_code == 0
    assert again.variant == without, "report.json has it, too"


def test_the_report_on_a_search_as_it_usually_is_is_not_cut() -> None:
    longest = longest_report()
    few = longest.measured.model_copy(update={"metrics": {}})
    usual = longest.model_copy(update={"faults": [], "measured": few, "baseline": few})
    data = to_bytes(describe(None, replica_index=0, memory_ran_out=False, progress=None, variant=usual))
    assert TerminationMessage.model_validate_json(data).variant == usual
    assert len(data) <= 4096


def test_the_longest_report_and_the_longest_progress_fit_together() -> None:
    most = 10**15
    progress = Progress(
        step=most,
        total_steps=most,
        samples_consumed=most,
        loss=FIGURE,
        validation_loss=FIGURE,
        learning_rate=FIGURE,
        tokens_per_second=most,
        last_checkpoint_step=most,
        resumed_from_step=most,
        checkpoints_passed_over="x" * 4096,
        metered=MeteredMilliseconds(**dict.fromkeys(MeteredMilliseconds.model_fields, most)),
        in_place_restarts=most,
        restarted_for=RestartCause(reason="ProcessFailed", message="x" * 4096, rank=most, replica_index=most),
        results={f"{number:02}{LONGEST}"[:256]: FIGURE for number in range(64)},
    )
    data = to_bytes(describe(None, replica_index=0, memory_ran_out=False, progress=progress, variant=longest_report()))
    assert len(data) <= 4096
    again = TerminationMessage.model_validate_json(data)
    assert again.variant == longest_report().model_copy(update={"search": None}), "which report.json has, too"
    assert again.progress is not None
    assert again.progress.metered == progress.metered


def test_a_replica_that_failed_hands_over_no_report_of_an_earlier_one() -> None:
    message = describe(
        RankEnd(0, 1, 1.0, OWN), replica_index=0, memory_ran_out=False, progress=None, variant=longest_report()
    )
    assert message.variant is None


def test_a_message_is_written_in_place_since_a_mounted_file_cannot_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.write_text("x" * 9000)
    inode = path.stat().st_ino
    write(path, TerminationMessage(exit_code=0))
    assert json.loads(path.read_text())["exitCode"] == 0
    assert path.stat().st_ino == inode


ECHOES = [
    ("RuntimeError", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection reset by peer", True),
    ("RuntimeError", "[enforce fail at pair.cc] Read error [127.0.0.1]:3: Connection closed by peer", False),
    ("DistBackendError", "NCCL error: remote process exited or there was a network error", True),
    ("DistBackendError", "NCCL error: invalid usage, Duplicate GPU detected", False),
    ("DistNetworkError", "The client socket has failed to connect to any network address of (10.0.0.1, 4)", True),
    ("", "[PG ID 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9) ran for 600", True),
    ("ConnectionResetError", "[Errno 104] Connection reset by peer", False),
    ("TimeoutError", "the data server timed out", False),
]


@pytest.mark.parametrize(("kind", "message", "echo"), ECHOES)
def test_an_echo_is_told_from_a_cause(kind: str, message: str, echo: bool) -> None:
    assert RankError(kind, message).is_echo is echo


def test_a_recorded_error_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    assert read_error(path) is None
    record_error(path, KeyError("a: b"), reason=None)
    error = read_error(path)
    assert error is not None
    assert (error.type, error.message, error.reason) == ("KeyError", "'a: b'", None)
    record_error(path, ValueError("The path: it is empty."), reason="InvalidData")
    error = read_error(path)
    assert error is not None
    assert (error.type, error.message, error.reason) == ("", "The path: it is empty.", "InvalidData")
    path.write_text('{"message": {"mess')
    assert read_error(path) is None


LOGS = [
    (
        ["Traceback (most recent call last):", '  File "x"', "a.b.MyError: text: more", "[W] late"],
        "MyError: text: more",
    ),
    (["Traceback (most recent call last):", "  f", "OSError: one", "Traceback (most recent call last):", "E"], "E"),
    (["terminate called after throwing", "  what():  [Rank 1] watchdog thread terminated"], "[Rank 1] watchdog thread"),
    (["all is well"], None),
    ([], None),
]


@pytest.mark.parametrize(("lines", "sentence"), LOGS)
def test_an_exception_is_found_in_the_last_lines(lines: list[str], sentence: str | None) -> None:
    error = error_from_lines([Line(text, is_stderr=True) for text in lines])
    assert (error is None) == (sentence is None)
    assert error is None or error.sentence.startswith(sentence or "")


def test_kills_for_memory_are_counted_by_the_cgroup(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/pod\n0::/some/where\n")
    assert count_oom_kills(tmp_path) is None
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.events").write_text("low 0\nmax 5\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert count_oom_kills(tmp_path) == 2
    (tmp_path / "sys/fs/cgroup/memory/pod").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/pod/memory.oom_control").write_text("under_oom 0\noom_kill 7\n")
    assert count_oom_kills(tmp_path) == 7


def test_a_cgroups_quota_limits_the_processors(tmp_path: Path) -> None:
    everything = usable_processors(tmp_path)
    assert everything >= 1
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    quota = tmp_path / "sys/fs/cgroup/cpu.max"
    quota.write_text("max 100000\n")
    assert usable_processors(tmp_path) == everything
    quota.write_text("50000 100000\n")
    assert usable_processors(tmp_path) == 1


def test_signals_are_named() -> None:
    assert describe(RankEnd(0, -signal.SIGSEGV, 0.0), replica_index=0, memory_ran_out=False, progress=None).message == (
        "Rank 0 died of SIGSEGV."
    )
    assert describe(RankEnd(2, 135, 0.0), replica_index=0, memory_ran_out=False, progress=None).message == (
        "Rank 2 died of SIGBUS (exit code 135)."
    )


def test_what_runs_out_of_an_accelerators_memory_says_so_in_its_error_file(tmp_path: Path) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    kinds = [kind.__name__ for kind in OutOfMemoryError.__mro__]
    assert memory_reason(kinds, "") == "DeviceOutOfMemory"
    record_error(tmp_path / "error.json", OutOfMemoryError("x"), reason=memory_reason(kinds, "x"))
    error = read_error(tmp_path / "error.json")
    assert error is not None
    assert error.reason == "DeviceOutOfMemory"


def test_a_pipe_or_a_link_in_the_messages_place_holds_nothing_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with within(20):
            write(tmp_path / name, TerminationMessage(exit_code=1, reason="ProcessFailed", message="It has failed."))
        assert "the termination message cannot be written" in capsys.readouterr().err
    assert (tmp_path / "secret").read_text() == "a secret"
