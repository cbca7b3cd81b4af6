"""8-bit weights (torchao), and their form on disk.

    quantize               the Quantize step
    flatten_quantized      quantized tensors -> plain tensors and metadata, as safetensors holds them
    unflatten_quantized    and back, exactly

Only `nn.Linear` layers are quantized: all matrices of a DecoderLM but its embeddings, and of a ConvNet only the
classifier, because torchao has no 8-bit convolution for these schemes. Weights are symmetric with one scale per output
channel; Int8DynamicActivation also quantizes each token's activations, with one scale per token, as they come.

This module imports torchao, which takes seconds: import it only when a quantized model is at hand.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from costopt.hostile import parse_json
from costopt.schema.compression import Quantize
from costopt_trainer.errors import NotRetryable

# torchao registers enums with torch in a way that torch 2.13 reports on every import; nothing is wrong with the model.
_pytree_log = logging.getLogger("torch.utils._pytree")
_level = _pytree_log.level
_pytree_log.setLevel(logging.ERROR)
try:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict, unflatten_tensor_state_dict
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
    from torchao.utils import should_reduce_range
finally:
    _pytree_log.setLevel(_level)

_KINDS = ("Int8Tensor", "QuantizeTensorToInt8Kwargs", "PerRow", "MappingType", "torch.dtype")
"""What the metadata of our steps' weights names."""


def quantize(model: nn.Module, settings: Quantize) -> str:
    """Replace the weights of every linear layer of `model`, in place, by int8 weights; says what was done.

    Raises NotRetryable("InvalidSettings") if the model has no linear layer.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise NotRetryable("InvalidSettings", "a Quantize step needs a model with at least one linear layer")
    quantize_(model.requires_grad_(False), _scheme(settings, linears[0].weight.device))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    kept = f" ({convolutions} convolution layers stay as they are)" if convolutions else ""
    return f"Quantize {settings.scheme}: linear layers with 8-bit weights: {len(linears)}{kept}"


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


def flatten_quantized(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Quantized tensors by name -> their int8 data and scales by name, and metadata for the safetensors header.

    Raises ValueError for a tensor type that cannot be stored without pickle.
    """
    return flatten_tensor_state_dict(dict(tensors))


def unflatten_quantized(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file's tensors and metadata -> the quantized tensors by name, and the plain ones that are left over.

    Raises ValueError, KeyError or TypeError if the metadata is not what `flatten_quantized` gave. torchao builds many
    kinds of objects from it, so it is held to the few that our steps make.
    """
    for text in metadata.values():
        _refuse_other_kinds(parse_json(text.encode()))
    return unflatten_tensor_state_dict(dict(tensors), dict(metadata))


def _refuse_other_kinds(data: Any) -> None:
    if isinstance(data, list):
        for item in data:
            _refuse_other_kinds(item)
    elif isinstance(data, dict):
        kind = data.get("_type")
        if kind is not None and kind not in _KINDS:
            raise ValueError(f"the metadata of quantized weights names {str(kind)[:80]!r}")
        if kind == "torch.dtype" and not isinstance(getattr(torch, str(data.get("_data")), None), torch.dtype):
            raise ValueError("the metadata of quantized weights names no type of numbers")
        for item in data.values():
            _refuse_other_kinds(item)
