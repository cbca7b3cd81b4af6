"""A model as an ONNX graph, which onnxruntime runs on the CPU.

OnnxModel       a graph in a folder as a model like any other
lacking         why onnxruntime cannot be used here; None: it can
graph_files     the files of a graph, with sizes and sums

A graph is GRAPH_FILE; weights of more than 2 GB, which a protobuf cannot hold, lie beside it in DATA_FILE.

It runs with numbers below 1.2e-38 as zeros. What attention masks becomes such a number in onnxruntime's softmax (it
cuts exponents off at -88.4), with which processors with AVX-512 compute many times slower.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from costopt.hostile import open_file
from costopt_trainer.instructions import has_int8_dot_products
from costopt_trainer.models.whole import WholeModel
from costopt_trainer.storage.tensor_file import FileRecord

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"


def lacking() -> str | None:
    """What must be installed before a model can become, or run as, an ONNX graph; None: all is there."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    return f"the package {missing[0]} is not installed (extra onnx: pip install 'costopt[onnx]')" if missing else None


def graph_files(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of each file of the graph in `folder`, by name. Raises OSError, and Hostile for a link."""
    records: dict[str, FileRecord] = {}
    for name in (GRAPH_FILE, DATA_FILE):
        if name == DATA_FILE and not (folder / name).exists():
            continue
        with open_file(folder / name) as stream:
            digest = hashlib.file_digest(stream, "sha256")
            records[name] = {"size": stream.tell(), "sha256": digest.hexdigest()}
    return records


class OnnxModel(WholeModel):
    """The graph in a folder, as a model: inputs (B, ...) -> logits, both on the CPU."""

    called = "an ONNX graph"

    def __init__(self, folder: Path, made_from: nn.Module | None = None) -> None:
        """`made_from` is the model that the graph computes, whose parameters are then counted as this one's. The graph
        uses as many threads as torch does now. Raises onnxruntime's exceptions for a graph that it cannot run.
        """
        super().__init__()
        import onnxruntime  # noqa: PLC0415  not everybody has it

        self.model = nn.Identity() if made_from is None else made_from
        self.folder = folder
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # Its threads would go on spinning after a run, and slow down what is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in its own threads
        if not has_int8_dot_products():
            # Weights of 8 full bits, made for another processor, would overflow; those of 7 are as fast as without.
            options.add_session_config_entry("session.x64quantprecision", "1")
        graph = str(folder / GRAPH_FILE)
        with _tiny_as_zero():  # the process's first session sets this thread, too
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        (given,) = self._session.get_inputs()
        self._name: str = given.name
        self.fixed = tuple(size if isinstance(size, int) else None for size in given.shape)
        """The sizes of an input that are part of the graph; None where any will do."""

    def forward(self, inputs: Tensor) -> Tensor:
        """As the model that the graph was made of. Where the graph has a fixed batch, fewer samples are filled up."""
        count, whole = len(inputs), self.fixed[0]
        if whole is not None and count < whole:
            inputs = torch.cat([inputs, inputs[-1:].expand(whole - count, *inputs.shape[1:])])
        plain = np.ascontiguousarray(inputs.detach().cpu().numpy())
        with _tiny_as_zero():
            (outputs,) = self._session.run(None, {self._name: plain})
        return torch.from_numpy(outputs)[:count].to(inputs.device)

    def fits(self, inputs: Tensor) -> bool:
        """Whether the graph takes inputs of this shape."""
        sizes = zip(self.fixed[1:], inputs.shape[1:], strict=True)
        whole = self.fixed[0]
        return all(fixed in (None, size) for fixed, size in sizes) and (whole is None or len(inputs) <= whole)


@contextmanager
def _tiny_as_zero() -> Iterator[None]:
    """Within, this thread takes denormal numbers for zeros; after it, not, as any of ours."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
