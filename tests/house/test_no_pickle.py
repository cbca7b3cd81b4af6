"""What we ship calls nothing that unpickles; tests of trainings show that torch does not either, as we call it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [path for room in ("costopt", "operator", "trainer") for path in sorted((ROOT / room).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {
    *(f"{verb}_object_list" for verb in ("broadcast", "scatter", "send", "recv")),
    *("all_gather_object", "gather_object", "read_pickle"),
}


def unpickles(tree: ast.AST) -> Iterator[str]:
    """What in a module would unpickle, or take part in an exchange of pickles."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield node.module or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if node.func.attr in CALLS or called in ("torch.load", "torch.jit.load"):
                yield called
            if called == "np.load" and "allow_pickle=False" not in ast.unparse(node):
                yield called


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_unpickles(path: Path) -> None:
    assert list(unpickles(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line", ["import pickle", "from _pickle import loads", "torch.load(x)", "dist.gather_object(x)", "np.load(x)"]
)
def test_a_line_that_unpickles_is_found(line: str) -> None:
    assert len(list(unpickles(ast.parse(line)))) == 1
