"""Variant and baseline are measured alike."""

import pytest
import torch
from torch import Tensor, nn

from builders_compress import dynamic, example_inputs, fresh_model, pruned, weight_only
from costopt_trainer.compress import measure
from costopt_trainer.compress.measure import count_parameters, time_side_by_side
from costopt_trainer.compress.steps import apply_steps, needs_compilation
from costopt_trainer.errors import NotRetryable


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)


def test_a_quantized_weight_counts_as_one_parameter() -> None:
    model = fresh_model("DecoderLM")
    parameters, nonzero = count_parameters(model)
    assert parameters == nonzero == sum(parameter.numel() for parameter in model.parameters())
    apply_steps(model, [weight_only()], example_inputs("DecoderLM"))
    quantized, quantized_nonzero = count_parameters(model)
    assert quantized == parameters
    assert 0.98 * nonzero < quantized_nonzero < nonzero  # the smallest weights round to zero


def test_pruned_weights_are_not_counted_as_nonzero() -> None:
    model = fresh_model("ConvNet")
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    apply_steps(model, [pruned("Unstructured", 50)], example_inputs("ConvNet"))
    parameters, nonzero = count_parameters(model)
    biases_and_norms = 4 + 2 * (8 + 16)
    assert parameters == matrices + biases_and_norms
    assert parameters - nonzero == pytest.approx(matrices / 2 + 8 + 16, abs=2)  # the biases of batch norm start at zero


def test_only_activation_quantization_asks_for_compilation() -> None:
    assert needs_compilation([pruned("Structured", 50), dynamic()])
    assert not needs_compilation([pruned("Structured", 50), weight_only()])


def test_a_slower_model_takes_longer() -> None:
    class Sleepy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(30):
                torch.linalg.matrix_power(torch.ones(128, 128), 3)
            return x + 1

    class Quick(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    latencies = time_side_by_side(Sleepy(), Quick(), torch.zeros(4), compiled=False)
    assert latencies.baseline > latencies.variant
    assert not latencies.compiled


def test_runs_alternate_after_a_warm_up_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    class Named(nn.Module):
        """Costs 1 s in each run of the warm-up and 1 ms after that, by a clock of its own."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            runs.append(self.name)
            now[0] += 1.0 if runs.count(self.name) <= 3 + measure.WARM_UP_RUNS else 0.001
            return x + 1

    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    latencies = time_side_by_side(Named("baseline"), Named("variant"), torch.zeros(4), compiled=False)
    assert (latencies.baseline, latencies.variant) == (1000, 1000)
    timed = runs[-2 * (measure.WARM_UP_RUNS + measure.MIN_RUNS) :]
    assert timed == ["baseline", "variant"] * (measure.WARM_UP_RUNS + measure.MIN_RUNS)


def test_if_the_variant_is_compiled_so_is_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    baseline, variant = fresh_model("ConvNet"), fresh_model("ConvNet")
    assert time_side_by_side(baseline, variant, example_inputs("ConvNet"), compiled=True).compiled
    assert compiled == [baseline, variant]


class _WritesIntoItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


class _NeverTheSame(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (_WritesIntoItsInput(), "the model writes into its input"),
        (_NeverTheSame(), "the model gives different outputs for the same input"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused(model: nn.Module, sentence: str) -> None:
    with pytest.raises(NotRetryable, match=sentence):
        time_side_by_side(fresh_model("ConvNet"), model, example_inputs("ConvNet"), compiled=False)


def test_without_a_compiler_both_are_measured_uncompiled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(model: nn.Module) -> nn.Module:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = fresh_model("ConvNet")
    latencies = time_side_by_side(model, model, example_inputs("ConvNet"), compiled=True)
    assert not latencies.compiled
    assert "both measured uncompiled" in capsys.readouterr().out


def test_a_compiled_model_with_another_output_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: model(x) * 2)
    model = fresh_model("ConvNet")
    latencies = time_side_by_side(model, model, example_inputs("ConvNet"), compiled=True)
    assert not latencies.compiled
    assert "compiled, the model gives other outputs than uncompiled" in capsys.readouterr().out
