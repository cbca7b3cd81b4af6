"""The recurrent language model: reading piece by piece, causality, and peers."""

from typing import Any

import torch
from torch import nn

from builders.compress import apply, pruned, weight_only
from costopt.schema.models import ModelSettings
from costopt_trainer.models.artifact import load_model, save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

TOKENS = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(2))


def shape_of(**settings: Any) -> ModelShape:
    plain = {"type": "LSTM", "lstm": {"embeddingDim": 16, "contextLength": 12, **settings}}
    return ModelShape(ModelSettings.model_validate(plain), vocabulary_size=50)


def fresh(**settings: Any) -> Any:
    torch.manual_seed(1)
    return build_model(shape_of(**settings)).eval()


def test_a_text_may_be_read_piece_by_piece_with_its_state() -> None:
    for settings in ({}, {"layerRepeats": 2}):
        model = fresh(**settings)
        whole, end = model.run(TOKENS, model.fresh_state(3))
        torch.testing.assert_close(whole, model.hidden(TOKENS))
        first, state = model.run(TOKENS[:, :5], model.fresh_state(3))
        second, other_end = model.run(TOKENS[:, 5:], state)
        torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
        torch.testing.assert_close(other_end, end)
        assert state.shape == model.fresh_state(3).shape == (2 * settings.get("layerRepeats", 1), 2, 3, 16)
        assert not torch.allclose(model.hidden(TOKENS[:, 5:]), second), "without its state a piece reads otherwise"


def test_each_piece_of_a_pipeline_has_the_state_of_its_own_layers() -> None:
    model, pieces = fresh(), [fresh().keep_layers(0, 1), fresh().keep_layers(1, 2)]
    whole, end = model.run(TOKENS, model.fresh_state(3))
    x, ends = TOKENS, []
    for piece in pieces:
        x, state = piece.run(x, piece.fresh_state(3))
        ends.append(state)
    assert torch.equal(x, whole)
    assert torch.equal(torch.cat(ends), end)


def test_gradients_go_back_into_the_state_until_it_is_detached() -> None:
    model = fresh()
    _, state = model.run(TOKENS[:, :5], model.fresh_state(3))
    assert state.requires_grad
    hidden, _ = model.run(TOKENS[:, 5:], state.detach())
    hidden.sum().backward()
    assert model.layers["0"].recurrent_GD.grad.abs().sum() > 0


def test_a_layer_computes_what_torchs_own_layer_computes() -> None:
    layer, peer = fresh().layers["0"], nn.LSTM(16, 16, batch_first=True)
    weights = {"weight_ih_l0": layer.input_GD, "weight_hh_l0": layer.recurrent_GD, "bias_ih_l0": layer.bias_G}
    peer.load_state_dict({**weights, "bias_hh_l0": torch.zeros(64)})
    x = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x)[0], x + peer(layer.norm(x))[0])


def test_a_token_changes_no_earlier_prediction() -> None:
    model, changed = fresh(), TOKENS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    assert torch.equal(model(TOKENS)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(TOKENS)[:, 7:], model(changed)[:, 7:])


def test_samples_that_pass_in_micro_batches_go_on_from_what_their_sequences_have_left() -> None:
    model = fresh(layerRepeats=2)
    whole = model(TOKENS)
    model.carried = kept = model.fresh_state(3)
    for piece in TOKENS.split(4, dim=1):
        passed = torch.cat([model(part) for part in piece.split([2, 1])])
        torch.testing.assert_close(passed, whole[:, :4])
        whole = whole[:, 4:]
        assert not model.carried.requires_grad, "gradients stay within a sample"
    assert not kept.any(), "who has kept the states can go back to them"
    assert model.state_dict().keys() == fresh(layerRepeats=2).state_dict().keys()


def test_single_weights_of_the_recurrence_can_be_pruned_and_the_rest_quantized(tmp_path: Any) -> None:
    model, steps = fresh(carryState=True), [pruned("Unstructured", 50), weight_only()]
    apply(model, steps, TOKENS[:1])
    for layer in model.layers.values():
        assert [int((weight == 0).sum()) for weight in (layer.input_GD, layer.recurrent_GD)] == [512, 512]
    save_model(tmp_path / "m", model, shape_of(carryState=True), steps=steps)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m")(TOKENS), model(TOKENS))
