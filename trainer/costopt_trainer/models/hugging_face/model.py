"""A model of the library as a LayeredModel: its blocks, what of it a checkpoint holds, and the files of its folder.

Shape suffixes: B = batch, T = tokens, V = vocabulary.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from costopt_trainer.models.axes import Axes
from costopt_trainer.models.chunked_loss import is_plain
from costopt_trainer.models.family import Sizes, SplitRole
from costopt_trainer.models.hugging_face.cut import axes_of, rebuilt, resized
from costopt_trainer.models.hugging_face.layers import with_layers
from costopt_trainer.models.hugging_face.lora import adapter_files
from costopt_trainer.models.hugging_face.split import fault_of, plan_of
from costopt_trainer.models.whole import WholeModel

_PREFIX = "model."
UNREADABLE_CONFIG_FILE = "architecture.json"
"""The library's config.json where it cannot read the weights: it would fill in fresh ones."""


class HuggingFaceModel(WholeModel):
    """A whole model; a pipeline cannot cut it. Its weights have the library's names, after `model.`."""

    called = "a model of the Hugging Face library"
    weights_prefix = _PREFIX
    fresh_modules: tuple[str, ...] = ()
    """Modules for which the folder that it was built from had no weights."""

    def __init__(
        self, model: nn.Module, config: Any, files_to_keep: Mapping[str, bytes], pad_id: int | None = None
    ) -> None:
        """`model` is one of the library, with its `config`; or one of peft around it, of which only what is trained
        goes into checkpoints. `files_to_keep` are written with it, by name. `pad_id` fills samples up behind: nothing
        attends to it. None: no sample is filled up."""
        super().__init__()
        self.model: Any = model
        self.config = config
        self.files_to_keep = dict(files_to_keep)
        self.pad_id = pad_id
        self.has_adapters = hasattr(model, "peft_config")
        stays = {name for name, weight in self.named_parameters(remove_duplicate=False) if not weight.requires_grad}
        self._not_saved = frozenset(stays if self.has_adapters else ())
        self._head_name: str | None = None
        self._ties: dict[str, str] = {}
        """While weights are loaded: what is tied, and may have been parted by tensors put in place of others."""
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_note_ties)
        self.register_load_state_dict_post_hook(_do_not_miss)

    @property
    def tied(self) -> Mapping[str, str]:  # type: ignore[override]
        """Parameters that are another one, as they are now: compression may part them."""
        first: dict[int, str] = {}
        tied = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if first.setdefault(id(parameter), name) != name:
                tied[name] = first[id(parameter)]
        return tied

    @property
    def split_plan(self) -> Mapping[str, SplitRole]:  # type: ignore[override]
        """That of the library for this architecture, in our words."""
        return {_PREFIX + name: role for name, role in plan_of(self.model).roles.items()}

    def split_fault(self, ranks: int, *, sequence: bool) -> str | None:
        return fault_of(self.model, self.config, ranks, sequence=sequence)

    def not_saved(self) -> set[str]:
        """Names that no checkpoint holds: what is another parameter, and what adapters leave as it was."""
        return {*self._not_saved, *self.tied}

    def find_head(self) -> None:
        """Find out, from two tokens, whether the logits are what the output embeddings make of what they get, and
        nothing else: then the loss may come in chunks. Some architectures scale them, or cap them."""
        head = self.model.get_output_embeddings()
        if head is None or not is_plain(head) or head.weight.is_meta:
            return
        [self._head_name] = (name for name, module in self.named_modules() if module is head)
        tokens, was_training = torch.arange(2, device=head.weight.device).view(1, 2), self.training
        self.eval()
        with torch.no_grad():
            if not torch.equal(head(self.hidden(tokens)), self(tokens)):
                self._head_name = None
        self.train(was_training)

    @property
    def vocabulary_head(self) -> nn.Module | None:
        head = None if self._head_name is None else self.get_submodule(self._head_name)
        return head if head is not None and is_plain(head) else None

    def hidden(self, inputs: Tensor) -> Tensor:
        """Tokens (B, T) -> what the head gets, (B, T, D): the library's own forward pass, with a head that does
        nothing."""
        head = self.get_submodule(self._head_name or "")
        head.forward = lambda hidden: hidden
        try:
            return self.forward(inputs)  # not `self(inputs)`: the end of that would shard the head's weights again
        finally:
            del head.forward

    def axes(self) -> Axes | None:
        return None if self.has_adapters else axes_of(self.model, self.config, _PREFIX)

    def drop_layers(self, gone: Collection[int]) -> None:
        with torch.random.fork_rng(devices=[]):
            self.select_layers([layer for layer in range(len(self.blocks())) if layer not in gone])

    def misfit(self, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        try:
            like = rebuilt(self.model, resized(self.config, sizes))
        except ValueError as error:
            return str(error)
        for name, parameter in like.named_parameters():
            if (cut := shapes[_PREFIX + name]) != tuple(parameter.shape):
                return f"its configuration makes {name} {tuple(parameter.shape)}, which would be {cut}"
        return None

    def settle(self, sizes: Sizes) -> None:
        config = resized(self.config, sizes)
        self.model, self.config = rebuilt(self.model, config, self.model.state_dict()), config

    def forward(self, x_BT: Tensor) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V), or (B, K) of a classifier."""
        if self.pad_id is None:
            return self.model(input_ids=x_BT, use_cache=False).logits
        return self.model(input_ids=x_BT, attention_mask=x_BT != self.pad_id).logits

    @property
    def layers_alike(self) -> bool:  # type: ignore[override]
        """Where the configuration counts its layers, and they are one list."""
        return getattr(self.config, "num_hidden_layers", None) == len(self.blocks()) > 0

    def select_layers(self, kept: Sequence[int]) -> None:
        """As LayeredModel says: a model of the same architecture with fewer layers in its config.json."""
        if not self.layers_alike:
            raise ValueError("its layers do not fit one another")
        config, model = with_layers(self.config, self.model, self.blocks(), kept)
        had_head = self._head_name is not None
        self.config, self.model = config, model
        if had_head:
            self.find_head()

    def merged(self) -> "HuggingFaceModel":
        """The model with its adapters added to the matrices that they belong to."""
        if not self.has_adapters:
            return self
        plain = self.model.merge_and_unload()
        return HuggingFaceModel(plain, self.config, self.files_to_keep, self.pad_id)

    def adapter_files(self) -> dict[str, bytes]:
        return adapter_files(self.model) if self.has_adapters else {}

    def files(self, *, quantized: bool) -> dict[str, bytes]:
        """The library's config.json, the tokenizer and whatever else belongs in the folder of the model."""
        config = copy.deepcopy(self.config)
        config.architectures = [type(self.model).__name__]
        config.dtype = "float32"
        config.name_or_path = ""
        if getattr(config, "tie_word_embeddings", False) and not self.tied:
            config.tie_word_embeddings = False
        name = UNREADABLE_CONFIG_FILE if quantized else "config.json"
        files = {**self.files_to_keep, name: (config.to_json_string() + "\n").encode()}
        generation = getattr(self.model, "generation_config", None)
        if generation is not None and self.model.can_generate():
            files["generation_config.json"] = (generation.to_json_string() + "\n").encode()
        return files


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    assert isinstance(module, HuggingFaceModel)  # noqa: S101  it registers this itself
    for name in module.not_saved():
        state.pop(prefix + name, None)


def _note_ties(module: nn.Module, *_arguments: Any) -> None:
    assert isinstance(module, HuggingFaceModel)  # noqa: S101  as above
    module._ties = dict(module.tied)  # noqa: SLF001  its own


def _do_not_miss(module: nn.Module, keys: Any) -> None:
    assert isinstance(module, HuggingFaceModel)  # noqa: S101  as above
    for name, other in module._ties.items():  # noqa: SLF001  as above
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, module.get_parameter(other))
    not_saved = module.not_saved()
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in not_saved]
