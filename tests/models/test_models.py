"""The networks: shapes, causality, pieces of a pipeline, pruned widths, loss."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from costopt.schema import models as language
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.loss import count_targets, loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

LANGUAGE = ModelShape(
    language.ModelSettings(
        type="DecoderLM",
        decoder_lm=language.DecoderLM(num_layers=3, num_heads=4, embedding_dim=32, context_length=16),
    ),
    vocabulary_size=50,
)
IMAGE = ModelShape(
    language.ModelSettings(type="ConvNet", conv_net=language.ConvNet(num_stages=3, base_channels=4)),
    image_shape=(1, 12, 10),
    num_classes=5,
)
SHAPES = pytest.mark.parametrize("shape", [LANGUAGE, IMAGE], ids=["DecoderLM", "ConvNet"])


def fresh(shape: ModelShape, widths: dict[str, tuple[int, ...]] | None = None) -> nn.Module:
    torch.manual_seed(1)
    return build_model(shape, widths)


def inputs_of(shape: ModelShape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if shape.image_shape is None:
        return torch.randint(0, 50, (2, 16), generator=generator)
    return torch.randn(2, *shape.image_shape, generator=generator)


def test_logits_have_one_score_per_token_or_class() -> None:
    assert fresh(LANGUAGE)(inputs_of(LANGUAGE)).shape == (2, 16, 50)
    assert fresh(LANGUAGE)(inputs_of(LANGUAGE)[:, :7]).shape == (2, 7, 50)
    assert fresh(IMAGE)(inputs_of(IMAGE)).shape == (2, 5)


@SHAPES
def test_the_same_seed_gives_the_same_weights(shape: ModelShape) -> None:
    first, second = fresh(shape).state_dict(), fresh(shape).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_untrained_language_model_is_about_as_good_as_guessing() -> None:
    tokens = inputs_of(LANGUAGE)
    loss = loss_sum(fresh(LANGUAGE)(tokens), tokens) / tokens.numel()
    assert loss.item() == pytest.approx(math.log(50), abs=0.1)


def test_a_token_changes_no_earlier_prediction() -> None:
    model, tokens = fresh(LANGUAGE), inputs_of(LANGUAGE)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_embedding_and_head_are_two_matrices() -> None:
    model = fresh(LANGUAGE)
    assert model.token_embedding.weight.data_ptr() != model.head.weight.data_ptr()


@SHAPES
@pytest.mark.parametrize("cuts", [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)])
def test_pieces_one_after_another_equal_the_whole_model_bitwise(shape: ModelShape, cuts: tuple[int, ...]) -> None:
    whole, inputs = fresh(shape), inputs_of(shape)
    activations = inputs
    names: list[str] = []
    for first, last in pairwise(cuts):
        piece = fresh(shape).keep_layers(first, last)
        names += list(piece.state_dict())
        activations = piece(activations)
    assert torch.equal(activations, whole(inputs))
    assert sorted(names) == sorted(whole.state_dict())


@SHAPES
@pytest.mark.parametrize(("first", "last"), [(-1, 2), (0, 4), (2, 2), (2, 1)])
def test_layers_that_are_not_there_cannot_be_kept(shape: ModelShape, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="0 <= first < last <= 3"):
        fresh(shape).keep_layers(first, last)


@pytest.mark.parametrize(
    ("shape", "widths"),
    [
        (LANGUAGE, {"attention": (8, 32, 16), "mlp": (100, 8, 128)}),
        (LANGUAGE, {"mlp": (1, 1, 1)}),
        (IMAGE, {"channels": (3, 7, 5)}),
    ],
    ids=["heads and hidden", "hidden only", "channels"],
)
def test_a_model_of_other_widths_is_built_from_them(shape: ModelShape, widths: dict[str, tuple[int, ...]]) -> None:
    narrow, whole = fresh(shape, widths), fresh(shape)
    assert narrow.widths().items() >= widths.items()
    assert list(narrow.state_dict()) == list(whole.state_dict())
    assert narrow(inputs_of(shape)).shape == whole(inputs_of(shape)).shape
    again = fresh(shape, narrow.widths())
    again.load_state_dict(narrow.state_dict())


def test_a_head_that_adds_nothing_can_be_cut_out() -> None:
    whole = fresh(LANGUAGE)
    with torch.no_grad():
        for block in whole.layers.values():
            block.attention.out.weight[:, 8:16] = 0
    narrow = fresh(LANGUAGE, {"attention": (24, 24, 24)})
    kept = [*range(8), *range(16, 32)]
    weights = {}
    for name, weight in whole.state_dict().items():
        if name.endswith(("attention.q.weight", "attention.k.weight", "attention.v.weight")):
            weights[name] = weight[kept]
        elif name.endswith("attention.out.weight"):
            weights[name] = weight[:, kept]
        else:
            weights[name] = weight
    narrow.load_state_dict(weights)
    assert narrow.layers["0"].attention.num_heads == 3
    torch.testing.assert_close(narrow(inputs_of(LANGUAGE)), whole(inputs_of(LANGUAGE)), rtol=0, atol=1e-5)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the head width 8"):
        fresh(LANGUAGE, {"attention": (12, 32, 32)})
    with pytest.raises(ValueError, match="zip"):
        fresh(LANGUAGE, {"mlp": (12, 32)})


@SHAPES
def test_a_shape_survives_json(shape: ModelShape) -> None:
    assert ModelShape.from_plain(json.loads(json.dumps(shape.to_plain()))) == shape


@SHAPES
def test_a_shape_must_say_what_the_data_decides(shape: ModelShape) -> None:
    with pytest.raises(ValueError, match="must give"):
        build_model(ModelShape(shape.settings))


def test_images_too_small_for_the_stages_are_the_users_to_mend() -> None:
    small = ModelShape(IMAGE.settings, image_shape=(1, 7, 9), num_classes=5)
    with pytest.raises(NotRetryable, match="numStages must be at most 2 for images of 7x9") as caught:
        build_model(small)
    assert caught.value.reason == "InvalidSettings"


@SHAPES
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_both_models_train_under_autocast(shape: ModelShape, precision: torch.dtype) -> None:
    model, inputs = fresh(shape), inputs_of(shape)
    with torch.autocast("cpu", precision):
        logits = model(inputs)
        loss = loss_sum(logits, logits.argmax(-1))
    assert logits.dtype == precision
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@SHAPES
def test_both_models_compile_as_one_graph(shape: ModelShape) -> None:
    model, inputs = fresh(shape).eval(), inputs_of(shape)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs), rtol=0, atol=1e-6)


@SHAPES
def test_both_models_can_learn_a_batch_by_heart(shape: ModelShape) -> None:
    model, inputs = fresh(shape), inputs_of(shape)
    targets = torch.randint(
        0, 5, inputs.shape if shape is LANGUAGE else (2,), generator=torch.Generator().manual_seed(3)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = loss_sum(model(inputs), targets) / count_targets(targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


def test_dropout_acts_in_training_only_and_its_share_is_the_users() -> None:
    settings = language.DecoderLM(num_layers=1, num_heads=2, embedding_dim=8, context_length=16, dropout_percent=50)
    model = fresh(ModelShape(language.ModelSettings(type="DecoderLM", decoder_lm=settings), vocabulary_size=50))
    tokens = inputs_of(LANGUAGE)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_the_loss_is_a_sum_over_the_targets_that_count() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, -100, 2], [-100, -100, 6]])
    chosen = torch.log_softmax(logits, -1)[[0, 0, 1], [0, 2, 2], [1, 2, 6]]
    torch.testing.assert_close(loss_sum(logits, targets), -chosen.sum())
    assert count_targets(targets).item() == 3


def test_a_batch_without_targets_has_loss_zero() -> None:
    targets = torch.full((2, 3), -100)
    assert loss_sum(torch.randn(2, 3, 7), targets).item() == 0
    assert count_targets(targets).item() == 0
