"""`auto` finds the steps of a variant: trials, the choice, the report, and what a restart finds again."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.compress import apply, dynamic, example_inputs, fresh_model, pruned, quantized, train_stage, weight_only
from builders.data import write_labelled
from builders.trainer import encoder_recipe, train_here
from costopt.schema.compression import Accept, Auto, External, Step, Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_details import Trial, VariantReport
from costopt.schema.variant_report import Measurement
from costopt_trainer.compress import auto, candidates, engines, making, measure, run
from costopt_trainer.compress.auto import engines_of_trial, figure_of, pareto_rows, payback_batches, with_pareto
from costopt_trainer.compress.candidates import (
    FIRST,
    TABLE,
    Candidate,
    candidates_for,
    expected_bytes,
    smallest_first,
    with_training,
)
from costopt_trainer.compress.footprint import bytes_in_memory
from costopt_trainer.compress.table import trains
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model, read_config
from costopt_trainer.models.family import stored_tensors

Stage = tuple[Path, Recipe]

HEALED = pruned("Structured", 50, fine_tune_steps=candidates.WHOLE)
FEW = (
    Candidate("int8 weights", (weight_only(),)),
    Candidate("pruned", (HEALED,)),
    Candidate("unknown", (Step(type="External", external=External(name="not-there")),)),
    Candidate("pruned, int8 weights", (HEALED, weight_only())),
)
"""One of these is refused by any model."""
LOOSE = Accept(max_quality_drop_percent="90", min_speedup="0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    stages = {}
    for model_type in ("DecoderLM", "ConvNet"):
        storage = tmp_path_factory.mktemp(model_type)
        stages[model_type] = storage, train_stage(model_type, storage, steps=80)
    return stages


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_RUNS", 3)
    monkeypatch.setattr(measure, "MAX_RUNS", 3)
    monkeypatch.setattr(measure, "DECODING_BUDGET_SECONDS", 0.1)
    monkeypatch.setattr(auto, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(making, "verify_in_fresh_process", lambda *_: None)  # which tests of whole variants do
    monkeypatch.setattr(candidates, "TABLE", FEW)


def stage(trained: dict[str, Stage], model_type: str, folder: Path) -> Stage:
    """A stage in a folder of the test's own."""
    storage, recipe = trained[model_type]
    return shutil.copytree(storage, folder / "storage"), recipe


def best(**choice: Any) -> Variant:
    settings: dict[str, Any] = {"minimize": "Bytes", "trials": 7, "fine_tune_steps": 6, **choice}
    return Variant(name="best", auto=Auto(**settings), accept=LOOSE, measure_seconds=6)


