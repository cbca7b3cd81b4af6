"""The ONNX form of a variant: a graph that onnxruntime runs, made of its module, beside its weights or in their place.

    quantized_by    the settings of the variant's Quantize step
    is_graph_only   whether what its steps make exists only as a graph
    refuse_missing_packages     of a variant that must be one
    make_graph      module -> graph in a folder, in the bits that the Quantize step asks for

A scheme of Quantize in GRAPH_ONLY has no tensors in torch: its step leaves the module as it was, and the graph is all
that the artifact holds. Any other variant has both forms, and keeps the graph if `formats` asks for it or if it is the
fastest: what is measured is what is stored.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from costopt.schema.compression import GRAPH_ONLY, Calibration, Quantize, Step, Variant, calibrates
from costopt_trainer.compress.onnx_export import NotExportable, export, runs
from costopt_trainer.compress.onnx_quantize import calibration_inputs, quantize_graph, store_ties_once
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.onnx_model import lacking
from costopt_trainer.phases import phase
from costopt_trainer.storage.folders import remove, storage_folder


def quantized_by(steps: Sequence[Step]) -> Quantize | None:
    """The settings of the Quantize step; None without one."""
    return next((step.quantize for step in steps if step.quantize is not None), None)


def is_graph_only(steps: Sequence[Step]) -> bool:
    """Whether what `steps` make exists only as a graph."""
    settings = quantized_by(steps)
    return settings is not None and settings.scheme in GRAPH_ONLY


def refuse_missing_packages(variant: Variant) -> None:
    """Raise NotRetryable("InvalidSettings") if `variant` must be a graph, and there is nothing to make it with."""
    graph_only = is_graph_only(variant.steps)
    if (graph_only or "Onnx" in variant.formats) and (why := lacking()):
        asked = "quantize.scheme makes" if graph_only else "formats asks for"
        raise NotRetryable("InvalidSettings", f"{asked} an ONNX graph, and {why}")


def make_graph(
    variant: Variant, model: LayeredModel, batch: Tensor, held_out: HeldOut, folder: Path, *, reduce_range: bool
) -> list[str]:
    """Make the graph of `model`, to which the variant's steps have been applied, in `folder`, which is made anew;
    returns lines for the log.

    `batch` are inputs to trace the model with; `reduce_range`: see `quantize_graph`. Raises NotExportable if there can
    be no graph, or NotRetryable("InvalidSettings") if the variant must have one.
    """
    try:
        if why := lacking():
            raise NotExportable(f"cannot be exported to ONNX: {why}")  # noqa: TRY301  told as the others are
        return _make(quantized_by(variant.steps), model, batch, held_out, folder, reduce_range=reduce_range)
    except NotRetryable:
        remove(folder)
        raise
    except NotExportable as error:
        remove(folder)
        if is_graph_only(variant.steps):
            raise NotRetryable(
                "InvalidSettings", f"this quantize.scheme makes an ONNX graph, but the model {error}"
            ) from error
        if "Onnx" in variant.formats:
            raise NotRetryable("InvalidSettings", f"formats must not have Onnx: the model {error}") from error
        raise


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
