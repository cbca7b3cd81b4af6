"""Attention within documents: in a sample of several documents each is told as if it were alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from costopt.schema.memory import Memory
from costopt.schema.models import ModelSettings
from costopt_trainer.models.decoder_lm import within_documents
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.memory import save_memory

SEPARATOR = 0
SMALL = {"numLayers": 2, "numHeads": 4, "embeddingDim": 32, "contextLength": 16}
KINDS: list[dict[str, Any]] = [{}, {"preset": "Llama", "numKeyValueHeads": 2}, {"layerRepeats": 2}]


def model_of(separator_id: int | None = SEPARATOR, **settings: Any) -> Any:
    torch.manual_seed(1)
    named = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": {**SMALL, **settings}})
    return build_model(ModelShape(named, vocabulary_size=50, separator_id=separator_id))


def documents() -> tuple[Tensor, Tensor, Tensor]:
    """Three documents, each (1, T) with its separator: one of them is empty, and together they fill a sample."""
    numbers = torch.randint(1, 50, (1, 13), generator=torch.Generator().manual_seed(2))
    end = torch.tensor([[SEPARATOR]])
    return torch.cat([numbers[:, :5], end], 1), end, torch.cat([numbers[:, 5:], end], 1)


def test_a_mask_and_positions_begin_anew_behind_each_separator() -> None:
    seen, positions = within_documents(torch.tensor([[5, SEPARATOR, 6, 7], [SEPARATOR, SEPARATOR, 8, 9]]), SEPARATOR)
    assert positions.tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert seen.int().tolist() == [
        [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]],
        [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]],
    ]


@pytest.mark.parametrize("settings", KINDS, ids=["learned", "rotary", "repeated"])
def test_a_sample_of_documents_has_the_logits_loss_and_gradients_of_each_alone(settings: dict[str, Any]) -> None:
    model, parts = model_of(**settings).double(), documents()
    together = torch.cat(parts, 1)
    targets = together.roll(-1, 1)
    logits = model(together)
    packed_loss = loss_sum(logits, targets)
    (packed,) = torch.autograd.grad(packed_loss, [model.head.weight])
    alone = [model(part) for part in parts]
    torch.testing.assert_close(torch.cat(alone, 1), logits)
    begin, losses = 0, []
    for part, own in zip(parts, alone, strict=True):
        losses.append(loss_sum(own, targets[:, begin : begin + part.shape[1]]))
        begin += part.shape[1]
    torch.testing.assert_close(sum(losses), packed_loss)
    (apart,) = torch.autograd.grad(sum(losses), [model.head.weight])
    torch.testing.assert_close(apart, packed)
    assert not torch.allclose(model_of(None, **settings).double()(together), logits), "else nothing was kept apart"


def test_a_sample_of_one_document_has_the_logits_of_a_model_that_knows_no_boundaries() -> None:
    one = documents()[2]
    torch.testing.assert_close(model_of()(one), model_of(None)(one))


def test_layers_that_are_computed_again_see_the_same_documents() -> None:
    together, model, again = torch.cat(documents(), 1), model_of(), model_of()
    save_memory(again, Memory(activation_checkpointing="Full"))
    gradients = []
    for each in (model, again):
        each.train()
        each(together).square().sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_what_a_model_was_told_of_documents_is_written_beside_it_and_read_again() -> None:
    settings = ModelSettings.model_validate({"type": "DecoderLM", "decoderLM": SMALL})
    shape = ModelShape(settings, vocabulary_size=50, separator_id=SEPARATOR)
    assert ModelShape.from_plain(shape.to_plain()) == shape
    assert "separatorId" not in ModelShape(settings, vocabulary_size=50).to_plain()
