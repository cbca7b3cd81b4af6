"""Jobs for the shells' tests, and a runner in its own process that a test may kill.

`python -m builders.local FOLDER PROGRAM NODES KILL_BEFORE_WRITE` runs the job `tiny` in FOLDER, with one of the
programs below instead of the launcher: real processes under real supervisors, without the seconds that torch takes.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders.waiting import wait_for
from costopt.local.lock import only_runner
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner
from costopt.schema.job import CostOptJob
from costopt.schema.prices import PriceBook

TESTS = Path(__file__).resolve().parents[1]

PROGRAMS = {
    "finish": "print('working'); time.sleep(0.3)",
    "wait": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('working'); time.sleep(600)",
    # Children that have left their parent's group and ignore all signals but SIGKILL, like ranks during a step.
    "hang": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('working');"
        "code = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)';"
        "subprocess.Popen([sys.executable, '-c', code], start_new_session=True); time.sleep(600)"
    ),
    "fail once": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        "attempt, index = (int(os.environ['COSTOPT_' + name]) for name in ('ATTEMPT', 'REPLICA_INDEX'));"
        "time.sleep(0.2);"
        "attempt == 0 and index == 1 and sys.exit(7); attempt == 0 and time.sleep(600)"
    ),
    "fail": "sys.exit(7)",
    "refuse": (
        "open(os.environ['COSTOPT_TERMINATION_FILE'], 'w').write("
        """'{"exitCode": 78, "reason": "InvalidSettings", "message": "model.decoderLM must stay what it was."}');"""
        "sys.exit(78)"
    ),
    "run out of memory": (
        "open(os.environ['COSTOPT_TERMINATION_FILE'], 'w').write("
        """'{"exitCode": 1, "reason": "OutOfMemory", "message": "Rank 0 was killed: memory ran out."}'); sys.exit(1)"""
    ),
    "print progress": (
        "index = int(os.environ['COSTOPT_REPLICA_INDEX']);"
        """print('{"step": %d, "totalSteps": 9, "loss": "1.5"}' % (index + 4)); print('x' * 20000 * index)"""
    ),
    "wait once": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('working');"
        "time.sleep(600 if os.environ['COSTOPT_ATTEMPT'] == '0' else 0.3)"
    ),
}


def argv_of(program: str) -> tuple[str, ...]:
    """The command line of one of the programs."""
    return (sys.executable, "-c", f"import os, signal, subprocess, sys, time; {PROGRAMS[program]}")


def job(*, name: str = "tiny", train: Mapping[str, Any] | None = None, **spec: Any) -> CostOptJob:
    """A job of a command on two nodes of 1 vCPU, 1 GiB; `train` and `spec` replace parts, spelled as manifests do."""
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    training = {"numNodes": 2, "resourcesPerNode": node, "command": ["true"], **(train or {})}
    data = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": name},
        "spec": {"train": training, **spec},
    }
    return CostOptJob.model_validate(data)


RECIPE: dict[str, Any] = {
    "model": {
        "type": "DecoderLM",
        "decoderLM": {"numLayers": 1, "numHeads": 2, "embeddingDim": 16, "contextLength": 16},
    },
    "data": {"type": "Text", "text": {"path": "text.txt"}},
    "batch": {"globalBatchSize": 4, "microBatchSize": 2},
    "totalSteps": 20,
}

INT8: dict[str, Any] = {
    "name": "int8",
    "steps": [{"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}}],
    "measureSeconds": 6,
}


def recipe_job(*, name: str = "tiny", train: Mapping[str, Any] | None = None, **spec: Any) -> CostOptJob:
    """The same with the built-in trainer and an int8 variant."""
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    training = {"numNodes": 2, "resourcesPerNode": node, "recipe": RECIPE, **(train or {})}
    data = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": name},
        "spec": {"train": training, "compress": [INT8], **spec},
    }
    return CostOptJob.model_validate(data)


def given_job(*variants: Mapping[str, Any], name: str = "tiny", **spec: Any) -> CostOptJob:
    """A job without a training: the variants of a model that is there, each of 1 vCPU, 1 GiB unless it says more."""
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    data = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"path": "models/tiny"},
            "evaluation": {"data": RECIPE["data"]},
            "compress": [{"resources": node, **variant} for variant in variants or (INT8,)],
            **spec,
        },
    }
    return CostOptJob.model_validate(data)


def price_book(**prices: str) -> PriceBook:
    """A book of unit prices by resource, valid since long ago."""
    units = {"cpu": "vCPU-Hours", "memory": "GiB-Hours"}
    rows = [
        {
            "resource": resource,
            "unit": units[resource],
            "listUnitPrice": price,
            "effectiveFrom": "2020-01-01",
            "source": "a test",
        }
        for resource, price in (prices or {"cpu": "0.04", "memory": "0.005"}).items()
    ]
    data = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "PriceBook",
        "metadata": {"name": "sample"},
        "spec": {"currency": "USD", "prices": rows},
    }
    return PriceBook.model_validate(data)


def runner_in(folder: Path, tiny: CostOptJob, program: str) -> Runner:
    """A runner in this process, in a folder that it claims; for tests that need no lock."""
    run_folder = RunFolder(folder)
    run_folder.create()
    run_folder.claim(tiny)
    return Runner(run_folder, tiny, price_book(), argv=argv_of(program))


def start_runner(folder: Path, program: str, num_nodes: int = 2, kill_before_write: int = 0) -> subprocess.Popen[str]:
    """A runner in its own process; SIGINT suspends its job. It may kill itself just before its n-th write."""
    return subprocess.Popen(
        [sys.executable, "-m", "builders.local", str(folder), program, str(num_nodes), str(kill_before_write)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    """Wait for an event in another process."""
    wait_for(condition, seconds=seconds)


def processes_below(folder: Path) -> list[int]:
    """Living processes of this machine that belong to the run folder: supervisors, launchers and all below them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"COSTOPT_STORAGE_DIR={folder}".encode() in environment.split(b"\0") and state not in "ZX":
                found.append(int(entry.name))
    return found


def assert_nothing_is_left(folder: Path) -> None:
    """No process of the run folder survives; a supervisor may still be writing how its replica ended."""
    wait_until(lambda: processes_below(folder) == [])


def kill_self_before(write: int) -> None:
    """Have this process kill itself just before its `write`-th file is renamed into place."""
    real, writes = Path.replace, iter(range(1, 10**9))

    def replace(path: Path, target: Path) -> Path:
        if next(writes) == write:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def main(folder: Path, program: str, num_nodes: int, kill_before_write: int) -> None:
    """Run the job to its end, or until SIGINT has suspended it."""
    if kill_before_write:
        kill_self_before(kill_before_write)
    tiny = job(train={"numNodes": num_nodes})
    run_folder = RunFolder(folder)
    run_folder.create()
    with only_runner(run_folder.lock_file):
        run_folder.claim(tiny)
        runner = Runner(run_folder, tiny, price_book(), argv=argv_of(program))
        signal.signal(signal.SIGINT, lambda *_: setattr(runner, "suspend_requested", True))
        runner.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
