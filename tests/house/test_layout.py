"""The layout does not break Python's own modules."""

import operator
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    assert Path(operator.__file__).is_relative_to(sysconfig.get_paths()["stdlib"])
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator/__init__.py").exists()
    assert not (ROOT / "trainer/__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_a_program_started_in_the_projects_root_still_gets_pythons_own_operator() -> None:
    code = "import operator, random; print(operator.__file__)"
    asked = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(asked.stdout.strip()).is_relative_to(sysconfig.get_paths()["stdlib"])


def test_nothing_that_was_downloaded_or_built_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git")
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    assert files
    assert [file for file in files if file.is_file() and file.stat().st_size > 500_000] == []


def test_no_test_imports_from_another_one() -> None:
    """Only what is in builders, cases and the helpers of a room is found by name, whichever tests are chosen."""
    importing = re.compile(r"^\s*(?:from|import) test_", re.MULTILINE)
    tests = list((ROOT / "tests").rglob("test_*.py"))
    assert tests
    assert [test for test in tests if importing.search(test.read_text(encoding="utf-8"))] == []
