"""Steps of packages that are installed beside ours."""

from pathlib import Path

import pytest
import torch
from torch import nn

from builders import outside
from builders.compress import apply
from costopt.schema.compression import External, Step, trains
from costopt_trainer.errors import NotRetryable


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "installed"
    folder.mkdir()
    outside.install(folder, monkeypatch)


def step(name: str, **settings: str) -> Step:
    return Step(type="External", external=External(name=name, settings=settings))


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))


@pytest.mark.usefixtures("installed")
def test_it_changes_the_model_by_its_settings_and_what_it_says_is_told() -> None:
    changed = model()
    before = {name: weight.clone() for name, weight in changed.state_dict().items()}
    assert apply(changed, [step("scale", by="0.5")], torch.zeros(1, 2)) == ["External scale: scaled by 0.5"]
    assert all(torch.equal(weight, before[name] / 2) for name, weight in changed.state_dict().items())


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fails", "fails must change the model, but raises ValueError: no such thing"),
        ("leaves", "leaves must change the model, but raises SystemExit: 0"),
        ("nothing", "nothing must name a function, but somebodys_steps:NOTHING is a int"),
        ("broken", "broken must be importable, but importing somebodys_steps_that_is_not_there:scale raises Mod"),
        ("missing", "(an entry point of the group costopt.compression_steps); there: broken, fails, leaves, nothing"),
    ],
)
def test_what_is_wrong_with_it_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(NotRetryable) as refused:
        apply(model(), [step(name)], torch.zeros(1, 2))
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(f"compress[].steps[].external.name: {name} ")
    assert "\n" not in str(refused.value)
    assert refused.value.reason == "InvalidSettings"


def test_where_no_package_has_steps_that_is_said() -> None:
    with pytest.raises(NotRetryable, match=r"there: none$"):
        apply(model(), [step("scale")], torch.zeros(1, 2))


def test_only_one_that_says_so_is_made_by_a_gang() -> None:
    assert not trains([step("scale")])
    assert trains([Step(type="External", external=External(name="scale", trains=True))])
