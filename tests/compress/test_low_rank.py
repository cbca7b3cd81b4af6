"""Two small matrices in place of a large one: the best ones, saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.compress import (
    LM_SETTINGS,
    LM_SHAPE,
    apply,
    example_inputs,
    fresh_model,
    pruned,
    train_stage,
    weight_only,
)
from builders.hugging_face import from_scratch
from costopt.schema.compression import Accept, LowRank, Step, Variant
from costopt_trainer.compress import measure, run
from costopt_trainer.compress.low_rank import best_factors, factorise, linear_layers, second_moments
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config, save_model
from costopt_trainer.models.factors import ranks_of
from costopt_trainer.models.light import LowRankLinear
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model


def low_rank(**given: Any) -> Step:
    return Step(type="LowRank", low_rank=LowRank(**given))


def few_directions(inputs: int, count: int, seed: int) -> torch.Tensor:
    """Inputs (N, I) that lie near a few directions, so that the weights alone do not tell what matters."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(1, -2, inputs)
    turned = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator))[0]
    return torch.randn(count, inputs, generator=generator) * scales @ turned


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 24), st.integers(2, 24), st.integers(1, 90), st.integers(0, 99))
def test_no_product_of_that_rank_is_nearer_on_the_inputs_that_were_seen(
    inputs: int, outputs: int, percent: int, seed: int
) -> None:
    x = few_directions(inputs, 200, seed).double()
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed + 1)).double()
    found = best_factors(weight, x.T @ x, LowRank(percent=percent))
    rank = len(found.down_RI)
    assert rank == 1 or rank * (inputs + outputs) <= (100 - percent) / 100 * inputs * outputs
    lost = (x @ (weight - found.up_OR @ found.down_RI).T).square().sum()
    # The best product has the first singular values of the outputs: Eckart and Young.
    values = torch.linalg.svdvals(x @ weight.T)
    assert float(lost) == pytest.approx(float(values[rank:].square().sum()), rel=1e-6, abs=1e-6 * float(values[0]))
    assert found.kept == pytest.approx(1 - float(lost / (x @ weight.T).square().sum()), abs=1e-9)


def test_without_inputs_it_is_the_truncated_svd() -> None:
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0)).double()
    found = best_factors(weight, None, LowRank(percent=50))
    rank = len(found.down_RI)
    left, values, right = torch.linalg.svd(weight)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    torch.testing.assert_close(found.up_OR @ found.down_RI, best)


def test_inputs_that_were_seen_make_it_better_than_the_weights_alone() -> None:
    x = few_directions(32, 400, seed=5).double()
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(6)).double()
    seen, unseen = (best_factors(weight, moment, LowRank(percent=70)) for moment in (x.T @ x, None))
    lost = [float((x @ (weight - found.up_OR @ found.down_RI).T).square().sum()) for found in (seen, unseen)]
    assert lost[0] < 0.5 * lost[1]


@pytest.mark.parametrize("energy", [50, 90, 99])
def test_an_energy_is_kept_with_as_few_channels_as_that_takes(energy: int) -> None:
    x = few_directions(24, 300, seed=7).double()
    weight = torch.randn(24, 24, generator=torch.Generator().manual_seed(8)).double()
    found = best_factors(weight, x.T @ x, LowRank(energy_percent=energy))
    squares = torch.linalg.svdvals(x @ weight.T).square()
    rank = len(found.down_RI)
    assert squares[:rank].sum() >= energy / 100 * squares.sum() > squares[: rank - 1].sum()


def test_the_moments_are_those_of_what_each_layer_reads() -> None:
    model, batch = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    layers = dict(linear_layers(model))
    assert len(layers) == 2 * 6
    assert "head" not in layers
    seen: list[torch.Tensor] = []
    handle = layers["layers.1.mlp.contract"].register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    moments = second_moments(model, layers, [batch, batch[:1]])
    handle.remove()
    x = torch.cat([each.flatten(0, 1) for each in seen]).double()
    torch.testing.assert_close(moments["layers.1.mlp.contract"], x.T @ x, rtol=1e-4, atol=1e-6)
    assert all(not layer._forward_pre_hooks for layer in layers.values())


