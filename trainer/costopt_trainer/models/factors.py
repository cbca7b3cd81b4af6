"""Factors that compression has put in place of single matrices, in an artifact and in a model built for it.

ranks_of       of a model, as its artifact has them
parted         widths as an artifact has them -> those that the family knows, and these
put_factors    factors in place of matrices, in a model that was just built

They stand among the widths of an artifact: `rank:<module>` is the number of channels between the two factors. A family
whose settings have a `rank` builds such layers by itself.
"""

from torch import nn

from costopt_trainer.models.light import LowRankLinear, last_linear
from costopt_trainer.models.shape import Widths

RANK = "rank:"


def ranks_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The rank of each layer of `model` that is a product of two."""
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, LowRankLinear))
    return {RANK + name: (layer.down.out_features,) for name, layer in layers}


def parted(widths: Widths) -> tuple[Widths, Widths]:
    """What the family knows of `widths`, and the ranks."""
    ranks = {name: sizes for name, sizes in widths.items() if name.startswith(RANK)}
    return {name: sizes for name, sizes in widths.items() if name not in ranks}, ranks


def put_factors(model: nn.Module, ranks: Widths) -> None:
    """Two fresh linear layers in place of each that `ranks` names. Raises ValueError or AttributeError for others."""
    for word, sizes in ranks.items():
        (rank,) = sizes
        put_in_place(model, word.removeprefix(RANK), rank)


def put_in_place(model: nn.Module, name: str, rank: int) -> LowRankLinear:
    """Two fresh linear layers, with `rank` channels between them, in place of the linear layer `name`; these."""
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear | LowRankLinear):
        raise ValueError(f"{name[:80]} is no linear layer")  # noqa: TRY004  as everything that is wrong with a file
    first, last = (layer.down, layer.up) if isinstance(layer, LowRankLinear) else (layer, layer)
    inputs, outputs = first.in_features, last.out_features
    if not 1 <= rank <= min(inputs, outputs):
        raise ValueError(f"the rank of {name[:80]} must be at least 1 and at most {min(inputs, outputs)}, not {rank}")
    bias = last_linear(layer).bias is not None
    factors = LowRankLinear(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias))
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, factors)
    return factors
