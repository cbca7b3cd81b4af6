"""What can be cut out of a model of the library, and its configuration afterwards.

axes_of        the letters of its parameters; None for an architecture that is not known here
resized        its configuration for other sizes
rebuilt        the model for that configuration, on the meta device unless weights are given

An architecture is known if the names of all its parameters are in one of the tables: then nothing is overlooked. What
the library itself can build is decided by the library: its configuration may have no word for a size (GPT-2 and BERT
derive the width of a head), or demand that one number divides another.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from costopt_trainer.models.axes import Axes, of_linear, of_norm
from costopt_trainer.models.family import Sizes

_LLAMA: Mapping[str, str] = {
    "embed_tokens.weight": "-D",
    **of_norm("layers.*.input_layernorm"),
    **of_linear("layers.*.self_attn.q_proj", "N", "D"),
    **of_linear("layers.*.self_attn.k_proj", "K", "D"),
    **of_linear("layers.*.self_attn.v_proj", "K", "D"),
    **of_linear("layers.*.self_attn.o_proj", "D", "N"),
    **of_norm("layers.*.self_attn.q_norm", "-"),
    **of_norm("layers.*.self_attn.k_norm", "-"),
    **of_norm("layers.*.post_attention_layernorm"),
    **of_linear("layers.*.mlp.gate_proj", "M", "D"),
    **of_linear("layers.*.mlp.up_proj", "M", "D"),
    **of_linear("layers.*.mlp.down_proj", "D", "M"),
    **of_norm("norm"),
}
"""Llama, Mistral, Qwen and others that are built alike."""
_GPT2: Mapping[str, str] = {
    "wte.weight": "-D",
    "wpe.weight": "-D",
    **of_norm("h.*.ln_1"),
    # Conv1D: inputs first.
    "h.*.attn.c_attn.weight": "DA",
    "h.*.attn.c_attn.bias": "A",
    "h.*.attn.c_proj.weight": "ND",
    "h.*.attn.c_proj.bias": "D",
    **of_norm("h.*.ln_2"),
    "h.*.mlp.c_fc.weight": "DM",
    "h.*.mlp.c_fc.bias": "M",
    "h.*.mlp.c_proj.weight": "MD",
    "h.*.mlp.c_proj.bias": "D",
    **of_norm("ln_f"),
}
_BERT: Mapping[str, str] = {
    "embeddings.word_embeddings.weight": "-D",
    "embeddings.position_embeddings.weight": "-D",
    "embeddings.token_type_embeddings.weight": "-D",
    **of_norm("embeddings.LayerNorm"),
    **of_linear("encoder.layer.*.attention.self.query", "N", "D"),
    **of_linear("encoder.layer.*.attention.self.key", "N", "D"),
    **of_linear("encoder.layer.*.attention.self.value", "N", "D"),
    **of_linear("encoder.layer.*.attention.output.dense", "D", "N"),
    **of_norm("encoder.layer.*.attention.output.LayerNorm"),
    **of_linear("encoder.layer.*.intermediate.dense", "M", "D"),
    **of_linear("encoder.layer.*.output.dense", "D", "M"),
    **of_norm("encoder.layer.*.output.LayerNorm"),
    **of_linear("pooler.dense", "D", "D"),
    **of_linear("cls.predictions.transform.dense", "D", "D"),
    **of_norm("cls.predictions.transform.LayerNorm"),
    **of_linear("cls.predictions.decoder", "-", "D"),
    "cls.predictions.bias": "-",
    # RoBERTa's heads.
    **of_linear("lm_head.dense", "D", "D"),
    **of_norm("lm_head.layer_norm"),
    **of_linear("lm_head.decoder", "-", "D"),
    "lm_head.bias": "-",
    **of_linear("classifier.dense", "D", "D"),
    **of_linear("classifier.out_proj", "-", "D"),
    **of_linear("classifier", "-", "D"),
}
_HEADS: Mapping[str, str] = {"lm_head.weight": "-D", "score.weight": "-D"}
_LAYERS = {"layers": _LLAMA, "h": _GPT2, "encoder.layer": _BERT}
"""Name of the list of layers -> the letters of models that have it."""


def axes_of(model: Any, config: Any, prefix: str) -> Axes | None:
    """The letters of the parameters of `model`, whose names begin with `prefix` for the caller."""
    table = _table(model)
    if table is None:
        return None
    base = f"{model.base_model_prefix}."
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    letters = {f"{prefix}{base}{name}": axes for name, axes in table.items()} | {
        f"{prefix}{name}": axes for name, axes in {**table, **_HEADS}.items()
    }
    key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    axes = Axes(letters, _head_dim(text), heads // key_heads)
    known = all(axes.of(prefix + name) is not None for name, _ in model.named_parameters())
    return axes if known else None


def resized(config: Any, sizes: Sizes) -> Any:
    """A copy of `config` for `sizes`. Raises ValueError with the library's sentence if it allows no such sizes."""
    copied = copy.deepcopy(config)
    changes: dict[str, Any] = {}
    if sizes.channels is not None:
        changes["n_inner" if hasattr(copied, "n_inner") else "intermediate_size"] = sizes.channels
    if sizes.heads is not None or sizes.hidden_width is not None:
        if hasattr(copied, "num_key_value_heads"):
            # Otherwise the library derives it, and it would change with what it is derived from.
            changes["head_dim"] = _head_dim(copied)
        if hasattr(copied, "n_inner") and copied.n_inner is None:
            changes = {"n_inner": 4 * copied.hidden_size, **changes}
        changes |= {} if sizes.hidden_width is None else {"hidden_size": sizes.hidden_width}
    if sizes.heads is not None:
        changes["num_attention_heads"] = sizes.heads
        if hasattr(copied, "num_key_value_heads"):
            changes["num_key_value_heads"] = sizes.key_heads
    try:
        for name, value in changes.items():
            setattr(copied, name, value)
        again = type(copied).from_dict(copied.to_dict())
    except Exception as error:
        # The library's own checks raise what they like, and tell the reason last.
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(last.strip().removeprefix("ValueError: ").rstrip(".")) from error
    again._attn_implementation = config._attn_implementation  # noqa: SLF001  from_dict forgets it
    return again


def rebuilt(model: Any, config: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """A model like `model` for `config`: filled with `tensors`, or on the meta device."""
    with torch.device("meta" if tensors is None else "cpu"), torch.random.fork_rng(devices=[]):
        # The library's way to build of a configuration alone.
        made = type(model)._from_config(config, dtype=torch.float32)  # noqa: SLF001
    if tensors is not None:
        made.load_state_dict(dict(tensors))
        made.generation_config = getattr(model, "generation_config", None)
        made.to(next(model.parameters()).device).train(model.training)
    return made


def _table(model: Any) -> Mapping[str, str] | None:
    for name, table in _LAYERS.items():
        try:
            layers = model.base_model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return table
    return None


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
