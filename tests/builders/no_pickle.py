"""For a process that must unpickle nothing: every attempt raises an error that names it.

`python -m builders.no_pickle PROGRAM.py ARGUMENTS...` runs a program that way.
"""

import pickle
import runpy
import sys
from typing import Any, NoReturn

SENTENCE = "something was unpickled"


def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    """Replaces every function that unpickles."""
    raise AssertionError(SENTENCE)


class RefusingUnpickler:
    """Replaces pickle's Unpicklers; it may be subclassed, but not instantiated."""

    load = refuse
    """Libraries that extend pickle, such as dill, look at it when they are imported."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        refuse()


def refuse_pickles() -> None:
    """From now on, unpickling raises in this process; call it before torch is imported."""
    for module in (pickle, sys.modules["_pickle"]):
        for name in ("load", "loads", "_load", "_loads"):
            setattr(module, name, refuse)
        for name in ("Unpickler", "_Unpickler"):
            setattr(module, name, RefusingUnpickler)
    import torch

    torch.load = refuse
    if torch.distributed.distributed_c10d._unpickler is not RefusingUnpickler:
        raise AssertionError("torch was imported too early")


if __name__ == "__main__":
    refuse_pickles()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
