"""Where our own processes import from."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costopt.isolation import PACKAGES, import_path, own_program, passed_on

PYTHONS = ["/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload"]
INSTALLED = ["/venv/lib/python3.11/site-packages", "/editable"]


def package(folder: Path, name: str) -> str:
    """The folder, which then holds a package of that name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    return str(folder)


def test_the_folders_of_pythonpath_are_left_out() -> None:
    found = ["/venv/bin", "/lab", *PYTHONS, *INSTALLED]
    assert import_path(found, "/lab", "/editable") == ["/venv/bin", *PYTHONS, *INSTALLED]


def test_where_pythonpath_brings_what_is_not_installed_its_folders_come_last(tmp_path: Path) -> None:
    module = package(tmp_path / "modules", "torch")
    found = [module, "/lab", *PYTHONS, *INSTALLED]
    assert import_path(found, f"{module}:/lab", "/editable") == [*PYTHONS, *INSTALLED, module, "/lab"]
    installed = package(tmp_path / "site-packages", "torch")
    assert import_path([module, *PYTHONS, installed], module, "/editable") == [*PYTHONS, installed]


def test_a_folder_of_the_moment_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = [str(tmp_path), str(tmp_path / "lib"), *PYTHONS, *INSTALLED]
    assert import_path(found, os.pathsep.join([".", "lib", ""]), "/editable") == [*PYTHONS, *INSTALLED]


def test_our_own_packages_are_found_where_they_are_not_installed(tmp_path: Path) -> None:
    ours = package(tmp_path, "costopt_trainer")
    found = [*PYTHONS, *INSTALLED]
    assert import_path(found, ours, "/editable") == [*PYTHONS, ours, *INSTALLED]


@given(st.data())
def test_nothing_of_python_or_installed_is_ever_behind_pythonpath(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        folders = [package(root / name, content) for name, content in (("a", "torch"), ("b", "pydantic"), ("c", "lab"))]
        named = data.draw(st.lists(st.sampled_from([*folders, "relative", "./beside", ""]), max_size=6))
        found = [str(Path(folder).absolute()) for folder in named if folder] + [*PYTHONS, *INSTALLED]
        drawn = import_path(found, os.pathsep.join(named), "/editable")
        assert set(drawn) >= {*PYTHONS, *INSTALLED}
        assert len(drawn) == len(set(drawn))
        assert drawn[: len(PYTHONS) + len(INSTALLED)] == [*PYTHONS, *INSTALLED]
        brings = {folders[0], folders[1]} & set(named)
        assert drawn[len(PYTHONS) + len(INSTALLED) :] == (
            [folder for folder in dict.fromkeys(named) if folder in folders] if brings else []
        )


def test_a_process_of_ours_heeds_no_variable_of_pythons_and_no_current_folder(tmp_path: Path) -> None:
    names = [name for name in sys.stdlib_module_names if name not in sys.builtin_module_names]
    for name in (*names, "sitecustomize", "usercustomize", "yaml", "pydantic", "rich", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')")
    answer = subprocess.run(
        own_program("costopt.local.supervisor", str(tmp_path / "none")),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "PYTHONSTARTUP": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "was imported" not in answer.stderr
    assert "FileNotFoundError" in answer.stderr  # there is no such replica: the supervisor itself has begun


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what was given is not known")
@pytest.mark.parametrize("given_one", [None, "C.UTF-8", "C"])
def test_what_python_adds_to_the_environment_in_the_locale_c_is_not_passed_on(given_one: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE")}
    environment |= {"LANG": "C"} | ({"LC_CTYPE": given_one} if given_one else {})
    code = "import os, costopt.isolation as i; print(i.passed_on().get('LC_CTYPE'), 'LC_CTYPE' in os.environ)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == str(given_one)
    assert said.stdout.split()[1] == "True"  # Python did add it


def test_the_rest_of_the_environment_is_passed_on_as_it_is() -> None:
    given_here = {"PYTHONPATH": "/lab", "PYTHONSAFEPATH": "1", "LC_ALL": "de_DE"}
    assert passed_on(given_here) == given_here


def test_the_packages_are_those_of_the_project() -> None:
    root = Path(__file__).parent.parent.parent
    there = {
        path.parent.name for room in (".", "operator", "trainer") for path in (root / room).glob("costopt*/__init__.py")
    }
    assert there == set(PACKAGES)
