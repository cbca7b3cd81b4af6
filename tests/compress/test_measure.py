"""Variant and baseline are measured alike."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from builders.compress import dynamic, example_inputs, fresh_model, pruned, weight_only
from costopt.schema.variant_report import EngineName
from costopt_trainer.compress import engines as engines_module
from costopt_trainer.compress import measure
from costopt_trainer.compress.engines import Forward
from costopt_trainer.compress.measure import Latency, time_side_by_side
from costopt_trainer.compress.overdue import Overdue
from costopt_trainer.compress.table import wants_speed
from costopt_trainer.errors import NotRetryable

LIMIT = 20.0


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    # Only engines that a test names: onnxruntime may be the baseline's fastest wherever it is installed.
    monkeypatch.setattr(engines_module, "lacking", lambda: "the package onnx is not installed")


def timed(
    baseline: nn.Module,
    variant: nn.Module,
    batch: Tensor,
    engines: Sequence[EngineName] = ("TorchEager",),
    named: Sequence[EngineName] = (),
) -> tuple[Latency, Latency]:
    with Overdue("small") as calls:
        return time_side_by_side(baseline, variant, batch, engines=engines, named=named, calls=calls, limit=LIMIT)


def test_speed_is_what_structured_pruning_and_quantized_activations_are_for() -> None:
    assert wants_speed([pruned("Structured", 50)])
    assert wants_speed([pruned("Unstructured", 50), dynamic()])
    assert not wants_speed([pruned("Unstructured", 50), weight_only()])


def test_a_slower_model_takes_longer() -> None:
    class Sleepy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(30):
                torch.linalg.matrix_power(torch.ones(128, 128), 3)
            return x + 1

    class Quick(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    slow, quick = timed(Sleepy(), Quick(), torch.zeros(4))
    assert slow.microseconds > quick.microseconds
    assert slow.running.engine == quick.running.engine == "TorchEager"


class _Clocked(nn.Module):
    """Costs the seconds that `cost` gives for the number of its run, by a clock of its own."""

    def __init__(self, name: str, runs: list[str], clock: list[float], cost: Callable[[int], float]) -> None:
        super().__init__()
        self.name, self.runs, self.clock, self.cost = name, runs, clock, cost

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(self.name)
        self.clock[0] += self.cost(self.runs.count(self.name))
        return x + 1


CHECKS = 3
"""Runs of each model before the warm-up: what it gives, and that it gives it again."""


def test_runs_alternate_after_a_warm_up_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def cost(run: int) -> float:
        return 1.0 if run <= CHECKS + measure.WARM_UP_RUNS else 0.001

    baseline, variant = (_Clocked(name, runs, clock, cost) for name in ("baseline", "variant"))
    assert [latency.microseconds for latency in timed(baseline, variant, torch.zeros(4))] == [1000, 1000]
    counted = runs[-2 * (measure.WARM_UP_RUNS + measure.MIN_RUNS) :]
    assert counted == ["baseline", "variant"] * (measure.WARM_UP_RUNS + measure.MIN_RUNS)


@pytest.mark.parametrize("seconds", [2.0, 60.0])
def test_measuring_ends_in_time_however_slow_the_variant(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    baseline = _Clocked("baseline", runs, clock, lambda _run: 0.1)
    variant = _Clocked("variant", runs, clock, lambda _run: seconds)
    first, second = timed(baseline, variant, torch.zeros(4))
    assert (first.microseconds, second.microseconds) == (100_000, seconds * 1e6)
    # The checks, then the warm-up and the timing, each of which begins no run when its time is over.
    assert clock[0] <= (CHECKS + 2) * (seconds + 0.1) + 2 * LIMIT


def test_each_runs_under_the_engine_that_is_fastest_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(model: nn.Module, times: int) -> Forward:
        def forward(x: Tensor) -> Tensor:
            for _ in range(times):
                torch.linalg.matrix_power(torch.ones(128, 128), 3)
            return model(x)

        return forward

    model = fresh_model("ConvNet")
    monkeypatch.setattr(measure, "start", lambda engine, model: busy(model, 200 if engine == "TorchCompiled" else 0))
    baseline, variant = timed(model, model, example_inputs("ConvNet"), ("TorchCompiled", "TorchQuantized"))
    assert (baseline.running.engine, variant.running.engine) == ("TorchEager", "TorchQuantized")


def test_the_figures_of_engines_that_lost_are_kept_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    costs = {"TorchEager": 0.2, "TorchCompiled": 0.1}

    def costing(engine: EngineName, model: nn.Module) -> Forward:
        return _Clocked(engine, [], clock, lambda _run: costs[engine] - 0.01) if engine == "TorchCompiled" else model

    monkeypatch.setattr(measure, "start", costing)
    models = [_Clocked("eager", [], clock, lambda _run: costs["TorchEager"]) for _ in range(2)]
    for latency in timed(*models, torch.zeros(4), ("TorchEager", "TorchCompiled"), ("TorchCompiled",)):
        assert [running.engine for running, _ in latency.all] == ["TorchCompiled", "TorchEager"]
        assert [times.p50 for _, times in latency.all] == pytest.approx([90_000, 200_000])
        (_, of_slower) = latency.others[0]
        assert len(of_slower.seconds) > measure.CHOOSING_RUNS, "of named engines there are as many as of the fastest"


def test_what_is_to_be_a_graph_is_not_judged_under_an_engine_that_is_only_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(_engine: EngineName, model: nn.Module) -> Forward:
        def forward(x: Tensor) -> Tensor:
            for _ in range(100):
                torch.linalg.matrix_power(torch.ones(128, 128), 3)
            return model(x)

        return forward

    monkeypatch.setattr(measure, "start", slow)
    model = nn.Identity()
    _, variant = timed(model, model, torch.zeros(4), ("OnnxRuntime",), named=("TorchEager",))
    assert [running.engine for running, _ in variant.all] == ["OnnxRuntime", "TorchEager"]
    assert variant.all[0][1].p50 > variant.all[1][1].p50


def test_where_models_are_slow_no_further_engine_is_tried_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure, "start", lambda _engine, model: model)
    pair = [_Clocked(name, [], clock, lambda _run: LIMIT / 2) for name in ("baseline", "variant")]
    baseline, variant = timed(*pair, torch.zeros(4), ("TorchQuantized", "OnnxRuntime"))
    assert [running.engine for running, _ in variant.all] == ["TorchQuantized"], "the first is what it is meant for"
    assert [running.engine for running, _ in baseline.all] == ["TorchEager"]
    told = "OnnxRuntime is left out: with it the model is so slow that measureSeconds leaves no time to try it"
    assert variant.left_out == baseline.left_out == (told,)
    assert capsys.readouterr().out == f"{told}\n" * 2


@pytest.mark.parametrize(
    ("engines", "judged", "of_model"),
    [
        (("TorchEager", "OnnxRuntime"), "TorchEager", ["TorchEager"]),
        (("OnnxRuntime",), "OnnxRuntime", ["OnnxRuntime", "TorchEager"]),
    ],
    ids=["a graph that is only tried", "what is to be a graph"],
)
def test_no_variant_is_judged_as_a_graph_beside_a_model_that_no_time_was_left_for(
    engines: Sequence[EngineName], judged: EngineName, of_model: list[EngineName], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure, "engines_beside", lambda *_tried: ("TorchEager", "OnnxRuntime"))

    def graph(_engine: EngineName, _model: nn.Module) -> Forward:
        return _Clocked("graph", [], clock, lambda _run: 0.15 * LIMIT)

    monkeypatch.setattr(measure, "start", graph)
    pair = [_Clocked(name, [], clock, lambda _run: 0.3 * LIMIT) for name in ("baseline", "variant")]
    baseline, variant = timed(*pair, torch.zeros(4), engines)
    assert variant.running.engine == judged
    assert sorted(running.engine for running, _ in baseline.all) == of_model


def test_a_model_is_run_under_an_engine_that_its_variant_cannot_run_under(monkeypatch: pytest.MonkeyPatch) -> None:
    model, smaller = _Clocked("model", runs := [], clock := [0.0], lambda _run: 0.1), nn.Identity()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def quick(engine: EngineName, started: nn.Module) -> Forward:
        if engine == "OnnxRuntime" and started is model:
            return lambda x: x + 1
        raise RuntimeError("no such operator")

    monkeypatch.setattr(measure, "start", quick)
    baseline, variant = timed(model, smaller, torch.zeros(4), ("OnnxRuntime",))
    assert (baseline.running.engine, variant.running.engine) == ("OnnxRuntime", "TorchEager")
    assert runs.count("model") == CHECKS + measure.CHOOSING_RUNS, "it is not what is timed"


@pytest.mark.parametrize(
    ("compiled", "sentence"),
    [
        (lambda x: x.mul_(1.5), "the model writes into its input"),
        (lambda x: x + torch.rand(x.shape), "the model gives different outputs for the same input"),
    ],
)
def test_a_compiler_that_spoils_the_input_or_the_output_is_left_out(
    compiled: Callable[[Tensor], Tensor],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch, "compile", lambda _model: compiled)
    model = nn.Identity()
    latencies = timed(model, model, torch.ones(2, 3), ("TorchCompiled",))
    assert [latency.running.engine for latency in latencies] == ["TorchEager", "TorchEager"]
    assert f"TorchCompiled is left out: with it {sentence}" in capsys.readouterr().out


def test_if_the_variant_is_compiled_so_is_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    baseline, variant = fresh_model("ConvNet"), fresh_model("ConvNet")
    timed(baseline, variant, example_inputs("ConvNet"), ("TorchCompiled",))
    assert compiled == [variant, baseline]


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
        timed(fresh_model("ConvNet"), model, example_inputs("ConvNet"))


def test_without_a_compiler_neither_is_compiled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(model: nn.Module) -> nn.Module:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = fresh_model("ConvNet")
    latencies = timed(model, model, example_inputs("ConvNet"), ("TorchCompiled",))
    assert [latency.running.engine for latency in latencies] == ["TorchEager", "TorchEager"]
    assert "TorchCompiled is left out: with it the model cannot be run: RuntimeError: no C++" in capsys.readouterr().out


def test_a_compiled_model_with_another_output_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: model(x) * 2)
    model = fresh_model("ConvNet")
    latencies = timed(model, model, example_inputs("ConvNet"), ("TorchCompiled",))
    assert [latency.running.engine for latency in latencies] == ["TorchEager", "TorchEager"]
    assert "with it the model gives other outputs than under TorchEager" in capsys.readouterr().out
