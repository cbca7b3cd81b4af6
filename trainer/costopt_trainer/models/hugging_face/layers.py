"""Fewer layers: the same architecture, built anew of a configuration that says so.

with_layers    some layers of a model
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn


def with_layers(config: Any, model: nn.Module, blocks: Sequence[nn.Module], kept: Sequence[int]) -> tuple[Any, Any]:
    """A configuration and a model with those of `blocks`, all layers of `model`, whose numbers are in `kept`.

    It is built anew, and not cut, because each layer knows its number, and some their kind.
    """
    [path] = (name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and [*part] == [*blocks])
    fewer = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == len(blocks) and name.endswith("layer_types"):
            setattr(fewer, name, [value[layer] for layer in kept])
    fewer.num_hidden_layers = len(kept)
    built = type(model)(fewer)
    numbers = {str(layer): str(number) for number, layer in enumerate(kept)}
    built.load_state_dict(
        {
            new: tensor
            for name, tensor in model.state_dict().items()
            if (new := _renamed(name, f"{path}.", numbers)) is not None
        }
    )
    if hasattr(model, "generation_config"):
        built.generation_config = model.generation_config
    return fewer, built.to(next(model.parameters()).device).train(model.training)


def _renamed(name: str, path: str, numbers: dict[str, str]) -> str | None:
    """The name of a tensor once layers have other numbers; None of a layer that goes."""
    if not name.startswith(path):
        return name
    layer, _, rest = name.removeprefix(path).partition(".")
    return f"{path}{numbers[layer]}.{rest}" if layer in numbers else None
