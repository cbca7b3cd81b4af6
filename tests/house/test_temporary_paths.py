"""No path for temporary files can be guessed: whoever shares /tmp could have put a link, or code, in its place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    path for room in ("costopt", "operator", "trainer", "images") for path in sorted((ROOT / room).rglob("*.py"))
]
SHARED = ("/tmp", "/var/tmp", "/dev/shm")
THE_PODS_OWN = {"costopt/names.py", "costopt/render/pods.py", "costopt/plan/causes.py"}
"""These speak of a pod's /tmp, a volume that is made for this pod and that nobody shares."""


def guessable(tree: ast.AST) -> Iterator[str]:
    """What in a module names a place in a folder that users of a machine share."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(SHARED):
            yield node.value
        elif isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in ("gettempdir", "gettempdirb", "tempdir", "mktemp"):
                yield name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_names_a_place_that_users_share(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in THE_PODS_OWN:
        assert list(guessable(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("line", ["tempfile.gettempdir()", "Path('/tmp/costopt')", "mktemp()", "x = f'/dev/shm/{y}'"])
def test_a_line_that_names_one_is_found(line: str) -> None:
    assert len(list(guessable(ast.parse(line)))) == 1
