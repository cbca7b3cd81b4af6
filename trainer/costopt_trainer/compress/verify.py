"""Does a fresh process that loads the artifact get the same output as the variant before it was saved?

    write_probe               in the process that made the variant: store an input and the output
    verify_in_fresh_process   start `costopt_trainer.compress.verify FOLDER PROBE` and judge its answer
    main                      in that process: load, compute, compare

The comparison is bitwise: the same torch, machine, number of threads and uncompiled kernels give the same bits. The
hash in config.json protects the bytes of the file; this checks the way from the file back to a model. An ONNX graph
must repeat its own output, by onnxruntime, and, where the artifact has weights, too, give nearly what these give.
"""

import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from costopt.isolation import own_program
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_graph, load_model, read_config
from costopt_trainer.phases import phase

EXIT_MISMATCH = 3
_TINY = 1e-30
EXACT_TOLERANCE, FEW_BITS_TOLERANCE = 1e-3, 0.15
"""Largest difference between a graph's output and that of the weights, relative to the latter's norm: the order of
additions differs, and in few bits activations are rounded in other places."""


def write_probe(path: Path, model: nn.Module | None, inputs: Tensor, graph: nn.Module | None = None) -> None:
    """Store `inputs` and the outputs of `model` and of its `graph`, in eval mode on the CPU; None: there is none.
    Raises OSError."""
    # Kernels round differently for another memory layout, and the file keeps only the plain one.
    inputs = inputs.clone(memory_format=torch.contiguous_format)
    with torch.no_grad():
        of_each = {"output": model, "graph": graph}
        outputs = {name: each(inputs.clone()).contiguous() for name, each in of_each.items() if each is not None}
    metadata = {"threads": str(torch.get_num_threads())}
    save_file({"inputs": inputs, **outputs}, path, metadata=metadata)


def verify_in_fresh_process(folder: Path, probe: Path, module: str = "costopt_trainer.compress.verify") -> None:
    """Have a fresh process, which runs `module`, load `folder` and repeat `probe`.

    Raises NotRetryable("ArtifactMismatch", sentence) if the folder cannot be loaded or the output differs, and
    RuntimeError if the process ended for another reason (killed, out of memory), which may not happen again.
    """
    with phase("Verifying"):
        answer = subprocess.run(
            own_program(module, str(folder), str(probe)),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if answer.returncode == EXIT_MISMATCH:
        raise NotRetryable("ArtifactMismatch", answer.stdout.strip().rpartition("\n")[2])
    if answer.returncode == -signal.SIGKILL:
        raise RuntimeError("the process that verifies the artifact was killed by signal: Killed")  # as torch says it
    if answer.returncode != 0:
        tail = answer.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"the process that verifies the artifact ended with exit code {answer.returncode}: {tail}")


def find_mismatch(folder: Path, probe: Path) -> str | None:
    """None if the model in `folder` repeats `probe` bit for bit, else what is wrong, in one sentence."""
    with safe_open(probe, framework="pt") as file:
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  a safe_open is no mapping
        torch.set_num_threads(int(file.metadata()["threads"]))
    try:
        config = read_config(folder)
        models = {"output": load_model(folder)} if config.weights_sha256 else {}
        if config.graph:
            models["graph"] = load_graph(folder)
    except NotRetryable as error:
        return str(error)
    outputs: dict[str, Tensor] = {}
    for name, model in models.items():
        with torch.no_grad():
            outputs[name] = model(kept["inputs"].clone())
        if mismatch := _differs(outputs[name], kept[name]):
            which = f"{folder}, loaded again," if name == "output" else f"the graph in {folder}, loaded again,"
            return f"{which} gives {mismatch}"
    if len(outputs) == 2:
        few_bits = any(step.quantize is not None for step in config.steps)
        distance = distance_of(outputs["graph"], outputs["output"])
        if not distance <= (FEW_BITS_TOLERANCE if few_bits else EXACT_TOLERANCE):
            return f"the graph in {folder} gives another output than its weights (by {100 * distance:.3g} %)"
    return None


def distance_of(output: Tensor, expected: Tensor) -> float:
    """How far an output is from the expected one of its shape, as a share of that. Of a model whose output is zero it
    is that of nothing: 0."""
    return float((output - expected).norm() / expected.norm().clamp(min=_TINY))


def _differs(output: Tensor, expected: Tensor) -> str | None:
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return f"{tuple(output.shape)} {output.dtype} instead of {tuple(expected.shape)}"
    # As bytes, so that not-a-number equals itself.
    if int((output.contiguous().view(torch.uint8) != expected.view(torch.uint8)).sum()):
        return f"another output than before it was saved (by up to {float((output - expected).abs().max()):.3g})"
    return None


def tell(mismatch: str | None) -> int:
    """In the fresh process: print what is wrong, if anything; the exit code that says so."""
    if mismatch is None:
        return 0
    print(mismatch)
    return EXIT_MISMATCH


def main(arguments: list[str]) -> int:
    """Arguments: the artifact's folder and the probe. Prints what is wrong, if anything; returns the exit code."""
    folder, probe = (Path(argument) for argument in arguments)
    return tell(find_mismatch(folder, probe))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
