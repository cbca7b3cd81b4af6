"""Light layers: fewer weights, by factors, by sharing, and by zeros that stay zero."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from costopt.schema.model_family import Sparsity
from costopt.schema.models import ModelSettings
from costopt.schema.optimization import Optimizer
from costopt_trainer.models.light import LowRankLinear, make_sparse
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.optimizers import OPTIMIZERS, make_optimizer

SMALL = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}
TOKENS = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(2))


def decoder(**settings: Any) -> Any:
    torch.manual_seed(1)
    plain = {"type": "DecoderLM", "decoderLM": {**SMALL, **settings}}
    return build_model(ModelShape(ModelSettings.model_validate(plain), vocabulary_size=50))


def encoder(**settings: Any) -> Any:
    torch.manual_seed(1)
    plain = {"type": "Encoder", "encoder": {**SMALL, **settings}}
    return build_model(ModelShape(ModelSettings.model_validate(plain), vocabulary_size=50, pad_id=49))


MAKE = {"DecoderLM": decoder, "Encoder": encoder}


def in_layers(model: Any) -> int:
    return sum(weight.numel() for weight in model.layers.parameters() if weight.dim() == 2)


def flops(model: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(TOKENS)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", MAKE)
def test_factors_of_a_matrix_have_as_many_weights_as_the_rank_says(family: str) -> None:
    whole, light = MAKE[family](), MAKE[family](rank=4)
    square, wide = 4 * (32 + 32), 4 * (32 + 128)
    assert in_layers(light) == 2 * (4 * square + 2 * wide)
    assert in_layers(light) < in_layers(whole) / 4
    assert flops(light) < flops(whole)


def test_factors_start_so_that_their_product_is_as_large_as_a_matrix() -> None:
    layer = decoder(rank=12, embeddingDim=64).layers["0"].mlp.expand
    assert isinstance(layer, LowRankLinear)
    assert (layer.up.weight @ layer.down.weight).std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("family", MAKE)
def test_a_layer_that_is_repeated_is_two_layers_with_the_same_weights(family: str) -> None:
    shared, deep = MAKE[family](layerRepeats=2).eval(), MAKE[family](numLayers=4).eval()
    weights = deep.state_dict()
    for name, weight in shared.state_dict().items():
        start, _, rest = name.removeprefix("layers.").partition(".")
        for copy in (0, 1) if name.startswith("layers.") else ():
            weights[f"layers.{2 * int(start) + copy}.{rest}"] = weight
        if not name.startswith("layers."):
            weights[name] = weight
    deep.load_state_dict(weights)
    assert torch.equal(shared(TOKENS), deep(TOKENS))
    assert in_layers(shared) == in_layers(deep) / 2
    assert flops(shared) == flops(deep)


@pytest.mark.parametrize("mask", ["Random", "Magnitude"])
def test_as_many_weights_are_zero_as_was_asked_for_and_the_others_make_up_for_them(mask: Any) -> None:
    before = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    weight = before.clone()
    make_sparse(weight, Sparsity(percent=70, mask=mask))
    assert (weight == 0).sum() == 700
    assert weight.square().sum() == pytest.approx(before.square().sum().item(), rel=1e-5)
    smallest = before.abs() < before.abs().flatten().sort().values[700]
    assert torch.equal(weight == 0, smallest) == (mask == "Magnitude")


RATES = {"SGD": 0.1, "Adafactor": 0.1}
"""Of optimizers that learn slower than AdamW here, and so not by half."""


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS.keys() - {"Muon"}))  # its steps fill zeros: a rule refuses it
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("family", MAKE)
def test_zeros_stay_zero_under_each_optimizer_and_all_else_learns(
    family: str, optimizer: Any, rank: int | None
) -> None:
    model = MAKE[family](sparsity={"percent": 60}, **({} if rank is None else {"rank": rank}))
    assert sum(isinstance(module, nn.Linear) and (module.weight == 0).any().item() for module in model.modules()) >= 12
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    stepped = make_optimizer(Optimizer(type=optimizer), model)
    for group in stepped.param_groups:
        group["lr"] = RATES.get(optimizer, 1e-2)
    losses = []
    for _ in range(8):
        loss = loss_sum(model(TOKENS), TOKENS) / TOKENS.numel()
        loss.backward()
        stepped.step()
        stepped.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < (0.7 if optimizer in RATES else 0.5) * losses[0]
    for name, weight in model.layers.named_parameters():
        if weight.dim() == 2:
            zero = before[f"layers.{name}"] == 0
            assert zero.sum() == weight.numel() * 60 // 100
            assert torch.equal(weight == 0, zero), "what is zero stays zero, and nothing else becomes it"
