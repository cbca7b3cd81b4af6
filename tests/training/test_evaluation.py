"""What an evaluation counts: the loss, and of a classifier how often each class is told and told rightly."""

import math
import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from costopt_trainer.data.training_data import IGNORED_TARGET
from costopt_trainer.models.family import MASKED_TOKENS, SAMPLES, TOKENS, Metric
from costopt_trainer.training.evaluation import Totals, class_counts, describe_results, macro_f1


def logits_for(answers: list[int], classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(answers), classes).float()


def f1_by_definition(answers: list[int], targets: list[int]) -> float:
    """Mean over classes of the harmonic mean of precision and recall, from the pairs one by one."""
    pairs = Counter(zip(answers, targets, strict=True))
    scores = []
    for label in {*answers, *targets}:
        right = pairs[label, label]
        told = sum(count for (answer, _), count in pairs.items() if answer == label)
        there = sum(count for (_, target), count in pairs.items() if target == label)
        precision, recall = right / told if told else 0.0, right / there if there else 0.0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_that_of_the_definition(seed: int) -> None:
    source = random.Random(seed)
    classes = source.randint(2, 8)
    targets = [source.randrange(classes) for _ in range(source.randint(1, 40))]
    answers = [target if source.random() < 0.6 else source.randrange(classes) for target in targets]
    counts = class_counts(logits_for(answers, classes), torch.tensor(targets))
    assert macro_f1(counts) == pytest.approx(f1_by_definition(answers, targets))
    right = sum(answer == target for answer, target in zip(answers, targets, strict=True))
    assert Totals(1.0, len(targets), counts).accuracy == pytest.approx(right / len(targets))


def test_a_classifier_that_always_says_the_same_is_told_by_f1_and_not_by_accuracy() -> None:
    totals = Totals(1.0, 100, class_counts(logits_for([0] * 100, 2), torch.tensor([0] * 95 + [1] * 5)))
    assert totals.accuracy == 0.95
    assert totals.class_counts is not None
    assert macro_f1(totals.class_counts) == pytest.approx(2 * 0.95 / 1.95 / 2)


def test_ignored_targets_are_not_counted() -> None:
    counts = class_counts(logits_for([1, 0, 1], 2), torch.tensor([1, IGNORED_TARGET, 0]))
    assert counts.tolist() == [[0, 1], [0, 2], [1, 1]]


def test_the_counts_of_ranks_add_up_to_those_of_one_process() -> None:
    answers, targets = [0, 1, 2, 2, 1, 0, 0], torch.tensor([0, 1, 1, 2, 2, 0, 1])
    logits = logits_for(answers, 3)
    parts = [
        Totals(2.0, 3, class_counts(logits[:3], targets[:3])),
        Totals(5.0, 4, class_counts(logits[3:], targets[3:])),
    ]
    vectors: list[Tensor] = []
    for part in parts:
        part.over_ranks(lambda vector: vectors.append(vector) or vector)  # type: ignore[func-returns-value]
    together = parts[0].over_ranks(lambda _: vectors[0] + vectors[1])
    assert (together.loss_sum, together.num_targets) == (7.0, 7)
    assert together.class_counts is not None
    assert torch.equal(together.class_counts, class_counts(logits, targets))


class Data:
    """What the figures ask of the data."""

    reference_entropies: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, bytes_per_token: float | None) -> None:
        self.validation_bytes_per_token = bytes_per_token


@pytest.mark.parametrize(
    ("metric", "bytes_per_token", "expected"),
    [
        (
            TOKENS,
            4.0,
            {
                "validationLossNatsPerToken": 2.0,
                "validationLossNatsPerByte": 0.5,
                "validationBitsPerByte": 0.5 / math.log(2),
                "validationPerplexityPerToken": math.exp(2),
            },
        ),
        (
            MASKED_TOKENS,
            None,
            {"validationLossNatsPerMaskedToken": 2.0, "validationPerplexityPerMaskedToken": math.exp(2)},
        ),
        (
            SAMPLES,
            None,
            {
                "validationLossNatsPerSample": 2.0,
                "validationAccuracyPermille": 750.0,
                "validationMacroF1Permille": 733.0,
            },
        ),
    ],
    ids=["tokens", "masked tokens", "samples"],
)
def test_each_figure_names_its_unit(metric: Metric, bytes_per_token: float | None, expected: dict[str, float]) -> None:
    counts = class_counts(logits_for([0, 0, 1, 0], 2), torch.tensor([0, 0, 1, 1])) if metric.accuracy else None
    results = describe_results(metric, Data(bytes_per_token), Totals(8.0, 4, counts))  # type: ignore[arg-type]
    assert {name: float(figure) for name, figure in results.items()} == pytest.approx(expected)


def test_a_perplexity_beyond_all_floats_is_left_out() -> None:
    results = describe_results(TOKENS, Data(1.0), Totals(10_000.0, 1))  # type: ignore[arg-type]
    assert "validationPerplexityPerToken" not in results
    assert "validationBitsPerByte" in results
