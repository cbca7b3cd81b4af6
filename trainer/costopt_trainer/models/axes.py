"""What the axes of a model's parameters are: letters, from which it follows what can be cut out of it together.

    D   the width between layers                     M   hidden width of a feed-forward layer
    N   query heads                                  K   heads of keys and values
    A   queries, keys and values one after another, in one matrix
    -   an axis that stays

Axes           the letters of all parameters of a model, by name
of_linear      those of a linear layer, whole or of two factors
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Axes:
    """The letters of each parameter's axes: name, in which `*` is any number -> as many letters as it has axes."""

    letters: Mapping[str, str]
    head_dim: int
    """Width of a head."""
    heads_per_key: int = 1
    """Query heads that share one head of keys and values."""

    def of(self, name: str) -> str | None:
        """The letters of a parameter; None if its name is not known."""
        return self.letters.get(_NUMBER.sub("*", name))


def numbers_in(name: str) -> tuple[int, ...]:
    """The numbers in a name, such as that of the layer."""
    return tuple(int(number) for number in _NUMBER.findall(name))


def of_linear(name: str, outputs: str, inputs: str) -> dict[str, str]:
    """Letters of a linear layer from `inputs` to `outputs`, also if it is a LowRankLinear."""
    return {
        f"{name}.weight": f"{outputs}{inputs}",
        f"{name}.bias": outputs,
        f"{name}.down.weight": f"-{inputs}",
        f"{name}.up.weight": f"{outputs}-",
        f"{name}.up.bias": outputs,
    }


def of_norm(name: str, width: str = "D") -> dict[str, str]:
    """Letters of a layer norm, with or without a bias."""
    return {f"{name}.weight": width, f"{name}.bias": width}


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each parameter and buffer of `model`, under each of its names: the name, the module, the name within it."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):  # noqa: SLF001  torch has no other way
            if tensor is not None:
                yield f"{prefix}.{name}".removeprefix("."), module, name
