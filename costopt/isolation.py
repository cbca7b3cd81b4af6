"""Our own processes import what is installed, and the user's program finds what it would find without us.

    own_program     how a process of ours is started: as `python isolation.py MODULE`, with Python's switches that keep
                    the current folder, PYTHONPATH and every other PYTHON variable away from it
    import_path     where it looks instead
    passed_on       the environment as it was given, for whoever is started

A file of the user's may be called types.py, tokenizers.py or logging.py: nothing of ours is to import it. The switches
are no variables, so a program that is started by such a process does not feel them: its own folder is searched first,
PYTHONPATH is obeyed. Only what Python has loaded itself before its first line is used here.
"""

import os
import sys

TYPE_CHECKING = False  # typing and collections would be imported from anywhere
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FLAGS = ("-E", "-P", "-u")
"""No PYTHON variable is obeyed, no folder of a script or of the moment is searched, lines are written at once."""

PACKAGES = ("costopt", "costopt_operator", "costopt_trainer")
NEEDED = ("pydantic", "torch")
"""What stands for all that must be installed."""


def own_program(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a process of ours, to be started with this process' current folder and PYTHONPATH."""
    return (sys.executable, *FLAGS, os.path.abspath(__file__), module, *arguments)  # noqa: PTH100 -- see above


def import_path(found: "Sequence[str]", python_path: str, home: str) -> list[str]:
    """The folders to import from, in order.

    `found`: those that Python has found, perhaps with those of PYTHONPATH; `python_path`: that variable, or an empty
    text; `home`: the folder in which this package lies. What Python brings comes first, then our own packages where
    they are not installed (home, and folders of PYTHONPATH that hold one), then what is installed. The rest of
    PYTHONPATH comes last, and only where it brings what is not installed, as the modules of a computing centre do.
    A relative folder there means one of the user's, wherever that is now, and is left out in any case.
    """
    named = {os.path.abspath(folder): folder for folder in python_path.split(os.pathsep) if folder}  # noqa: PTH100
    rest = [folder for folder in found if folder not in named]
    ours = [
        folder
        for folder in dict.fromkeys([*named, home])
        if folder not in rest and any(_holds([folder], name) for name in PACKAGES)
    ]
    last = [folder for folder, written in named.items() if folder not in ours and os.path.isabs(written)]  # noqa: PTH117
    at = next((place for place, folder in enumerate(rest) if folder.endswith("-packages")), len(rest))
    path = [*rest[:at], *ours, *rest[at:]]
    brings = any(_holds(last, name) and not _holds(path, name) for name in NEEDED)
    return [*path, *last] if brings else path


def _holds(folders: "Sequence[str]", package: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, package, "__init__.py")) for folder in folders)  # noqa: PTH113, PTH118


def use_import_path() -> None:
    """Search the folders of `import_path` in this process from now on."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.path[:] = import_path(sys.path, os.environ.get("PYTHONPATH", ""), home)


def passed_on(environment: "Mapping[str, str]" = os.environ) -> dict[str, str]:
    """The environment without what Python has done to it: in the locale C it sets LC_CTYPE (PEP 538)."""
    passed = dict(environment)
    if "LC_CTYPE" in passed and sys.platform == "linux":
        try:
            with open("/proc/self/environ", "rb") as stream:  # noqa: PTH123
                given = dict(variable.split(b"=", 1) for variable in stream.read().split(b"\0") if b"=" in variable)
        except OSError:
            return passed
        was = given.get(b"LC_CTYPE")
        if was is None:
            del passed["LC_CTYPE"]
        else:
            passed["LC_CTYPE"] = os.fsdecode(was)
    return passed


if __name__ == "__main__":
    use_import_path()
    del sys.argv[0]
    import runpy

    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
