"""`costopt try`: what is printed of an answer, and mistakes, in one sentence each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.compress import SHAPES, fresh_model
from builders.local import job, runner_in
from builders.on_cluster import Command, at_home, command
from costopt.cli import try_artifact
from costopt.schema.models import ModelSettings
from costopt.schema.trial import Choice, TrialAnswer, TrialRequest
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

ENCODER = ModelSettings.model_validate(
    {"type": "Encoder", "encoder": {"numLayers": 1, "numHeads": 2, "embeddingDim": 16, "contextLength": 16}}
)
MLP = ModelSettings.model_validate({"type": "MLP", "mlp": {"numLayers": 1, "width": 8}})
TRIED = {
    "hidden tokens": (
        ModelShape(ENCODER, vocabulary_size=259, pad_id=256), "ab[MASK]d e[MASK]", "Hidden token 2", 10,
    ),
    "images": (SHAPES["ConvNet"], "image.npy", "Classes", 4),
    "rows": (ModelShape(MLP, num_features=3, num_classes=2), "0.5,-1,2e0", "Classes", 2),
    "images as a graph": (SHAPES["ConvNet"], "image.npy", "Classes", 4),
}  # fmt: skip
"""What it reads -> the shape, an input, the title of a table in the answer, and how many rows all tables have."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    at_home(monkeypatch, tmp_path, None)
    return command(monkeypatch, capsys)


def answering(monkeypatch: pytest.MonkeyPatch, answer: TrialAnswer) -> list[TrialRequest]:
    asked: list[TrialRequest] = []
    monkeypatch.setattr(try_artifact, "_answer", lambda request: asked.append(request) or answer)
    return asked


@pytest.mark.slow
def test_a_model_in_a_process_of_its_own_goes_on_with_a_text(run: Command, tmp_path: Path) -> None:
    save_model(tmp_path / "m", fresh_model("DecoderLM"), SHAPES["DecoderLM"])
    first = run("try", "m", "abc", "--max-tokens", "5")
    assert first.code == 0
    assert first.out.startswith("abc")
    assert "loading the model" in first.err
    (tmp_path / "m/model.safetensors").write_bytes(b"")
    ended = run("try", "m", "abc")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1].startswith("costopt try: m does not hold a model saved by costopt")


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["hidden tokens", "images", "rows", "images as a graph"])
def test_models_of_each_kind_answer_and_a_damaged_one_is_refused_in_one_sentence(
    reads: str, run: Command, tmp_path: Path
) -> None:
    shape, given, title, rows = TRIED[reads]
    torch.manual_seed(0)
    model = build_model(shape).eval()
    graph = None
    if reads == "images as a graph":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        from costopt_trainer.compress.onnx_export import export

        graph = tmp_path / "made"
        graph.mkdir()
        export(model, torch.zeros(2, 1, 8, 8), graph)
    save_model(tmp_path / "m", model, shape, graph=graph, weights=graph is None)
    np.save(tmp_path / "image.npy", np.full((8, 8), 90, dtype=np.uint8))
    answered = run("try", "m", given)
    assert answered.code == 0, answered.err
    lines = answered.out.splitlines()
    assert any(title in line for line in lines)
    assert sum("%" in line for line in lines) == rows
    weights = tmp_path / "m" / ("model.onnx" if graph else "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    refused = run("try", "m", given)
    assert (refused.code, refused.out) == (2, "")
    assert [line for line in refused.err.splitlines() if "m does not hold a model saved by costopt" in line] == [
        refused.err.splitlines()[-1]
    ]
    assert "Traceback" not in refused.err


def test_what_is_asked_reaches_the_process(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    asked = answering(monkeypatch, TrialAnswer(task="Complete", text=" more", tokens=1, shortened=True))
    ended = run("try", "m", "text", "--seed", "7", "--temperature", "0.5", "--max-tokens", "9")
    assert ended.out.splitlines() == ["text more", "The text is longer than the model sees: its end alone was read."]
    (request,) = asked
    assert (request.folder, request.input, request.seed, request.temperature, request.max_tokens) == (
        "m", "text", 7, "0.5", 9,
    )  # fmt: skip


def test_classes_and_tokens_are_shown_with_their_probability_and_nothing_is_obeyed(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    choices = [Choice(label="\x1b[2Jyes", probability="0.75"), Choice(label="[bold]no", probability="0.25")]
    answering(monkeypatch, TrialAnswer(task="Classify", choices=[choices]))
    shown = run("try", "m", "x").out
    assert "\x1b" not in shown
    assert "[bold]no" in shown
    assert "75.0%" in shown
    answering(monkeypatch, TrialAnswer(task="FillMask", text="a\x1b[31mb", choices=[choices]))
    shown = run("try", "m", "x").out
    assert "\x1b" not in shown
    assert "Hidden token 1" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "x"), "nowhere is not a folder"),
        (("run", "x"), "run is a run folder; name an artifact in it, such as run/artifacts/model"),
        (("m", "x", "--temperature", "hot"), "--temperature must be a number of at least 0, such as 0.8, not hot"),
        (("m", "x", "--temperature", "-1"), "--temperature must be a number of at least 0"),
        (("m", "x" * (2**20 + 1)), "the input must have at most 1048576 characters"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    run: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "m").mkdir()
    if arguments[0] == "run":
        runner_in(tmp_path / "run", job(), "finish")
    ended = run("try", *arguments)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert said in ended.err
