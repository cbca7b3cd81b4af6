"""The ONNX form of a variant: a graph that onnxruntime runs, made of its module, beside its weights or in their place.

    quantized_by    the settings of the variant's Quantize step
    is_graph_only   whether what its steps make exists only as a graph
    must_have_graph     whether a variant must be one; refuse_missing_packages  which it then cannot be made with
    make_graph      module -> graph in a folder, in the bits that the Quantize step asks for
    is_worth_keeping    whether a graph that is the fastest is stored

A scheme of Quantize in GRAPH_ONLY has no tensors in torch: its step leaves the module as it was, and the graph is all
that the artifact holds. Any other variant has both forms, and keeps the graph if `formats` asks for it, or if it is the
fastest and not larger than the weights by more than a few percent. Where it is larger (zeros and shared weights, which
an artifact stores in a few bits, and small models, whose graph is mostly names), it is made of the weights before each
use, as that of the trained model is: the variant is as small as its weights, and time to compile tells what that takes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from costopt.schema.compression import GRAPH_ONLY, Calibration, Quantize, Step, Variant, calibrates
from costopt_trainer.compress.onnx_export import NotExportable, export, runs
from costopt_trainer.compress.onnx_quantize import calibration_inputs, has_bits_of, quantize_graph, store_ties_once
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.verify import EXACT_TOLERANCE, FEW_BITS_TOLERANCE, distance_of
from costopt_trainer.errors import NotRetryable, first_line
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.onnx_model import OnnxModel, lacking
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove, storage_folder

MAX_GRAPH_RATIO = 1.05
"""How many times as large as the weights a graph may be that nobody has asked for."""
MOST_BYTES_TRIED = 2**30
"""Of the weights of a model that is made a graph only to see how fast that is: it takes several times their memory."""


def quantized_by(steps: Sequence[Step]) -> Quantize | None:
    """The settings of the Quantize step; None without one."""
    return next((step.quantize for step in steps if step.quantize is not None), None)


def is_graph_only(steps: Sequence[Step]) -> bool:
    """Whether what `steps` make exists only as a graph."""
    settings = quantized_by(steps)
    return settings is not None and settings.scheme in GRAPH_ONLY


def must_have_graph(variant: Variant) -> bool:
    """Whether `variant` cannot be without a graph: else one is only tried."""
    return "Onnx" in variant.formats or is_graph_only(variant.steps)


def refuse_missing_packages(variant: Variant) -> None:
    """Raise NotRetryable("InvalidSettings") if `variant` must be a graph, and there is nothing to make it with."""
    if must_have_graph(variant) and (why := lacking()):
        asked = "quantize.scheme makes" if is_graph_only(variant.steps) else "formats asks for"
        raise NotRetryable("InvalidSettings", f"{asked} an ONNX graph, and {why}")


def is_worth_keeping(variant: Variant, *, weights_bytes: int, graph_bytes: int) -> bool:
    """Whether the graph of `variant` stays in its artifact if it is the fastest. It must if there are no weights."""
    return "Onnx" in variant.formats or weights_bytes == 0 or graph_bytes <= MAX_GRAPH_RATIO * weights_bytes


def make_graph(
    variant: Variant, model: LayeredModel, batch: Tensor, held_out: HeldOut, folder: Path, *, reduce_range: bool
) -> list[str]:
    """Make the graph of `model`, to which the variant's steps have been applied, in `folder`, which is made anew;
    returns lines for the log.

    `batch` are inputs to trace the model with; `reduce_range`: see `quantize_graph`. Raises NotExportable if there can
    be no graph, or NotRetryable("InvalidSettings") if the variant must have one, and OSError if that cannot be written.
    A graph that nobody has asked for is none if it does not compute what the model does.
    """
    settings, asked = quantized_by(variant.steps), must_have_graph(variant)
    try:
        if why := lacking():
            raise NotExportable(f"cannot be exported to ONNX: {why}")  # noqa: TRY301  told as the others are
        if settings is not None and not has_bits_of(settings.scheme):
            raise NotExportable("has 8-bit floats, which only torch has")  # noqa: TRY301  the same
        lines = _make(settings, model, batch, held_out, folder, reduce_range=reduce_range)
        if not asked:
            _compare(folder, model, batch[:2], few_bits=settings is not None)
    except NotRetryable as error:
        remove(folder)
        if asked:
            raise
        raise NotExportable(f"cannot be given fewer bits as a graph: {error}") from error
    except OSError as error:  # the disk
        remove(folder)
        if asked:
            raise
        raise NotExportable(f"cannot be written as a graph: {error.strerror or error}") from error
    except NotExportable as error:
        remove(folder)
        if is_graph_only(variant.steps):
            raise NotRetryable(
                "InvalidSettings", f"this quantize.scheme makes an ONNX graph, but the model {error}"
            ) from error
        if "Onnx" in variant.formats:
            raise NotRetryable("InvalidSettings", f"formats must not have Onnx: the model {error}") from error
        raise
    return lines


def _compare(folder: Path, model: LayeredModel, inputs: Tensor, *, few_bits: bool) -> None:
    """Raise NotExportable if the graph in `folder` cannot be run on `inputs`, or gives another output than `model`; of
    whole weights by half of what a fresh process lets pass, which looks at other inputs."""
    try:
        with torch.no_grad():
            graph = OnnxModel(folder)
            distance = distance_of(graph(inputs), model(inputs.clone())) if graph.fits(inputs) else 0.0
    except Exception as error:  # onnxruntime's exceptions are private
        raise NotExportable(f"cannot be run as a graph: {type(error).__name__}: {first_line(error)}") from error
    if not distance <= (FEW_BITS_TOLERANCE if few_bits else EXACT_TOLERANCE / 2):
        raise NotExportable(f"gives another output as a graph (by {100 * distance:.3g} %)")


def _make(
    settings: Quantize | None,
    model: LayeredModel,
    batch: Tensor,
    held_out: HeldOut,
    folder: Path,
    *,
    reduce_range: bool,
) -> list[str]:
    remove(folder)
    storage_folder(folder)
    whole = folder if settings is None else storage_folder(folder / "whole")
    with phase("Compiling"):
        export(model, batch[:2], whole)
    lines = []
    if settings is None and model.tied:
        store_ties_once(folder)
    if settings is not None:
        calibration = []
        if calibrates(settings):
            wanted = settings.calibration or Calibration()
            calibration = calibration_inputs(held_out.data, wanted, held_out.batch_size)
            method = settings.rounding if settings.scheme == "Int4WeightOnly" else wanted.method
            lines.append(f"calibrates by {method} on {sum(map(len, calibration))} training samples")
        with phase("Quantizing"):
            kept = {name: model.get_parameter(f"{name}.weight") for name in sorted(model.kept_in_bits)}
            lines.append(
                quantize_graph(whole, folder, settings, reduce_range=reduce_range, calibration=calibration, kept=kept)
            )
        remove(whole)
    runs(folder)
    return lines
