"""Programs of the trainer's that answer a question of a command's, in a process of their own.

ask     one question, one answer
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from costopt.hostile import MAX_JSON_BYTES, parse_json
from costopt.isolation import own_program
from costopt.refused import Refused
from costopt.schema.replica import EXIT_DONE, EXIT_NOT_RETRYABLE, phase_in_log

T = TypeVar("T")


def ask(module: str, question: str, read: Callable[[Any], T], *, task: str, max_bytes: int = MAX_JSON_BYTES) -> T:
    """What `read` makes of the answer of `module`, which is told `question` on its standard input.

    The answer is its last line, JSON; what it prints before goes to standard error, each phase once. Raises Refused in
    the program's own sentence, or one that names its `task` if it ends without an answer.
    """
    pipe, last, told = subprocess.PIPE, "", ""
    # All that it writes passes through this program's own output, which makes it safe for a terminal.
    with subprocess.Popen(own_program(module), stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdin is not None  # noqa: S101  asked for above
        assert process.stdout is not None  # noqa: S101
        with process.stdin as stream:
            stream.write(question)
        for line in process.stdout:
            phase = phase_in_log([line])
            if phase is not None:
                if phase.words != told:
                    print(told := phase.words, file=sys.stderr)
                continue
            sys.stderr.write(last)
            last = line
    try:
        answer = parse_json(last.encode(), max_bytes=max_bytes)
        if process.returncode == EXIT_DONE:
            return read(answer)
        if process.returncode == EXIT_NOT_RETRYABLE:
            raise Refused(str(answer["refused"]))
    except (ValueError, KeyError, TypeError):
        pass
    sys.stderr.write(last)
    raise Refused(f"{task}, but ended with code {process.returncode}")
