"""Real launchers on loopback, started as by a supervisor, with small programs instead of a training loop."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders.ports import free_port
from costopt import names
from costopt.schema.replica import TerminationMessage

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0
"""Longest wait for events that take seconds on an idle machine: reached only if they never come."""


def python(code: str) -> list[str]:
    """A command that runs `code`."""
    return [sys.executable, "-c", textwrap.dedent(code)]


ALL_REDUCE = """
    import os, torch, torch.distributed as dist
    dist.init_process_group("gloo")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    print(f"sum {total.item():g} of {dist.get_world_size()}")
    dist.destroy_process_group()
"""


@dataclass
class Replica:
    """A started launcher, and its results."""

    process: subprocess.Popen[str]
    folder: Path
    lifeline: int | None

    def cut_lifeline(self) -> None:
        """What the kernel does when the supervisor ends."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    @property
    def output(self) -> str:
        """Its stdout so far, without its phases."""
        lines = (self.folder / "stdout").read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith('{"phase":'))

    @property
    def phases(self) -> list[str]:
        """Names of the phases that it has reported so far, in order."""
        lines = (self.folder / "stdout").read_text().splitlines()
        return [json.loads(line)["phase"] for line in lines if line.startswith('{"phase":')]

    @property
    def notes(self) -> str:
        """Its stderr so far."""
        return (self.folder / "stderr").read_text()

    @property
    def termination(self) -> TerminationMessage:
        """Its termination message, which must be valid and small."""
        data = (self.folder / "termination.json").read_bytes()
        assert len(data) <= 4096
        return TerminationMessage.model_validate_json(data)

    def wait_for_output(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once `text` was written to stdout."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.output!r}; {self.notes}"
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.output} {self.notes}"
            time.sleep(0.02)


@contextmanager
def replica(
    folder: Path,
    command: Sequence[str] | None,
    *,
    port: int = 0,
    index: int = 0,
    num_nodes: int = 1,
    processes_per_node: int = 1,
    settings: Mapping[str, object] | str | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Replica]:
    """A running launcher; killed, with whatever it left, at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = (
        settings
        if settings is not None
        else {
            "jobName": "demo",
            "stage": "train",
            "numNodes": num_nodes,
            "processesPerNode": processes_per_node,
            "command": list(command or []),
        }
    )
    (folder / "settings.json").write_text(plain if isinstance(plain, str) else json.dumps(plain))
    lifeline, held = os.pipe()
    variables = {
        **{name: value for name, value in os.environ.items() if name not in names.RESERVED_ENVIRONMENT},
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "trainer")]),
        "OMP_NUM_THREADS": "1",
        names.ENV_SETTINGS_FILE: str(folder / "settings.json"),
        names.ENV_STORAGE_DIR: str(folder),
        names.ENV_ATTEMPT: "0",
        names.ENV_REPLICA_INDEX: str(index),
        names.ENV_RENDEZVOUS_HOST: "127.0.0.1",
        names.ENV_RENDEZVOUS_PORT: str(port or free_port()),
        names.ENV_PROGRESS_FILE: str(folder / "progress.json"),
        names.ENV_TERMINATION_FILE: str(folder / "termination.json"),
        "COSTOPT_LIFELINE_FD": str(lifeline),
        **(environment or {}),
    }
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "costopt_trainer.launch", *options],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            pass_fds=[lifeline],
            start_new_session=True,
        )
    os.close(lifeline)
    launcher = Replica(process, folder, held)
    try:
        yield launcher
    finally:
        launcher.cut_lifeline()
        process.kill()
        process.wait()


def is_alive(pid: int) -> bool:
    """Whether process `pid` runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pids: Sequence[int], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once none of `pids` runs."""
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.05)
