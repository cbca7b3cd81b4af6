"""Which layers mind fewer bits: measured, kept, reported, and used by the search."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders.compress import quantized, train_stage
from costopt.schema.compression import Quantize, Variant
from costopt.schema.recipe import Recipe
from costopt.schema.variant_details import VariantReport
from costopt_trainer.compress import measure, run
from costopt_trainer.compress.candidates import TABLE, Candidate, in_order
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.compress.sensitivity import Rises, layers_of, layers_to_keep, measure_layers, rounded_weights
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model

INT4, INT8, STATIC = (Quantize(scheme=scheme) for scheme in ("Int4WeightOnly", "Int8DynamicActivation", "Int8Static"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    storage = tmp_path_factory.mktemp("text")
    return storage, train_stage("DecoderLM", storage, steps=60)


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_RUNS", 3)
    monkeypatch.setattr(measure, "MAX_RUNS", 3)
    monkeypatch.setattr(measure, "DECODING_BUDGET_SECONDS", 0.1)


def with_outliers(model: nn.Module) -> Any:
    """The model with huge weights in its head for inputs that always are 0: it gives what it gave without these inputs,
    but beside such a weight all others of its group round to 0."""
    with torch.no_grad():
        model.get_parameter("norm.weight")[::32] = 0
        model.get_parameter("head.weight")[:, ::32] = 100
    return model


def test_a_layer_that_rounding_ruins_becomes_sensitive_and_the_model_stays_as_it_was(
    text: tuple[Path, Recipe],
) -> None:
    origin = of_recipe(text[1], text[0])
    model = with_outliers(origin.load())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done: list[tuple[int, int]] = []
    rises = measure_layers(model, INT4, origin.held_out, lambda number, of: done.append((number, of)))
    assert rises.of_layers.keys() == layers_of(model, "Int4WeightOnly").keys()
    usual = measure_layers(origin.load(), INT4, origin.held_out)
    assert rises.ranked()[0] == "head"
    assert rises.of_layers["head"] > 1 > 10 * abs(usual.of_layers["head"])
    assert done[-1] == (len(rises.of_layers), len(rises.of_layers))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module._forward_pre_hooks for module in model.modules())
    again = measure_layers(model, INT4, origin.held_out)
    assert again == rises, "the same model and data give the same figures"


def test_samples_that_judge_are_never_looked_at(text: tuple[Path, Recipe]) -> None:
    origin = of_recipe(text[1], text[0])
    data, seen = origin.held_out.data, {"HeldOut": set[int](), "Training": set[int]()}
    whole = origin.held_out
    assert data.num_validation_samples > 40

    def watched(kind: str, read: Any) -> Any:
        def reading(indices: Any) -> Any:
            seen[kind] |= set(indices.tolist())
            return read(indices)

        return reading

    watching = dataclasses.replace(
        data,
        validation_batch=watched("HeldOut", data.validation_batch),
        train_batch=watched("Training", data.train_batch),
    )
    some = dataclasses.replace(whole, data=watching, max_samples=data.num_validation_samples // 2)
    rises = measure_layers(origin.load(), INT8, some)
    assert rises.samples_of == "HeldOut"
    assert len(seen["HeldOut"]) == rises.samples
    assert not seen["Training"]
    assert not seen["HeldOut"] & set(some.judging().tolist())
    for part in (1, 7, 20):
        judging = dataclasses.replace(some, part=part).judging()
        assert set(judging.tolist()) <= set(some.judging().tolist()), "a trial has some of the same samples"
        assert len(judging) == part

    seen["HeldOut"].clear()
    rises = measure_layers(origin.load(), INT8, dataclasses.replace(some, max_samples=10**6))
    assert rises.samples_of == "Training", "all held-out samples judge"
    assert seen["Training"]
    assert not seen["HeldOut"]


@pytest.mark.parametrize(
    ("scheme", "formats"),
    [
        ("Int4WeightOnly", []),
        pytest.param("Int8WeightOnly", [], marks=pytest.mark.slow),
        # Else each would be as large as its fastest engine's form, which may be another for each.
        pytest.param("Int8DynamicActivation", ["Onnx"], marks=pytest.mark.slow),
    ],
)
def test_what_is_kept_is_whole_in_what_a_fresh_process_loads_and_the_report_says_why(
    scheme: str, formats: list[Any], text: tuple[Path, Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, recipe = text
    pytest.importorskip("onnxruntime")
    settings: dict[str, Any] = {"measure_seconds": 6, "formats": formats}
    step = quantized(scheme, keep_layers_percent=25)
    report = run.make_variant(Variant(name="mixed", steps=[step], **settings), recipe, storage)
    plain = run.make_variant(Variant(name="plain", steps=[quantized(scheme)], **settings), recipe, storage)
    assert report is not None
    assert plain is not None
    assert report.reloaded
    found = report.sensitivity
    assert found is not None
    assert (found.layers_measured, found.layers_kept, len(found.layers)) == (13, 4, 13)
    assert [each.kept for each in found.layers] == [True] * 4 + [False] * 9, "those with the largest rise"
    rises = [float(each.loss_increase) for each in found.layers]
    assert rises == sorted(rises, reverse=True)
    folder = storage / report.artifact
    assert VariantReport.model_validate_json((folder / "report.json").read_bytes()).sensitivity == found
    assert report.measured.size_bytes > plain.measured.size_bytes
    assert report.measured.size_bytes < report.baseline.size_bytes
    assert plain.sensitivity is None
    assert f"mixed: Quantize {scheme}" in capsys.readouterr().out
    if scheme != "Int4WeightOnly":
        model = load_model(folder)
        for each in found.layers:
            assert hasattr(model.get_parameter(f"{each.layer}.weight"), "qdata") != each.kept


def test_a_convolution_is_kept_in_the_graph_of_int8(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    recipe = train_stage("ConvNet", tmp_path, steps=40)
    step = quantized("Int8Static", keep_layers_percent=30)
    report = run.make_variant(Variant(name="mixed", steps=[step], measure_seconds=6), recipe, tmp_path)
    assert report is not None
    assert report.sensitivity is not None
    kept = [each.layer for each in report.sensitivity.layers if each.kept]
    assert len(kept) == 1
    graph = onnx.load(tmp_path / report.artifact / "model.onnx").graph
    whole = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
    }
    assert len(whole) == 1
    if "conv" in kept[0]:
        assert whole == {f"{kept[0]}.weight"}


def test_a_setting_that_leaves_no_layer_is_refused(text: tuple[Path, Recipe]) -> None:
    rises = Rises("Int8WeightOnly", 1.0, {"head": 0.1}, 8, "HeldOut")
    with pytest.raises(NotRetryable, match=r"keepLayersPercent must leave a layer to quantize: Int8WeightOnly has 1 "):
        layers_to_keep(rises, 1)
    assert layers_to_keep(dataclasses.replace(rises, of_layers={"a": 0.1, "b": 0.2}), 1) == {"b"}


@pytest.mark.parametrize(("settings", "steps"), [(INT4, 15), (INT8, 254)])
def test_rounded_weights_are_near_the_weights_and_of_few_values(settings: Quantize, steps: int) -> None:
    weight = torch.randn((3, 70), generator=torch.Generator().manual_seed(0))
    rounded = rounded_weights(weight, settings)
    size = 32 if steps == 15 else 70
    for row, near in zip(weight, rounded, strict=True):
        for group, values in zip(row.split(size), near.split(size), strict=True):
            span = float(group.clamp(min=0).max() - group.clamp(max=0).min())
            widest = span / 15 if steps == 15 else 2 * float(group.abs().max()) / steps
            assert float((group - values).abs().max()) <= widest * 1.01
            assert len(values.unique()) <= steps + 1
    assert not torch.equal(rounded, weight)


def rises_of(scheme: str, *values: float, loss: float = 1.0) -> Rises:
    return Rises(scheme, loss, {f"l{number}": value for number, value in enumerate(values)}, 32, "HeldOut")


def row(name: str, *schemes: str, keep: int | None = None) -> Candidate:
    return Candidate(name, tuple(quantized(scheme, keep_layers_percent=keep) for scheme in schemes))


def test_what_is_expected_to_ruin_the_model_is_tried_last_and_sensitive_layers_are_kept_where_few_are() -> None:
    rows = [
        row("int4", "Int4WeightOnly"),
        row("int4 kept", "Int4WeightOnly", keep=20),
        row("int8", "Int8WeightOnly"),
        row("int8 kept", "Int8WeightOnly", keep=20),
        row("none"),
    ]
    one_bad = {
        "Int4WeightOnly": rises_of("Int4WeightOnly", 0.01, 0.9, 0.01, -0.5, 0.01),
        "Int8WeightOnly": rises_of("Int8WeightOnly", 0.01, 0.01, 0.01, 0.01, 0.01),
    }
    assert [each.name for each in in_order(rows, one_bad)] == ["int4 kept", "int8", "none", "int4"]
    assert [each.name for each in in_order(rows, {})] == [each.name for each in rows]
    single = {"Int4WeightOnly": rises_of("Int4WeightOnly", 0.01)}
    assert "int4 kept" not in {each.name for each in in_order(rows, single)}, "none would be left"


def test_the_table_has_rows_that_keep_layers_of_each_kind_of_bits() -> None:
    kept = [
        step.quantize for each in TABLE for step in each.steps if step.quantize and step.quantize.keep_layers_percent
    ]
    assert {each.scheme for each in kept} == {"Int8DynamicActivation", "Int8Static", "Int4WeightOnly"}


def test_floats_of_8_bits_keep_small_weights_better_than_integers_do() -> None:
    weight = torch.tensor([[1.0, 0.01, -0.003, 0.0005]])
    floats, integers = (
        rounded_weights(weight, Quantize(scheme=scheme))  # type: ignore[arg-type]
        for scheme in ("Float8WeightOnly", "Int8WeightOnly")
    )
    assert torch.allclose(floats, weight, rtol=2**-4, atol=0)
    assert float(integers[0, -1]) == 0


def test_inputs_are_rounded_by_schemes_that_compute_with_8_bits(text: tuple[Path, Recipe]) -> None:
    origin = of_recipe(text[1], text[0])
    model = origin.load()
    rises = {
        scheme: measure_layers(model, Quantize(scheme=scheme), origin.held_out).of_layers  # type: ignore[arg-type]
        for scheme in ("Float8WeightOnly", "Float8DynamicActivation", "Int8WeightOnly", "Int8DynamicActivation")
    }
    assert rises["Float8WeightOnly"] != rises["Float8DynamicActivation"]
    assert rises["Int8WeightOnly"] != rises["Int8DynamicActivation"]
    assert all(abs(rise) < 0.1 for each in rises.values() for rise in each.values())
