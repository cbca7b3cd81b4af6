"""For a process that must unpickle nothing: whoever tries meets an error that names it.

`python -m builders.no_pickle PROGRAM.py ARGUMENTS...` runs a program that way.
"""

import pickle
import runpy
import sys
from typing import Any, NoReturn

SENTENCE = "something was unpickled"


def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    """What stands in the place of every way to unpickle."""
    raise AssertionError(SENTENCE)


class RefusingUnpickler:
    """What stands in the place of pickle's readers; others may be derived from it, but not made."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        refuse()


def refuse_pickles() -> None:
    """From now on, in this process, whatever is unpickled raises; to be called before torch is imported."""
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
