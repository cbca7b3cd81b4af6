"""The row of the table: from settings, or from a folder that was written here, to a model."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from costopt.schema.data import Tokenizer
from costopt.schema.foreign_models import HuggingFace
from costopt_trainer.data.tokenizers.hugging_face import HuggingFaceFiles
from costopt_trainer.errors import NotRetryable, first_line, memory_reason
from costopt_trainer.foreign_config import CONFIG_FILE, HEADS, heads_of
from costopt_trainer.models.family import ModelFamily
from costopt_trainer.models.hugging_face.library import TASKS, can_be, library
from costopt_trainer.models.hugging_face.lora import add_adapters
from costopt_trainer.models.hugging_face.model import UNREADABLE_CONFIG_FILE, HuggingFaceModel
from costopt_trainer.models.hugging_face.source import Source, content_hash, files_to_keep, find_source
from costopt_trainer.models.shape import ModelShape, Widths

_ATTENTION = {"SDPA": "sdpa", "Eager": "eager", "FlashAttention2": "flash_attention_2"}

_NO_SUCH_ATTENTION = ("does not support an attention implementation", "does not support Flash Attention")
"""How the library says that a model has no such attention; its advice is to ask its authors for it."""


class HuggingFaceFamily:
    """A row of the table: see ModelFamily and FromFolder."""

    may_change = frozenset({"path", "config", "hub", "attention", "trustRemoteCode"})

    def context_length(self, settings: HuggingFace) -> int | None:
        return settings.context_length

    def tokenizer_folder(self, settings: HuggingFace) -> Path | None:
        source = find_source(settings)
        _read_configuration(source, settings)  # its mistakes are found before a text is tokenized
        return source.tokenizer_folder

    def identity(self, settings: HuggingFace) -> dict[str, Any]:
        source = find_source(settings)
        plain = {key: value for key, value in source.config.items() if key not in _NOT_SHAPING}
        # A checkpoint of adapters is of no use beside other weights than those that they were trained with.
        return {"architecture": plain, **({"frozenWeights": content_hash(source)} if settings.lora else {})}

    def build(self, settings: HuggingFace, shape: ModelShape, widths: Widths) -> HuggingFaceModel:
        classifies = settings.task == "SequenceClassification"
        if (
            shape.vocabulary_size is None
            or (shape.pad_id is None and settings.task != "CausalLM")
            or (shape.num_classes is None and classifies)
        ):
            raise ValueError("the shape of a HuggingFace must give vocabulary_size and what its task needs")
        if widths:
            raise ValueError("a model of the Hugging Face library has no widths that could change")
        source = find_source(settings)
        config = _read_configuration(source, settings)
        _check_vocabulary(source, config, shape.vocabulary_size)
        if classifies:
            labels = dict(enumerate(shape.class_names or map(str, range(shape.num_classes or 0))))
            config.id2label, config.label2id = labels, {name: number for number, name in labels.items()}
            config.pad_token_id = shape.pad_id  # decoders look for the last token before it
        # Asked for on the meta device, it is filled afterwards with all but the weights that no checkpoint holds.
        filled_later = torch.get_default_device().type == "meta"
        with torch.device("cpu") if settings.lora is not None else contextlib.nullcontext():
            if source.weights and (settings.lora is not None or not filled_later):
                model, fresh = _load(source, config, settings)
            else:
                model, fresh = _fresh(source, config, settings), []
            if settings.lora is not None:
                model = add_adapters(model, settings.lora, TASKS[settings.task], fresh)
        kept = files_to_keep(source.folder, with_code=settings.trust_remote_code)
        pad_id = shape.pad_id if settings.task != "CausalLM" else None
        built = HuggingFaceModel(model.train(), config, kept, pad_id)
        built.fresh_modules = tuple(fresh)
        if not classifies:
            built.find_head()
        return built

    def rebuild(self, settings: HuggingFace, shape: ModelShape, folder: Path) -> HuggingFaceModel:
        file = folder / UNREADABLE_CONFIG_FILE
        place = str(file if file.exists() else folder)
        own = settings.model_copy(update={"path": None, "hub": None, "config": place, "lora": None})
        source = find_source(own)
        config = _read_configuration(source, own)
        kept = files_to_keep(folder, with_code=settings.trust_remote_code)
        pad_id = shape.pad_id if settings.task != "CausalLM" else None
        return HuggingFaceModel(_fresh(source, config, own), config, kept, pad_id)


def positions_of(settings: HuggingFace) -> int | None:
    """The longest sample that the model of `settings` can take; None if there is no bound. Raises NotRetryable."""
    return _positions(_read_configuration(find_source(settings), settings))


_NOT_SHAPING = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache")
"""What of a config.json is no part of a model's shape."""


