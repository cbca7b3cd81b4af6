"""A text that is read in parts, with the keys and values of what was read, is told as if it were read at once."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from builders.compress import apply, dynamic, pruned, weight_only
from costopt.schema.compression import LowRank, Prune, ShareWeights, Step
from costopt.schema.models import ModelSettings
from costopt_trainer.models.decoder_lm import within_documents
from costopt_trainer.models.key_values import KeyValueCache
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

VOCABULARY, SEPARATOR = 12, 0
SIZES = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}


def shape_of(separator_id: int | None = None, **chosen: Any) -> ModelShape:
    named = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {**SIZES, **chosen}})
    return ModelShape(named, vocabulary_size=VOCABULARY, separator_id=separator_id)


def model_of(separator_id: int | None = None, **chosen: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(shape_of(separator_id, **chosen)).eval().requires_grad_(False)
    for parameter in model.parameters():  # heads that start at 0.02 attend to all alike, and hide what they see
        if parameter.dim() == 2:
            parameter.mul_(5)
    return model


def tokens_of(seed: int, samples: int = 2, length: int = 16) -> Tensor:
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(seed))


def read_in(model: Any, tokens: Tensor, parts: list[int]) -> tuple[Tensor, KeyValueCache]:
    """The logits of tokens that are read in parts of these lengths, and what is kept of them."""
    cache = KeyValueCache()
    read = [model.read(part, cache) for part in tokens.split(parts, dim=1)]
    return model.vocabulary_head(torch.cat(read, dim=1)), cache


@st.composite
def parts_of_16(draw: st.DrawFn) -> list[int]:
    cuts = sorted(draw(st.sets(st.integers(1, 15))))
    return [end - start for start, end in zip([0, *cuts], [*cuts, 16], strict=True)]


CHOSEN = st.fixed_dictionaries(
    {
        "positions": st.sampled_from(["Learned", "Rotary"]),
        "norm": st.sampled_from(["LayerNorm", "RMSNorm"]),
        "mlp": st.sampled_from(["GELU", "SwiGLU"]),
        "numKeyValueHeads": st.sampled_from([1, 2, 4]),
        "layerRepeats": st.sampled_from([1, 3]),
        "biases": st.booleans(),
        "tiedEmbeddings": st.booleans(),
    }
)
LIGHT = st.sampled_from([{}, {"rank": 4}, {"sparsity": {"percent": 50}}])


@given(
    chosen=CHOSEN,
    light=LIGHT,
    separator=st.sampled_from([None, SEPARATOR]),
    parts=parts_of_16(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_the_logits_are_those_of_one_pass_over_all_tokens(
    chosen: dict[str, Any], light: dict[str, Any], separator: int | None, parts: list[int], seed: int
) -> None:
    model, tokens = model_of(separator, **chosen, **light), tokens_of(seed)
    logits, cache = read_in(model, tokens, parts)
    whole = model(tokens)
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert cache.tokens_BT is not None
    assert torch.equal(cache.tokens_BT, tokens)


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@torch.no_grad()
def test_one_part_gives_the_bits_of_a_pass_and_each_later_token_hangs_on_all_it_sees(separator: int | None) -> None:
    model, tokens = model_of(separator, preset="Llama"), tokens_of(3)
    assert torch.equal(read_in(model, tokens, [16])[0], model(tokens))
    tokens[:, 10] = SEPARATOR
    changed = tokens.clone()
    changed[:, 1] = (changed[:, 1] + 1) % VOCABULARY
    one, other = (read_in(model, each, [8, 2, 1, 1, 1, 3])[0] for each in (tokens, changed))
    sees = torch.ones(16, dtype=torch.bool)
    sees[0] = False
    if separator is not None:
        begins = int((tokens[0, 1:] == SEPARATOR).nonzero()[0]) + 2  # behind the first separator that stays
        sees[begins:] = False
    assert [not torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)] == sees.tolist()


@torch.no_grad()
def test_a_document_whose_separator_was_read_in_an_earlier_part_is_told_as_if_it_were_alone() -> None:
    model, tokens = model_of(SEPARATOR), tokens_of(4) % (VOCABULARY - 1) + 1
    tokens[:, 7] = SEPARATOR
    logits, _ = read_in(model, tokens, [8, 1, 1, 6])
    torch.testing.assert_close(logits[:, 8:], model(tokens[:, 8:]), rtol=1e-4, atol=1e-5)
    seen, positions = within_documents(tokens, SEPARATOR)
    for first in (0, 7, 8, 15):
        own_seen, own_positions = within_documents(tokens, SEPARATOR, first)
        assert torch.equal(own_seen, seen[:, :, first:])
        assert torch.equal(own_positions, positions[:, first:])


COMPRESSED: dict[str, list[Step]] = {
    "heads": [Step(type="Prune", prune=Prune(structure="Structured", percent=50, of=["Heads"]))],
    "channels": [pruned("Structured", 50)],
    "single weights": [pruned("Unstructured", 60)],
    "8-bit weights": [weight_only()],
    "8-bit products": [dynamic()],
    "low rank": [Step(type="LowRank", low_rank=LowRank(percent=50))],
    "shared layers": [Step(type="ShareWeights", share_weights=ShareWeights(layers=2))],
    "heads, then 8-bit weights": [
        Step(type="Prune", prune=Prune(structure="Structured", percent=50, of=["Heads"])), weight_only(),
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", COMPRESSED)
@torch.no_grad()
def test_a_compressed_model_keeps_keys_and_values_too(what: str) -> None:
    model, tokens = model_of(preset="Llama", numKeyValueHeads=2), tokens_of(5)
    model.built_as = shape_of(preset="Llama", numKeyValueHeads=2)
    apply(model, COMPRESSED[what], tokens)
    model.requires_grad_(False)
    logits, cache = read_in(model, tokens, [9, 1, 4, 1, 1])
    whole = model(tokens)
    # Activations of 8 bits: what differs in the last bit of a float is rounded to the next step here and there.
    off = 2e-2 if what == "8-bit products" else 2e-5
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=off * float(whole.abs().max()))
    keys = cache.passes[0].keys_BKTH
    assert keys is not None
    heads = model.layers["0"].attention.num_key_heads
    assert heads == (1 if what.startswith(("heads", "channels")) else 2)
    assert keys.shape == (2, heads, 16, 8), "not repeated for each head that shares them"
    assert len(cache.passes) == 2


@torch.no_grad()
def test_a_text_beyond_the_context_and_a_piece_of_a_model_are_refused_and_nothing_is_kept() -> None:
    model, cache = model_of(), KeyValueCache()
    model.read(tokens_of(1, length=15), cache)
    with pytest.raises(ValueError, match="at most 16 tokens, not 17"):
        model.read(tokens_of(2, length=2), cache)
    assert cache.num_tokens == 15
    assert {kept.num_tokens for kept in cache.passes} == {15}
    for first, last in ((0, 1), (1, 2)):
        piece = model_of().keep_layers(first, last)
        assert not piece.can_read
        with pytest.raises(ValueError, match="only a whole model"):
            piece.read(tokens_of(1), KeyValueCache())
    strange = model_of()
    strange.layers["1"] = torch.nn.Identity()
    assert not strange.can_read


@pytest.mark.parametrize("separator", [None, SEPARATOR])
def test_a_pass_that_keeps_nothing_is_one_graph_for_a_compiler_and_has_the_same_bits(separator: int | None) -> None:
    model, tokens = model_of(separator, preset="Llama"), tokens_of(6)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(tokens), model(tokens))
