"""What a rank does: the variant, recipe or program its settings ask for; and when it fails, why, in its error file.

Exit codes: 0 done, 143 stopped after a checkpoint, 78 not worth a retry, 1 anything else.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from costopt import names
from costopt.isolation import passed_on
from costopt.schema.replica import EXIT_DONE, EXIT_NOT_RETRYABLE
from costopt_trainer.errors import NotRetryable, Retryable, memory_reason
from costopt_trainer.heartbeat import HEARTBEAT
from costopt_trainer.launch.rank_error import ERROR_FILE_VARIABLE, record_error
from costopt_trainer.launch.termination_message import EXIT_FAILED
from costopt_trainer.phases import VOICE, phase
from costopt_trainer.replica_settings import read_settings
from costopt_trainer.shutdown import leave_at_once, poll_parent


def main() -> None:
    """Run this rank; returns, or leaves at once with the exit code that says how it ended."""
    error_file = Path(os.environ.get(ERROR_FILE_VARIABLE) or os.devnull)
    try:
        _run()
    except SystemExit as end:  # while its traceback still keeps what it ran alive: see leave_at_once
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            leave_at_once(EXIT_FAILED)
        leave_at_once(end.code or EXIT_DONE)
    except (NotRetryable, Retryable) as error:
        record_error(error_file, error, reason=error.reason)
        print(f"costopt: {error.reason}: {error}", file=sys.stderr)
        leave_at_once(EXIT_NOT_RETRYABLE if isinstance(error, NotRetryable) else EXIT_FAILED)
    except Exception as error:  # noqa: BLE001 - whatever it is, the launcher must hear of it
        # By name, since torch may not be imported here.
        kinds = [kind.__name__ for kind in type(error).__mro__]
        record_error(error_file, error, reason=memory_reason(kinds, str(error)))
        traceback.print_exc()
        leave_at_once(EXIT_FAILED)


def _run() -> None:
    settings = read_settings(Path(os.environ.get(names.ENV_SETTINGS_FILE, "")))
    # Imported where used: a user's program shall not wait for a torch it may not need.
    if settings.command is not None:
        start_program(settings.command)
    HEARTBEAT.attach()
    HEARTBEAT.show_stacks_when_asked()
    # One rank of a replica speaks for all of it: they go in step.
    VOICE.speak_up(aloud=os.environ.get("LOCAL_RANK", "0") == "0")
    if settings.variant is not None:
        with phase("Importing"):
            from costopt_trainer.compress.run import main as make_variant  # noqa: PLC0415

        make_variant(settings)
    else:
        with phase("Importing"):
            from costopt_trainer.compress.foresight import refuse_unmakeable  # noqa: PLC0415
            from costopt_trainer.training.loop import main as train  # noqa: PLC0415

        if settings.recipe is not None:
            refuse_unmakeable(settings.variants_to_come or [], settings.recipe)
        train(settings)


def start_program(argv: Sequence[str], *, becomes_it: bool = sys.platform == "linux") -> NoReturn:
    """Become the user's program, without a shell; where no kernel ties it to the launcher, watch over it instead.

    Raises NotRetryable if it cannot be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if not becomes_it:
            _watch_over(subprocess.Popen(argv, env=passed_on()))
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):  # an ignored signal stays ignored after exec
            signal.signal(ignored_by_python, signal.SIG_DFL)
        os.execvpe(argv[0], list(argv), passed_on())  # noqa: S606 - no shell is meant
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise NotRetryable(
            "InvalidSettings",
            f"The program {argv[0]!r} of command cannot be started ({why}); "
            "name a program on PATH, or an executable file by its path.",
        ) from error


def _watch_over(program: subprocess.Popen[bytes]) -> NoReturn:
    """End as `program` ends, pass SIGTERM on to it, and kill it if the launcher goes."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        program.send_signal(number)

    def end_both() -> None:
        program.kill()
        os._exit(EXIT_FAILED)

    signal.signal(signal.SIGTERM, pass_on)
    threading.Thread(target=poll_parent, args=(os.getppid(), end_both), name="parent-watch", daemon=True).start()
    code = program.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
