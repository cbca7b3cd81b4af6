"""What a program of the user's own is told, and how it ends: real processes, without torch."""

import signal
from pathlib import Path

from builders.session import progress_of, run_program, session_in, start_program
from builders.waiting import wait_for

WORK = """
    import itertools, time
    session.report(step=0, total_steps=1000)
    for step in itertools.count(1):
        session.report(step=step, total_steps=1000)
        if session.should_stop():
            with session.checkpoint():
                open("saved", "w").write(str(step))
            session.checkpoint_saved(step)
            session.leave()
        print("working")
        time.sleep(0.01)
"""


def test_after_sigterm_a_program_saves_and_leaves_with_143_and_all_that_it_did_is_productive(tmp_path: Path) -> None:
    program = start_program(tmp_path, WORK)
    assert program.stdout is not None
    assert any("working" in line for line in program.stdout)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=240)
    assert program.returncode == 143, errors
    told = progress_of(tmp_path)
    assert told.last_checkpoint_step == told.step == int((tmp_path / "saved").read_text())
    assert told.metered is not None
    assert told.metered.productive > 0


def test_a_program_that_never_asks_whether_to_stop_ends_as_it_would_without_us(tmp_path: Path) -> None:
    code = "import time; session.report(step=0, total_steps=9); print('working'); time.sleep(600)"
    program = start_program(tmp_path, code)
    assert program.stdout is not None
    assert any("working" in line for line in program.stdout)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=240)
    assert program.returncode == -signal.SIGTERM


def test_signals_are_heard_in_the_main_thread_only_and_a_helper_that_was_forked_ends_at_them(tmp_path: Path) -> None:
    """Python's multiprocessing ends its helpers so, and then waits for them."""
    code = """
        import multiprocessing, threading, time
        def ask():
            try:
                session.should_stop()
            except RuntimeError as error:
                print(error)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        session.should_stop()
        context = multiprocessing.get_context("fork")
        begun = context.Event()  # a signal between the fork and Python's first line in it would be lost
        def work():
            begun.set()
            time.sleep(600)
        helper = context.Process(target=work)
        helper.start()
        begun.wait()
        helper.terminate()
        helper.join()
        print(helper.exitcode)
        """
    said = "should_stop must first be called in the main thread, which alone hears signals"
    assert run_program(tmp_path, code).stdout == f"{said}\n143\n"


ENDS = {
    "well": ("pass", 0, ""),
    "by sys.exit": ("sys.exit(5)", 5, ""),
    "by sys.exit with a sentence": ("sys.exit('no data')", 1, "no data\n"),
    "by an error": ("raise ZeroDivisionError('the cause')", 1, "ZeroDivisionError: the cause\n"),
    "by an error after a stop, alone": ("session.SESSION.asked = True; raise RuntimeError('mine')", 1, "mine\n"),
    "by the loss of a peer that was stopped, too": (
        "session.SESSION.asked = True; session.SESSION.ranks.others = object; raise RuntimeError('closed by peer')",
        143,
        "costopt: stopped with the other ranks: closed by peer\n",
    ),
}
IN_A_FORK = """
import atexit, os, sys
class Group:
    def __del__(self):
        print("a destructor that may wait for ever")
for how in {hows!r}:
    child = os.fork()
    if child == 0:
        os.dup2(1, 2)
        group = Group()
        atexit.register(print, "what was to be done at the exit")
        with session.running():
            exec(how)
    _, status = os.waitpid(child, 0)
    print("code", os.waitstatus_to_exitcode(status), flush=True)
"""


def test_a_program_within_running_leaves_at_once_however_it_ends(tmp_path: Path) -> None:
    answer = run_program(tmp_path, IN_A_FORK.format(hows=[how for how, _, _ in ENDS.values()]))
    *each, _ = answer.stdout.split("what was to be done at the exit\n")
    ends = answer.stdout.split("code ")
    assert answer.returncode == 0, answer.stderr
    assert len(each) == len(ENDS), answer.stdout
    assert "destructor" not in answer.stdout
    for (_, code, said), text, after in zip(ENDS.values(), each, ends[1:], strict=True):
        assert (text.endswith(said), int(after.split()[0])) == (True, code), answer.stdout


def test_the_last_steps_are_told_at_the_end_and_no_torch_is_imported(
    tmp_path: Path,
) -> None:
    answer = run_program(
        tmp_path,
        """
        import sys
        for step in range(6): session.report(step=step, total_steps=1000)
        print({"torch", "numpy", "transformers"} & set(sys.modules))
        """,
    )
    assert progress_of(tmp_path).step == 5
    assert "set()" in answer.stdout, "and no torch is imported for it"


def test_without_costopt_nothing_is_told_and_nobody_is_stopped(tmp_path: Path) -> None:
    code = """
        import os, signal
        with session.running():
            session.resumed(1)
            session.report(step=1, total_steps=2, loss=float("nan"))
            with session.data_wait(), session.evaluation() as pieces, session.checkpoint():
                pieces.done(1, 2)
            session.checkpoint_saved(1)
            assert not session.should_stop() and not session.is_under_costopt()
            assert session.artifact("nowhere") is None and session.storage() is None
            assert (session.rank(), session.local_rank(), session.world_size()) == (0, 0, 1)
            assert str(session.checkpoints("mine")) == "mine"
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            session.leave()
        print("goes on")
        with session.running():
            raise ZeroDivisionError
        """
    answer = run_program(tmp_path, code, under_costopt=False)
    assert answer.stdout == "goes on\n"
    assert answer.stderr.endswith("ZeroDivisionError\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_rank_knows_its_place(tmp_path: Path) -> None:
    session = session_in(tmp_path, rank=3, local_rank=1)
    ranks = session.ranks
    assert (ranks.get_rank(), ranks.get_local_rank(), ranks.get_world_size()) == (3, 1, 4)
    assert session.checkpoints() == tmp_path / "checkpoints"


def test_a_long_checkpoint_is_no_silence(tmp_path: Path) -> None:
    program = start_program(
        tmp_path,
        """
        import time
        session.report(step=1, total_steps=2)
        with session.checkpoint():
            time.sleep(600)
        """,
    )
    assert program.stdout is not None
    lines = []
    wait_for(lambda: lines.append(program.stdout.readline()) or "SavingCheckpoint" in lines[-1], seconds=240)
    program.kill()
    program.communicate()
