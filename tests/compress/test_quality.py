"""Variant and baseline are held to the same targets, and to what guessing gets on them."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from builders.compress import recipe
from costopt_trainer.compress import quality
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.quality import compare_quality
from costopt_trainer.data import load_data
from costopt_trainer.models.family import SAMPLES, TOKENS
from costopt_trainer.models.own_metrics import OwnMetrics
from costopt_trainer.training.evaluation import Totals, describe_results

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
    compared = compare_quality([uniform], images, CPU, seconds=60)
    assert compared.samples == data.num_validation_samples
    assert compared.trivial_loss == pytest.approx(-sum(share * math.log(share) for share in shares if share))
    assert compared.qualities[0].loss == pytest.approx(math.log(4))
    assert compared.qualities[0].accuracy == pytest.approx(shares[0])
    assert compared.qualities[0].macro_f1 == pytest.approx(2 * shares[0] / (1 + shares[0]) / 4), "of one class only"
    assert (compared.loss_per, compared.bytes_per_token) == ("Sample", None)


def test_guessing_bytes_costs_the_entropy_that_the_results_of_training_name(tmp_path: Path) -> None:
    settings = recipe("DecoderLM", tmp_path)
    data = load_data(settings.data, context_length=32, cache_dir=tmp_path / "cache")
    totals = Totals(loss_sum=1.0, num_targets=1)
    told = float(describe_results(TOKENS, data, totals)["unigramEntropyNatsPerByte"])
    few = HeldOut(data, TOKENS, batch_size=2, max_samples=4)

    def uniform_bytes(inputs: Tensor) -> Tensor:
        return torch.zeros(*inputs.shape, 256)

    assert compare_quality([uniform_bytes], few, CPU, seconds=60).trivial_loss == pytest.approx(told, abs=1e-6)
    of_others = replace(few, data=replace(data, reference_entropies={}))
    assert abs(compare_quality([uniform_bytes], of_others, CPU, seconds=60).trivial_loss - told) > 0.001


def test_when_the_time_is_up_all_have_seen_the_same_samples(
    images: HeldOut, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images.data
    clock = itertools.count(step=120)
    monkeypatch.setattr(quality.time, "monotonic", lambda: next(clock))
    seen: list[list[int]] = [[], []]

    def counting(which: int) -> quality.Forward:
        def forward(inputs: Tensor) -> Tensor:
            seen[which].append(len(inputs))
            return uniform(inputs)

        return forward

    compared = compare_quality([counting(0), counting(1)], images, CPU, seconds=60)
    assert seen[0] == seen[1]
    assert 0 < compared.samples == sum(seen[0]) < data.num_validation_samples
    assert f"evaluated {compared.samples} of {data.num_validation_samples} samples in 60 s" in capsys.readouterr().out


def test_metrics_of_the_models_own_are_means_over_the_same_samples(images: HeldOut) -> None:
    own = OwnMetrics({"highest": lambda outputs, _targets: outputs.max(-1).values})
    forwards = [uniform, lambda inputs: uniform(inputs) + 3]
    compared = compare_quality(forwards, images, CPU, own, seconds=60)
    assert [quality.metrics for quality in compared.qualities] == [{"highest": 0.0}, {"highest": 3.0}]


def test_how_sure_a_difference_is_follows_from_the_samples(images: HeldOut) -> None:
    everything, labels = images.data.validation_batch(torch.arange(images.data.num_validation_samples).numpy())
    known = {tuple(image.flatten().tolist()): int(label) for image, label in zip(everything, labels, strict=True)}

    def right(inputs: Tensor) -> Tensor:
        classes = torch.tensor([known[tuple(image.flatten().tolist())] for image in inputs])
        return 4.0 * torch.nn.functional.one_hot(classes, 4).float()

    compared = compare_quality([uniform, right], images, CPU, seconds=60)
    told = {change.metric: change for change in compared.changes}
    assert list(told) == ["Loss", "Accuracy", "MacroF1"]
    for name, of in (("Loss", "loss"), ("Accuracy", "accuracy"), ("MacroF1", "macro_f1")):
        before, after = (getattr(quality, of) for quality in compared.qualities)
        assert told[name].difference.change == pytest.approx(after - before), name
    assert told["Loss"].difference.units == compared.samples
    assert told["Loss"].difference.low == pytest.approx(told["Loss"].difference.high), "it is the same of each sample"
    accuracy = told["Accuracy"].difference
    assert accuracy.second == 1.0
    assert 0 < accuracy.low < accuracy.change < accuracy.high <= 1
    assert told["MacroF1"].unit == "MicroBatch"


def test_of_a_metric_of_the_models_own_micro_batches_are_drawn(images: HeldOut) -> None:
    own = OwnMetrics({"highest": lambda outputs, _targets: outputs.max(-1).values})
    compared = compare_quality([uniform, lambda inputs: uniform(inputs) + 3], images, CPU, own, seconds=60)
    (change,) = (change for change in compared.changes if change.metric == "highest")
    assert (change.unit, change.difference.low, change.difference.high) == ("MicroBatch", 3.0, 3.0)


def test_of_a_single_sample_nothing_is_said(images: HeldOut) -> None:
    one = HeldOut(images.data, SAMPLES, batch_size=8, max_samples=1)
    assert compare_quality([uniform, uniform], one, CPU, seconds=60).changes == ()
