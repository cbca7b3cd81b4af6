"""What a model needs: parameters, bytes in memory, and multiplications of a pass.

count_parameters    parameters, and how many are not zero
bytes_in_memory     of parameters and buffers
macs_of             multiplications of a pass, counted by torch
peak_beside         bytes that a pass allocates, at most at one time; peak_of_graph: the same of onnxruntime
"""

import ctypes
import gc
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from costopt_trainer.compress.engines import Forward
from costopt_trainer.models.onnx_model import OnnxModel

# Else the profiler's library tells the log of each of its starts and stops, and of GPUs that are not there.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

_MEMORY_EVENT = "[memory]"
"""How the profiler calls what was allocated or freed."""

_STATUS = Path("/proc/self/status")
SESSIONS = 3
"""Of a graph, in which its memory is looked at."""


class NotSeen(Exception):
    """Memory that cannot be measured here; the text is why."""


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters of `model`, and how many of them are not zero. A quantized weight counts as one parameter."""
    total = nonzero = 0
    for parameter in model.parameters():
        total += parameter.numel()
        # Symmetric 8-bit data is zero exactly where its weight is.
        stored = getattr(parameter, "qdata", parameter).detach()
        if stored.dtype == torch.float8_e4m3fn:  # torch does not count these
            stored = stored.to(torch.bfloat16)
        nonzero += int(torch.count_nonzero(stored))
    return total, nonzero


def bytes_in_memory(model: nn.Module) -> int:
    """Bytes of all parameters and buffers of `model`, each tensor once; of 8-bit ones those of their parts."""
    plain = {part.data_ptr(): part for tensor in _tensors(model) for part in _parts(tensor)}
    return sum(part.nbytes for part in plain.values())


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _parts(tensor: Any) -> Iterator[Tensor]:
    """The plain tensors that `tensor` consists of."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor.detach()
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _parts(getattr(tensor, name))


def macs_of(model: nn.Module, inputs: Tensor) -> int | None:
    """Multiplications, each with an addition, of one pass of `model`: of matrices, convolutions and attention. None if
    none were seen: torch does not know every kernel."""
    with FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops() // 2 or None


def _attention(query: Any, key: Any, value: Any, *_more: Any, **_named: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _int_mm(first: Any, second: Any, *_more: Any, **_named: Any) -> int:
    return int(2 * first[0] * first[1] * second[1])


def _recurrent(inputs: Any, *weights: Any, **_named: Any) -> int:
    """Of one layer of an LSTM: inputs (T, B, in), weights (4 D, in) and (4 D, D)."""
    times = inputs[0] * inputs[1]
    return sum(2 * times * rows * columns for rows, columns in weights[:2])


_ALSO_COUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001  their only names
    torch.ops.aten._int_mm: _int_mm,  # noqa: SLF001
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
}
"""Kernels of a CPU that torch's own table lacks; functions of shapes, as it has them."""


def peak_beside(forward: Forward, inputs: Tensor) -> int:
    """Bytes that a pass allocates beside the weights and its inputs, at most at one time; the result is among them.

    Only what torch allocates: for an engine with memory of its own see `peak_of_graph`.
    """
    if inputs.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.no_grad():
            forward(inputs)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen, torch.no_grad():
        forward(inputs)
    held = most = 0
    for allocated in _allocations(seen):
        held += allocated
        most = max(most, held)
    return most


def _allocations(seen: profile) -> list[int]:
    """Bytes allocated (or, negative, freed), in the order of time."""
    recorded: Any = seen.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == _MEMORY_EVENT]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def peak_of_graph(folder: Path, inputs: Tensor) -> int:
    """The same of a pass of the graph in `folder` under onnxruntime: how far the memory that this process holds rose.

    onnxruntime keeps what a pass took for the next one, so that after the first pass of a fresh session all of it is
    still there. Free memory, which a pass could take unseen, is given back before, and so is what Python's collector
    would free meanwhile. Only what no file stands behind counts (RssAnon of Linux): pages of libraries come and go by
    themselves. It is counted in pages of 4 KiB, with what onnxruntime holds but does not use. What other threads and
    the system do with the rest of the process's memory is in it, too, so it is the median of SESSIONS. Raises NotSeen.
    """
    inputs = inputs.cpu()
    passes = [_rise_of_graph(folder, inputs) for _ in range(SESSIONS)]
    risen, outputs = statistics.median_low(rise for rise, _ in passes), passes[0][1]
    if risen < outputs:
        raise NotSeen("a pass takes less than the system counts")
    return risen


def _rise_of_graph(folder: Path, inputs: Tensor) -> tuple[int, int]:
    """Bytes by which this process grew in the first pass of a session, and those of its outputs. Raises NotSeen."""
    graph = OnnxModel(folder)
    _give_free_memory_back()
    before = _anonymous_bytes()
    with torch.no_grad():
        outputs = graph(inputs)
    return _anonymous_bytes() - before, outputs.nbytes


def _give_free_memory_back() -> None:
    """To the system, with what Python's collector would free. Raises NotSeen."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError as error:
        raise NotSeen("this C library does not give free memory back") from error


def _anonymous_bytes() -> int:
    """Bytes of this process that are in memory, but for pages of files. Raises NotSeen."""
    why: str | None = "there is no RssAnon"
    try:
        for line in _STATUS.read_text().splitlines():
            name, _, amount = line.partition(":")
            if name == "RssAnon":
                return int(amount.split()[0]) * 1024
    except OSError as error:
        why = error.strerror
    raise NotSeen(f"the system does not tell what memory a process holds ({why})")
