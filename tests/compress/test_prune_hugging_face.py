"""Pruned models of the Hugging Face library are folders that the library loads, with the same logits to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import apply, pruned, weight_only
from builders.hugging_face import CONFIGS, VOCABULARY, config_file, settings
from costopt_trainer.compress.prune_units import is_matrix
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.hugging_face.library import library
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

TOKENS = torch.randint(2, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
LARGER: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4},
    "llama": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4},
    "qwen2": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4},
    "bert": {"hidden_size": 64, "num_hidden_layers": 3},
}
EVERYTHING = ["Channels", "Heads", "HiddenWidth", "Layers"]


def shape_of(folder: Path, kind: str, task: str = "CausalLM", **changes: Any) -> ModelShape:
    config = config_file(folder, kind, **{**LARGER.get(kind, {}), **changes})
    of_data: dict[str, Any] = {} if task == "CausalLM" else {"pad_id": 0}
    if task == "SequenceClassification":
        of_data |= {"num_classes": 3, "class_names": ("a", "b", "c")}
    return ModelShape(settings("config", config, task=task), vocabulary_size=VOCABULARY, **of_data)


def fresh(shape: ModelShape) -> Any:
    torch.manual_seed(1)
    return build_model(shape).eval()


@pytest.mark.parametrize(
    ("kind", "task", "of", "config"),
    [
        ("llama", "CausalLM", None, {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}),
        (
            "llama",
            "CausalLM",
            EVERYTHING,
            {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "head_dim": 8},
        ),
        ("qwen2", "CausalLM", None, {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}),
        ("qwen2", "CausalLM", ["HiddenWidth", "Layers"], {"hidden_size": 32, "num_hidden_layers": 2}),
        ("qwen3", "CausalLM", ["Heads", "Channels"], {"intermediate_size": 24, "num_key_value_heads": 1}),
        ("gpt2", "CausalLM", None, {"n_inner": 128, "n_head": 4}),
        ("gpt2", "CausalLM", ["Heads", "HiddenWidth"], {"n_head": 2, "n_embd": 32}),
        ("gpt2", "CausalLM", ["Layers"], {"n_layer": 2}),
        ("bert", "MaskedLM", None, {"intermediate_size": 24, "num_attention_heads": 4}),
        ("bert", "SequenceClassification", EVERYTHING, {"hidden_size": 32, "num_attention_heads": 2}),
    ],
)
def test_the_library_loads_what_is_left_and_computes_the_same(
    tmp_path: Path, kind: str, task: str, of: Any, config: dict[str, int]
) -> None:
    shape = shape_of(tmp_path / "config", kind, task)
    model = fresh(shape)
    before = sum(parameter.numel() for parameter in model.parameters())
    tied = dict(model.tied)
    step = pruned("Structured", 50, of=of)
    apply(model, [step], TOKENS[:1])
    save_model(tmp_path / "m", model, shape, widths=model.widths(), steps=[step])

    auto = {"CausalLM": "AutoModelForCausalLM", "MaskedLM": "AutoModelForMaskedLM"}
    loader = getattr(library(), auto.get(task, "AutoModelForSequenceClassification"))
    loaded = loader.from_pretrained(tmp_path / "m", attn_implementation="sdpa").eval()
    assert {name: getattr(loaded.config, name) for name in config} == config
    assert sum(parameter.numel() for parameter in loaded.parameters()) < before
    mask = {} if task == "CausalLM" else {"attention_mask": TOKENS != 0}
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS, **mask).logits, model(TOKENS))
        assert torch.equal(load_model(tmp_path / "m")(TOKENS), model(TOKENS))
    assert model.tied == tied, "what is tied stays tied"


def test_heads_that_add_nothing_go_first_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    model = fresh(shape_of(tmp_path, "llama"))
    with torch.no_grad():
        for layer in model.model.model.layers:
            attention = layer.self_attn
            for linear, width in ((attention.q_proj, 16), (attention.k_proj, 8), (attention.v_proj, 8)):
                linear.weight.view(4, width, 64)[1:3] *= 1e-6
            attention.o_proj.weight.view(64, 4, 16)[:, 1:3] *= 1e-6
        expected = model(TOKENS)
    apply(model, [pruned("Structured", 50, of=["Heads"])], TOKENS[:1])
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "percent", "of", "sentence"),
    [
        (
            "llama",
            25,
            ["Heads"],
            r"25 percent leaves 6 of 8, and .*\(64\).*\(6\).*; 4 would fit, which 50 perc",
        ),
        ("llama", 40, ["Heads"], "40 percent is 3 of 8 heads, and 25 percent would be 2"),
        ("gpt2", 50, ["Heads"], r"its configuration makes .*c_attn.* \(64, 192\), .* \(64, 96\); leave Heads out"),
        ("bert", 50, ["HiddenWidth"], "prune.of must be other parts for this model: its configuration makes"),
        ("mixtral", 50, ["Channels"], "prune.of must not name Channels for this model: it has Layers"),
        ("mixtral", 50, None, r"prune.structure must be Unstructured for this model, or prune.of must be \[Layers\]"),
    ],
)
def test_what_the_library_cannot_hold_is_refused_in_one_sentence(
    tmp_path: Path, kind: str, percent: int, of: Any, sentence: str
) -> None:
    assert kind in CONFIGS
    model = fresh(shape_of(tmp_path, kind, "MaskedLM" if kind == "bert" else "CausalLM"))
    with pytest.raises(NotRetryable, match=sentence) as refused:
        apply(model, [pruned("Structured", percent, of=of)], TOKENS[:1])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scope", ["PerLayer", "Global"])
def test_single_weights_of_gpt2_can_go_too_and_the_library_reads_the_rest(tmp_path: Path, scope: str) -> None:
    shape = shape_of(tmp_path / "config", "gpt2")
    model = fresh(shape)
    apply(model, [pruned("Unstructured", 50, scope=scope)], TOKENS[:1])
    matrices = [module.weight for module in model.model.transformer.modules() if is_matrix(module)]
    zeros, count = (sum(int((w == 0).sum()) for w in matrices), sum(w.numel() for w in matrices))
    assert len(matrices) == 12
    assert zeros == count // 2
    save_model(tmp_path / "m", model, shape, steps=[pruned("Unstructured", 50)])
    loaded = library().AutoModelForCausalLM.from_pretrained(tmp_path / "m", attn_implementation="sdpa").eval()
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, model(TOKENS))


def test_a_pruned_model_is_quantized_and_pruned_again(tmp_path: Path) -> None:
    shape = shape_of(tmp_path / "config", "llama")
    model = fresh(shape)
    steps = [pruned("Structured", 50, of=["Heads"]), pruned("Structured", 50, of=["Channels"]), weight_only()]
    apply(model, steps, TOKENS[:1])
    save_model(tmp_path / "m", model, shape, widths=model.widths(), steps=steps)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m")(TOKENS), model(TOKENS))
