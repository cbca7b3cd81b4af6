"""The API server's own validation code, for the tests of the language."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def crdcheck() -> Path:
    """The API server's own validation code as a small program, built once into the cache folder."""
    binary = ROOT / ".cache" / "crdcheck"
    source = ROOT / "tests" / "crd_check"
    newest = max(path.stat().st_mtime for path in source.iterdir())
    if binary.exists() and binary.stat().st_mtime >= newest:
        return binary
    if shutil.which("go") is None:
        pytest.skip("needs Go to build tests/crd_check, the API server's validation code")
    binary.parent.mkdir(exist_ok=True)
    with (binary.parent / "crdcheck.lock").open("w") as lock:  # not twice at once, by two processes of one test run
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(binary, source, newest)


def _built(binary: Path, source: Path, newest: float) -> Path:
    if binary.exists() and binary.stat().st_mtime >= newest:
        return binary
    fresh = binary.with_name(f"crdcheck-{os.getpid()}")
    built = subprocess.run(["go", "build", "-o", fresh, "."], cwd=source, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"go build of tests/crd_check failed: {built.stderr.strip().splitlines()[-1]}")
    fresh.replace(binary)
    return binary
