"""What each optimizer makes of gradients: formulas written out, or torch's own, on a few numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.trainer import recipe
from costopt.schema.optimization import Optimizer
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.optimizers import make_optimizer, named_optimizer_state, set_rate
from costopt_trainer.training.optimizers.groups import hidden_matrices

RATE, DECAY = 0.05, 0.2


class Problem(nn.Module):
    """A matrix and a vector, and gradients of three steps."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.drawn = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(*shape, generator=self.drawn))
        self.gains = nn.Parameter(torch.randn(shape[-1], generator=self.drawn))
        self.gradients = [
            [torch.randn(*shape, generator=self.drawn), torch.randn(shape[-1], generator=self.drawn)] for _ in range(3)
        ]

    def after(self, optimizer: torch.optim.Optimizer, steps: int = 3) -> tuple[Tensor, Tensor]:
        """Both parameters after `steps`."""
        for matrix, gains in self.gradients[:steps]:
            set_rate(optimizer, RATE)
            self.matrix.grad, self.gains.grad = matrix.clone(), gains.clone()
            optimizer.step()
        return self.matrix.detach(), self.gains.detach()


def optimizer_of(problem: nn.Module, word: str, **own: Any) -> torch.optim.Optimizer:
    key = {"SGD": "sgd", "AdamW": "adamW", "AdamW8bit": "adamW8bit"}.get(word, word.lower())
    plain = {"type": word, "learningRate": str(RATE), "weightDecay": str(DECAY), **({key: own} if own else {})}
    return make_optimizer(Optimizer.model_validate(plain), problem)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_adds_up_gradients_and_weight_decay_in_its_momentum(nesterov: bool) -> None:
    found = Problem(3, 4)
    ends = found.after(optimizer_of(found, "SGD", momentum="0.5", nesterov=nesterov))
    expected = Problem(3, 4)
    for place, decay in ((0, DECAY), (1, 0.0)):
        weight, momentum = [expected.matrix, expected.gains][place].detach().clone(), torch.tensor(0.0)
        for gradients in expected.gradients:
            gradient = gradients[place] + decay * weight
            momentum = 0.5 * momentum + gradient
            weight -= RATE * (gradient + 0.5 * momentum if nesterov else momentum)
        torch.testing.assert_close(ends[place], weight)


def test_sgd_without_momentum_keeps_nothing() -> None:
    problem = Problem(3, 4)
    optimizer = optimizer_of(problem, "SGD", momentum="0")
    before = problem.gains.detach().clone()
    _, gains = problem.after(optimizer, steps=1)
    torch.testing.assert_close(gains, before - RATE * problem.gradients[0][1])
    settings = Optimizer.model_validate({"type": "SGD", "sgd": {"momentum": "0"}})
    assert named_optimizer_state(settings, problem, optimizer) == {}


def test_lion_takes_steps_of_one_size() -> None:
    found = Problem(3, 4)
    ends = found.after(optimizer_of(found, "Lion", beta1="0.8", beta2="0.6"))
    expected = Problem(3, 4)
    for place, decay in ((0, DECAY), (1, 0.0)):
        weight, mean = [expected.matrix, expected.gains][place].detach().clone(), torch.tensor(0.0)
        for gradients in expected.gradients:
            direction = (0.8 * mean + 0.2 * gradients[place]).sign()
            weight -= RATE * (direction + decay * weight)
            mean = 0.6 * mean + 0.4 * gradients[place]
        torch.testing.assert_close(ends[place], weight)


def test_adafactor_divides_by_what_rows_and_columns_have_in_common() -> None:
    found = Problem(3, 4)
    matrix, gains = found.after(optimizer_of(found, "Adafactor", beta2Decay="0.7", clipThreshold="1.5"))
    expected = Problem(3, 4)
    rows, columns, squares = torch.zeros(3, 1), torch.zeros(1, 4), torch.zeros(4)

    def step(weight: Tensor, gradient: Tensor, variance: Tensor, number: int) -> Tensor:
        update = gradient / variance.sqrt()
        update /= max(1.0, float(update.square().mean().sqrt()) / 1.5)
        size = max(1e-3, float(weight.square().mean().sqrt()))
        return size * min(RATE, number**-0.5) * update

    weight, gain = expected.matrix.detach().clone(), expected.gains.detach().clone()
    for number, (of_matrix, of_gains) in enumerate(expected.gradients, start=1):
        share = number**-0.7
        rows += share * (of_matrix.square().mean(dim=1, keepdim=True) - rows)
        columns += share * (of_matrix.square().mean(dim=0, keepdim=True) - columns)
        squares += share * (of_gains.square() - squares)
        change = step(weight, of_matrix, rows @ columns / rows.mean(), number)
        weight = weight * (1 - RATE * DECAY) - change
        gain = gain - step(gain, of_gains, squares, number)
    torch.testing.assert_close(matrix, weight)
    torch.testing.assert_close(gains, gain)


def test_muon_steps_matrices_by_their_orthogonal_part_and_all_else_by_adamw() -> None:
    found, peer = Problem(6, 4), Problem(6, 4)
    ends = found.after(optimizer_of(found, "Muon", momentum="0.9", adamW={"beta2": "0.9"}))
    muon = torch.optim.Muon([peer.matrix], lr=RATE, momentum=0.9, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    adam_w = torch.optim.AdamW([peer.gains], lr=RATE, betas=(0.9, 0.9), weight_decay=0.0, fused=True)
    for matrix, gains in peer.gradients:
        peer.matrix.grad, peer.gains.grad = matrix.clone(), gains.clone()
        muon.step()
        adam_w.step()
    assert torch.equal(ends[0], peer.matrix)
    assert torch.equal(ends[1], peer.gains)

    first = Problem(6, 4)
    before = first.matrix.detach().clone()
    step = (before * (1 - RATE * DECAY) - first.after(optimizer_of(first, "Muon"), steps=1)[0]) / RATE
    sizes = torch.linalg.svdvals(step) / (0.2 * 6**0.5)
    assert all(0.6 < float(size) < 1.3 for size in sizes), "all directions count about the same"


def test_muon_takes_the_matrices_in_the_layers() -> None:
    settings = recipe(Path("a.txt")).model
    model = build_model(ModelShape(settings, vocabulary_size=256))
    hidden = hidden_matrices(model)
    assert hidden == {name for name, one in model.named_parameters() if name.startswith("layers.") and one.dim() == 2}
    assert len(hidden) >= 8
    assert {"token_embedding.weight", "head.weight"} <= {name for name, _ in model.named_parameters()} - hidden
    assert hidden_matrices(nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))) == {"1.weight"}


def test_adamw_in_8_bits_keeps_a_quarter_and_steps_about_as_adamw() -> None:
    found, peer = Problem(64, 64), Problem(64, 64)
    before = found.matrix.detach().clone()
    optimizer = optimizer_of(found, "AdamW8bit")
    matrix, gains = found.after(optimizer)
    expected, expected_gains = peer.after(optimizer_of(peer, "AdamW"))
    moved = (expected - before).norm()
    assert 0 < (matrix - expected).norm() < 0.05 * moved
    torch.testing.assert_close(gains, expected_gains, msg="too few numbers for 8 bits")
    settings = Optimizer.model_validate({"type": "AdamW8bit"})
    kept = named_optimizer_state(settings, found, optimizer)
    sizes = {name: tensor.nbytes for name, tensor in kept.items() if name.startswith("matrix/")}
    assert sum(sizes.values()) < 2.1 * 64 * 64
    assert kept["matrix/exp_avg.codes"].dtype == torch.uint8
