"""Training an Encoder: masked text and labelled text, in one process and in two, whole and resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.data import write_labelled
from builders.gangs import Trained, whole_and_its_end
from builders.trainer import encoder_recipe, losses, text_file, train_here, train_in_gang, written
from costopt.schema.encoder import Encoder as Settings
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config
from costopt_trainer.models.encoder import Encoder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "animals.jsonl", count=400)


def progress_in(storage: Path) -> Progress:
    return Progress.model_validate_json((storage / "progress-0.json").read_text())


def test_a_classifier_learns_the_labels_of_documents(labelled: Path, tmp_path: Path) -> None:
    settings = encoder_recipe(
        labelled,
        totalSteps=60,
        batch={"globalBatchSize": 32, "microBatchSize": 32},
        optimizer={"learningRate": "1e-2"},
        encoder={"contextLength": 64},
        evaluation={"everySteps": 60},
    )
    assert train_here(settings, tmp_path) == 0
    progress = progress_in(tmp_path)
    assert progress.tokens_per_second is None, "documents are samples"
    assert progress.samples_per_second
    results = progress.results
    assert int(results["validationAccuracyPermille"]) > 850
    assert int(results["validationMacroF1Permille"]) > 850
    assert not {name for name in results if "Byte" in name or "Perplexity" in name}

    config = read_config(tmp_path / "artifacts" / "model")
    assert config.shape.class_names == ("cat", "dog", "owl")
    model = load_model(tmp_path / "artifacts" / "model")
    tokens = torch.tensor([[258, *b"the owl sees a tree"]])
    padded = torch.nn.functional.pad(tokens, (0, 64 - tokens.shape[1]), value=256)
    with torch.no_grad():
        alone, filled_up = model(tokens), model(padded)
    assert config.shape.class_names[int(alone.argmax())] == "owl"
    torch.testing.assert_close(alone, filled_up, msg="padding says nothing")


def test_a_masked_language_model_learns_from_both_sides(text: Path, tmp_path: Path) -> None:
    settings = encoder_recipe(
        text,
        totalSteps=80,
        batch={"globalBatchSize": 32, "microBatchSize": 32},
        optimizer={"learningRate": "1e-2"},
        encoder={"norm": "Post", "contextLength": 32},
        evaluation={"everySteps": 80},
    )
    assert train_here(settings, tmp_path) == 0
    progress = progress_in(tmp_path)
    assert progress.tokens_per_second
    assert progress.samples_per_second is None
    loss = float(progress.results["validationLossNatsPerMaskedToken"])
    assert loss < 2.2, "the letters of the text have more entropy than that"
    assert not {name for name in progress.results if "Byte" in name}, "it does not tell each token"
    model = load_model(tmp_path / "artifacts" / "model")
    tokens = torch.randint(97, 105, (1, 8))
    other = tokens.clone()
    other[0, -1] += 1
    with torch.no_grad():
        assert not torch.equal(model(tokens)[0, 0], model(other)[0, 0]), "the first token sees the last one"


@pytest.mark.parametrize("task", ["MaskedLM", "Classification"])
def test_a_stop_and_a_resume_end_in_the_same_bits(task: str, text: Path, labelled: Path, tmp_path: Path) -> None:
    settings = encoder_recipe(text if task == "MaskedLM" else labelled, encoder={"dropoutPercent": 10})
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=3) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "whole", 8) == written(tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_model_is_not_trained_on_with_other_labels(labelled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(labelled.read_text())
    assert train_here(encoder_recipe(copy), tmp_path / "storage") == 0
    lines = [json.loads(line) for line in labelled.read_text().splitlines()]
    copy.write_text("".join(json.dumps({**line, "label": line["label"].upper()}) + "\n" for line in lines))
    with pytest.raises(NotRetryable, match="checkpoint"):
        train_here(encoder_recipe(copy, totalSteps=9), tmp_path / "storage")


def test_padding_is_no_part_of_a_document_whatever_is_written_there() -> None:
    """The mask is of the inputs' padding alone: what a position holds that nobody sees changes nothing."""
    torch.manual_seed(0)
    settings = Settings(task="Classification", num_layers=2, embedding_dim=32, context_length=16)
    model = Encoder(settings, 53, 3, 50, {}).eval()
    tokens = torch.randint(0, 50, (4, 16))
    tokens[1, 5:] = tokens[2, 1:] = 50
    with torch.no_grad():
        together = model(tokens)
        for row, length in ((1, 5), (2, 1), (3, 16)):
            torch.testing.assert_close(model(tokens[row : row + 1, :length]), together[row : row + 1])
        assert model.position_embedding is not None
        model.position_embedding.weight[5:] += torch.randn(11, 32)
        torch.testing.assert_close(model(tokens)[1], together[1])
        assert not torch.allclose(model(tokens)[0], together[0])


PIPELINE = {"parallelism": {"pipeline": 2, "schedule": "GPipe"}}
FORMS: dict[str, dict[str, Any]] = {
    "masked": {},
    "labelled": {},
    "pipelined masked": PIPELINE,
    "pipelined labelled": {**PIPELINE, "encoder": {"bottleneckDim": 8, "mlpsPerLayer": 2, "norm": "Post"}},
}


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_as_one_process_does(text: Path, labelled: Path, tmp_path: Path) -> None:
    recipes = {
        name: encoder_recipe(labelled if "labelled" in name else text, **changes) for name, changes in FORMS.items()
    }
    codes, errors = train_in_gang(whole_and_its_end(recipes, tmp_path), 2, tmp_path)
    assert codes == [0, 0], errors
    pair = Trained(tmp_path, recipes, errors)
    for name in FORMS:
        assert pair.ends_in_the_same_bits(name), name
        assert pair.losses(name) == pytest.approx(pair.losses_of_one_process(name), abs=1e-5), name
        by_two, by_one = progress_in(tmp_path / name).results, progress_in(tmp_path / f"{name}-alone").results
        assert by_two.keys() == by_one.keys()
        for figure, value in by_two.items():
            assert float(value) == pytest.approx(float(by_one[figure]), rel=1e-4), (name, figure)


def test_a_pipeline_hands_the_mask_on_as_one_more_channel() -> None:
    torch.manual_seed(0)
    first = Encoder(Settings(num_layers=2, embedding_dim=32), 53, 53, 50, {}).keep_layers(0, 1)
    tokens = torch.randint(0, 50, (2, 8))
    tokens[1, 3:] = 50
    passed = first(tokens)
    assert passed.shape == (2, 8, 33)
    assert np.array_equal(passed[..., -1].detach().numpy() == 1, tokens.numpy() != 50)
