"""The size of micro-batches: as asked for, or halved until they fit in memory.

    Fitting     what fits here, remembered for later attempts
    cut         micro-batches of at most a size, in the same order
    try_pass    one pass forward and backward, by this rank alone

Half the size means twice as many micro-batches: each optimizer step sees the same samples in the same order. Where a
rank works alone it halves and does the step again. Where others wait for its gradients, it could not tell them: so all
ranks try a pass before the first step, and agree; if memory runs out later, the next attempt begins with half.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from costopt.files import write_atomically
from costopt.hostile import Hostile, make_folder, read_json
from costopt.schema.memory import Memory
from costopt.schema.recipe import Recipe
from costopt_trainer.errors import memory_reason
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.optimizers.factory import Kept
from costopt_trainer.training.parallel.strategy import Batch
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup

T = TypeVar("T")

FILE = "micro-batch.json"


class Fitting:
    """The size that fits with these settings on these devices."""

    def __init__(self, asked: Recipe, folder: Path, gang: ProcessGroup) -> None:
        """`folder` is the cache of the job's storage. All ranks must make one at the same time."""
        self._file, self._gang = folder / FILE, gang
        self._may_halve = (asked.memory or Memory()).on_out_of_memory == "HalveMicroBatch"
        self._for = {**_what_memory_depends_on(asked), "device": _device(gang.device), "ranks": gang.world_size}
        self.size = asked.batch.micro_batch_size
        """Samples of a micro-batch, now."""
        remembered = gang.broadcast(self._remembered() if self._may_halve and gang.rank == 0 else None)
        if remembered is not None:
            self._say(f"micro-batches of {self.size} samples did not fit in memory before: they have {remembered}")
            self.size = remembered

    def fitted(self, act: Callable[[int], T], undo: Callable[[], None], module: nn.Module) -> T:
        """`act`, given a size that fits; `undo` undoes what it has begun with a larger one.

        Raises what `act` raises if it is about something else, if nothing smaller is to be tried, or if other ranks
        wait for this one: then the next attempt begins with half.
        """
        while True:
            try:
                return act(self.size)
            except (RuntimeError, MemoryError) as error:
                self._halve(error, module, aloud=True)
                if self._gang.world_size > 1:
                    raise
            undo()  # here, where no error keeps alive any more what filled the memory

    def agree(self, try_pass: Callable[[int], object], undo: Callable[[], None], module: nn.Module) -> None:
        """Halve until `try_pass`, in which no rank waits for another, succeeds on all of them. Leaves no trace."""
        while True:
            error = _out_of_memory(try_pass, self.size)
            [short] = self._gang.sum_integers(error is not None)
            undo()
            if not short:
                return
            self._halve(error or MemoryError("another rank has run out of memory"), module, aloud=self._gang.rank == 0)

    def _halve(self, error: Exception, module: nn.Module, *, aloud: bool) -> None:
        """Raises `error` if that would not help, is not wanted, or would change what is learned."""
        smaller = half_of(self.size)
        mixes_samples = any(isinstance(part, _BatchNorm) for part in module.modules())
        if not _is_of_memory(error) or smaller is None or not self._may_halve or mixes_samples:
            raise error
        if aloud:
            _remember(self._file, {"for": self._for, "microBatchSize": smaller})
            print(
                f"micro-batches of {self.size} samples do not fit in memory: halved to {smaller}, with more of them in "
                "a step; the global batch and the order of samples stay",
                file=sys.stderr,
                flush=True,
            )
        self.size = smaller

    def _remembered(self) -> int | None:
        """The size that fits, if these settings have been tried."""
        try:
            plain = read_json(self._file)
        except (OSError, Hostile):
            return None
        size = plain.get("microBatchSize") if isinstance(plain, Mapping) else None
        if type(size) is not int or not 0 < size < self.size or self.size % size or plain.get("for") != self._for:
            return None
        return size

    def _say(self, line: str) -> None:
        if self._gang.rank == 0:
            print(line, file=sys.stderr, flush=True)


def half_of(size: int) -> int | None:
    """The largest divisor of `size` up to its half, so that all micro-batches stay equal; None of 1."""
    return next((smaller for smaller in range(size // 2, 0, -1) if size % smaller == 0), None)


def in_recipe(recipe: Recipe, size: int) -> Recipe:
    """`recipe` with micro-batches of another size."""
    return recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"micro_batch_size": size})})


def cut(batches: Sequence[Batch], size: int) -> list[Batch]:
    """The same samples in micro-batches of at most `size`."""
    return [part for inputs, targets in batches for part in zip(inputs.split(size), targets.split(size), strict=True)]


def try_pass(module: LayeredModel, batch: Batch, autocast: Autocast, states: Iterable[Mapping[str, Kept]]) -> None:
    """One pass forward and backward in training mode, by this rank alone, with all that a later step holds besides.

    `states`: what the optimizer keeps of each parameter, if it does not yet. Leaves no gradient; random numbers are
    drawn, and moving averages moved. Raises what a step would raise without memory.
    """
    device = batch[0].device
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # The gradients of the micro-batches before, and the states, as a later step finds them.
    besides = [torch.empty_like(parameter) for parameter in trained]
    besides += [torch.empty(one.shape, dtype=one.dtype, device=device) for kept in states for one in kept.values()]
    with autocast():
        loss = module.loss_sum(*batch)
    torch.autograd.grad(loss, trained, allow_unused=True)
    del besides


def _what_memory_depends_on(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.to_plain()
    return {
        name: plain.get(name) for name in ("model", "batch", "precision", "parallelism", "memory", "optimizer", "ema")
    }


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory} bytes"


def _is_of_memory(error: Exception) -> bool:
    return memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None


def _out_of_memory(act: Callable[[int], object], size: int) -> Exception | None:
    """Act, and return the error if memory runs out: without its frames, which keep alive what filled it."""
    try:
        act(size)
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        return error.with_traceback(None)
    return None


def _remember(file: Path, plain: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, Hostile):  # the next attempt then finds out anew
        make_folder(file.parent)
        write_atomically(file, json.dumps(plain).encode())
