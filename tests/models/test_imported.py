"""Models that a function of the user's own package makes: trained as any other, or refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import weight_only
from builders.trainer import recipe, text_file, train_here
from costopt.schema.compression import Variant
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.run import make_variant
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

CODE = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self, vocabulary_size, width):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary_size, width), nn.Linear(width, vocabulary_size)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).relu())


class OwnLoss(Words):
    def loss_sum(self, inputs, targets):
        return 0.5 * nn.functional.cross_entropy(self(inputs).flatten(0, -2), targets.flatten(), reduction="sum")


def words(*, vocabulary_size, width=8):
    return Words(vocabulary_size, width)


def own_loss(vocabulary_size):
    return OwnLoss(vocabulary_size, 8)


def everything(**told):
    words = Words(told["vocabulary_size"], 8)
    words.told = sorted(told)
    return words


def broken(vocabulary_size):
    raise RuntimeError("no weights today\\nat all")


def nothing():
    return None


number = 3
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    (folder / "my_models").mkdir()
    (folder / "my_models/__init__.py").touch()
    (folder / "my_models/small.py").write_text(CODE)
    (folder / "my_models/torn.py").write_text("import no_such_package_at_all")
    (folder / "my_models/sick.py").write_text("1 / 0")
    return folder


def imported(package: Path, function: str, **more: Any) -> dict[str, Any]:
    return {"type": "Import", "import": {"function": function, "path": str(package), "contextLength": 16, **more}}


def built(package: Path, function: str, **more: Any) -> Any:
    settings = ModelSettings.model_validate(imported(package, function, **more))
    return build_model(ModelShape(settings, vocabulary_size=50))


def test_a_model_of_the_users_own_is_trained_saved_and_loaded(tmp_path: Path, package: Path) -> None:
    model = imported(package, "my_models.small:words", arguments={"width": 4})
    assert train_here(recipe(text_file(tmp_path), model=model), tmp_path / "s") == 0
    other = recipe(text_file(tmp_path), model=imported(package, "os:system"))
    with pytest.raises(NotRetryable, match="holds another model than the recipe's"):
        make_variant(Variant(name="a", steps=[weight_only()]), other, tmp_path / "s")
    trained = load_model(tmp_path / "s/artifacts/model")
    assert trained.model.embedding.weight.shape == (256, 4)  # type: ignore[union-attr]
    assert trained(torch.zeros(2, 16, dtype=torch.int64)).shape == (2, 16, 256)


def test_the_function_is_told_what_it_asks_for(package: Path) -> None:
    assert built(package, "my_models.small:everything").model.told == ["context_length", "vocabulary_size"]
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    torch.manual_seed(1)
    usual = built(package, "my_models.small:words")
    torch.manual_seed(1)
    own = built(package, "my_models.small:own_loss")
    assert torch.allclose(own.loss_sum(tokens, tokens), usual.loss_sum(tokens, tokens) / 2)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("my_models.small:broken", "must return a model, but raises RuntimeError: no weights today$"),
        ("my_models.small:nothing", "must return a torch.nn.Module, but returns a NoneType"),
        ("my_models.small:number", "must name a function, but my_models.small has none of the name number"),
        ("my_models.small:missing", "must name a function, but my_models.small has none of the name missing"),
        ("my_models.none:words", r"there is no module my_models.none: install its package .*PYTHONPATH is not obeyed"),
        ("my_models.torn:words", "importing my_models.torn raises ModuleNotFoundError: No module named 'no_such_pack"),
        ("my_models.sick:words", "importing my_models.sick raises ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_makes_no_model_is_refused_in_one_sentence(package: Path, function: str, sentence: str) -> None:
    with pytest.raises(NotRetryable, match=sentence) as caught:
        built(package, function)
    assert caught.value.reason == "InvalidSettings"
