"""Parameters that a recipe names are stepped otherwise than the rest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.trainer import recipe, text_file, train_here, written
from costopt.schema.optimization import Optimizer
from costopt.schema.replica import EXIT_PREEMPTED
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.storage.checkpoint_files import read_tensors
from costopt_trainer.training.optimizers import make_optimizer, refuse_unfit, set_rate

GROUPS: list[dict[str, Any]] = [
    {"parameters": ["layers.1.*"], "learningRateFactor": "0"},
    {"parameters": ["layers.[12].weight"], "learningRateFactor": "0.5", "weightDecay": "0.3"},
    {"parameters": ["*.gain", "head*"], "weightDecay": "0.2"},
]


class Named(nn.Module):
    """Parameters with the names of a model's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): nn.Linear(2, 2) for number in range(3)})
        self.layers["2"].register_parameter("gain", nn.Parameter(torch.ones(2)))
        self.head = nn.Linear(2, 2)


def test_the_first_group_that_names_a_parameter_has_it() -> None:
    module = Named()
    optimizer = make_optimizer(Optimizer.model_validate({"weightDecay": "0.1", "groups": GROUPS}), module)
    set_rate(optimizer, 0.02)
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "layers.0.weight": (0.02, 0.1),
        "layers.0.bias": (0.02, 0.0),
        "layers.1.weight": (0.0, 0.1),
        "layers.1.bias": (0.0, 0.0),
        "layers.2.weight": (0.01, 0.3),
        "layers.2.bias": (0.02, 0.0),
        "layers.2.gain": (0.02, 0.2),
        "head.weight": (0.02, 0.2),
        "head.bias": (0.02, 0.2),
    }


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("word", ["AdamW", "Muon", "AdamW8bit"])
def test_what_has_no_learning_rate_stays_as_it_was_and_a_resume_keeps_groups_apart(
    word: str, text: Path, tmp_path: Path
) -> None:
    groups = [
        {"parameters": ["layers.0.*"], "learningRateFactor": "0"},
        {"parameters": ["*"], "weightDecay": "0.5"},
    ]
    settings = recipe(text, optimizer={"type": word, "groups": groups}, checkpointing={"everySteps": 1, "keepLast": 9})
    assert train_here(settings, tmp_path / "whole") == 0
    assert train_here(settings, tmp_path / "parts", stop_after=5) == EXIT_PREEMPTED
    assert train_here(settings, tmp_path / "parts") == 0
    assert written(tmp_path / "parts", 8) == written(tmp_path / "whole", 8)
    first = read_tensors(tmp_path / "whole/checkpoints/step-00000001", "model")
    last: dict[str, Tensor] = load_model(tmp_path / "whole/artifacts/model").state_dict()
    stayed = {name for name in first if torch.equal(first[name], last[name])}
    assert stayed == {name for name in first if name.startswith("layers.0.")} != set()


def test_a_pattern_that_names_nothing_is_refused_with_names_that_there_are(text: Path, tmp_path: Path) -> None:
    wrong = [{"parameters": ["layers.*", "*embeding*"]}]
    with pytest.raises(
        NotRetryable,
        match=r"^optimizer.groups must name parameters .* none is like \*embeding\*: .*embedding\.weight, ",
    ) as refused:
        train_here(recipe(text, optimizer={"groups": wrong}), tmp_path)
    assert refused.value.reason == "InvalidSettings"


def test_muon_is_refused_for_a_model_without_matrices_in_its_layers() -> None:
    imported = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(NotRetryable, match=r"^optimizer.type must not be Muon, .* this model has none; use AdamW"):
        refuse_unfit(Optimizer(type="Muon"), imported)