def _read_configuration(source: Source, settings: HuggingFace) -> Any:
    """The library's configuration, which fits task and context length."""
    transformers = library(online=settings.hub is not None)
    kind, has_code = str(source.config["model_type"]), "auto_map" in source.config
    if kind in transformers.CONFIG_MAPPING:
        able = [word for word in TASKS if can_be(word, source.config)]
        if settings.task not in able and not (has_code and settings.trust_remote_code):
            tasks = f"can be trained for {' or '.join(able)}" if able else "is for none of the tasks here"
            raise _wrong(source, f"must be an architecture for task {settings.task}, but type {kind} {tasks}")
    elif not has_code:
        raise _wrong(source, f"must be of a type that transformers {transformers.__version__} knows, not {kind!r:.80}")
    elif not settings.trust_remote_code:
        raise _wrong(source, "is defined by Python code in its folder, which only runs with trustRemoteCode: true")
    _check_heads(source)
    try:
        config = transformers.AutoConfig.from_pretrained(
            source.config_file if source.folder is None else source.folder,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
        )
    except Exception as error:
        # The library lets through whatever its parts raise.
        raise _wrong(source, f"must have a {CONFIG_FILE} that transformers can read ({first_line(error)})") from error
    positions = _positions(config)
    if positions is not None and settings.context_length > positions:
        raise _wrong(
            source,
            f"has {positions} positions, so model.huggingFace.contextLength must be at most {positions}, not "
            f"{settings.context_length}",
        )
    return config


def _check_heads(source: Source) -> None:
    """The library itself finds uneven heads only in a step, where they look like a fault of the program."""
    told = heads_of(source.config)
    for name, number in told.items():
        # Some types have a list, a number for each layer.
        if not isinstance(number, list) and (type(number) is not int or number < 1):
            raise _wrong(
                source, f"must have a {CONFIG_FILE} whose {name} is a whole number from 1 on, not {number!r:.40}"
            )
    heads, key_heads = map(told.get, HEADS)
    if type(heads) is int and type(key_heads) is int and heads % key_heads != 0:
        raise _wrong(
            source,
            f"must have a {CONFIG_FILE} whose num_key_value_heads divides its num_attention_heads, but {key_heads} "
            f"does not divide {heads}",
        )


