"""What cannot be made of a trained model is said before the training begins, not behind it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from builders import outside
from builders.compress import pruned, quantized, recipe, weight_only
from costopt.schema.compression import GRAPH_ONLY, Step, Variant
from costopt_trainer.compress import run
from costopt_trainer.compress.foresight import refuse_unmakeable
from costopt_trainer.errors import NotRetryable


def variants(**step: Any) -> list[Variant]:
    fine = Step.model_validate({"type": "Quantize", "quantize": {"scheme": "Int8WeightOnly"}})
    return [Variant(name="fine", steps=[fine]), Variant(name="small", steps=[Step.model_validate(step), fine])]


def external(name: str) -> list[Variant]:
    return variants(type="External", external={"name": name})


def distilled(**settings: Any) -> list[Variant]:
    return variants(type="Distill", distill={"steps": 4, **settings})


@pytest.mark.parametrize(
    ("wrong", "reason", "sentence"),
    [
        (external("missing"), "InvalidSettings", "external.name: missing must be a step of a package that is"),
        (distilled(teacher="nowhere"), "CheckpointUnreadable", "there is no such folder"),
        (
            distilled(student="Lighter", lighter={"layers": 1}),
            "InvalidSettings",
            "distill.lighter must be of the settings of model.decoderLM that are numbers and shape its layers",
        ),
        (
            distilled(student="Lighter", lighter={"numHeads": 3}),
            "InvalidSettings",
            "distill.lighter: embeddingDim must be a multiple of numHeads",
        ),
    ],
    ids=["a step that is not installed", "a teacher that is not there", "no setting", "heads that do not fit"],
)
def test_a_training_does_not_begin_whose_variant_cannot_be_made(
    wrong: list[Variant], reason: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotRetryable) as refused:
        refuse_unmakeable(wrong, recipe("DecoderLM", tmp_path))
    assert refused.value.reason == reason
    assert str(refused.value).startswith("variant small could not be made: ")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        *(
            (
                [Variant(name="small", steps=[pruned("Structured", 20, fine_tune_steps=4), quantized(scheme)])],
                "quantize.scheme makes an ONNX graph, and the package onnx",
            )
            for scheme in GRAPH_ONLY
        ),
        (
            [Variant(name="small", steps=[pruned("Structured", 20)], formats=["Onnx"])],
            "formats asks for an ONNX graph, and the package onnx",
        ),
        (
            [Variant(name="small", steps=[weight_only()], formats=["CompressedTensors"])],
            "only models of the Hugging Face library have this form",
        ),
    ],
    ids=[*GRAPH_ONLY, "a graph", "a folder for transformers"],
)
def test_nor_does_one_whose_variant_has_a_form_for_which_packages_are_missing(
    wrong: list[Variant], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"onnx", "onnxruntime", "onnxscript", "compressed_tensors"}
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in missing else find(name, *rest))
    with pytest.raises(NotRetryable, match="variant small could not be made: ") as refused:
        refuse_unmakeable(wrong, recipe("DecoderLM", tmp_path))
    assert sentence in str(refused.value)
    if "graph" in sentence:  # where no recipe trains the model, the variant says so itself, before it loads anything
        with pytest.raises(NotRetryable, match=f"^{sentence}") as refused:
            run.make_variant(wrong[0], recipe("DecoderLM", tmp_path), tmp_path / "nothing was trained")
        assert refused.value.reason == "InvalidSettings"
        assert "\n" not in str(refused.value)
    monkeypatch.undo()
    if "graph" in sentence and importlib.util.find_spec("onnxruntime"):
        refuse_unmakeable(wrong, recipe("DecoderLM", tmp_path))


def test_one_whose_variants_can_be_made_begins_and_no_code_of_others_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.install(tmp_path, monkeypatch)
    good = [*external("scale"), *external("broken"), *distilled(student="Lighter", lighter={"numLayers": 1})]
    refuse_unmakeable(good, recipe("DecoderLM", tmp_path))
