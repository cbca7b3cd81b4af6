"""`costopt try`: what is printed of an answer, and mistakes, in one sentence each."""

from pathlib import Path

import pytest

from builders.compress import SHAPES, fresh_model
from builders.local import job, runner_in
from builders.on_cluster import Command, at_home, command
from costopt.cli import try_artifact
from costopt.schema.trial import Choice, TrialAnswer, TrialRequest
from costopt_trainer.models.artifact import save_model


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
