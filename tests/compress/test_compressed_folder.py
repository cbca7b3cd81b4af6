"""Variants as folders for the package compressed-tensors: the Hugging Face library alone loads them."""

import importlib.util
from pathlib import Path

import pytest
import torch

from builders.compress import apply, pruned, train_stage, weight_only
from builders.hugging_face import PROSE, VOCABULARY, model_folder, settings
from costopt.artifacts import find_difference, read_manifest
from costopt.schema.compression import Variant
from costopt.schema.evaluation import CommandEvaluation
from costopt.schema.given_model import GivenModel
from costopt_trainer.compress import compressed_folder, measure, run
from costopt_trainer.compress.compressed_folder import FOLDER, add_folder, find_mismatch
from costopt_trainer.compress.verify import write_probe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import load_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(compressed_folder.PACKAGE) is None, reason="the extra compressed is not installed"
)
INT8 = Variant(name="int8", steps=[weight_only()], formats=["CompressedTensors"])


def test_what_is_not_installed_is_said_before_any_work_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_folder, "PACKAGE", "nonesuch")
    with pytest.raises(NotRetryable) as refused:
        compressed_folder.refuse_model("HuggingFace")
    assert refused.value.reason == "InvalidSettings"
    assert str(refused.value) == (
        "formats must not have CompressedTensors: the package compressed-tensors is not installed (extra compressed: "
        "pip install 'costopt[compressed]')"
    )


def test_a_model_of_our_own_is_refused_in_one_sentence_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = train_stage("DecoderLM", tmp_path, steps=1)
    with pytest.raises(NotRetryable, match=r"only models of the Hugging Face library have this form, and this one is"):
        run.make_variant(INT8, recipe, tmp_path)
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == ["model"]


KINDS = [
    ("llama", "CausalLM", ()),
    ("qwen2", "CausalLM", ()),  # its head is its embedding
    ("bert", "MaskedLM", ()),  # fills samples up
    ("llama", "CausalLM", (pruned("Structured", 25),)),
]


@needs_package
@pytest.mark.parametrize(("kind", "task", "before"), KINDS, ids=lambda value: str(value)[:20])
def test_the_library_loads_it_and_gives_the_variants_output(
    kind: str, task: str, before: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / kind, kind, f"AutoModelFor{task}")
    shape = ModelShape(settings("path", folder, task=task), vocabulary_size=VOCABULARY, pad_id=0)
    model, inputs = build_model(shape).eval(), torch.randint(5, 200, (2, 12))
    inputs[1, 8:] = 0
    apply(model, [*before, weight_only()], inputs)  # type: ignore[list-item]
    monkeypatch.setattr(compressed_folder, "verify_in_fresh_process", lambda *_: None)  # it is called below
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    num_bytes = add_folder(model, inputs, artifact)
    made = artifact / FOLDER
    assert num_bytes == sum(path.stat().st_size for path in made.iterdir())
    assert (made / "model.safetensors").stat().st_size < 0.7 * (folder / "model.safetensors").stat().st_size
    write_probe(tmp_path / "probe", model, inputs)
    assert find_mismatch(made, tmp_path / "probe") is None

    next(model.parameters()).data.mul_(1.5)
    write_probe(tmp_path / "other", model, inputs)
    assert "gives another output than the variant" in str(find_mismatch(made, tmp_path / "other"))
    (made / "model.safetensors").write_bytes(b"")
    assert "cannot be loaded (" in str(find_mismatch(made, tmp_path / "probe"))


@needs_package
@pytest.mark.slow
def test_a_variant_has_its_folder_beside_its_weights_and_its_manifest_lists_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    monkeypatch.setattr(measure, "MAX_RUNS", measure.MIN_RUNS)
    (tmp_path / "prose.txt").write_text(PROSE)
    asked = CommandEvaluation.model_validate({"data": {"type": "Text", "text": {"path": str(tmp_path / "prose.txt")}}})
    given = GivenModel(path=str(model_folder(tmp_path / "llama", "llama")))
    report = run.make_variant(INT8, asked, tmp_path, given=given)
    assert report is not None
    artifact = tmp_path / report.artifact
    assert "int8: a folder for compressed-tensors, " in capsys.readouterr().out
    manifest = read_manifest(artifact)
    assert "CompressedTensors" in manifest.formats
    assert f"{FOLDER}/model.safetensors" in [file.path for file in manifest.files]
    assert find_difference(artifact, manifest) is None
    tokens = torch.randint(5, 200, (2, 12))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(artifact / FOLDER).eval()
    with torch.no_grad():
        expected, output = load_model(artifact)(tokens), theirs(tokens).logits
    assert float((output - expected).norm() / expected.norm()) < 1e-5
