"""Every test belongs to exactly one of make's targets, and CI runs them all."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("test", "test-slow", "test-buckets", "test-cluster", "e2e")
ROOMS = sorted(path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py")))
A_FILE = """
import pytest

def test_quick():
    pass

@pytest.mark.slow
def test_slow():
    pass
"""
COLLECTS = """
import json, sys, pytest

class Taken:
    def pytest_collection_finish(self, session):
        self.tests = [item.nodeid for item in session.items]

taken = {target: Taken() for target in json.loads(sys.argv[1])}
for target, words in json.loads(sys.argv[1]).items():
    assert pytest.main([*words, "--collect-only", "--numprocesses=0"], [taken[target]]) == 0
print(json.dumps({target: each.tests for target, each in taken.items()}))
"""
"""In one process, since starting pytest is most of the work."""


def what_make_runs(target: str) -> list[str]:
    """pytest's arguments, on a machine where nothing is to be built first."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    # Without what a `make test` hands down, which has its sub-makes print their folders.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    told = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.installed", target],
        cwd=ROOT, capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    arguments = {found.strip("; ") for found in re.findall(r"-m pytest\b([^;\n]*)", told.replace("\\\n", ""))}
    assert len(arguments) == 1, (target, told)
    return shlex.split(arguments.pop())


def test_asking_what_make_would_run_runs_nothing() -> None:
    """A line that names $(MAKE) is carried out even by `make --dry-run`, so it calls that and no more."""
    lines = [line for line in (ROOT / "Makefile").read_text().replace("\\\n", "").splitlines() if "$(MAKE)" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"\t@?(test [^;&|]*\|\| )?\$\(MAKE\) [a-z0-9-]+", line), line


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By target, what pytest itself takes of a tree with our rooms and a quick and a slow test in each."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for room in ROOMS:
        (tree / "tests" / room).mkdir(parents=True)
        (tree / "tests" / room / "test_it.py").write_text(A_FILE)
    words = {target: what_make_runs(target) for target in TARGETS}
    command = [sys.executable, "-c", COLLECTS, json.dumps(words)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_test_belongs_to_exactly_one_target(collected: dict[str, list[str]]) -> None:
    every = [f"tests/{room}/test_it.py::{test}" for room in ROOMS for test in ("test_quick", "test_slow")]
    assert sorted(test for tests in collected.values() for test in tests) == sorted(every)


def test_each_target_has_the_tests_of_its_name(collected: dict[str, list[str]]) -> None:
    places = {target: {(test.split("/")[1], "slow" in test) for test in tests} for target, tests in collected.items()}
    elsewhere = {"buckets", "cluster", "e2e"}
    assert places["test"] == {(room, False) for room in ROOMS if room not in elsewhere}
    assert places["test-slow"] == {(room, True) for room in ROOMS if room not in elsewhere}
    assert {room for room, _ in places["test-buckets"]} == {"buckets"}
    assert {room for room, _ in places["test-cluster"]} == {"cluster"}
    assert {room for room, _ in places["e2e"]} == {"e2e"}


def test_no_test_lies_outside_the_rooms() -> None:
    files = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path.parts[0] for path in files} == set(ROOMS)


def test_every_target_tells_its_ten_slowest_tests() -> None:
    for target in TARGETS:
        assert "--durations=10" in what_make_runs(target), target


def test_ci_runs_lint_and_every_target() -> None:
    script = (ROOT / ".ci/run").read_text()
    runs = re.findall(r"^\s*make ([\w-]+)$", script, re.MULTILINE)
    assert sorted(runs) == sorted({*TARGETS, "lint", "cluster-binaries"})
    assert runs.index("cluster-binaries") < runs.index("test"), "what needs them in `make test` finds them"
    assert "set -euo pipefail" in script


@pytest.mark.parametrize("broken", ["none", *TARGETS])
def test_ci_fails_with_any_target_and_runs_all_the_same(broken: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1" >>{ran}\n[ "$1" != {broken} ]\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COSTOPT_TEST_KUBECONFIG": "given"}
    done = subprocess.run([ROOT / ".ci/run"], env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) == (broken == "none")
    assert {*TARGETS} <= {*ran.read_text().split()}
