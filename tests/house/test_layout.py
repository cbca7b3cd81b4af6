"""The layout does not break Python's own modules, and the two commands of the README exist."""

import operator
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

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


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, (page, named - targets)


def test_every_file_that_the_documents_link_to_exists() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_the_manifest_in_the_readme_is_the_quickstarts() -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    sample = (ROOT / "manifests/samples/quickstart.yaml").read_text().split("\n---\n")[0]
    job = "".join(f"{line}\n" for line in sample.splitlines() if not line.startswith("#"))
    assert shown is not None
    assert shown[1] == job
