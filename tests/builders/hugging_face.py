"""Small models of the Hugging Face library: configurations, tokenizers and folders, all made here."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from costopt.schema.models import ModelSettings
from costopt_trainer.models.shape import ModelShape

PROSE = "The cat sat on the mat; the rat sat at the cat. Größe, naïveté, 東京 und 🙂.\n" * 60
VOCABULARY = 300

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "num_attention_heads": 4,
}
_TWO_KEY_HEADS = {**_SMALL, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "llama": {**_TWO_KEY_HEADS, "tie_word_embeddings": False, "pad_token_id": 0},
    "qwen2": {**_SMALL, "num_key_value_heads": 1, "tie_word_embeddings": True, "pad_token_id": 0},
    "qwen3": {**_TWO_KEY_HEADS, "head_dim": 16, "tie_word_embeddings": False},
    "mixtral": {**_TWO_KEY_HEADS, "num_local_experts": 2},
    "phi3": {**_TWO_KEY_HEADS, "tie_word_embeddings": False, "pad_token_id": 0},
    "bert": {**_SMALL, "pad_token_id": 0},
}
"""By the library's type of the model: what makes it small."""
CAUSAL = ["gpt2", "llama", "qwen2", "qwen3"]


def config_file(folder: Path, kind: str, **changes: Any) -> Path:
    """A config.json in `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"model_type": kind, "vocab_size": VOCABULARY, **CONFIGS[kind], **changes}
    plain |= {f"{name}_token_id": 1 for name in ("bos", "eos") if kind != "bert"}
    (folder / "config.json").write_text(json.dumps(plain))
    return folder / "config.json"


def settings(place: str, path: Path, **changes: Any) -> ModelSettings:
    """Settings of a model: `place` is path, config or hub."""
    plain = {place: str(path), "contextLength": 16, **changes}
    return ModelSettings.model_validate({"type": "HuggingFace", "huggingFace": plain})


def from_scratch(folder: Path, kind: str, **changes: Any) -> ModelShape:
    """The shape of a model of that type with fresh weights."""
    config = config_file(folder, kind)
    return ModelShape(settings("config", config, **changes), vocabulary_size=VOCABULARY)


def model_folder(folder: Path, kind: str, auto_class: str = "AutoModelForCausalLM", **changes: Any) -> Path:
    """A folder as the library itself writes it, with weights and a tokenizer."""
    import transformers

    from costopt_trainer.models.hugging_face.library import library

    library()
    torch.manual_seed(7)
    config = transformers.AutoConfig.from_pretrained(config_file(folder, kind, **changes))
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    write_tokenizer(folder, "gpt2")
    return folder


def write_tokenizer(folder: Path, like: str) -> Path:
    """A tokenizer.json of VOCABULARY tokens at most, that treats blanks as those of gpt2, llama or bert do."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f".{like}").exists():  # a second one would not be equal: some are learned in no fixed order
        return folder / "tokenizer.json"
    (folder / f".{like}").touch()
    tokenizer: Any
    special = ["[PAD]", "<end>", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if like == "gpt2":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special[:2], initial_alphabet=alphabet, show_progress=False
        )
    elif like == "llama":
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    else:
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([PROSE], trainer=trainer)
    if like == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
        )
        tokenizer.enable_truncation(8)  # as some folders have it
        tokenizer.enable_padding(length=8)
    named = {"sep_token": "[SEP]", "mask_token": "[MASK]"} if like == "bert" else {"eos_token": "<end>"}
    named |= {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder / "tokenizer.json"


OWN_CODE = """from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    hidden_size = 8
    num_hidden_layers = 1


class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "own"

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([nn.Linear(config.hidden_size, config.hidden_size)])
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids=None, **_):
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return CausalLMOutput(logits=self.head(hidden))
"""
"""A model that only its own folder knows: it has no attention at all, and says of none that it can do it."""


def folder_with_code(folder: Path) -> Path:
    """A configuration, and the Python code of its model; no weights."""
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(OWN_CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "vocab_size": 256, "auto_map": classes}))
    return folder
