"""Token by token: what was read is kept where the model can, and said where it cannot."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.compress import apply, fresh_model, weight_only
from builders.hugging_face import from_scratch
from costopt.schema.models import LSTM, ModelSettings
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress.decoding import DECODED, decoder_of, time_decoding
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.points import Point
from costopt_trainer.compress.timing import Running
from costopt_trainer.models.recurrent import Recurrent
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

TOKENS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(7)
    return build_model(from_scratch(tmp_path_factory.mktemp("llama"), "llama")).eval()


@pytest.fixture(scope="module")
def lstm() -> Any:
    named = ModelSettings(type="LSTM", lstm=LSTM(num_layers=2, embedding_dim=16, context_length=24))
    return build_model(ModelShape(named, vocabulary_size=64)).eval()


@torch.no_grad()
def test_keys_and_values_of_all_tokens_are_kept(llama: Any) -> None:
    decoder = decoder_of(llama)
    assert decoder.cached
    kept = decoder.prefill(TOKENS[:, :20])
    for token in TOKENS[:, 20:23].split(1, dim=1):
        kept = decoder.step(token, kept)
    assert kept.get_seq_length() == 23
    keyword = "cache" if "cache" in inspect.signature(llama.model.forward).parameters else "past_key_values"
    last = llama.model(input_ids=TOKENS[:, 23:], use_cache=True, **{keyword: kept}).logits[:, -1]
    torch.testing.assert_close(last, llama(TOKENS)[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_state_of_a_recurrent_model_is_that_after_all_tokens(lstm: Recurrent) -> None:
    decoder = decoder_of(lstm)
    assert decoder.cached
    kept = decoder.prefill(TOKENS[:, :20])
    for token in TOKENS[:, 20:].split(1, dim=1):
        kept = decoder.step(token, kept)
    torch.testing.assert_close(kept, lstm.run(TOKENS)[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoder_of_our_own_keeps_keys_and_values_in_whatever_bits_its_layers_are() -> None:
    for steps in ([], [weight_only()]):
        model = fresh_model("DecoderLM")
        apply(model, steps, TOKENS)
        decoder = decoder_of(model)
        assert decoder.cached
        kept = decoder.prefill(TOKENS[:, :20])
        for token in TOKENS[:, 20:23].split(1, dim=1):
            kept = decoder.step(token, kept)
        assert kept.num_tokens == 23
        last = model.head(model.read(TOKENS[:, 23:], kept))[:, -1]
        torch.testing.assert_close(last, model(TOKENS)[:, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_with_a_cache_costs_products_with_itself_alone() -> None:
    model = fresh_model("DecoderLM")
    seen: list[int] = []
    model.layers["0"].mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    decoder = decoder_of(model)
    decoder.step(TOKENS[:, 21:22], decoder.step(TOKENS[:, 20:21], decoder.prefill(TOKENS[:, :20])))
    assert seen == [20, 1, 1]


class _Spied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tuple(tokens.shape))
        return tokens


def test_without_a_cache_each_token_costs_a_pass_over_all_before_it() -> None:
    model = _Spied()
    decoder = decoder_of(model)
    kept = decoder.prefill(TOKENS[:, :20])
    decoder.step(TOKENS[:, 21:22], decoder.step(TOKENS[:, 20:21], kept))
    assert not decoder.cached
    strange = fresh_model("DecoderLM")
    strange.layers["1"] = nn.Identity()
    assert not decoder_of(strange).cached, "what a step of another package has put in may keep nothing"
    assert model.seen == [(2, 20), (2, 21), (2, 22)]


def test_prefill_and_decode_are_told_apart_for_both(llama: Any) -> None:
    spied = _Spied()
    pair = [Running("TorchEager", llama), Running("TorchEager", spied)]
    with Overdue("small") as calls:
        timings, notes = time_decoding(pair, [Point(1, 24), Point(2, 16), Point(1, 1)], TOKENS, calls, 2.0)
    for of_one, cached in zip(timings, (True, False), strict=True):
        assert [(each.kind, each.batch_size, each.sequence_length, each.cached) for each in of_one] == [
            ("Prefill", 1, 24 - DECODED, None),
            ("Decode", 1, 24 - DECODED, cached),
            ("Prefill", 2, 16 - DECODED, None),
            ("Decode", 2, 16 - DECODED, cached),
        ]
        assert of_one[1].runs == DECODED * of_one[0].runs
    assert {len(each) for each in spied.seen} == {2}
    assert notes == [
        "prefill and decode are not timed at batch size 1, sequence length 1: there is no room for a prompt"
    ]


@pytest.mark.parametrize("engine", ["TorchCompiled", "OnnxRuntime"])
def test_what_runs_compiled_or_as_a_graph_is_timed_in_torch_and_said_so(engine: EngineName, lstm: Any) -> None:
    def unused(_tokens: Tensor) -> Tensor:
        pytest.fail("it is not what writes")

    pair = [Running("TorchEager", lstm), Running(engine, unused, 1.0, in_torch=lstm)]
    with Overdue("small") as calls:
        timings, notes = time_decoding(pair, [Point(1, 12)], TOKENS, calls, 1.0)
    for of_one in timings:
        assert [(each.kind, each.engine) for each in of_one] == [("Prefill", "TorchEager"), ("Decode", "TorchEager")]
        assert of_one[1].cached
    assert notes == [
        f"prefill and decode are timed under TorchEager: {engine} would read or compile all anew each time"
    ]


def test_beside_a_graph_alone_neither_is_timed(lstm: Any) -> None:
    pair = [Running("TorchEager", lstm), Running("OnnxRuntime", lambda tokens: tokens, 1.0)]
    with Overdue("small") as calls:
        timings, notes = time_decoding(pair, [Point(1, 12)], TOKENS, calls, 1.0)
    assert timings == [[], []]
    assert notes == ["prefill and decode are not timed: an ONNX graph alone keeps nothing of earlier tokens"]


def test_sizes_that_would_take_too_long_are_left_out(lstm: Any) -> None:
    pair = [Running("TorchEager", spied := _Spied()), Running("TorchEager", lstm)]
    # A round is a prompt, and of what keeps nothing eight passes more; each is taken twice. Half of the tokens: half.
    with Overdue("small") as calls:
        timings, notes = time_decoding(pair, [Point(1, 24), Point(1, 12)], TOKENS, calls, 1.5, sample_seconds=0.1)
    assert max(length for _, length in spied.seen) < 13
    assert [each.sequence_length for each in timings[0]] == [4, 4]
    assert notes == [
        "prefill and decode are not timed at batch size 1, sequence length 24: measureSeconds leaves no time for it"
    ]


def test_a_model_that_fails_while_it_writes_is_told_and_the_rest_is_measured(lstm: Any) -> None:
    class Fails(_Spied):
        def forward(self, tokens: Tensor) -> Tensor:
            raise RuntimeError("no such length")

    with Overdue("small") as calls:
        timings, notes = time_decoding([Running("TorchEager", Fails())], [Point(1, 12)], TOKENS, calls, 1.0)
    assert timings == [[]]
    assert notes == ["no prefill and decode at batch size 1, sequence length 12: RuntimeError: no such length"]
