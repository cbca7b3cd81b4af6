"""How ranks split the tensors of a model of the library: its own plan in our words.

plan_of     the plan of a model, of peft or plain
fault_of    why a number of ranks cannot split it so

The library says for each architecture what its modules do when its tensors are split (`tp_plan`). We
have them do it by our own roles (`SplitRole`), so that checkpoints are those of any other layout.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from costopt_trainer.foreign_config import SPLIT_NUMBERS
from costopt_trainer.models.family import SplitRole

_ROLES: Mapping[str, SplitRole] = {
    "colwise": "columns",
    "colwise_gather_output": "gathered columns",
    "colwise_rep": "gathered columns",
    "rowwise": "rows",
    "rowwise_split_input": "rows of whole inputs",
    "rowwise_rep": "rows of whole inputs",
    "embedding_rowwise": "embedding",
    "replicated_with_grad_allreduce": "norm of heads",
}
"""The library's word -> ours. What is for experts or for matrices packed into one is not among them."""
_WHOLE = "replicate"
"""The library's word for a module that nobody splits."""
_BY_OUTPUTS: frozenset[SplitRole] = frozenset({"columns", "gathered columns", "head"})
_BY_INPUTS: frozenset[SplitRole] = frozenset({"rows", "rows of whole inputs"})


@dataclass(frozen=True)
class Plan:
    """What the modules of a model do when its tensors are split."""

    roles: Mapping[str, SplitRole]
    """By name, in which `*` is any layer; empty where the library has no plan."""
    unknown: str | None
    """A module that is to do what we cannot have it do, with the library's word for it."""


def plan_of(model: Any) -> Plan:
    """The plan of a model of the library, with peft's adapters around it or not."""
    prefix = "base_model.model." if hasattr(model, "peft_config") else ""
    plain = model.base_model.model if prefix else model
    words = {name: word for name, word in (getattr(plain, "_tp_plan", None) or {}).items() if word != _WHOLE}
    roles: dict[str, SplitRole] = {}
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    for name, _ in plain.named_parameters():
        if (word := words.get(_any_layer(name))) is not None:
            return Plan({}, f"{name}: {word}")
    for name, module in plain.named_modules():
        word = words.get(_any_layer(name))
        if word is None:
            continue
        role = _ROLES.get(word)
        if role is None or not _suits(module, role):
            return Plan({}, f"{name}: {word}")
        if role == "gathered columns" and module is head:
            role = "head"  # the loss is computed of the parts
        roles |= {f"{prefix}{one}": own for one, own in _with_adapter(name, role, module).items()}
    # One matrix can be split in one way only.
    if head is not None and "head" in roles.values() and head.weight is embedding.weight:
        [name] = (name for name, module in model.named_modules() if module is embedding)
        roles[name] = "embedding"
    return Plan(roles, None)


def fault_of(model: Any, config: Any, ranks: int, *, sequence: bool) -> str | None:
    """Why `ranks` cannot split it, as the sentence of an error; None if they can."""
    plan, setting, kind = plan_of(model), "recipe.parallelism.tensor", config.model_type
    instead = "parallelism.shard shares the weights of any model out"
    if plan.unknown is not None:
        return f"{setting} must be 1: the plan of type {kind} has {plan.unknown}, which is not known here; {instead}"
    if not plan.roles:
        return f"{setting} must be 1: transformers has no tensor-parallel plan for type {kind}; {instead}"
    if sequence:
        return "recipe.parallelism.sequenceParallel must be false: the plans of transformers split no positions"
    numbers = dict(_numbers_to_divide(model, config.get_text_config(), plan))
    uneven = [f"{name} {number}" for name, number in numbers.items() if number % ranks != 0]
    return f"{setting} must divide {', '.join(uneven[:2])} of the model, and {ranks} does not" if uneven else None


def _numbers_to_divide(model: nn.Module, config: Any, plan: Plan) -> Iterator[tuple[str, int]]:
    """What ranks must divide, by name. Not the vocabulary: no layer sees in its rows more than rows."""
    for name in SPLIT_NUMBERS:
        number = getattr(config, name, None)
        if type(number) is int and number > 0:
            yield name, number
    for name, role in plan.roles.items():
        module: Any = model.get_submodule(name)
        if role in _BY_INPUTS:
            yield f"the width of {_any_layer(name)}", module.in_features
        elif role in _BY_OUTPUTS and role != "head":
            yield f"the width of {_any_layer(name)}", module.out_features


def _suits(module: Any, role: SplitRole) -> bool:
    if role in _BY_INPUTS | _BY_OUTPUTS:
        return isinstance(getattr(module, "base_layer", module), nn.Linear)
    return role != "embedding" or isinstance(module, nn.Embedding)


def _with_adapter(name: str, role: SplitRole, module: nn.Module) -> dict[str, SplitRole]:
    """The role of a layer; of one with an adapter those of its parts: what lies between A and B is whole."""
    if not hasattr(module, "base_layer"):
        return {name: role}
    part = "lora_B" if role in _BY_OUTPUTS else "lora_A"
    return {f"{name}.base_layer": role, f"{name}.{part}.default": role}


def _any_layer(name: str) -> str:
    """A name as plans write it: `*` for the number of a layer."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
