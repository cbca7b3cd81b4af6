"""Models that a function of the user's own package makes: trained as any other, or refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.compress import weight_only
from builders.trainer import recipe, text_file, train_here
from costopt.cli.views import progress_text
from costopt.schema.compression import Variant
from costopt.schema.models import ModelSettings
from costopt.schema.replica import Progress
from costopt_trainer.compress.run import make_variant
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.own_metrics import OwnMetrics
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from costopt_trainer.training.evaluation import Totals

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


class Leaving(Words):
    def forward(self, tokens):
        raise SystemExit(0)


def leaving(vocabulary_size):
    return Leaving(vocabulary_size, 8)


def leaving_at_once(vocabulary_size):
    raise SystemExit(0)


def share_of_words(outputs, targets):
    return (outputs.argmax(-1) == targets).float().mean(-1)


METRICS = {
    "good": {"wordsRight": share_of_words, "tokens": lambda outputs, targets: (targets >= 0).sum(-1)},
    "raising": {"wordsRight": lambda outputs, targets: outputs[99]},
    "leaving": {"wordsRight": lambda outputs, targets: exit(0)},
    "a number": {"wordsRight": lambda outputs, targets: 0.5},
    "of each token": {"wordsRight": lambda outputs, targets: (outputs.argmax(-1) == targets).float()},
    "not a number": {"wordsRight": lambda outputs, targets: (targets[:, 0] - targets[:, 0]) / 0.0},
    "overwriting": {"wordsRight": lambda outputs, targets: outputs.exp_().sum((-1, -2))},
    "complex": {"wordsRight": lambda outputs, targets: torch.ones(len(targets), dtype=torch.complex64)},
    "no mapping": [share_of_words],
    "no function": {"wordsRight": 0.5},
    "two words": {"words right": share_of_words},
    "many": {f"metric{number}": share_of_words for number in range(9)},
}


def measured(vocabulary_size, metrics):
    return Words(vocabulary_size, 8), METRICS[metrics]


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


def test_a_model_that_ends_the_process_is_not_taken_for_one_that_is_trained(tmp_path: Path, package: Path) -> None:
    model = imported(package, "my_models.small:leaving")
    with pytest.raises(NotRetryable, match=r"must not end the process, but has called exit\(0\)"):
        train_here(recipe(text_file(tmp_path), model=model), tmp_path / "s")
    assert not (tmp_path / "s/artifacts/model").exists()


def test_the_function_is_told_what_it_asks_for(package: Path) -> None:
    assert built(package, "my_models.small:everything").model.told == ["context_length", "vocabulary_size"]
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    torch.manual_seed(1)
    usual = built(package, "my_models.small:words")
    torch.manual_seed(1)
    own = built(package, "my_models.small:own_loss")
    assert torch.allclose(own.loss_sum(tokens, tokens), usual.loss_sum(tokens, tokens) / 2)


def test_labels_are_not_smoothed_in_a_loss_of_its_own(tmp_path: Path, package: Path) -> None:
    smoothed = recipe(
        text_file(tmp_path), model=imported(package, "my_models.small:own_loss"), labelSmoothingPercent=10
    )
    with pytest.raises(NotRetryable, match="must be left out for a model that brings its own loss") as refused:
        train_here(smoothed, tmp_path / "s")
    assert refused.value.reason == "InvalidSettings"
    smoothed = recipe(text_file(tmp_path), model=imported(package, "my_models.small:words"), labelSmoothingPercent=10)
    assert train_here(smoothed, tmp_path / "s") == 0


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("my_models.small:broken", "must return a model, but raises RuntimeError: no weights today$"),
        ("my_models.small:leaving_at_once", "must return a model, but raises SystemExit: 0$"),
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


def test_metrics_of_its_own_are_told_in_progress_and_results(tmp_path: Path, package: Path) -> None:
    model = imported(package, "my_models.small:measured", arguments={"metrics": "good"})
    assert train_here(recipe(text_file(tmp_path), model=model), tmp_path / "s") == 0
    progress = Progress.model_validate_json((tmp_path / "s/progress-0.json").read_text())
    last = json.loads((tmp_path / "s/metrics.jsonl").read_text().splitlines()[-1])
    name = "validationOwnWordsRightPerSample"
    assert 0 < float(progress.results[name]) < 1
    assert last["results"][name] == progress.results[name]
    assert float(progress.results["validationOwnTokensPerSample"]) == 16
    assert f"words right {float(progress.results[name]):.4f} per sample" in progress_text(progress)

    inputs = torch.randint(0, 256, (3, 16))
    trained = load_model(tmp_path / "s/artifacts/model")
    right = (trained(inputs).argmax(-1) == inputs).double().mean(-1)
    sums = trained.own_metrics.sums(trained(inputs), inputs)
    assert sums.tolist() == pytest.approx([float(right.sum()), 48, 3])


def test_metrics_of_several_ranks_are_the_means_over_all_samples(package: Path) -> None:
    model = built(package, "my_models.small:measured", arguments={"metrics": "good"})
    tokens = torch.randint(0, 50, (7, 16))
    logits = model(tokens)
    parts = [Totals(0.0, 1, own_sums=model.own_metrics.sums(logits[part], tokens[part])) for part in THREE_AND_FOUR]
    together = parts[0].over_ranks(lambda sums: sums + torch.cat([torch.tensor([0.0, 1.0]), parts[1].own_sums]))
    assert model.own_metrics.means(together.own_sums) == pytest.approx(
        {"wordsRight": float((logits.argmax(-1) == tokens).double().mean()), "tokens": 16.0}
    )


def test_a_mean_of_numbers_whose_sum_is_not_finite_is_refused() -> None:
    metrics = OwnMetrics(
        {"big": lambda _, targets: torch.full((len(targets),), 1.7e308, dtype=torch.float64)}, "mine:f"
    )
    with pytest.raises(NotRetryable, match="mine:f metric big must give numbers whose sum is finite, but it is inf"):
        metrics.means(metrics.sums(torch.zeros(2, 3), torch.zeros(2).long()))


THREE_AND_FOUR = (slice(0, 3), slice(3, 7))


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("raising", r"metric wordsRight must give a number for each sample, but raises IndexError: .+"),
        ("leaving", r"metric wordsRight must give a number for each sample, but raises SystemExit: 0$"),
        ("a number", r"metric wordsRight must give a number for each sample, a tensor \(2,\), but gives a float$"),
        ("of each token", r"a number for each sample, a tensor \(2,\), but gives \(2, 16\)$"),
        ("not a number", r"metric wordsRight must give a finite number for each sample, but gives nan$"),
        ("no mapping", r"must return a model, or a model and its metrics by name, but these are a list$"),
        ("no function", r"gives a float as metric wordsRight; it must be a function$"),
        ("two words", r"names a metric 'words right'; it must be a word such as wordsRight, of at most 32 "),
        ("overwriting", r"metric wordsRight must not change the outputs and targets that it is given$"),
        ("complex", r"metric wordsRight must give a real number for each sample, but gives complex ones$"),
        ("many", r"returns 9 metrics; at most 8 can be told$"),
    ],
)
def test_metrics_that_are_none_are_refused_in_one_sentence(package: Path, metrics: str, sentence: str) -> None:
    def build_and_evaluate() -> None:
        model, tokens = (
            built(package, "my_models.small:measured", arguments={"metrics": metrics}),
            torch.ones(2, 16).long(),
        )
        model.own_metrics.sums(model(tokens), tokens)

    with pytest.raises(NotRetryable, match=f"^model.import.function: my_models.small:measured .*{sentence}") as caught:
        build_and_evaluate()
    assert caught.value.reason == "InvalidSettings"
    assert "\n" not in str(caught.value)
