"""Programs that run as on a processor with AVX2 alone, where this machine can do that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRAPPER = Path(__file__).resolve().parents[2] / "benchmarks/older_cpu"
UNAVAILABLE = 69


def on_older_cpu(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's end and output. Skips the test, with the reason, where a machine cannot do it."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, WRAPPER, *command],
        env={**os.environ, "PYTHONPATH": paths, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.strip())
    return done


def python_on_older_cpu(program: str, *arguments: str | Path, **environment: str) -> str:
    """What a program of Python prints there. Fails if it fails."""
    done = on_older_cpu(sys.executable, "-c", program, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