def _positions(config: Any) -> int | None:
    """The longest sequence; None if there is no bound."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if type(positions) is not int:
        return None
    if config.model_type in _POSITIONS_AFTER_PADDING:
        return positions - int(config.pad_token_id or 0) - 1
    return positions


_POSITIONS_AFTER_PADDING = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
    "longformer",
}
"""They count positions from the number of their padding token on."""


def _check_vocabulary(source: Source, config: Any, tokens: int) -> None:
    rows = int(config.get_text_config().vocab_size)
    own = source.tokenizer_folder
    if source.weights and own is not None:
        kind = HuggingFaceFiles(Tokenizer(type="HuggingFace", path=str(own)))
        if kind.vocabulary_sizes[1] != tokens:
            raise _wrong(
                source,
                f"was trained with the {kind.vocabulary_sizes[1]} tokens of its own tokenizer, but data.tokenizer has "
                f"{tokens}: leave data.tokenizer out",
            )
    if tokens > rows:
        raise _wrong(source, f"has a vocabulary of {rows} tokens (vocab_size), but the tokenizer has {tokens}")


def _fresh(source: Source, config: Any, settings: HuggingFace) -> nn.Module:
    with _refusing(source, settings):
        model: nn.Module = _auto_class(settings).from_config(config, **_how(settings))
    return model


def _load(source: Source, config: Any, settings: HuggingFace) -> tuple[nn.Module, list[str]]:
    """The model with the weights of its folder, and the modules that got fresh ones because the folder has none."""
    model, fresh, told = _with_weights(source, config, settings, _auto_class(settings))
    unlike = _unlike(told)
    base = f"{model.base_model_prefix}."
    may_be_fresh = [name for name in fresh if not name.startswith(base) or name.startswith(f"{base}pooler")]
    if settings.task == "CausalLM" and unlike:
        may_be_fresh = []
    for lost in (name for name in fresh if name not in may_be_fresh):
        how = "other shapes for" if any(name.startswith(f"{lost}.") for name in unlike) else "none for"
        raise _wrong(source, f"must have the weights that its {CONFIG_FILE} asks for, but has {how} {lost}")
    unused = sorted({name.rpartition(".")[0] for name in told["unexpected_keys"]})
    if unused and os.environ.get("RANK", "0") == "0":
        some = ", ".join(unused[:4]) + (" and more" if len(unused) > 4 else "")
        print(f"{source.name} has weights that such a model does not use: {some}", file=sys.stderr)
    if fresh and os.environ.get("RANK", "0") == "0":
        print(f"{source.name} has no weights for {', '.join(fresh)}: fresh ones are trained", file=sys.stderr)
    return model, fresh


def load_weights(source: Source, settings: HuggingFace, auto_class: str) -> tuple[nn.Module, list[str]]:
    """The model of one of the library's auto classes, and the modules that the folder has no weights for."""
    config = _read_configuration(source, settings)
    return _with_weights(source, config, settings, getattr(library(), auto_class))[:2]


def _with_weights(
    source: Source, config: Any, settings: HuggingFace, auto_class: Any
) -> tuple[nn.Module, list[str], Any]:
    """The model, the modules with fresh weights, and what the library tells of the loading."""
    with _refusing(source, settings):
        model, told = auto_class.from_pretrained(
            source.folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told, and judged by the caller
            **_how(settings),
        )
    return model, sorted({name.rpartition(".")[0] for name in {*told["missing_keys"], *_unlike(told)}}), told


def _unlike(told: Any) -> set[str]:
    return {name if isinstance(name, str) else name[0] for name in told["mismatched_keys"]}


def _auto_class(settings: HuggingFace) -> Any:
    return getattr(library(), TASKS[settings.task].auto_class)


def _how(settings: HuggingFace) -> dict[str, Any]:
    return {
        "dtype": torch.float32,
        "attn_implementation": _ATTENTION[settings.attention],
        "trust_remote_code": settings.trust_remote_code,
    }


@contextlib.contextmanager
def _refusing(source: Source, settings: HuggingFace) -> Iterator[None]:
    """What the library raises while it builds a model is the user's to mend, unless memory has run out."""
    try:
        yield
    except Exception as error:
        if memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None:
            raise
        if settings.attention != "Eager" and any(words in str(error) for words in _NO_SUCH_ATTENTION):
            raise _wrong(
                source,
                f"cannot attend by {settings.attention}: set model.huggingFace.attention to Eager, as every model can",
            ) from error
        raise _wrong(source, f"must be a model that transformers can build ({first_line(error)})") from error


def _wrong(source: Source, what: str) -> NotRetryable:
    return NotRetryable("InvalidSettings", f"{source.name} {what}")


FAMILY: ModelFamily = HuggingFaceFamily()
