"""A model of torch -> an ONNX graph.

export          writes the graph into a folder; how many samples, and tokens of each, stays free where it can
runs            refuses a graph that onnxruntime cannot run
bytes_as_graph  of the weights in it
is_large        whether weights need a file beside the graph
NotExportable   why it cannot be, with the operator's name

Weights of few bits become numbers again; onnx_quantize makes few bits of them in the graph. What can be computed
beforehand is (transposed matrices, batch norm in a convolution's weights), by onnxruntime's first level of
optimizations, which is the same for every processor.
"""

import copy
import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from costopt_trainer.errors import first_line
from costopt_trainer.models.onnx_model import DATA_FILE, GRAPH_FILE, OnnxModel

PROTOBUF_BYTES = 2**31 - 2**24
"""What one file of a graph may hold: a protobuf's 2 GB, less some room for the nodes. Weights of more lie beside it."""

_ERRORS = 3
"""onnxruntime's word for: say nothing less than errors."""

_OPERATOR = (
    re.compile(r"No ONNX function found for <OpOverload\(op='(?P<name>[^']+)', overload='[^']*'\)>"),
    re.compile(r"Error when calling function 'TracedOnnxFunction\(<function (?P<name>\w+)"),
    re.compile(r"Could not find an implementation for (?P<name>\w+)\("),
    re.compile(r"No Op registered for (?P<name>\w+)"),
)


class NotExportable(Exception):
    """A model that is no ONNX graph; the text is what cannot be, without a subject."""


def export(model: nn.Module, example: Tensor, folder: Path) -> None:
    """Write `model`, in eval mode on the CPU, as a graph into `folder`, which is empty.

    `example` is a batch of inputs. Raises NotExportable, and OSError if the disk is full.
    """
    import onnxruntime  # noqa: PLC0415  not everybody has it

    plain = _with_whole_weights(model)
    if len(example) == 1:  # sizes of 1 would be taken for fixed
        example = torch.cat([example, example])
    free = torch.export.Dim.AUTO  # or fixed, if the model needs that
    sizes = {0: free, 1: free} if example.dtype == torch.int64 and example.ndim == 2 else {0: free}
    raw = folder / f"raw-{GRAPH_FILE}"
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                plain, (example,), dynamo=True, verbose=False, dynamic_shapes=(sizes,),
                input_names=["inputs"], output_names=["outputs"],
            )  # fmt: skip
            assert program is not None  # noqa: S101  with dynamo it never is
            program.save(raw)
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(folder / GRAPH_FILE)
            options.log_severity_level = _ERRORS
            if is_large(bytes_as_graph(plain)):
                options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA_FILE)
            onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter's exceptions are private, and it lets through any of torch's
        if (full := _full_disk(error, raw)) is not None:
            raise full from error
        raise NotExportable(_why(error)) from error
    finally:
        for left in folder.glob(f"{raw.name}*"):
            left.unlink()


def is_large(weights_bytes: int) -> bool:
    """Whether so many bytes of weights need a file beside their graph."""
    return weights_bytes > PROTOBUF_BYTES


def bytes_as_graph(model: nn.Module) -> int:
    """Bytes of the weights of `model` in its first graph, where those of few bits are whole, and a matrix in two
    places, such as a head that is the embedding, may be two."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return sum(tensor.nbytes for _, tensor in tensors)


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries of ONNX warn of what is no mistake of anybody's, and set up the root logger when they are imported."""
    import onnxruntime  # noqa: PLC0415  not everybody has it

    onnxruntime.set_default_logger_severity(_ERRORS)
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def _with_whole_weights(model: nn.Module) -> nn.Module:
    """`model`, or a copy of it in which weights of few bits are float again."""
    if not any(hasattr(parameter, "qdata") for parameter in model.parameters()):
        return model
    copied = copy.deepcopy(model)
    whole: dict[int, nn.Parameter] = {}
    for name, parameter in list(copied.named_parameters(remove_duplicate=False)):
        if hasattr(parameter, "qdata"):
            owner, _, attribute = name.rpartition(".")
            made = whole.setdefault(id(parameter), nn.Parameter(parameter.dequantize(), requires_grad=False))
            setattr(copied.get_submodule(owner), attribute, made)
    return copied


def _full_disk(error: BaseException, raw: Path) -> OSError | None:
    """What to raise if the export that ended with `error` found no room on the disk; None: that was not it.

    onnxruntime does not say so of the second graph, which has about the bytes of the first, `raw`.
    """
    told: BaseException | None = error
    while told is not None:
        if isinstance(told, OSError) and told.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return OSError(told.errno, os.strerror(told.errno), str(raw.parent))  # anew: `error` has this cause
        told = told.__cause__
    sizes = {path.name: path.stat().st_size for path in raw.parent.iterdir()}
    first = sum(size for name, size in sizes.items() if name.startswith(raw.name))
    if shutil.disk_usage(raw.parent).free + sum(sizes.values()) - first < first:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(raw.parent))
    return None


def _why(error: BaseException) -> str:
    """What to say of an error: the operator at fault, which the cause of a cause may name."""
    told: BaseException | None = error
    last = error
    while told is not None:
        for pattern in _OPERATOR:
            if found := pattern.search(str(told)):
                return f"cannot be exported to ONNX: there is nothing for its operator {found['name']}"
        last, told = told, told.__cause__
    return f"cannot be exported to ONNX: {type(last).__name__}: {first_line(last)}"


def runs(folder: Path) -> None:
    """Load the graph in `folder` once. Raises NotExportable if onnxruntime has no kernel for an operator of it."""
    try:
        OnnxModel(folder)
    except Exception as error:  # onnxruntime's exceptions are private
        raise NotExportable(_why(error)) from error
