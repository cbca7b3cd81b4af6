"""Trainings on a part of the samples, and in another order: resumed to the same bits, or refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.data import write_labelled
from builders.trainer import encoder_recipe, image_file, image_recipe, losses, recipe, text_file, train_here, written
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.data import load_data
from costopt_trainer.data.training_data import trimmed
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model, context_length_of, kind_of_samples
from costopt_trainer.training.choosing import chosen
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.references import mean_losses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text, and the model of a training on it."""
    folder = tmp_path_factory.mktemp("trained")
    text = text_file(folder)
    assert train_here(recipe(text, totalSteps=3), folder / "job") == 0
    return text, folder / "job/artifacts/model"


def with_data(plain: Recipe, **more: Any) -> Recipe:
    whole = plain.to_plain()
    return Recipe.model_validate({**whole, "data": {**whole["data"], **more}})


def seen_by(plain: Recipe, cache: Path) -> Any:
    """The data as the training of a recipe sees it."""
    data = load_data(
        plain.data,
        context_length=context_length_of(plain.model),
        cache_dir=cache,
        reads=kind_of_samples(plain.model),
    )
    return data, chosen(plain, data, cache, ALONE)


def every_kind(text: Path, model: Path, folder: Path) -> dict[str, Recipe]:
    """A recipe of each kind of selection and order."""
    documents = write_labelled(folder / "a.jsonl", count=90)
    by_model = {"keep": "Highest", "reference": {"model": str(model)}}
    return {
        "Random": with_data(recipe(text), selection={"type": "Random", "keepPercent": 10}),
        "Stratified": with_data(image_recipe(image_file(folder)), selection={"type": "Stratified", "keepPercent": 30}),
        "Loss": with_data(recipe(text), selection={"type": "Loss", "keepPercent": 5, "loss": by_model}),
        "Representative": with_data(
            encoder_recipe(text), selection={"type": "Representative", "keepPercent": 20}, order={"type": "Shuffled"}
        ),
        "Curriculum": with_data(
            encoder_recipe(documents), order={"type": "Curriculum", "curriculum": {"by": "Length", "steps": 6}}
        ),
        "LengthBucketed": with_data(
            encoder_recipe(documents), order={"type": "LengthBucketed", "lengthBucketed": {"batches": 3}}
        ),
        "Curriculum of a part": with_data(
            encoder_recipe(text),
            selection={"type": "Stratified", "keepPercent": 50},
            order={"type": "Curriculum", "curriculum": {"steps": 6}},
        ),
    }


