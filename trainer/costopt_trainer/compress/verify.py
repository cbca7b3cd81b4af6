"""Does a fresh process that loads the artifact get the same output as the variant before it was saved?

    write_probe               in the process that made the variant: store an input and the output
    verify_in_fresh_process   start `costopt_trainer.compress.verify FOLDER PROBE` and judge its answer
    main                      in that process: load, compute, compare

The comparison is bitwise: the same torch, machine, number of threads and uncompiled kernels give the same bits. The
hash in config.json protects the bytes of the file; this checks the way from the file back to a model.
"""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from costopt.isolation import own_program
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.phases import phase

_EXIT_MISMATCH = 3


def write_probe(path: Path, model: nn.Module, inputs: Tensor) -> None:
    """Store `inputs` and the output of `model`, in eval mode on the CPU. Raises OSError."""
    # Kernels round differently for another memory layout, and the file keeps only the plain one.
    inputs = inputs.clone(memory_format=torch.contiguous_format)
    with torch.no_grad():
        output = model(inputs.clone())
    metadata = {"threads": str(torch.get_num_threads())}
    save_file({"inputs": inputs, "output": output.contiguous()}, path, metadata=metadata)


def verify_in_fresh_process(folder: Path, probe: Path) -> None:
    """Have a fresh process load `folder` and repeat `probe`.

    Raises NotRetryable("ArtifactMismatch", sentence) if the folder cannot be loaded or the output differs, and
    RuntimeError if the process ended for another reason (killed, out of memory), which may not happen again.
    """
    with phase("Verifying"):
        answer = subprocess.run(
            own_program("costopt_trainer.compress.verify", str(folder), str(probe)),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if answer.returncode == _EXIT_MISMATCH:
        raise NotRetryable("ArtifactMismatch", answer.stdout.strip().rpartition("\n")[2])
    if answer.returncode != 0:
        tail = answer.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"the process that verifies the artifact ended with exit code {answer.returncode}: {tail}")


def find_mismatch(folder: Path, probe: Path) -> str | None:
    """None if the model in `folder` repeats `probe` bit for bit, else what is wrong, in one sentence."""
    with safe_open(probe, framework="pt") as file:
        inputs, expected = file.get_tensor("inputs").clone(), file.get_tensor("output")
        torch.set_num_threads(int(file.metadata()["threads"]))
    try:
        model = load_model(folder)
    except NotRetryable as error:
        return str(error)
    with torch.no_grad():
        output = model(inputs)
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return f"{folder}, loaded again, gives {tuple(output.shape)} {output.dtype} instead of {tuple(expected.shape)}"
    # As bytes, so that not-a-number equals itself.
    differing = int((output.contiguous().view(torch.uint8) != expected.view(torch.uint8)).sum())
    if differing:
        largest = float((output - expected).abs().max())
        return f"{folder}, loaded again, gives another output than before it was saved (by up to {largest:.3g})"
    return None


def main(arguments: list[str]) -> int:
    """Arguments: the artifact's folder and the probe. Prints what is wrong, if anything; returns the exit code."""
    folder, probe = (Path(argument) for argument in arguments)
    mismatch = find_mismatch(folder, probe)
    if mismatch is not None:
        print(mismatch)
        return _EXIT_MISMATCH
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
