"""Which number formats a device has, and what is said of one that it lacks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.trainer import recipe, text_file, train_here, written
from costopt_trainer.training.precision import set_tf32, slow_precision

CUDA = torch.device("cuda", 0)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """torch's own settings are put back."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    yield
    for backend, setting in zip(backends, before, strict=True):
        backend.fp32_precision = setting


@pytest.mark.parametrize("kind", ["BF16", "FP16"])
def test_the_line_about_an_imitated_format_names_the_setting_that_is_faster(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    line = slow_precision(kind, torch.device("cpu"))
    assert line is not None
    assert line.startswith(f"precision {kind}: this processor has no instructions for it")
    assert line.endswith("set recipe.precision: FP32")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kind", "capability", "faster"),
    [
        ("TF32", (7, 5), "FP32"),
        ("BF16", (7, 0), "FP16"),
        ("TF32", (8, 0), None),
        ("BF16", (9, 0), None),
        ("FP16", (7, 0), None),
        ("FP32", (6, 0), None),
    ],
)
def test_a_gpu_without_the_format_is_told_with_one_that_it_has(
    kind: Any, capability: tuple[int, int], faster: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    line = slow_precision(kind, CUDA)
    if faster is None:
        assert line is None
    else:
        assert line is not None
        assert line.endswith(f"8.0 has): set recipe.precision: {faster}")


@pytest.mark.usefixtures("torch_settings")
def test_only_tf32_changes_how_a_gpu_multiplies() -> None:
    for kind in ("FP32", "BF16", "FP16"):
        before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision
        set_tf32(kind)
        assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.rnn.fp32_precision) == before
    set_tf32("TF32")
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.usefixtures("torch_settings")
def test_without_a_gpu_tf32_is_fp32_and_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_file(tmp_path)
    for kind in ("FP32", "TF32"):
        assert train_here(recipe(text, precision=kind, totalSteps=3), tmp_path / kind) == 0
    assert written(tmp_path / "TF32", 3) == written(tmp_path / "FP32", 3)
    if not torch.cuda.is_available():
        assert capsys.readouterr().err.count("precision TF32: processors do not have it") == 1
