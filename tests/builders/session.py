"""Sessions under costopt, as the launcher would have them, without one."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from costopt import names
from costopt.schema.replica import Progress, progress_in_log
from costopt_trainer.phases import Voice
from costopt_trainer.session.core import Session

MS = 10**6


class Clock:
    """Nanoseconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        """Let time go by."""
        self.now += int(milliseconds * MS)


def environment_of(folder: Path, rank: int = 0, local_rank: int | None = None) -> dict[str, str]:
    """What the launcher tells a rank whose job has its storage in `folder`."""
    return {
        names.ENV_STORAGE_DIR: str(folder),
        names.ENV_PROGRESS_FILE: str(folder / "progress.json"),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank if local_rank is None else local_rank),
        "WORLD_SIZE": "4",
    }


def session_in(folder: Path, clock: Clock | None = None, *, rank: int = 0, local_rank: int | None = None) -> Session:
    """A session in this process, whose clock is moved by hand and which prints no phases."""
    silent = Voice()
    silent.speak_up = lambda **_: None  # type: ignore[method-assign, assignment]
    return Session(environment_of(folder, rank, local_rank), clock or Clock(), silent)


def progress_of(folder: Path) -> Progress:
    """What was told last."""
    return Progress.model_validate_json((folder / "progress.json").read_text())


def told_in(output: str) -> Progress | None:
    """The newest report among the lines that a program has printed."""
    return progress_in_log(output.splitlines())


def start_program(folder: Path, code: str, *, under_costopt: bool = True) -> subprocess.Popen[str]:
    """Start a program in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if name not in names.RESERVED_ENVIRONMENT}
    alone = {**environment_of(folder), "WORLD_SIZE": "1"} if under_costopt else {}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "from costopt_trainer import session\n" + textwrap.dedent(code)],
        cwd=folder,
        env=inherited | alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_program(folder: Path, code: str, *, under_costopt: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder` to its end."""
    process = start_program(folder, code, under_costopt=under_costopt)
    output, errors = process.communicate(timeout=800)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
