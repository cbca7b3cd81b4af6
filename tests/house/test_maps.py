"""The map in a package's docstring, or a table of it, names every room and file that is there, and none that is not."""

import ast
import re
from pathlib import Path

import pytest

from costopt.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("costopt", "operator/costopt_operator", "trainer/costopt_trainer")
PACKAGES = sorted(init.parent for root in ROOTS for init in (ROOT / root).rglob("__init__.py"))


def _map_of(package: Path) -> str:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert docstring, f"{package} has no docstring"
    return docstring


def _contents(package: Path) -> set[str]:
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in package.glob("*/__init__.py")}


def _rows(package: Path) -> set[str]:
    """Files that a table of the package names: the table is their map."""
    text = "".join((package / name).read_text() for name in ("__init__.py", "table.py") if (package / name).exists())
    return set(re.findall(rf'"[\w.]+\.{package.name}\.(\w+):\w+"', text))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_map_of_a_package_names_all_that_is_in_it(package: Path) -> None:
    words = set(re.findall(r"\w+", _map_of(package)))
    of_commands = set(COMMANDS) if package.name == "cli" else set()
    assert _contents(package) - words - of_commands - _rows(package) - {"__main__"} == set()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_of_a_map_is_of_a_file_that_is_gone(package: Path) -> None:
    rows = re.findall(r"^ *(\w+)/? {2,}\S", _map_of(package), re.MULTILINE)
    public = set(
        re.findall(r"^(?:def|class) (\w+)|^(\w+)(?:: [^=]+)? = ", (package / "__init__.py").read_text(), re.MULTILINE)
    )
    assert set(rows) - _contents(package) - {name for pair in public for name in pair} == set()
