"""8-bit weights (torchao): the Quantize step.

Only `nn.Linear` layers are quantized: in a DecoderLM all matrices but the embeddings, in a ConvNet only the classifier,
because torchao has no 8-bit convolution for these schemes. A head that is the embedding stays whole: an 8-bit copy of
it beside the embedding would make the model larger. With `embeddings` these have 8-bit weights, too, and such a head is
the same tensor. Before, activations may be smoothed (smooth.py), and the model trained with rounded weights
(fake_quantize.py). Weights are symmetric with one scale per output channel; Int8DynamicActivation also quantizes
activations at run time, with one scale per token. Float8 schemes have floats of 8 bits (e4m3) in their place, with
activations one scale for each matrix. Schemes in GRAPH_ONLY are for onnx_quantize: torch has no tensors
for them, and the step leaves the model as it is.

This module imports torchao, which takes seconds: import it only for a quantized model.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

import torch
from torch import nn

from costopt.schema.compression import GRAPH_ONLY, Calibration, Quantize
from costopt.schema.replica import PhaseName
from costopt_trainer.compress.fake_quantize import train_rounded
from costopt_trainer.compress.onnx_quantize import calibration_inputs
from costopt_trainer.compress.sensitivity import layers_of, layers_to_keep, measure_layers
from costopt_trainer.compress.smooth import smooth
from costopt_trainer.compress.step import StepRun
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.storage.quantized_tensors import (
    Float8DynamicActivationFloat8WeightConfig,
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    PerTensor,
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
    tied, linears = _tied(model), linear_layers(model)
    device = next(model.parameters()).device
    if settings.scheme == "Float8DynamicActivation":
        linears = {name: layer for name, layer in linears.items() if _fits_float8(layer)}
        if not linears:
            raise NotRetryable(
                "InvalidSettings",
                f"{settings.scheme} needs a model with linear layers whose inputs and outputs are multiples of 16",
            )
    wanted = linears.keys() - set(kept)
    quantize_(model.requires_grad_(False), _scheme(settings, device), filter_fn=lambda _module, name: name in wanted)
    tables = _quantize_embeddings(model, tied) if settings.embeddings else 0
    also = f", embeddings: {tables}" if tables else ""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    whole = f" ({convolutions} convolution layers stay as they are)" if convolutions else ""
    return f"Quantize {settings.scheme}: linear layers with 8-bit weights: {len(wanted)}{also}{whole}"


def _fits_float8(layer: nn.Linear) -> bool:
    """Whether kernels take a matrix of this size; torchao leaves others whole, and does not say so."""
    return layer.in_features % 16 == 0 and layer.out_features % 16 == 0


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of `model` by name, without a head that is the embedding.

    Raises NotRetryable("InvalidSettings") if it has none.
    """
    found = {name: layer for name, layer in layers_of(model).items() if isinstance(layer, nn.Linear)}
    if not found:
        raise NotRetryable("InvalidSettings", "a Quantize step needs a model with at least one linear layer")
    return found


def _tied(model: nn.Module) -> Mapping[str, str]:
    return model.tied if isinstance(model, LayeredModel) else {}


def _embeddings(model: nn.Module) -> dict[str, nn.Module]:
    """Embeddings by name, and heads that are one."""
    heads = {name.rpartition(".")[0] for name in _tied(model)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or (name in heads and isinstance(module, nn.Linear))
    }


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
    if settings.scheme == "Float8WeightOnly":
        return Float8WeightOnlyConfig(set_inductor_config=False)
    if settings.scheme == "Float8DynamicActivation":
        # A scale for each row would need weights in bfloat16.
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerTensor(), set_inductor_config=False)
    return Int8DynamicActivationInt8WeightConfig(
        version=2,
        set_inductor_config=False,
        # CPUs without VNNI add products of two int8 in int16, which 8 full bits can overflow; 7 cannot.
        reduce_range=should_reduce_range(device),
    )


class QuantizeStep:
    """A row of the table: see CompressionStep."""

    phase: PhaseName = "Quantizing"
    trains = True
    """Where `fineTuneSteps` says so."""
    quality_drop_percent = Decimal(1)

    def changes_shapes(self, _settings: Quantize) -> bool:
        return False

    def wants_speed(self, settings: Quantize) -> bool:
        return settings.scheme in ("Int8DynamicActivation", "Int8Static", "Float8DynamicActivation")

    def wants_compile(self, settings: Quantize) -> bool:
        return settings.scheme in ("Int8DynamicActivation", "Float8DynamicActivation")

    def apply(self, model: LayeredModel, settings: Quantize, run: StepRun) -> str:
        before = ""
        if settings.smooth_percent is not None:
            before += f", {_smooth(model, settings, run)}"
        kept, told = _keep(model, settings, run)
        if settings.trains:
            linears = {name: layer for name, layer in linear_layers(model).items() if name not in kept}
            tables = _embeddings(model) if settings.embeddings else {}
            before += f", {train_rounded(model, settings, run, linears, tables)}"
        return quantize(model, settings, kept) + before + told


def _keep(model: LayeredModel, settings: Quantize, run: StepRun) -> tuple[frozenset[str], str]:
    """The layers that stay in more bits, which the model is told too, and what there is to say of them."""
    if settings.keep_layers_percent is None:
        return frozenset(), ""
    if run.judged_on is None:
        raise NotRetryable("InvalidSettings", "quantize.keepLayersPercent needs samples to measure layers on")
    rises = measure_layers(model, settings, run.judged_on, run.pieces.done)
    kept = layers_to_keep(rises, settings.keep_layers_percent)
    model.kept_in_bits, model.sensitivity = kept, rises.told(kept)
    told = ", ".join(f"{name} ({rises.of_layers[name]:+.3g})" for name in rises.ranked()[: min(len(kept), _TOLD)])
    more = f" and {len(kept) - _TOLD} more" if len(kept) > _TOLD else ""
    samples = f"{rises.samples} {'held-out' if rises.samples_of == 'HeldOut' else 'training'} samples"
    return kept, f"; kept in more bits, by what the loss rises with each alone on {samples}: {told}{more}"


def _smooth(model: LayeredModel, settings: Quantize, run: StepRun) -> str:
    if run.data is None:
        raise NotRetryable("InvalidSettings", "quantize.smoothPercent needs training samples to calibrate with")
    size = 1 if run.recipe is None else run.recipe.batch.micro_batch_size
    given = calibration_inputs(run.data, settings.calibration or Calibration(), size)
    told = smooth(
        model,
        linear_layers(model),
        (settings.smooth_percent or 0) / 100,
        run.example,
        (torch.from_numpy(batch) for batch in given),
    )
    return f"{told} on {sum(map(len, given))} training samples"


STEP = QuantizeStep()