@pytest.mark.parametrize(
    "kind",
    ["Random", "Stratified", "Loss", "Representative", "Curriculum", "LengthBucketed", "Curriculum of a part"],
)
def test_a_training_is_resumed_to_the_same_bits(kind: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
    settings = every_kind(*trained, tmp_path)[kind]
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    plain = settings.to_plain()
    del plain["data"]["selection" if "selection" in plain["data"] else "order"]
    other = Recipe.model_validate({**plain, "totalSteps": 9})
    with pytest.raises(NotRetryable, match="the checkpoint of step 8 is of another training: data was"):
        train_here(other, tmp_path / "parts")


def test_the_log_says_how_many_steps_an_epoch_is_shorter(
    trained: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = with_data(recipe(trained[0]), selection={"type": "Random", "keepPercent": 25})
    whole, _ = seen_by(settings, tmp_path / "cache")
    assert train_here(settings, tmp_path / "job") == 0
    count = whole.num_train_samples
    few = count * 25 // 100
    wanted = (
        f"selection keeps {few:,} of {count:,} training samples ({16 * few:,} of {16 * count:,} tokens): an epoch "
        f"takes {few // 8:,} steps in place of {count // 8:,}, {count // 8 - few // 8:,} fewer; selecting took "
    )
    assert re.search(re.escape(wanted) + r"\d+\.\d s\n", capfd.readouterr().err)
    progress = json.loads((tmp_path / "job/progress-0.json").read_text())
    assert progress["dataSaved"] == f"selection saves {count // 8 - few // 8:,} of {count // 8:,} steps of an epoch"


def test_a_model_keeps_what_it_finds_hardest(trained: tuple[Path, Path], tmp_path: Path) -> None:
    text, folder = trained
    loss = {"keep": "Highest", "reference": {"model": str(folder)}}
    settings = with_data(recipe(text), selection={"type": "Loss", "keepPercent": 10, "loss": loss})
    data, few = seen_by(settings, tmp_path)
    model = load_model(folder)
    of_all = mean_losses(model, data.train_batch(np.arange(data.num_train_samples)), CPU)
    of_few = mean_losses(model, few.train_batch(np.arange(few.num_train_samples)), CPU)
    assert sorted(of_few) == pytest.approx(sorted(of_all)[-few.num_train_samples :])
    inputs, targets = batch = data.train_batch(np.arange(7))
    each = [model.loss_sum(inputs[row : row + 1], targets[row : row + 1]).item() / 16 for row in range(7)]
    assert mean_losses(model, batch, CPU) == pytest.approx(each)


def test_hidden_tokens_alone_count_for_a_model_of_masked_text(trained: tuple[Path, Path], tmp_path: Path) -> None:
    settings = encoder_recipe(trained[0], totalSteps=3)
    assert train_here(settings, tmp_path / "job") == 0
    data, _ = seen_by(settings, tmp_path / "job/cache")
    inputs, targets = batch = data.train_batch(np.arange(5))
    model = load_model(tmp_path / "job/artifacts/model")
    each = [
        model.loss_sum(inputs[row : row + 1], targets[row : row + 1]).item() / int(count_targets(targets[row]))
        for row in range(5)
    ]
    assert mean_losses(model, batch, CPU) == pytest.approx(each, rel=1e-5)


def test_too_small_a_part_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    settings = with_data(image_recipe(image_file(tmp_path)), selection={"type": "Random", "keepPercent": 4})
    wanted = (
        r"data\.selection\.keepPercent 4 must leave at least batch\.globalBatchSize training samples, 8, but leaves 7 "
        r"of 180: keep more"
    )
    with pytest.raises(NotRetryable, match=wanted):
        seen_by(settings, tmp_path)


def test_a_model_that_cannot_read_the_data_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    text, folder = trained

    def refused(plain: Recipe, model: Path, sentence: str, reason: str = "InvalidData") -> None:
        loss = {"reference": {"model": str(model)}}
        settings = with_data(plain, selection={"type": "Loss", "keepPercent": 50, "loss": loss})
        with pytest.raises(NotRetryable, match=sentence) as caught:
            seen_by(settings, tmp_path / "cache")
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)

    layers = {"numLayers": 1, "numHeads": 2, "embeddingDim": 16}
    longer = {"type": "DecoderLM", "decoderLM": {**layers, "contextLength": 32}}
    words = {"tokenizer": {"type": "BPE", "vocabularySize": 300}}
    refused(with_data(recipe(text), **words), folder, r"must be of this data's \(vocabulary, .* but is of \(256, ")
    refused(recipe(text, model=longer), folder, "must have a contextLength of at least 32, but has 16")
    refused(encoder_recipe(text), folder, "must read masked text, as the model of the recipe does, but reads text")
    refused(image_recipe(image_file(tmp_path)), folder, "must read images, as the model of the recipe does")
    refused(recipe(text), tmp_path / "none", "does not hold a model saved by costopt", "CheckpointUnreadable")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "model.safetensors"):
        (damaged / name).write_bytes((folder / name).read_bytes())
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "weightsSha256": "0" * 64}))
    refused(recipe(text), damaged, "is not the one that config.json was written for", "CheckpointUnreadable")


def test_batches_of_like_length_are_short_and_give_the_same_loss(tmp_path: Path) -> None:
    plain = encoder_recipe(write_labelled(tmp_path / "a.jsonl", count=200), encoder={"contextLength": 40})
    data, buckets = seen_by(with_data(plain, order={"type": "LengthBucketed"}), tmp_path / "cache")
    torch.manual_seed(0)
    model = build_model(ModelShape.for_data(plain.model, data)).eval()
    tokens = 0
    for step in range(20):
        place = {"seed": 0, "position": 8 * step, "count": 8, "batch_size": 2}
        for short, whole in zip(
            buckets.train_batches(**place), buckets.train_batches(**place, whole=True), strict=True
        ):
            length = short[0].shape[1]
            tokens += length
            assert length % 8 == 0
            assert torch.equal(short[0], whole[0][:, :length])
            assert (whole[0][:, length:] == data.pad_id).all()
            assert model.loss_sum(*short).item() == pytest.approx(model.loss_sum(*whole).item(), rel=1e-5)
    shuffled = [part for step in range(20) for part in data.train_batches(**{**place, "position": 8 * step})]
    shortened = sum(trimmed(batch, data.pad_id)[0].shape[1] for batch in shuffled)
    assert tokens < shortened < 20 * 4 * 40
