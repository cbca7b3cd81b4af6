"""The loss over a large vocabulary in chunks: the same loss and gradients, and never all logits."""

import pytest
import torch
from torch import Tensor, nn

from builders.largest import Largest
from costopt.schema import models as language
from costopt_trainer.models import chunked_loss
from costopt_trainer.models.chunked_loss import chunk_size, each_chunk, head_loss_sum
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

WIDTH, VOCABULARY = 32, 1000
BOTH = pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])


def case(bias: bool) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(1)
    hidden, targets = torch.randn(3, 100, WIDTH), torch.randint(0, VOCABULARY, (3, 100))
    targets[0, :7] = targets[1] = -100
    return hidden, nn.Linear(WIDTH, VOCABULARY, bias=bias), targets


def results(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    *,
    chunked: bool,
    dtype: torch.dtype = torch.float32,
    smoothing: float = 0.0,
) -> list[Tensor]:
    """Loss, and gradients of its hundredth."""
    hidden = hidden.clone().requires_grad_()
    head.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = head_loss_sum(hidden, head, targets, chunked=chunked, smoothing=smoothing)
    (loss / 100).backward()
    return [loss.detach(), hidden.grad, *(parameter.grad for parameter in head.parameters())]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, exact, strict=True)]


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_the_plain_one(bias: bool, smoothing: float) -> None:
    hidden, head, targets = case(bias)
    plain = [tensor.clone() for tensor in results(hidden, head, targets, chunked=False, smoothing=smoothing)]
    chunked = results(hidden, head, targets, chunked=True, smoothing=smoothing)
    assert len(plain) == 3 + bias
    assert [(tensor.dtype, tensor.shape) for tensor in chunked] == [(t.dtype, t.shape) for t in plain]
    assert max(errors(chunked, plain)) < 5e-6
    assert chunked[1][1].abs().max() == 0, "ignored targets have no gradient"


def test_smoothed_labels_are_a_mixture_of_the_target_and_all_tokens_alike() -> None:
    hidden, head, targets = case(bias=True)
    losses = [float(results(hidden, head, targets, chunked=False, smoothing=smoothing)[0]) for smoothing in (0.0, 0.3)]
    counted = targets != -100
    surprises = -head(hidden).log_softmax(dim=-1)[counted]
    assert losses == pytest.approx(
        [losses[0], 0.7 * losses[0] + 0.3 * float(surprises.detach().mean(dim=-1).sum())], rel=1e-5
    )


@BOTH
def test_in_bf16_it_is_as_exact_as_the_plain_one(bias: bool) -> None:
    hidden, head, targets = case(bias)
    exact = [tensor.float() for tensor in results(hidden.double(), head.double(), targets, chunked=False)]
    hidden, head = hidden.float(), head.float()
    plain = errors(results(hidden, head, targets, chunked=False, dtype=torch.bfloat16), exact)
    chunked = errors(results(hidden, head, targets, chunked=True, dtype=torch.bfloat16), exact)
    assert 1e-4 < max(plain) < 2e-2
    assert all(one < 1.5 * other + 1e-6 for one, other in zip(chunked, plain, strict=True))


def test_never_all_logits_are_there() -> None:
    hidden, head, targets = case(bias=False)
    for chunked, largest in ((False, 300 * VOCABULARY), (True, VOCABULARY * WIDTH)):
        with Largest() as mode:
            results(hidden, head, targets, chunked=chunked)
        assert mode.elements == largest


@pytest.mark.parametrize(("num_targets", "size"), [(8192, 128), (32, 32), (5, 5), (10**6, 16384)])
def test_a_chunk_has_about_as_many_logits_as_there_are_hidden_activations(num_targets: int, size: int) -> None:
    assert chunk_size(num_targets, 50257, 768) == size


def test_only_what_is_trained_has_a_gradient() -> None:
    hidden, head, targets = case(bias=True)
    head.requires_grad_(False)
    loss, gradient, *none = results(hidden, head, targets, chunked=True)
    assert none == [None, None]
    assert errors([gradient], [results(hidden, head, targets, chunked=False)[1]])[0] < 5e-6
    with torch.no_grad(), Largest() as mode:
        assert head_loss_sum(hidden, head, targets, chunked=True).item() == loss.item()
    assert mode.elements <= VOCABULARY * 32, "without gradients none is computed"


def test_gradients_are_taken_once_unless_asked_for_more_often() -> None:
    loss = head_loss_sum(*case(bias=False), chunked=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()
    hidden, head, targets = case(bias=True)
    loss = head_loss_sum(hidden.requires_grad_(), head, targets, chunked=True, once=False)
    first, again = (torch.autograd.grad(2 * loss, [hidden, *head.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@BOTH
def test_an_evaluation_gets_all_logits_but_never_at_once(bias: bool) -> None:
    hidden, head, targets = case(bias)
    pieces: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
    for chunked, found in pieces.items():
        with torch.no_grad():
            each_chunk(hidden, head, targets, lambda *piece, found=found: found.append(piece), chunked=chunked)
    assert [logits.shape for logits, _ in pieces[False]] == [(3, 100, VOCABULARY)]
    assert {len(logits) for logits, _ in pieces[True]} == {32, 300 % 32}
    together = torch.cat([logits for logits, _ in pieces[True]])
    torch.testing.assert_close(together, pieces[False][0][0].flatten(0, 1))
    assert torch.equal(torch.cat([their for _, their in pieces[True]]), targets.flatten())


def test_a_head_that_computes_in_its_own_way_is_left_to_it() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hidden, _, targets = case(bias=False)
    head = Adapted(WIDTH, VOCABULARY)
    assert torch.equal(head_loss_sum(hidden, head, targets, chunked=True), loss_sum(head(hidden), targets))
    plain = nn.Linear(WIDTH, VOCABULARY)
    plain.register_forward_hook(lambda _module, _inputs, logits: 2 * logits)
    assert torch.equal(head_loss_sum(hidden, plain, targets, chunked=True), loss_sum(plain(hidden), targets))


@pytest.mark.parametrize("setting", [True, False, None])
def test_a_language_model_chooses_by_the_size_of_its_logits(
    setting: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = language.DecoderLM(num_layers=1, num_heads=2, embedding_dim=16, context_length=8)
    model = build_model(ModelShape(language.ModelSettings(type="DecoderLM", decoder_lm=settings), vocabulary_size=500))
    model.chunked_loss = setting
    tokens = torch.randint(0, 500, (20, 8))
    for large, chunked in ((20 * 8 * 500, True), (20 * 8 * 500 + 1, False)):
        monkeypatch.setattr(chunked_loss, "LARGE_LOGITS", large)
        with Largest() as mode:
            loss = model.loss_sum(tokens, tokens)
        assert (mode.elements < 20 * 8 * 500) == (chunked if setting is None else setting)
        torch.testing.assert_close(loss, loss_sum(model(tokens), tokens))
