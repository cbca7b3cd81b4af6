"""The lines that load an artifact without our code, run as they stand in the page."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import torch

from builders.compress import SHAPES, apply, example_inputs, fresh_model, weight_only
from builders.docs import Block, blocks
from builders.hugging_face import VOCABULARY, model_folder, settings
from costopt_trainer.compress import onnx_export
from costopt_trainer.compress.torch_export import export
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

PYTHON = [block for block in blocks("docs/artifacts.md") if block.info == "python"]


def safetensors(folder: Path) -> str:
    model = fresh_model("ConvNet")
    save_model(folder / "artifacts/model", model, SHAPES["ConvNet"])
    return rf"{sum(tensor.numel() for tensor in model.state_dict().values())}\n"


def hugging_face(folder: Path) -> str:
    model_folder(folder / "artifacts/model", "gpt2")
    return "The cat.*"


def adapter(folder: Path) -> str:
    import peft
    import transformers

    base = model_folder(folder / "base", "gpt2")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(
        folder / "artifacts/adapter"
    )
    return "4\n"


def torch_export(folder: Path) -> str:
    (folder / "artifacts/small").mkdir(parents=True)
    export(fresh_model("DecoderLM"), example_inputs("DecoderLM"), folder / "artifacts/small/model.pt2")
    return r"torch.Size\(\[2, 32, 256\]\)\n"


def onnx(folder: Path) -> str:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    (folder / "artifacts/small").mkdir(parents=True)
    onnx_export.export(fresh_model("DecoderLM"), example_inputs("DecoderLM"), folder / "artifacts/small")
    return r"\(2, 32, 256\)\n"


def compressed_tensors(folder: Path) -> str:
    pytest.importorskip("compressed_tensors", reason="the extra compressed is not installed")
    from costopt_trainer.compress.compressed_folder import add_folder

    base = model_folder(folder / "base", "llama")
    model = build_model(ModelShape(settings("path", base), vocabulary_size=VOCABULARY)).eval()
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    apply(model, [weight_only()], tokens)
    (folder / "artifacts/int8").mkdir(parents=True)
    add_folder(model, tokens, folder / "artifacts/int8")
    return "int-quantized\n"


MADE = {
    "model.safetensors": safetensors,
    "AutoTokenizer": hugging_face,
    "PeftModel": adapter,
    "model.pt2": torch_export,
    "onnxruntime": onnx,
    "compressed-tensors": compressed_tensors,
}
"""What names a format in its lines -> what makes such an artifact, and tells what they print."""


def test_every_format_has_its_lines() -> None:
    assert [[word for word in MADE if word in block.text] for block in PYTHON] == [[word] for word in MADE]


def test_the_readmes_lines_are_those_of_the_page() -> None:
    [block] = [block for block in blocks("README.md") if block.info == "python"]
    lines = block.text.splitlines()
    assert len(lines) == 5
    page = "\n".join(block.text for block in PYTHON)
    for line in lines:
        assert line.removeprefix("safetensors.torch.").removeprefix("transformers.") in page


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_lines_load_an_artifact_and_name_nothing_of_ours(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "costopt" not in block.text
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 5
    (word,) = (word for word in MADE if word in block.text)
    expected = MADE[word](tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    assert re.fullmatch(expected, printed.getvalue(), re.DOTALL), printed.getvalue()
    shutil.rmtree(tmp_path / "artifacts")