def test_each_layer_of_the_model_has_fewer_weights_and_the_model_still_works() -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    before = sum(parameter.numel() for parameter in model.layers.parameters())
    (line,) = apply(model, [low_rank(percent=40)], inputs)
    after = sum(parameter.numel() for parameter in model.layers.parameters())
    assert 0.55 * before < after <= 0.61 * before
    assert line.startswith("LowRank 40 percent less: 12 of 12 matrices are products of two")
    assert isinstance(model.head, torch.nn.Linear), "the head stays whole"
    assert model(inputs).isfinite().all()


def test_an_artifact_of_factors_is_loaded_again_to_the_bit(tmp_path: Path) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    step = low_rank(energy_percent=90)
    apply(model, [step, pruned("Structured", 25)], inputs[:1])
    widths = {**model.widths(), **ranks_of(model)}
    save_model(tmp_path / "small", model, LM_SHAPE, widths=widths, steps=[step])
    again = load_model(tmp_path / "small")
    assert torch.equal(again(inputs), model(inputs))
    assert ranks_of(again) == ranks_of(model)
    assert any(isinstance(module, LowRankLinear) for module in again.modules())


def test_what_was_factorised_from_the_beginning_is_loaded_with_its_own_ranks(tmp_path: Path) -> None:
    settings_ = LM_SETTINGS.decoder_lm
    assert settings_ is not None
    light = LM_SETTINGS.model_copy(update={"decoder_lm": settings_.model_copy(update={"rank": 8})})
    shape = ModelShape(light, vocabulary_size=256)
    model = build_model(shape).eval()
    apply(model, [pruned("Structured", 25)], example_inputs("DecoderLM")[:1])
    save_model(tmp_path / "light", model, shape, widths={**model.widths(), **ranks_of(model)})
    inputs = example_inputs("DecoderLM")
    assert torch.equal(load_model(tmp_path / "light")(inputs), model(inputs))


@pytest.mark.parametrize(
    ("name", "rank"),
    [("rank:layers.0.attention", 4), ("rank:layers.9.attention.q", 4), ("rank:layers.0.attention.q", 65)],
)
def test_ranks_that_no_model_has_are_refused_in_one_sentence(name: str, rank: int, tmp_path: Path) -> None:
    model = fresh_model("DecoderLM")
    save_model(tmp_path / "odd", model, LM_SHAPE, widths={**model.widths(), name: (rank,)})
    with pytest.raises(NotRetryable, match=r"its weights do not fit its config\.json"):
        load_model(tmp_path / "odd")


@pytest.mark.parametrize(
    ("model_type", "given", "sentence"),
    [
        ("DecoderLM", {"energy_percent": 99}, "lowRank.energyPercent must be smaller than 99: no matrix of this model"),
        ("ConvNet", {"percent": 50}, "needs a model with linear layers in its layers"),
    ],
)
def test_a_step_that_would_change_nothing_is_refused(model_type: str, given: Any, sentence: str) -> None:
    with pytest.raises(NotRetryable, match=sentence):
        apply(fresh_model(model_type), [low_rank(calibration_samples=0, **given)], example_inputs(model_type))


def test_a_model_of_another_library_is_refused(tmp_path: Path) -> None:
    model = build_model(from_scratch(tmp_path, "llama")).eval()
    with pytest.raises(NotRetryable, match="not of a model of the Hugging Face library, which has no place for two"):
        factorise(model, LowRank(percent=50), [])


def test_a_variant_of_factors_is_made_verified_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", 2)
    monkeypatch.setattr(measure, "MIN_RUNS", 2)
    storage = tmp_path / "storage"
    storage.mkdir()
    recipe = train_stage("DecoderLM", storage)
    accept = Accept(min_speedup="0.01", max_quality_drop_percent="1000")
    steps = [low_rank(percent=50, calibration_samples=16), weight_only()]
    report = run.make_variant(Variant(name="small", steps=steps, accept=accept), recipe, storage)
    assert report is not None
    assert report.reloaded
    assert report.details is not None
    assert report.measured.parameters < 0.9 * report.baseline.parameters
    macs = [side.footprint.macs_per_sample or 0 for side in (report.details.variant, report.details.baseline)]
    assert macs[0] < 0.8 * macs[1]
    assert {name for name in read_config(storage / report.artifact).widths or {} if name.startswith("rank:")}
