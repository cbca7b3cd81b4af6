"""torch.compile of a model's layers, each by itself; what was compiled is kept on the job's storage.

    compile_blocks    prepares a model, in place; names of parameters stay
    eagerly           for passes that are too few to be worth compiling
    compiled          runs the first pass, and says what is wrong if nothing can be compiled

Layers of one kind share one compiled graph, so that the time to compile does not grow with their number.

What is kept is code, and pickles that torch reads: whoever may write there could have the job run theirs. So the folder
must be the user's own, and nobody else may write to it.
"""

import os
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from costopt import caches
from costopt.hostile import Hostile, make_folder
from costopt.names import COMPILED_DIR
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.memory import Recomputed

T = TypeVar("T")

FOLDER = COMPILED_DIR


def compile_blocks(model: LayeredModel, folder: Path, *, aloud: bool) -> None:
    """Have each layer of `model` compiled when it is first used; what comes of it is kept below `folder`.

    Where that folder is not only this user's, compiled code is kept for this attempt only, with one line if `aloud`.
    """
    from torch._dynamo import config  # noqa: PLC0415  takes a second, and most trainings are not compiled

    if fault := _fault_of(folder / FOLDER):
        if aloud:
            print(f"compiled code is not kept for later attempts: {fault}", file=sys.stderr, flush=True)
    else:
        caches.hold(folder / FOLDER, "layers of models")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / FOLDER)
        os.environ["TRITON_CACHE_DIR"] = str(folder / FOLDER / "triton")
    blocks = list(model.blocks())
    config.optimize_ddp = False  # it would cut a layer where DDP's buckets end
    config.recompile_limit = max(config.recompile_limit, 2 * len(blocks))  # layers that share no graph
    compiler = partial(torch.compile, dynamic=False)
    for block in blocks:
        # The method and not the module, so that what FSDP does before and after is not compiled.
        if isinstance(block, Recomputed):
            block.compile_by(compiler)
        else:
            block.forward = compiler(block.forward)


def eagerly(is_compiled: bool | None) -> AbstractContextManager[Any]:
    """In this context a compiled model computes without its compiled code."""
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def compiled(act: Callable[[], T]) -> T:
    """`act`, in which layers may be compiled.

    Raises NotRetryable("InvalidSettings") if that is not possible, for example without a C++ compiler.
    """
    try:
        return act()
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.compile must be left out: the layers of this model cannot be compiled here ({first_line(error)})",
        ) from error


def _fault_of(folder: Path) -> str | None:
    """Why code in `folder`, which is made if it is missing, must not be run, in words."""
    try:
        if not os.path.lexists(folder):
            make_folder(folder.parent)
            folder.mkdir(mode=0o700)
        found = os.lstat(make_folder(folder))
    except (OSError, Hostile) as error:
        return first_line(error)
    # A group may write: volumes of a cluster are given one (fsGroup), whose members are the pods of the claim.
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        return f"{folder} must belong to the user of this job, and others may not write to it"
    return None
