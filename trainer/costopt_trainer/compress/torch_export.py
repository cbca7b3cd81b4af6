"""A model of torch -> a program of torch.export (`model.pt2`), which torch alone runs, without the model's code.

    add_program     writes it into an artifact, once a fresh process has loaded it and got the same output
    export          writes it
    NotExportable   why it cannot be
    main            in that process: load, compute, compare

How many samples, and tokens of each, stays free where it can. Weights of few bits stay in few bits, with no whole ones
beside them.

Whoever reads a program of somebody else runs what its author wants: torch unpickles parts of it. Nothing here reads one
but the one that was just written, from a folder of this process' own, before it lies where others may write.
"""

import copy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from costopt_trainer.compress.verify import (
    EXACT_TOLERANCE,
    distance_of,
    tell,
    verify_in_fresh_process,
    write_probe,
)
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.phases import phase

PROGRAM_FILE = "model.pt2"
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class NotExportable(Exception):
    """A model that is no such program; the text is why, without a subject."""


def add_program(model: nn.Module, inputs: Tensor, folder: Path) -> int:
    """Write `model`, in eval mode on the CPU, as a program into the artifact in `folder`; returns its bytes.

    `inputs` are a few samples. Raises NotRetryable("InvalidSettings") if the model cannot be a program, and as
    `verify_in_fresh_process` does; OSError if it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="costopt-program-") as name:
        own = Path(name)
        try:
            with phase("Compiling"):
                export(model, inputs, own / PROGRAM_FILE)
        except NotExportable as error:
            raise NotRetryable("InvalidSettings", f"formats must not have TorchExport: the model {error}") from error
        write_probe(own / "probe", model, inputs)
        verify_in_fresh_process(own / PROGRAM_FILE, own / "probe", "costopt_trainer.compress.torch_export")
        with phase("SavingModel"):
            shutil.copy(own / PROGRAM_FILE, folder / PROGRAM_FILE)
    return (folder / PROGRAM_FILE).stat().st_size


def export(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write `model`, in eval mode on the CPU, as a program to `path`, a new file. `model` stays as it is.

    `example` is a batch of inputs. Raises NotExportable, and OSError if it cannot be written.
    """
    if len(example) == 1:  # a size of 1 would be taken for fixed
        example = torch.cat([example, example])
    free = torch.export.Dim.AUTO  # or fixed, if the model needs that
    sizes = {0: free, 1: free} if example.dtype == torch.int64 and example.ndim == 2 else {0: free}
    try:
        with torch.no_grad():
            program = torch.export.export(_unwrapped(model), (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # the exporter lets through any of torch's
        raise NotExportable(f"cannot be exported by torch: {type(error).__name__}: {first_line(error)}") from error
    _forget_origins(program)
    torch.export.save(program, path)


def _unwrapped(model: nn.Module) -> nn.Module:
    """`model`, or a copy of it whose weights of few bits are made of plain tensors, which a program can hold."""
    if not any(hasattr(parameter, "qdata") for parameter in model.parameters()):
        return model
    from torchao.utils import unwrap_tensor_subclass  # noqa: PLC0415  torchao takes seconds to import

    copied: nn.Module = unwrap_tensor_subclass(copy.deepcopy(model))
    return copied


def _forget_origins(program: Any) -> None:
    """Drop what each operation has on the lines of code that it comes from: paths of this machine, which make up most
    of a small program."""
    for node in program.graph.nodes:
        for origin in _ORIGINS:
            node.meta.pop(origin, None)


def main(arguments: list[str]) -> int:
    """Arguments: the program and the probe. Prints what is wrong, if anything; returns the exit code."""
    program, probe = arguments
    with safe_open(probe, framework="pt") as file:
        inputs, expected = file.get_tensor("inputs").clone(), file.get_tensor("output")
        torch.set_num_threads(int(file.metadata()["threads"]))
    with torch.no_grad():
        output = torch.export.load(program).module()(inputs)
    if output.shape != expected.shape:
        return tell(f"the program of torch.export gives {tuple(output.shape)} instead of {tuple(expected.shape)}")
    distance = distance_of(output, expected)
    if distance <= EXACT_TOLERANCE:
        return tell(None)
    what = "the program of torch.export, loaded again, gives another output than the model"
    return tell(f"{what} (by {100 * distance:.3g} %)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
