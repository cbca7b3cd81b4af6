"""8-bit weights (torchao): the Quantize step.

Only `nn.Linear` layers are quantized: in a DecoderLM all matrices but the embeddings, in a ConvNet only the classifier,
because torchao has no 8-bit convolution for these schemes. A head that is the embedding stays whole: an 8-bit copy of
it beside the embedding would make the model larger. With `embeddings` these have 8-bit weights, too, and such a head is
the same tensor. Weights are symmetric with one scale per output channel; Int8DynamicActivation also quantizes
activations at run time, with one scale per token. Schemes in GRAPH_ONLY are for onnx_quantize: torch has no tensors
for them, and the step leaves the model as it is.

This module imports torchao, which takes seconds: import it only for a quantized model.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

import torch
from torch import nn

from costopt.schema.compression import GRAPH_ONLY, Quantize
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.sensitivity import layers_of, layers_to_keep, measure_layers
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.storage.quantized_tensors import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
    should_reduce_range,
)

_TOLD = 8
"""Names of layers in the log."""


def quantize(model: nn.Module, settings: Quantize, kept: Collection[str] = ()) -> str:
    """Replace the weights of every linear layer of `model` but the `kept` ones, in place, by int8 weights; returns what
    was done.

    Raises NotRetryable("InvalidSettings") if the model has no linear layer.
    """
    if settings.scheme in GRAPH_ONLY:
        return f"Quantize {settings.scheme}: in the ONNX graph"
    tied = model.tied if isinstance(model, LayeredModel) else {}
    linears = layers_of(model, settings.scheme).keys() - set(kept)
    if not linears:
        raise NotRetryable("InvalidSettings", "a Quantize step needs a model with at least one linear layer")
    device = next(model.parameters()).device
    quantize_(model.requires_grad_(False), _scheme(settings, device), filter_fn=lambda _, name: name in linears)
    tables = _quantize_embeddings(model, tied) if settings.embeddings else 0
    also = f", embeddings: {tables}" if tables else ""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    whole = f" ({convolutions} convolution layers stay as they are)" if convolutions else ""
    return f"Quantize {settings.scheme}: linear layers with 8-bit weights: {len(linears)}{also}{whole}"


def _quantize_embeddings(model: nn.Module, tied: Mapping[str, str]) -> int:
    """8-bit weights for embeddings, one scale for each row, and for what is one; returns how many there are."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    shared = {other: name for name, other in tied.items()}
    quantize_(
        model,
        Int8WeightOnlyConfig(set_inductor_config=False),
        filter_fn=lambda module, _: isinstance(module, nn.Embedding),
    )
    for name in names:
        if same := shared.get(f"{name}.weight"):
            owner, _, attribute = same.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_submodule(name).weight)
    return len(names)


def _scheme(settings: Quantize, device: torch.device) -> Any:
    # set_inductor_config would change torch.compile for the whole process, and so for the baseline too.
    if settings.scheme == "Int8WeightOnly":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    return Int8DynamicActivationInt8WeightConfig(
        version=2,
        set_inductor_config=False,
        # CPUs without VNNI add products of two int8 in int16, which 8 full bits can overflow; 7 cannot.
        reduce_range=should_reduce_range(device),
    )


class QuantizeStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Quantizing"
    trains = False
    quality_drop_percent = Decimal(1)

    def changes_shapes(self, _settings: Quantize) -> bool:
        return False

    def wants_speed(self, settings: Quantize) -> bool:
        return settings.scheme in ("Int8DynamicActivation", "Int8Static")

    def wants_compile(self, settings: Quantize) -> bool:
        return settings.scheme == "Int8DynamicActivation"

    def apply(self, model: LayeredModel, settings: Quantize, run: StepRun) -> str:
        if settings.keep_layers_percent is None:
            return quantize(model, settings)
        if run.judged_on is None:
            raise NotRetryable("InvalidSettings", "quantize.keepLayersPercent needs samples to measure layers on")
        rises = measure_layers(model, settings, run.judged_on, run.pieces.done)
        kept = layers_to_keep(rises, settings.keep_layers_percent)
        model.kept_in_bits, model.sensitivity = kept, rises.told(kept)
        told = ", ".join(f"{name} ({rises.of_layers[name]:+.3g})" for name in rises.ranked()[: min(len(kept), _TOLD)])
        more = f" and {len(kept) - _TOLD} more" if len(kept) > _TOLD else ""
        samples = f"{rises.samples} {'held-out' if rises.samples_of == 'HeldOut' else 'training'} samples"
        return (
            f"{quantize(model, settings, kept)}; kept in more bits, by what the loss rises with each alone on "
            f"{samples}: {told}{more}"
        )


STEP = QuantizeStep()
