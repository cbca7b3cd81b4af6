"""Models as programs of torch.export: the same output, of any number of samples, and nothing whole beside few bits."""

import zipfile
from pathlib import Path

import pytest
import torch

from builders.compress import (
    apply,
    dynamic,
    example_inputs,
    fresh_model,
    pruned,
    replica,
    train_stage,
    weight_only,
)
from costopt.artifacts import read_manifest
from costopt.schema.compression import Step
from costopt_trainer.compress import making, measure, run
from costopt_trainer.compress.torch_export import NotExportable, export, main
from costopt_trainer.compress.verify import EXIT_MISMATCH, write_probe
from costopt_trainer.models.artifact import load_model

CASES = {
    "a decoder": ("DecoderLM", ()),
    "a decoder with 8-bit activations": ("DecoderLM", (dynamic(),)),
    "a classifier with 8-bit weights": ("ConvNet", (weight_only(),)),
    "a classifier with fewer channels": ("ConvNet", (pruned("Structured", 50),)),
}


@pytest.mark.parametrize(("model_type", "steps"), CASES.values(), ids=CASES)
def test_a_program_gives_what_the_model_gives_for_any_number_of_samples(
    model_type: str, steps: tuple[Step, ...], tmp_path: Path
) -> None:
    model, inputs = fresh_model(model_type), example_inputs(model_type, 5)
    apply(model, steps, inputs[:1])
    model.eval().requires_grad_(False)
    export(model, inputs[:1], tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for count in (1, 2, 5):
        expected, output = model(inputs[:count]), program(inputs[:count])
        assert torch.linalg.vector_norm(output - expected) <= 1e-5 * torch.linalg.vector_norm(expected)
    if model_type == "DecoderLM":
        assert program(inputs[:2, :7]).shape == (2, 7, 256)


def weights_in(path: Path) -> int:
    """Bytes of all tensors in the file."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist() if "/weights/weight_" in entry.filename)


def test_weights_of_8_bits_are_stored_in_8_bits_and_no_whole_one_beside_them(tmp_path: Path) -> None:
    model, inputs = fresh_model("DecoderLM"), example_inputs("DecoderLM")
    export(model, inputs, tmp_path / "whole.pt2")
    linear = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    apply(model, (weight_only(),), inputs[:1])
    export(model, inputs, tmp_path / "small.pt2")
    saved = weights_in(tmp_path / "whole.pt2") - weights_in(tmp_path / "small.pt2")
    assert 2.8 * linear < saved < 3 * linear, "of each weight three bytes of four, less the scales"


def test_a_program_names_no_file_of_the_machine_that_it_was_made_on(tmp_path: Path) -> None:
    export(fresh_model("ConvNet"), example_inputs("ConvNet"), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        text = b"".join(archive.read(entry) for entry in archive.infolist())
    assert b".py" not in text


def test_a_model_that_looks_at_its_numbers_is_no_program_and_says_so(tmp_path: Path) -> None:
    class Looks(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + 1 if inputs.sum() > 0 else inputs

    with pytest.raises(NotExportable, match=r"^cannot be exported by torch: "):
        export(Looks(), torch.randn(2, 3), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_variant_has_its_program_beside_its_weights_once_a_fresh_process_has_loaded_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "MAX_RUNS", 1)
    monkeypatch.setattr(measure, "MIN_RUNS", 1)
    monkeypatch.setattr(making, "verify_in_fresh_process", lambda *_: None)  # of the weights, which others test
    recipe = train_stage("ConvNet", tmp_path, steps=5)
    variant = replica(recipe, weight_only()).variant
    assert variant is not None
    report = run.make_variant(variant.model_copy(update={"formats": ["TorchExport"]}), recipe, tmp_path)
    assert report is not None
    folder = tmp_path / report.artifact
    assert "a program of torch.export" in capsys.readouterr().out
    assert read_manifest(folder).formats == ["Safetensors", "TorchExport"]
    inputs = example_inputs("ConvNet", 3)
    program = torch.export.load(folder / "model.pt2").module()
    assert torch.equal(program(inputs), load_model(folder)(inputs))


def test_a_program_that_computes_something_else_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = example_inputs("ConvNet")
    export(fresh_model("ConvNet", seed=1), inputs, tmp_path / "model.pt2")
    for seed, code in ((1, 0), (2, EXIT_MISMATCH)):
        write_probe(tmp_path / "probe", fresh_model("ConvNet", seed=seed), inputs)
        assert main([str(tmp_path / "model.pt2"), str(tmp_path / "probe")]) == code
        (tmp_path / "probe").unlink()
    assert "gives another output than the model" in capsys.readouterr().out


def test_a_model_that_gives_zeros_is_no_other_than_itself(tmp_path: Path) -> None:
    model, inputs = fresh_model("ConvNet"), example_inputs("ConvNet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    export(model, inputs, tmp_path / "model.pt2")
    write_probe(tmp_path / "probe", model, inputs)
    assert main([str(tmp_path / "model.pt2"), str(tmp_path / "probe")]) == 0
