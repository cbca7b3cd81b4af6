"""A variant from beginning to end, with real data, a trained model and a fresh process."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from builders.compress import (
    StepInPlaceOfPrune,
    dynamic,
    pruned,
    quantized,
    read_json,
    replica,
    train_stage,
    weight_only,
)
from costopt.names import ARTIFACTS_DIR, ENV_STORAGE_DIR, MODEL_DIR
from costopt.schema.compression import Accept, Measure, Step, Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_details import VariantReport
from costopt.schema.variant_report import EngineName, VariantStatus
from costopt_trainer.compress import making, measure, onnx_export, onnx_form, run, table
from costopt_trainer.compress.onnx_export import NotExportable
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.compress.verify import find_mismatch
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_graph, load_model, read_config, save_model
from costopt_trainer.models.onnx_model import graph_files

Stage = tuple[Path, Recipe]


@pytest.fixture(scope="module")
def trained_language(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    storage = tmp_path_factory.mktemp("language")
    return storage, train_stage("DecoderLM", storage, steps=80)


@pytest.fixture(scope="module")
def trained_images(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    storage = tmp_path_factory.mktemp("images")
    return storage, train_stage("ConvNet", storage)


@pytest.fixture
def language(trained_language: Stage, tmp_path: Path) -> Stage:
    """A trained decoder in a folder that only this test writes to: tests run in any order."""
    return shutil.copytree(trained_language[0], tmp_path / "storage"), trained_language[1]


@pytest.fixture
def images(trained_images: Stage, tmp_path: Path) -> Stage:
    """A trained classifier in a folder that only this test writes to: tests run in any order."""
    return shutil.copytree(trained_images[0], tmp_path / "storage"), trained_images[1]


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)


def _report(storage: Path, name: str) -> VariantReport:
    (path,) = (storage / "artifacts").glob(f"**/{name}/report.json")  # accepted or rejected, never both
    report = VariantReport.model_validate_json(path.read_bytes())
    assert path.parent == storage / report.artifact
    return report


def _leftovers(storage: Path) -> list[str]:
    return [path.name for path in (storage / "artifacts").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_an_int8_variant_is_smaller_and_nearly_as_good(
    language: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = language
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    run.main(replica(recipe, weight_only(), name="int8"))

    report = _report(storage, "int8")
    artifact = storage / report.artifact
    assert report.reloaded
    assert report.measured.size_bytes == (artifact / "model.safetensors").stat().st_size
    assert report.baseline.size_bytes == (storage / "artifacts/model/model.safetensors").stat().st_size
    assert report.measured.parameters == report.baseline.parameters
    assert float(report.size_ratio) > 2
    assert abs(float(report.validation_loss_increase)) < 0.01
    assert float(report.baseline.validation_loss) < 4  # 5.5 untrained
    assert (report.measured.engine, report.baseline.engine) == ("TorchEager", "TorchEager")
    assert report.faults == []
    assert report.measured.validation_accuracy_permille is None
    assert (report.loss_per, float(report.bytes_per_token or "nan")) == ("Token", 1.0)
    assert read_config(artifact).steps == (weight_only(),)
    assert report.details is not None
    kinds = [timing.kind for timing in report.details.variant.timings]
    assert kinds == ["Forward", "Prefill", "Decode"]
    sides = report.details.variant.footprint, report.details.baseline.footprint
    assert sides[0].weights_bytes < 0.5 * sides[1].weights_bytes
    assert sides[0].macs_per_sample == sides[1].macs_per_sample
    assert _leftovers(storage) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("int8: ") for line in lines)


def test_a_structured_variant_of_images_has_fewer_parameters(images: Stage) -> None:
    storage, recipe = images
    report = run.make_variant(replica(recipe, pruned("Structured", 50)).variant, recipe, storage)  # type: ignore[arg-type]
    assert report == _report(storage, "small")
    assert report.measured.parameters < report.baseline.parameters / 2
    assert load_model(storage / report.artifact).widths() == {"channels": (4, 8)}
    assert report.measured.validation_accuracy_permille is not None
    assert report.measured.validation_macro_f1_permille is not None
    assert (report.loss_per, report.bytes_per_token) == ("Sample", None)
    assert report.in_short() == VariantStatus.model_validate(
        {name: value for name, value in report if name in VariantStatus.model_fields}
    )


def test_the_report_has_sizes_memory_multiplications_and_how_sure_the_quality_is(images: Stage) -> None:
    storage, recipe = images
    sizes = Measure(batch_sizes=[1, 16])
    variant = Variant(name="small", steps=[pruned("Structured", 50)], measure=sizes)
    report = run.make_variant(variant, recipe, storage)
    assert report is not None
    assert report.details is not None
    both = report.details.baseline, report.details.variant
    for side, measured in zip(both, (report.baseline, report.measured), strict=True):
        assert [(each.kind, each.batch_size) for each in side.timings] == [("Forward", n) for n in (8, 1, 16)]
        assert {each.engine for each in side.timings} == {"TorchEager"}
        assert side.timings[0].p50_microseconds == measured.latency_microseconds
        assert side.timings[0].p95_microseconds == measured.latency_p95_microseconds
        assert side.footprint.weights_bytes > 4 * measured.parameters
        assert (side.footprint.peak_bytes or 0) > side.footprint.weights_bytes
        assert side.footprint.disk_bytes == measured.size_bytes
        assert side.footprint.compile_milliseconds is None
    baseline, smaller = (side.footprint.macs_per_sample or 0 for side in both)
    assert smaller < 0.5 * baseline
    assert [(each.metric, each.unit) for each in report.details.quality] == [
        ("Loss", "Sample"),
        ("Accuracy", "Sample"),
        ("MacroF1", "MicroBatch"),
    ]
    change = report.quality_change
    assert change is not None
    assert change.metric == "Accuracy"
    accuracies = [each.validation_accuracy_permille or 0 for each in (report.baseline, report.measured)]
    assert 1000 * float(change.change) == pytest.approx(accuracies[1] - accuracies[0], abs=1)
    assert float(change.low) <= float(change.change) <= float(change.high)
    assert report.details.threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"measure": Measure(sequence_lengths=[64])}, "measure.sequenceLengths must be at most 32"),
        ({"accept": Accept(metric="MacroF1")}, "accept.metric must be Loss, not MacroF1: this model is no classifier"),
    ],
)
def test_what_the_model_cannot_be_measured_by_is_refused_before_any_step(
    language: Stage, settings: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    monkeypatch.setattr(making, "apply_steps", lambda *_arguments: pytest.fail("a step was applied"))
    with pytest.raises(NotRetryable, match=sentence) as error:
        run.make_variant(Variant(name="small", steps=[weight_only()], **settings), recipe, storage)
    assert error.value.reason == "InvalidSettings"


def test_a_variant_that_has_lost_what_was_learned_is_rejected_with_the_numbers(
    images: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = images
    report = run.make_variant(replica(recipe, pruned("Structured", 95)).variant, recipe, storage)  # type: ignore[arg-type]
    assert (
        float(report.baseline.validation_loss)
        < float(report.trivial_loss or 0)
        < float(report.measured.validation_loss)
    )
    assert "NoBetterThanGuessing" in [fault.reason for fault in report.faults]
    assert (report.verdict, report.artifact) == ("Rejected", "artifacts/rejected/small")
    assert f"small: rejected: {report.faults[-1].message}" in capsys.readouterr().out


def test_the_users_bounds_decide_and_of_a_name_there_is_one_folder_accepted_or_rejected(images: Stage) -> None:
    storage, recipe = images
    model = storage / "artifacts/model/model.safetensors"
    before = model.read_bytes()

    def made(**accept: str) -> str:
        bounds = Accept(max_quality_drop_percent="1000", **accept)
        variant = Variant(name="small", steps=[pruned("Structured", 25)], accept=bounds)
        report = run.make_variant(variant, recipe, storage)
        assert report == _report(storage, "small")
        assert report.verdict is not None
        assert (report.verdict == "Accepted") == (report.artifact == "artifacts/small") == (not report.faults)
        return report.verdict

    assert made(min_speedup="0.01", min_size_ratio="1.2") == "Accepted"
    assert made(min_speedup="0.01", min_size_ratio="100") == "Rejected"
    assert made(min_speedup="0.01") == "Accepted"
    assert model.read_bytes() == before, "what variants are made of stays as it was"
    assert _leftovers(storage) == []


def test_a_required_variant_that_is_rejected_fails_with_the_numbers_and_stays_to_be_looked_at(images: Stage) -> None:
    storage, recipe = images
    variant = Variant(name="small", steps=[pruned("Structured", 95)], required=True)
    with pytest.raises(
        NotRetryable,
        match=r"small, which is required, was rejected and lies in artifacts/rejected/small: .* what guessing",
    ) as error:
        run.make_variant(variant, recipe, storage)
    assert error.value.reason == "VariantRejected"
    assert _report(storage, "small").verdict == "Rejected"


def test_rejected_variants_go_after_a_week(images: Stage) -> None:
    storage, recipe = images
    rejected = storage / "artifacts/rejected"
    for name, days in {"old": 8, "recent": 6}.items():
        (rejected / name).mkdir(parents=True)
        os.utime(rejected / name, (time.time() - days * 86400,) * 2)
    run.make_variant(replica(recipe, pruned("Unstructured", 10)).variant, recipe, storage)  # type: ignore[arg-type]
    assert not (rejected / "old").exists()
    assert (rejected / "recent").exists()


@pytest.mark.slow
def test_pruning_and_then_quantizing_gives_one_artifact(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    steps = (pruned("Structured", 25), pruned("Unstructured", 50), weight_only())
    for _ in range(2):  # a second run over a finished variant repeats harmlessly
        run.main(replica(recipe, *steps, name="both"))
        report = _report(storage, "both")
        assert report.measured.nonzero_permille < 600
        assert report.measured.parameters < report.baseline.parameters
        assert _leftovers(storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["TorchCompiled", "TorchQuantized"])
def test_quantized_activations_run_under_either_engine_and_the_report_names_it(
    engine: EngineName, language: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    monkeypatch.setattr(run, "engines_for", lambda _steps, _device: (engine,))
    if engine == "TorchCompiled" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    report = run.make_variant(replica(recipe, dynamic(), name="fast").variant, recipe, storage)  # type: ignore[arg-type]
    assert report.measured.engine == engine
    assert report.details is not None
    compiling = report.details.variant.footprint.compile_milliseconds
    assert (compiling is not None and compiling > 100) == (engine == "TorchCompiled")
    assert abs(float(report.validation_loss_increase)) < 0.02
    assert "NoBetterThanGuessing" not in [fault.reason for fault in report.faults]


@pytest.mark.slow
def test_int8_of_a_language_model_also_becomes_a_graph_which_stays_if_it_is_the_fastest(
    language: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    monkeypatch.setattr(run, "engines_for", lambda _variant, _device: ("TorchQuantized", "OnnxRuntime"))
    variant = Variant(name="fast", steps=[dynamic()], measure_seconds=6)
    for slow in ("TorchQuantized", "OnnxRuntime"):

        def fastest(candidates: Any, *_rest: Any, slow: str = slow) -> Any:
            return next((one for one in candidates if one.engine != slow), candidates[0])

        monkeypatch.setattr(measure, "_fastest", fastest)
        report = run.make_variant(variant, recipe, storage)
        monkeypatch.setattr(making, "verify_in_fresh_process", lambda _folder, _probe: None)  # once is enough
        folder = storage / report.artifact
        assert report.measured.engine != slow
        assert abs(float(report.validation_loss_increase)) < 0.02
        stored = folder / ("model.onnx" if slow == "TorchQuantized" else "model.safetensors")
        assert report.measured.size_bytes == stored.stat().st_size
        assert (folder / "model.onnx").exists() == bool(read_config(folder).graph) == (slow == "TorchQuantized")
        assert load_model(folder) is not None
        assert _leftovers(storage) == []


def test_a_variant_may_be_a_graph_alone_with_convolutions_of_8_bits(
    images: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = images
    step = quantized("Int8Static", calibration={"method": "MinMax", "samples": 20, "seed": 3})
    report = run.make_variant(replica(recipe, step).variant, recipe, storage)  # type: ignore[arg-type]
    folder = storage / report.artifact
    assert (report.measured.engine, report.reloaded) == ("OnnxRuntime", True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.onnx",
        "report.json",
    ]
    assert report.measured.size_bytes == (folder / "model.onnx").stat().st_size
    assert report.measured.parameters == report.baseline.parameters
    assert abs(float(report.validation_loss_increase)) < 0.1
    told = capsys.readouterr().out
    assert "small: calibrates by MinMax on 16 training samples" in told  # whole batches of 8
    assert "small: Quantize Int8Static: in the ONNX graph, matrices: 1, convolutions: 2" in told
    assert report.details is not None
    footprint = report.details.variant.footprint
    assert footprint.weights_bytes == footprint.disk_bytes, "the parameters of 32 bits are not in memory"
    inputs = torch.rand(3, 1, 8, 8)
    assert load_model(folder)(inputs).shape == (3, 4)
    _tamper_bytes(folder, "model.onnx")
    with pytest.raises(NotRetryable, match=r"its model.onnx is not the one that config.json was written for"):
        load_model(folder)


def test_gptq_rounds_by_samples_of_the_jobs_own_training_and_stays_nearer_to_the_model_than_plain_rounding(
    language: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    origin = of_recipe(recipe, storage)
    model, held_out = origin.load(), origin.held_out.data
    inputs, _ = held_out.validation_batch(np.arange(min(32, held_out.num_validation_samples)))
    off, told = {}, {}
    for rounding in ("Nearest", "GPTQ"):
        calibration = {"samples": 44, "seed": 3} if rounding == "GPTQ" else None
        step = quantized("Int4WeightOnly", rounding=rounding, group_size=64, calibration=calibration)
        report = run.make_variant(Variant(name=rounding.lower(), steps=[step], measure_seconds=6), recipe, storage)
        assert report is not None
        assert report.reloaded
        folder = storage / report.artifact
        assert read_config(folder).steps == (step,)
        with torch.no_grad():
            expected = model(inputs)
            off[rounding] = float((load_model(folder)(inputs) - expected).norm() / expected.norm())
        told[rounding] = capsys.readouterr().out
        monkeypatch.setattr(making, "verify_in_fresh_process", lambda _folder, _probe: None)  # once is enough
    assert "gptq: calibrates by GPTQ on 40 training samples" in told["GPTQ"]  # whole batches of 8
    assert "calibrates" not in told["Nearest"]
    assert 0 < off["GPTQ"] < 0.8 * off["Nearest"]


def _choose(engine: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one is the fastest is the machine's matter."""

    def fastest(candidates: Any, _passes: Any) -> Any:
        return next(one for one in candidates if one.engine == engine)

    monkeypatch.setattr(measure, "_fastest", fastest)


