"""The decoder's settings: presets, rotary positions, shared keys and values, tied embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders.compress import apply, pruned, weight_only
from builders.trainer import recipe, text_file
from costopt.schema.models import DecoderLM, ModelSettings
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.family import fill, moving_buffers, stored_tensors
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, settings_that_must_stay
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

SMALL = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}
TOKENS = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(2))


def settings_of(**settings: Any) -> ModelSettings:
    return ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {**SMALL, **settings}})


def shape_of(**settings: Any) -> ModelShape:
    return ModelShape(settings_of(**settings), vocabulary_size=50)


def fresh(**settings: Any) -> Any:
    torch.manual_seed(1)
    return build_model(shape_of(**settings)).eval()


WRITTEN_OUT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"positions": "Learned", "norm": "LayerNorm", "mlp": "GELU", "biases": False, "tiedEmbeddings": False,
          "numKeyValueHeads": 4, "mlpWidth": 128, "layerRepeats": 1}),
    ({"preset": "GPT2"}, {"biases": True, "tiedEmbeddings": True}),
    ({"preset": "Llama"}, {"positions": "Rotary", "norm": "RMSNorm", "mlp": "SwiGLU", "rotaryBase": 10000,
                           "mlpWidth": 88}),
    ({"preset": "GPT2", "tiedEmbeddings": False}, {"biases": True}),
    ({"preset": "Llama", "positions": "Learned", "norm": "LayerNorm", "mlp": "GELU"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("short", "long"), WRITTEN_OUT)
def test_a_preset_and_its_settings_written_out_are_one_training_and_what_is_written_wins(
    short: dict[str, Any], long: dict[str, Any]
) -> None:
    assert settings_that_must_stay(settings_of(**short)) == settings_that_must_stay(settings_of(**long))
    one, two = fresh(**short).state_dict(), fresh(**long).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_settings_that_were_not_there_before_are_no_change_to_a_checkpoint_of_before() -> None:
    assert settings_that_must_stay(settings_of()) == {"type": "DecoderLM", **SMALL}


def test_presets_of_the_same_sizes_are_different_trainings() -> None:
    found = [settings_that_must_stay(settings_of(**short)) for short in ({}, {"preset": "GPT2"}, {"preset": "Llama"})]
    assert all(one not in found[:number] for number, one in enumerate(found))


def test_a_gated_mlp_has_about_as_many_weights_as_one_without_a_gate() -> None:
    settings = {"embeddingDim": 256, "numLayers": 1}
    plain, gated = (
        sum(weight.numel() for weight in fresh(**settings, mlp=mlp).parameters()) for mlp in ("GELU", "SwiGLU")
    )
    assert gated == pytest.approx(plain, rel=0.01)


def test_keys_that_heads_share_are_a_model_with_the_same_keys_twice() -> None:
    shared, whole = fresh(numKeyValueHeads=2, positions="Rotary"), fresh(positions="Rotary")
    weights = shared.state_dict()
    for name, weight in weights.items():
        if name.endswith((".k.weight", ".v.weight")):
            weights[name] = weight.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    whole.load_state_dict(weights)
    assert torch.equal(shared(TOKENS), whole(TOKENS))


def test_tables_of_angles_are_no_part_of_a_checkpoint_and_serve_shorter_texts() -> None:
    model = fresh(positions="Rotary").eval()
    assert {"cosines_TH", "sines_TH"} <= {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    assert not [name for name in model.state_dict() if name.endswith("_TH")]
    assert moving_buffers(model) == []
    torch.testing.assert_close(model(TOKENS[:, :5]), model(TOKENS)[:, :5])


def test_heads_that_are_split_among_ranks_add_up_to_the_whole() -> None:
    attention = fresh(preset="Llama", numKeyValueHeads=2).layers["0"].attention
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(3))
    total = torch.zeros_like(x)
    for rank in (0, 1):
        part = fresh(preset="Llama", numKeyValueHeads=2).layers["0"].attention
        for name in ("q", "k", "v"):
            local = getattr(attention, name).weight.chunk(2)[rank]
            setattr(part, name, nn.Linear(*local.shape[::-1], bias=False))
            getattr(part, name).weight.data = local
        part.out.weight.data = attention.out.weight.chunk(2, dim=1)[rank]
        total += part(x)
    torch.testing.assert_close(total, attention(x))


@pytest.mark.parametrize("preset", ["GPT2", "Llama"])
def test_a_token_changes_no_earlier_prediction(preset: str) -> None:
    model, changed = fresh(preset=preset), TOKENS.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    before, after = model(TOKENS), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


# ---- tied embeddings


def test_a_tied_head_is_the_embedding_and_starts_as_one() -> None:
    tied, untied = fresh(tiedEmbeddings=True), fresh()
    assert tied.head.weight is tied.token_embedding.weight
    assert len(list(tied.parameters())) == len(list(untied.parameters())) - 1
    assert tied.tied == {"head.weight": "token_embedding.weight"}
    assert tied.head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_last_piece_of_a_tied_model_has_a_copy_of_the_embedding() -> None:
    first = fresh(preset="GPT2").keep_layers(0, 1)
    last = fresh(preset="GPT2").keep_layers(1, 2)
    assert torch.equal(first.token_embedding.weight, last.head.weight)
    assert isinstance(last.head.weight, nn.Parameter)
    assert "token_embedding.weight" not in last.state_dict()
    assert first.tied == last.tied == {"head.weight": "token_embedding.weight"}
    whole = fresh(preset="GPT2")
    assert torch.equal(last(first(TOKENS)), whole(TOKENS))

    assert not stored_tensors(first).keys() & stored_tensors(last).keys()
    stored = stored_tensors(first) | stored_tensors(last)
    assert stored.keys() == stored_tensors(whole).keys()
    changed = {name: tensor + 1 for name, tensor in stored.items()}
    for part in (first, last, whole):
        fill(part, {name: changed[name] for name in {part.tied.get(name, name) for name in part.state_dict()}})
        assert all(
            torch.equal(tensor, changed[part.tied.get(name, name)]) for name, tensor in part.state_dict().items()
        )
    with pytest.raises(RuntimeError, match="token_embedding"):
        fill(fresh(), {name: tensor for name, tensor in changed.items() if not name.startswith("token")})


CHAINS = {
    "as trained": [],
    "unstructured": [pruned("Unstructured", 50)],
    "structured": [pruned("Structured", 50)],
    "Int8WeightOnly": [weight_only()],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_an_artifact_holds_a_tied_matrix_once_and_whole(tmp_path: Path, chain: str) -> None:
    model = fresh(preset="GPT2")
    embedding = model.token_embedding.weight.detach().clone()
    apply(model, CHAINS[chain], TOKENS[:1])
    sizes = [save_model(tmp_path / "m", model, shape_of(preset="GPT2"), widths=model.widths(), steps=CHAINS[chain])]
    loaded: Any = load_model(tmp_path / "m")
    assert loaded.head.weight is loaded.token_embedding.weight
    assert torch.equal(loaded.head.weight, embedding)
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), model.eval()(TOKENS))
    sizes.append(save_model(tmp_path / "untied", fresh(biases=True), shape_of(biases=True)))
    assert sizes[1] - sizes[0] > 50 * 32 * 4


@pytest.mark.parametrize("preset", ["GPT2", "Llama"])
def test_a_preset_trains_and_resumes_to_the_bit(tmp_path: Path, preset: str) -> None:
    model = {"type": "DecoderLM", "decoderLM": {**SMALL, "preset": preset, "numKeyValueHeads": 2, "dropoutPercent": 10}}
    settings = recipe(text_file(tmp_path), model=model)

    def training(storage: Path) -> Training:
        storage.mkdir(exist_ok=True)
        begun = Training(settings, storage, ALONE, Meter(), Stop(), job="test")
        begun.resume()
        return begun

    def train(storage: Path, stop_after: int | None = None) -> Training:
        begun = training(storage)
        if stop_after is not None:
            take_step = begun.take_step

            def step(*arguments: Any) -> None:
                take_step(*arguments)
                begun.stop.asked = begun.step == stop_after

            begun.take_step = step  # type: ignore[method-assign]
            with pytest.raises(SystemExit):
                run_steps(begun)
            return begun
        run_steps(begun)
        begun.finish()
        return begun

    whole = train(tmp_path / "whole")
    assert float(whole.progress.validation_loss or "9") < 5.5
    assert train(tmp_path / "broken", stop_after=3).step == 3
    resumed = train(tmp_path / "broken")
    assert resumed.progress.resumed_from_step == 3
    one, two = (
        load_model(folder / "artifacts/model").state_dict() for folder in (tmp_path / "whole", tmp_path / "broken")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---- against an implementation of others


@pytest.mark.slow
def test_the_presets_compute_what_another_implementation_computes() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "attn_implementation": "eager"}
    ours: Any = fresh(preset="Llama", numKeyValueHeads=2, mlpWidth=88)
    config = transformers.LlamaConfig(
        **sizes, hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    names = {
        "token_embedding": "model.embed_tokens", "layers.": "model.layers.", "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm", "attention.q": "self_attn.q_proj", "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj", "attention.out": "self_attn.o_proj", "mlp.expand": "mlp.up_proj",
        "mlp.gate": "mlp.gate_proj", "mlp.contract": "mlp.down_proj", "head": "lm_head",
    }  # fmt: skip
    weights = {}
    for name, weight in ours.state_dict().items():
        for before, after in names.items():
            name = name.replace(before, after)  # noqa: PLW2901
        weights["model.norm.weight" if name == "norm.weight" else name] = weight
    theirs.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-6)

    ours = fresh(preset="GPT2")
    with torch.no_grad():
        for parameter in ours.parameters():  # biases, too
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    gpt2 = transformers.GPT2Config(
        **sizes, n_embd=32, n_layer=2, n_head=4, n_positions=16, activation_function="gelu",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(gpt2).eval()
    state = ours.state_dict()
    weights = {
        "transformer.wte.weight": state["token_embedding.weight"],
        "transformer.wpe.weight": state["position_embedding.weight"],
    }
    for end in ("weight", "bias"):
        weights[f"transformer.ln_f.{end}"] = state[f"norm.{end}"]
        for layer in ("0", "1"):
            here, there = f"layers.{layer}", f"transformer.h.{layer}"
            weights[f"{there}.ln_1.{end}"] = state[f"{here}.attention_norm.{end}"]
            weights[f"{there}.ln_2.{end}"] = state[f"{here}.mlp_norm.{end}"]
            weights[f"{there}.attn.c_attn.{end}"] = torch.cat(
                [state[f"{here}.attention.{name}.{end}"] for name in "qkv"]
            ).t()
            weights[f"{there}.attn.c_proj.{end}"] = state[f"{here}.attention.out.{end}"].t()
            weights[f"{there}.mlp.c_fc.{end}"] = state[f"{here}.mlp.expand.{end}"].t()
            weights[f"{there}.mlp.c_proj.{end}"] = state[f"{here}.mlp.contract.{end}"].t()
    missing, unknown = theirs.load_state_dict(weights, strict=False)
    assert (unknown, [name for name in missing if name != "lm_head.weight"]) == ([], [])
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-5)


def test_a_preset_sets_no_sizes() -> None:
    assert DecoderLM(preset="GPT2").num_layers == DecoderLM().num_layers
