"""Variant and baseline are held to the same targets, and to what guessing gets on them."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from builders.compress import recipe
from costopt_trainer.compress import quality
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.quality import compare_quality
from costopt_trainer.data import load_data
from costopt_trainer.models.family import SAMPLES
from costopt_trainer.models.own_metrics import OwnMetrics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    folder = tmp_path_factory.mktemp("images")
    settings = recipe("ConvNet", folder)
    data = load_data(settings.data, context_length=None, cache_dir=folder / "cache")
    return HeldOut(data, SAMPLES, batch_size=8, max_samples=64)


def uniform(inputs: Tensor) -> Tensor:
    return torch.zeros(len(inputs), 4)


def test_guessing_by_frequency_gets_the_entropy_of_the_targets(images: HeldOut) -> None:
    data = images.data
    _, targets = data.validation_batch(torch.arange(data.num_validation_samples).numpy())
    shares = [int((targets == label).sum()) / len(targets) for label in range(4)]
    compared = compare_quality([uniform], images, CPU)
    assert compared.samples == data.num_validation_samples
    assert compared.trivial_loss == pytest.approx(-sum(share * math.log(share) for share in shares if share))
    assert compared.qualities[0].loss == pytest.approx(math.log(4))
    assert compared.qualities[0].accuracy == pytest.approx(shares[0])
    assert compared.qualities[0].macro_f1 == pytest.approx(2 * shares[0] / (1 + shares[0]) / 4), "of one class only"
    assert (compared.loss_per, compared.bytes_per_token) == ("Sample", None)


def test_when_the_time_is_up_all_have_seen_the_same_samples(
    images: HeldOut, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images.data
    clock = itertools.count(step=quality.EVALUATION_LIMIT_SECONDS * 2)
    monkeypatch.setattr(quality.time, "monotonic", lambda: next(clock))
    seen: list[list[int]] = [[], []]

    def counting(which: int) -> quality.Forward:
        def forward(inputs: Tensor) -> Tensor:
            seen[which].append(len(inputs))
            return uniform(inputs)

        return forward

    compared = compare_quality([counting(0), counting(1)], images, CPU)
    assert seen[0] == seen[1]
    assert 0 < compared.samples == sum(seen[0]) < data.num_validation_samples
    assert f"evaluated {compared.samples} of {data.num_validation_samples} samples in 60 s" in capsys.readouterr().out


def test_metrics_of_the_models_own_are_means_over_the_same_samples(images: HeldOut) -> None:
    own = OwnMetrics({"highest": lambda outputs, _targets: outputs.max(-1).values})
    forwards = [uniform, lambda inputs: uniform(inputs) + 3]
    compared = compare_quality(forwards, images, CPU, own)
    assert [quality.metrics for quality in compared.qualities] == [{"highest": 0.0}, {"highest": 3.0}]