@pytest.mark.usefixtures("with_graphs")
def test_a_graph_that_is_the_fastest_and_larger_than_the_weights_is_made_of_them_and_not_kept(
    images: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = images
    _choose("OnnxRuntime", monkeypatch)
    wanted = Measure(batch_sizes=[1], engines=["TorchEager"])
    report = run.make_variant(Variant(name="small", steps=[pruned("Structured", 50)], measure=wanted), recipe, storage)
    assert report is not None
    assert report.details is not None
    folder = storage / report.artifact
    for measured, side in zip(
        (report.baseline, report.measured), (report.details.baseline, report.details.variant), strict=True
    ):
        assert measured.engine == "OnnxRuntime"
        assert side.footprint.disk_bytes == measured.size_bytes
        assert (side.footprint.compile_milliseconds or 0) > 100, "each is made a graph first"
        assert (side.footprint.peak_bytes or 0) > side.footprint.weights_bytes
        assert [(each.batch_size, each.engine) for each in side.timings] == [
            (8, "OnnxRuntime"),
            (8, "TorchEager"),
            (1, "OnnxRuntime"),
            (1, "TorchEager"),
        ]
        assert side.timings[0].p50_microseconds == measured.latency_microseconds
    assert report.measured.size_bytes == (folder / "model.safetensors").stat().st_size
    assert float(report.size_ratio) > 1.5
    assert not (folder / "model.onnx").exists()
    assert read_config(folder).graph == {}
    assert load_model(folder)(torch.rand(3, 1, 8, 8)).shape == (3, 4)
    (note,) = (note for note in report.details.notes if "ONNX graph" in note)
    assert f"and not {report.measured.size_bytes:,}, so that is not kept" in note
    assert f"small: {note}" in capsys.readouterr().out.splitlines()
    assert _leftovers(storage) == []


@pytest.mark.usefixtures("with_graphs")
def test_a_graph_that_nobody_has_asked_for_and_that_does_not_load_back_is_left_out(
    images: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = images
    verify = making.verify_in_fresh_process
    graphs: list[bool] = []

    def tamper_first(folder: Path, probe: Path) -> None:
        graphs.append((folder / "model.onnx").exists())
        if graphs[-1]:
            _tamper_bytes(folder, "model.onnx")
        verify(folder, probe)

    monkeypatch.setattr(making, "verify_in_fresh_process", tamper_first)
    report = run.make_variant(replica(recipe, pruned("Structured", 50)).variant, recipe, storage)  # type: ignore[arg-type]
    assert graphs == [True, False]
    assert report is not None
    assert report.details is not None
    assert (report.measured.engine, report.reloaded) == ("TorchEager", True)
    (note,) = report.details.notes
    assert note == "OnnxRuntime is left out: a fresh process did not get the same output of the graph, as the log says"
    assert read_config(storage / report.artifact).graph == {}


@pytest.mark.slow
@pytest.mark.usefixtures("with_graphs")
def test_prefill_and_decode_of_what_is_fastest_as_a_graph_are_timed_in_torch(
    language: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    _choose("OnnxRuntime", monkeypatch)
    variant = Variant(name="small", steps=[pruned("Structured", 25)])
    report = run.make_variant(variant, recipe, storage)
    assert report is not None
    assert report.details is not None
    for side in (report.details.baseline, report.details.variant):
        told = [(each.kind, each.engine) for each in side.timings]
        assert told == [
            ("Forward", "OnnxRuntime"),
            ("Forward", "TorchEager"),
            ("Prefill", "TorchEager"),
            ("Decode", "TorchEager"),
        ]
    assert any(note.startswith("prefill and decode are timed under TorchEager") for note in report.details.notes)
    folder = storage / report.artifact
    assert report.measured.size_bytes == (folder / "model.onnx").stat().st_size, "it is hardly larger than the weights"


@pytest.mark.usefixtures("with_graphs")
@pytest.mark.parametrize(
    ("step", "share"),
    [(pruned("Unstructured", 10), 0.5), (weight_only(), 0.9), (pruned("Structured", 50), 0.9)],
    ids=["as large as the model", "whole on the way to a graph", "beside a large model"],
)
def test_a_large_model_is_not_made_a_graph_that_nobody_has_asked_for(
    step: Step,
    share: float,
    images: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage, recipe = images
    whole = read_config(storage / ARTIFACTS_DIR / MODEL_DIR).weights_bytes
    monkeypatch.setattr(making, "MOST_BYTES_TRIED", int(share * whole))
    monkeypatch.setattr(making, "make_graph", lambda *_arguments, **_named: pytest.fail("it was made"))
    report = run.make_variant(replica(recipe, step).variant, recipe, storage)  # type: ignore[arg-type]
    assert report is not None
    assert report.details is not None
    assert (report.measured.engine, report.baseline.engine) == ("TorchEager", "TorchEager")
    (note,) = report.details.notes
    assert note.startswith("OnnxRuntime is left out: making a graph of ")
    assert f"small: {note}" in capsys.readouterr().out


class _Sleeps(StepInPlaceOfPrune):
    """Makes each pass take PASS_SECONDS."""

    def apply(self, model: Any, _settings: Any, _run: Any) -> str:
        quick = model.forward

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            time.sleep(PASS_SECONDS)
            return quick(inputs)  # type: ignore[no-any-return]

        model.forward = forward
        return "sleeps"


PASS_SECONDS, MEASURE_SECONDS = 0.4, 6
STEP = _Sleeps()


def test_measuring_a_slow_variant_takes_what_the_user_gives_it_and_says_what_there_was_no_time_for(
    language: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = language
    monkeypatch.setitem(table.STEPS, "Prune", f"{__name__}:STEP")
    monkeypatch.setattr(making, "verify_in_fresh_process", lambda _folder, _probe: None)
    took: list[float] = []
    whole = making.measure

    def timed(*arguments: Any, **named: Any) -> Any:
        begun = time.monotonic()
        measured = whole(*arguments, **named)
        took.append(time.monotonic() - begun)
        return measured

    monkeypatch.setattr(making, "measure", timed)
    sizes = Measure(batch_sizes=[1, 8, 16], sequence_lengths=[8, 16, 32])
    variant = Variant(name="slow", steps=[pruned("Structured", 50)], measure=sizes, measure_seconds=MEASURE_SECONDS)
    report = run.make_variant(variant, recipe, storage)
    assert report is not None
    # All sizes alone would take 9 * 12 passes.
    assert took[0] < 5 * MEASURE_SECONDS
    assert report.details is not None
    first = report.details.variant.timings[0]
    assert first.p50_microseconds >= 1e6 * PASS_SECONDS
    assert first.runs >= 1
    assert float(report.measured.validation_loss) == pytest.approx(float(report.baseline.validation_loss), abs=1e-4)
    assert report.details.variant.footprint.macs_per_sample is None, "that costs a pass, too"
    notes = report.details.notes
    assert "not timed at batch size 16, sequence length 32: measureSeconds leaves no time for it" in notes
    for size in ("8, sequence length 16", "8, sequence length 32", "16, sequence length 16", "16, sequence length 32"):
        left = f"prefill and decode are not timed at batch size {size}: measureSeconds leaves no time for it"
        assert left in notes


def test_a_pruned_variant_may_be_asked_for_as_onnx(images: Stage) -> None:
    storage, recipe = images
    variant = Variant(name="small", steps=[pruned("Structured", 50)], formats=["Onnx"])
    report = run.make_variant(variant, recipe, storage)
    folder = storage / report.artifact
    assert report.measured.engine == "OnnxRuntime"
    assert report.baseline.engine in ("OnnxRuntime", "TorchEager")
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.allclose(load_graph(folder)(inputs), load_model(folder)(inputs), atol=1e-4)


def test_a_variant_that_cannot_be_onnx_is_refused_if_it_must_be_and_goes_on_if_it_need_not(
    images: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = images

    def cannot(*_arguments: Any) -> None:
        raise NotExportable("cannot be exported to ONNX: there is nothing for its operator aten.svd")

    monkeypatch.setattr(onnx_form, "export", cannot)
    why = r"the model cannot be exported to ONNX: there is nothing for its operator aten\.svd"
    with pytest.raises(NotRetryable, match=f"this quantize.scheme makes an ONNX graph, but {why}"):
        run.make_variant(replica(recipe, quantized("Int4WeightOnly")).variant, recipe, storage)  # type: ignore[arg-type]
    variant = Variant(name="small", steps=[pruned("Structured", 50)], formats=["Onnx"])
    with pytest.raises(NotRetryable, match=f"formats must not have Onnx: {why}"):
        run.make_variant(variant, recipe, storage)
    monkeypatch.setattr(run, "engines_for", lambda _variant, _device: ("TorchEager", "OnnxRuntime"))
    report = run.make_variant(replica(recipe, pruned("Unstructured", 10)).variant, recipe, storage)  # type: ignore[arg-type]
    assert report.measured.engine == "TorchEager"
    assert "small: OnnxRuntime is left out: the model cannot be exported" in capsys.readouterr().out


def _tamper_bytes(folder: Path, name: str = "model.safetensors") -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def _tamper_whole(folder: Path) -> None:
    config, model = read_config(folder), load_model(folder)
    next(model.parameters()).data.mul_(1.5)
    save_model(folder, model, config.shape, widths=config.widths, steps=config.steps)


def _tamper_graph(folder: Path) -> None:
    """The graph of other weights in the place of the right one, and the configuration that says so."""
    model = load_model(folder)
    next(model.parameters()).data.mul_(1.5)
    onnx_export.export(model, torch.rand(2, 1, 8, 8), folder)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "graph": graph_files(folder)}))


def test_a_graph_that_computes_something_else_than_the_weights_beside_it_is_not_reported(
    images: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = images
    found: list[str | None] = []

    def tamper_first(folder: Path, probe: Path) -> None:
        assert find_mismatch(folder, probe) is None
        _tamper_graph(folder)
        with safe_open(probe, framework="pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safe_open is no mapping
            metadata = file.metadata()
        kept["graph"] = load_graph(folder)(kept["inputs"])
        save_file(kept, probe, metadata=metadata)
        found.append(find_mismatch(folder, probe))

    monkeypatch.setattr(making, "verify_in_fresh_process", tamper_first)
    run.make_variant(Variant(name="small", steps=[pruned("Unstructured", 10)], formats=["Onnx"]), recipe, storage)
    assert len(found) == 1
    assert "the graph in" in str(found[0])
    assert "gives another output than its weights (by " in str(found[0])


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [(_tamper_bytes, "not the one that config.json was written for"), (_tamper_whole, "gives another output")],
)
def test_an_artifact_changed_before_it_is_verified_is_not_reported(
    images: Stage, monkeypatch: pytest.MonkeyPatch, tamper: object, sentence: str
) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    verify = making.verify_in_fresh_process

    def tamper_first(folder: Path, probe: Path) -> None:
        tamper(folder)  # type: ignore[operator]
        verify(folder, probe)

    monkeypatch.setattr(making, "verify_in_fresh_process", tamper_first)
    with pytest.raises(NotRetryable, match=sentence) as error:
        run.main(replica(recipe, pruned("Unstructured", 50), name="changed"))
    assert error.value.reason == "ArtifactMismatch"
    assert not (storage / "artifacts" / "changed").exists()


def test_a_verifying_process_that_crashes_is_worth_a_retry(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with exit code"):
        making.verify_in_fresh_process(tmp_path, tmp_path / "no-probe")


def test_a_full_disk_is_said_and_not_worth_a_retry(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(NotRetryable, match=r"cannot write to .*artifacts \(File too large\)") as error:
            run.main(replica(recipe, pruned("Unstructured", 50), name="full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.reason == "CheckpointNotWritable"
    assert not (storage / "artifacts" / "full").exists()


def test_without_a_trained_model_the_answer_is_a_sentence(
    images: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_STORAGE_DIR, str(tmp_path / "other"))
    with pytest.raises(NotRetryable, match=r"on a cluster spec\.storage must be set") as error:
        run.main(replica(images[1], weight_only()))
    assert error.value.reason == "InvalidSettings"


def test_data_of_another_shape_is_refused(images: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.data import image_settings, write_images

    storage, recipe = images
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    other = image_settings(write_images(tmp_path / "other.npz", count=40, side=12, classes=4))
    with pytest.raises(NotRetryable, match="the data must be what the model was trained on") as error:
        run.main(replica(recipe.model_copy(update={"data": other}), weight_only()))
    assert error.value.reason == "InvalidData"


def test_only_the_first_rank_makes_the_variant(images: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, recipe = images
    shutil.rmtree(storage)
    monkeypatch.setenv(ENV_STORAGE_DIR, str(storage))
    monkeypatch.setenv("RANK", "1")
    run.main(replica(recipe, weight_only()))
    assert not storage.exists()


@pytest.mark.slow
def test_sigterm_ends_with_143_and_leaves_nothing_half_written(language: Stage) -> None:
    storage, recipe = language
    settings = replica(recipe, pruned("Unstructured", 50), name="ended")
    code = (
        "import sys; from costopt.schema.replica import ReplicaSettings; from costopt_trainer.compress import run;"
        "run.main(ReplicaSettings.model_validate_json(sys.stdin.read()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, ENV_STORAGE_DIR: str(storage)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(settings.model_dump_json(by_alias=True, exclude_none=True))
    process.stdin.close()
    assert "saved" in next(line for line in process.stdout if "saved" in line)
    process.send_signal(signal.SIGTERM)
    assert "ending before the variant is finished, which is made anew: SIGTERM" in process.stdout.read()
    assert process.wait(timeout=240) == 143
    assert not (storage / "artifacts" / "ended").exists()

    run.make_variant(settings.variant, recipe, storage)  # type: ignore[arg-type]
    assert _report(storage, "ended").name == "ended"
    assert _leftovers(storage) == []


@pytest.mark.parametrize(
    "name",
    [
        "linked",
        ".linked.unverified",
        "..linked.unverified.partial",
        ".linked.probe",
        "rejected/linked",
        "rejected/.linked.judged",
    ],
)
def test_a_link_with_the_name_of_a_variants_files_is_replaced_and_leads_nowhere(
    name: str, images: Stage, tmp_path: Path
) -> None:
    storage, recipe = images
    kept = tmp_path / "kept"
    if name.endswith("probe"):
        kept.write_bytes(b"kept")
    else:
        kept.mkdir()
        (kept / "report.json").write_bytes(b"kept")
    path = storage / "artifacts" / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(kept)
    most = Accept(min_size_ratio="100" if name.startswith("rejected") else None)
    variant = Variant(name="linked", steps=[pruned("Unstructured", 50)], accept=most)
    run.make_variant(variant, recipe, storage)
    assert (kept if kept.is_file() else kept / "report.json").read_bytes() == b"kept"
    assert not path.is_symlink()
    assert _report(storage, "linked").reloaded
    assert _leftovers(storage) == []