def test_the_smallest_accepted_form_of_a_decoder_is_found_and_told(
    trained: dict[str, Stage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = stage(trained, "DecoderLM", tmp_path)
    report = run.make_variant(best(), recipe, storage)
    assert report is not None
    assert (report.name, report.verdict, report.artifact) == ("best", "Accepted", "artifacts/best")
    assert report.search is not None
    assert report.search.chosen == "pruned, int8 weights"

    folder = storage / report.artifact
    steps = read_config(folder).steps
    assert [step.type for step in steps] == ["Prune", "Quantize"]
    assert steps[0].prune is not None
    assert steps[0].prune.fine_tune_steps == 6, "the last rung has all of the training"
    assert load_model(folder).widths()
    assert VariantReport.model_validate_json((folder / "report.json").read_bytes()) == report

    assert [(trial.recipe, trial.rung) for trial in report.tried] == [
        ("int8 weights", 1),
        ("pruned", 1),
        ("unknown", 1),
        ("pruned, int8 weights", 1),
        ("pruned, int8 weights", 2),
        ("int8 weights", 2),
        ("pruned, int8 weights", 3),
    ]
    first, last = report.tried[3], report.tried[-1]
    assert first.steps[0].prune is not None
    assert first.steps[0].prune.fine_tune_steps == 1
    assert last.steps == list(steps)
    assert (last.measured, last.baseline, last.distance) == (report.measured, report.baseline, "0")
    refused = report.tried[2]
    assert refused.measured is None
    assert "not-there" in (refused.refused or "")
    assert not refused.pareto
    assert last.pareto
    assert report.search.trials == len(report.tried)
    assert report.search.seconds >= math.ceil(sum(trial.milliseconds for trial in report.tried) / 1000)
    assert "pruned, int8 weights" in [row.steps for row in report.search.pareto], "nothing is smaller"
    left = {path.name for kind in ("artifacts", "checkpoints") for path in (storage / kind).glob("*")}
    assert left == {"model", "best", "variants"}, "trials leave nothing"
    assert not any((storage / "checkpoints/variants").iterdir())
    lines = capsys.readouterr().out.splitlines()
    assert "best: auto: 4 + 2 + 1 trials, the last one in full" in lines
    assert any(line.startswith("best: auto: Int8WeightOnly is expected to raise the loss") for line in lines)


class Killed(BaseException):
    """As if the process were gone."""


def test_after_a_kill_no_finished_trial_is_repeated(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "ConvNet", tmp_path)
    begun: list[str] = []
    apply = making.Making.apply

    def counting(self: making.Making, variant: Variant) -> Any:
        begun.append(" ".join(step.type for step in variant.steps))
        if len(begun) == 3:
            raise Killed
        return apply(self, variant)

    monkeypatch.setattr(making.Making, "apply", counting)
    monkeypatch.setattr(candidates, "TABLE", (FEW[0], FEW[1], FEW[3]))
    with pytest.raises(Killed):
        run.make_variant(best(trials=4), recipe, storage)
    [file] = storage.glob("checkpoints/variants/best/trials.jsonl")
    finished = [json.loads(line)["trial"]["recipe"] for line in file.read_text().splitlines()]
    assert finished == ["int8 weights", "pruned"]
    with file.open("a") as stream:
        stream.write('{"key": 3, "trial": {"recipe": "int8 we\n[1]\n\x00\n')  # a torn line, and what others may write

    report = run.make_variant(best(trials=4), recipe, storage)
    assert report is not None
    assert begun[:4] == ["Quantize", "Prune", "Prune Quantize", "Prune Quantize"]
    assert len(begun) == 5, "the last rung"
    assert [trial.recipe for trial in report.tried[:2]] == finished
    assert report.search is not None
    assert report.search.trials == 4
    assert not file.exists()


def test_other_settings_or_weights_find_nothing_of_an_earlier_search(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "ConvNet", tmp_path)
    monkeypatch.setattr(candidates, "TABLE", FEW[:2])
    begun: list[int] = []
    apply = making.Making.apply

    def counting(self: making.Making, variant: Variant) -> Any:
        begun.append(1)
        if len(begun) % 3 == 2:  # the second trial of each search
            raise Killed
        return apply(self, variant)

    monkeypatch.setattr(making.Making, "apply", counting)
    with pytest.raises(Killed):
        run.make_variant(best(trials=3), recipe, storage)
    begun.append(0)
    with pytest.raises(Killed):
        run.make_variant(best(trials=3, fine_tune_steps=9), recipe, storage)
    assert len(begun) == 5


def test_when_its_seconds_are_over_a_search_ends_and_the_best_so_far_is_made_in_full(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "DecoderLM", tmp_path)
    monkeypatch.setattr(candidates, "TABLE", (FEW[1], FEW[3], FEW[0]))
    now, apply = 0.0, making.Making.apply

    def lasting(self: making.Making, variant: Variant) -> Any:
        nonlocal now
        now += 5
        return apply(self, variant)

    monkeypatch.setattr(making.Making, "apply", lasting)
    monkeypatch.setattr(auto, "time", SimpleNamespace(monotonic=lambda: now))  # each trial takes 5 seconds
    in_time = best(trials=4, seconds=16)
    assert in_time.measure_seconds == 6, "so that 10 of the seconds are for trials before the last"
    report = run.make_variant(in_time, recipe, storage)
    assert report is not None
    assert [(trial.recipe, trial.rung, trial.milliseconds) for trial in report.tried] == [
        ("pruned", 1, 5000),
        ("pruned, int8 weights", 1, 5000),
        ("pruned, int8 weights", 2, 5000),
    ], "nobody came to the third one"
    trained_for = [trial.steps[0].prune.fine_tune_steps for trial in report.tried if trial.steps[0].prune]
    assert trained_for == [2, 2, 6]
    assert report.search is not None
    assert (report.search.chosen, report.search.seconds) == ("pruned, int8 weights", 15)
    assert read_config(storage / report.artifact).steps == tuple(report.tried[-1].steps)
    assert load_model(storage / report.artifact).widths()


def test_what_no_steps_fit_is_refused_and_told(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "DecoderLM", tmp_path)
    monkeypatch.setattr(candidates, "TABLE", FEW[2:3])
    with pytest.raises(NotRetryable, match=r"auto has found no steps that this model can take: .*not-there"):
        run.make_variant(best(trials=1), recipe, storage)


def test_if_nothing_is_accepted_the_report_says_so_and_all_trials_are_used(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "ConvNet", tmp_path)
    monkeypatch.setattr(candidates, "TABLE", FEW[:2])
    variant = best(trials=4).model_copy(update={"accept": Accept(min_size_ratio="1000")})
    report = run.make_variant(variant, recipe, storage)
    assert report is not None
    assert (report.verdict, report.artifact) == ("Rejected", "artifacts/rejected/best")
    assert [trial.rung for trial in report.tried] == [1, 1, 2, 2]
    assert all(float(trial.distance or 0) > 0.9 for trial in report.tried)


@pytest.mark.slow
def test_a_classifier_of_documents_is_made_faster_or_smaller_by_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = encoder_recipe(
        write_labelled(tmp_path / "animals.jsonl", count=300),
        totalSteps=60,
        batch={"globalBatchSize": 32, "microBatchSize": 32},
        optimizer={"learningRate": "1e-2"},
        encoder={"contextLength": 64, "embeddingDim": 32},
        evaluation={"everySteps": 60},
    )
    storage = tmp_path / "storage"
    assert train_here(settings, storage) == 0
    monkeypatch.setattr(candidates, "TABLE", TABLE[:6])
    report = run.make_variant(best(trials=9), settings, storage)
    assert report is not None
    assert report.verdict == "Accepted"
    assert len(report.tried) <= 9
    before = [trial for trial in report.tried if trial.rung == report.tried[-1].rung - 1 and trial.measured]
    smallest = min(before, key=lambda trial: (float(trial.distance or 0), trial.measured and trial.measured.size_bytes))
    assert report.tried[-1].recipe == smallest.recipe
    assert report.measured.size_bytes < report.baseline.size_bytes / 1.5, "embeddings stay whole"


def test_the_table_has_no_row_twice_and_the_manifest_can_say_each() -> None:
    names = [candidate.name for candidate in TABLE]
    assert len(set(names)) == len(names)
    told = [json.dumps([step.to_plain() for step in candidate.steps]) for candidate in TABLE]
    assert len(set(told)) == len(told)
    for candidate in TABLE:
        assert candidate.name.isascii()
        assert len(candidate.name) <= 96
        steps = with_training(candidate.steps, 40)
        Variant.model_validate({"name": "x", "steps": [step.to_plain() for step in steps]})
        assert candidates.WHOLE not in json.loads(json.dumps([list(step.to_plain().values()) for step in steps]))
        assert str(candidates.WHOLE) not in json.dumps([step.to_plain() for step in steps])
        assert trains(steps) == candidate.trains


def test_what_a_model_cannot_take_is_no_candidate(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TABLE", TABLE)
    of = {name: load_model(folder / "artifacts/model") for name, (folder, _) in trained.items()}
    images = candidates_for(of["ConvNet"], may_train=True, graphs=True)
    text = candidates_for(of["DecoderLM"], may_train=True, graphs=True)
    assert any("low rank" in candidate.name for candidate in text)
    assert not any("low rank" in candidate.name for candidate in images)
    assert not any(candidate.trains for candidate in candidates_for(of["DecoderLM"], may_train=False, graphs=True))
    graphs = candidates_for(of["DecoderLM"], may_train=True, graphs=False)
    assert not any("static" in candidate.name or "int4" in candidate.name for candidate in graphs)


def measurement(latency: int, size: int, loss: str = "1") -> Measurement:
    return Measurement(
        size_bytes=size, parameters=1, nonzero_permille=1000, latency_microseconds=latency, validation_loss=loss
    )


@given(seconds=st.floats(0, 1e6), before=st.integers(1, 10**7), after=st.integers(1, 10**7))
def test_after_the_payback_the_search_has_paid_and_not_before(seconds: float, before: int, after: int) -> None:
    batches = payback_batches(seconds, measurement(before, 1), measurement(after, 1))
    if after >= before:
        assert batches is None
        return
    assert batches is not None
    saved = (before - after) / 1e6
    assert batches * saved >= seconds * (1 - 1e-9)
    assert (batches - 1) * saved <= seconds * (1 + 1e-9)


def test_the_pareto_set_is_of_each_rung() -> None:
    def tried(rung: int, latency: int, size: int, loss: str) -> Trial:
        measured, baseline = measurement(latency, size, loss), measurement(100, 100)
        return Trial(recipe="x", steps=[], rung=rung, milliseconds=1, measured=measured, baseline=baseline)

    trials = [
        tried(1, 50, 50, "1.1"),
        tried(1, 60, 50, "1.1"),  # slower than the first, and no better
        tried(1, 90, 90, "1.0"),
        tried(2, 60, 50, "1.1"),
        Trial(recipe="y", steps=[], rung=1, milliseconds=1, refused="no"),
    ]
    assert [trial.pareto for trial in with_pareto(trials)] == [True, False, True, True, False]


def test_the_status_has_few_rows_of_what_no_other_list_beats_each_as_it_was_tried_last() -> None:
    def tried(name: str, rung: int, figures: tuple[int, int, str], distance: str = "0") -> Trial:
        latency, size, loss = figures
        return Trial(
            recipe=name,
            steps=[],
            rung=rung,
            milliseconds=1,
            measured=measurement(latency, size, loss),
            baseline=measurement(100, 100),
            distance=distance,
        )

    rows = pareto_rows(
        [
            tried("fast", 1, (20, 90, "1.5"), distance="0.3"),
            tried("small", 1, (90, 10, "1.2")),
            tried("beaten", 1, (95, 20, "1.2")),
            tried("fast", 2, (30, 90, "1.05")),
            Trial(recipe="refused", steps=[], rung=1, milliseconds=1, refused="no"),
        ]
    )
    assert [(row.steps, row.latency_microseconds, row.size_bytes, row.quality_drop_percent) for row in rows] == [
        ("fast", 30, 90, "5"),
        ("small", 90, 10, "20"),
    ]
    many = [tried(f"t{number}", 1, (10 + number, 100 - number, "1"), f"0.{number:02}") for number in range(20)]
    assert [row.steps for row in pareto_rows(many)] == [f"t{number}" for number in range(8)], "nearest to bounds"
    assert pareto_rows([]) == []


@pytest.mark.usefixtures("with_graphs")
def test_a_trial_is_made_a_graph_where_that_may_decide_and_never_compiled_on_a_cpu() -> None:
    device, pruning, activations = torch.device("cpu"), pruned("Structured", 50), dynamic()

    def tried(step: Step, minimize: Any) -> set[str]:
        variant = Variant(name="best", steps=[step])
        settings = Auto(minimize=minimize, batches=1 if minimize == "Cost" else None)
        return set(engines_of_trial(variant, device, settings))

    assert tried(pruning, "Bytes") == {"TorchEager"}
    assert tried(pruning, "Latency") == tried(pruning, "Cost") == {"TorchEager", "OnnxRuntime"}
    assert "OnnxRuntime" in tried(activations, "Bytes")
    assert "TorchCompiled" not in tried(activations, "Latency")


@pytest.mark.slow
@pytest.mark.usefixtures("with_graphs")
def test_the_trained_models_graph_is_made_once_for_all_trials_and_does_not_stay(
    trained: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, recipe = stage(trained, "ConvNet", tmp_path)
    places, export = [], engines.export

    def noted(model: Any, inputs: torch.Tensor, folder: Path) -> None:
        places.append(folder)
        export(model, inputs, folder)

    monkeypatch.setattr(engines, "export", noted)
    searched = best(minimize="Latency", trials=3, fine_tune_steps=1)
    report = run.make_variant(searched.model_copy(update={"measure_seconds": engines.GRAPH_SECONDS}), recipe, storage)
    assert report is not None
    measured = [trial for trial in report.tried if trial.measured is not None]
    assert len(measured) > 1
    assert places == [storage / "artifacts/.best.model-graph"]
    assert {path.name for path in (storage / "artifacts").iterdir()} <= {"model", "best", "rejected"}


def test_what_is_minimized_decides() -> None:
    trial = Trial(
        recipe="x", steps=[], rung=1, milliseconds=9, making_milliseconds=3000, measured=measurement(200_000, 7)
    )

    def figure(minimize: Any, share: float = 1, batches: int | None = None) -> float:
        return figure_of(trial, Auto(minimize=minimize, batches=batches), share)

    assert figure("Bytes") == 7
    assert figure("Latency") == 200_000
    assert figure("Cost", batches=10) == pytest.approx(3 + 2)
    assert figure("Cost", share=0.5, batches=10) == pytest.approx(6 + 2), "what trains takes twice as long in full"


def test_the_first_rows_of_the_table_are_of_different_kinds() -> None:
    first = {step.type for candidate in TABLE[:6] for step in candidate.steps}
    assert first >= {"Quantize", "Prune", "Distill"}
    assert TABLE[0].steps == (dynamic(),)


@pytest.mark.parametrize("kind", ["DecoderLM", "ConvNet"])
def test_lists_are_ordered_by_the_bytes_that_are_expected_but_for_the_first(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TABLE", TABLE)
    model = fresh_model(kind)
    listed = candidates_for(model, may_train=True, graphs=True)
    ordered = smallest_first(listed, model)
    assert ordered[:FIRST] == listed[:FIRST]
    sizes = [expected_bytes(candidate, model) for candidate in ordered[FIRST:]]
    assert sizes == sorted(sizes)
    assert {candidate.name for candidate in ordered} == {candidate.name for candidate in listed}


@pytest.mark.parametrize("minimize", ["Bytes", "Latency"])
def test_only_where_the_smallest_is_sought_lists_that_are_expected_to_be_large_are_tried_last(
    minimize: str, trained: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TABLE", TABLE)
    orders: list[list[str]] = []
    searching = auto._Searching

    class Seen(searching):  # type: ignore[misc, valid-type]
        def run(self) -> None:
            orders.append([candidate.name for candidate in self.candidates])

    monkeypatch.setattr(auto, "_Searching", Seen)
    storage, recipe = trained["DecoderLM"]
    run.make_variant(best(minimize=minimize), recipe, storage)
    (order,) = orders
    small_first = order.index("int4 weights") < order.index("static int8") < order.index("50 % pruned")
    assert small_first == (minimize == "Bytes")
    assert order[0] == "int8"


def test_the_bytes_that_are_expected_are_about_those_that_are_stored() -> None:
    model = fresh_model("DecoderLM")
    whole = expected_bytes(Candidate("as it is", ()), model)
    stored = sum(tensor.nbytes for tensor in stored_tensors(model).values())
    assert whole == pytest.approx(stored, rel=0.02)
    few = expected_bytes(
        Candidate("int8 weights and embeddings", (quantized("Int8WeightOnly", embeddings=True),)), model
    )
    apply(model, [quantized("Int8WeightOnly", embeddings=True)], example_inputs("DecoderLM"))
    assert few / whole == pytest.approx(bytes_in_memory(model) / stored, rel=0.25)
