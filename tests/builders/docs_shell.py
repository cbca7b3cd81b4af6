"""The shell of a reader who has installed the project: costopt and its plugin are on the PATH."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from builders.cli import environment

PROGRAMS = {
    "costopt": "costopt.cli",
    "kubectl-costopt": "costopt.cli",
    "costopt-operator": "costopt_operator.__main__",
}
_SCRIPT = """\
#!{python}
import sys
from {module} import main
sys.argv[0] = {name!r}
main()
"""


def install_programs(folder: Path) -> Path:
    """Put the programs of these sources into a folder for the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in PROGRAMS.items():
        (folder / name).write_text(_SCRIPT.format(python=sys.executable, module=module, name=name))
        (folder / name).chmod(0o755)
    return folder


class Shell:
    """`run(command, folder)` for a walk: bash, with these programs and variables."""

    def __init__(self, programs: Path, variables: Mapping[str, str] | None = None, seconds: float = 240) -> None:
        self._environment = {**environment(), **(variables or {})}
        path = [str(install_programs(programs)), self._environment.get("PATH", "")]
        self._environment["PATH"] = os.pathsep.join(path)
        self._seconds = seconds

    def __call__(self, command: str, folder: Path) -> tuple[int, str]:
        """Run a shell line to its end; returns its exit code, and both outputs."""
        with self.start(command, folder) as process:
            try:
                printed, _ = process.communicate(timeout=self._seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return 124, f"{process.communicate()[0]}\nstill running after {self._seconds:.0f} s"
        return process.returncode, printed

    def start(self, command: str, folder: Path) -> subprocess.Popen[str]:
        """Start a shell line."""
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
