"""`costopt report` of a run and of a job on a cluster."""

import json
from pathlib import Path

import pytest

from builders.artifacts import write_artifacts
from builders.fake_api import PODS, FakeApi, serving, write_kubeconfig
from builders.local import job, runner_in
from builders.on_cluster import Command, add_job, add_pod, at_home, command, succeeded
from costopt.cli.report import in_order
from costopt.schema.replica import Progress


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    at_home(monkeypatch, tmp_path, None)
    return command(monkeypatch, capsys)


def line(step: int, loss: str) -> str:
    return json.dumps({"step": step, "totalSteps": 9, "loss": loss, "learningRate": "0.001"})


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    runner_in(folder, job(priceBookName="sample"), "fail once").run()
    (folder / "metrics.jsonl").write_text(
        "\n".join([line(1, "3.5"), "no progress", line(2, "3.25"), "{", line(2, "3.0")])
    )
    return write_artifacts(folder)


def test_a_report_lies_in_the_run_folder_with_losses_costs_and_failures(run: Command, ended_run: Path) -> None:
    ended = run("report", str(ended_run))
    file = ended_run / "report.html"
    assert (ended.code, ended.out) == (0, f"Report: {file}\n")
    text = file.read_text()
    for told in ("tiny", "Succeeded", "Loss by step, at last 3", "ProcessFailed", "train: 1 failed"):
        assert told in text


def test_it_may_lie_elsewhere(run: Command, ended_run: Path, tmp_path: Path) -> None:
    assert run("report", "--run-dir", str(ended_run), "--to", "page.html").code == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    ended = run("report", str(ended_run), "--to", "nowhere/page.html")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "nowhere/page.html cannot be written (No such file or directory)" in ended.err


def test_of_a_job_on_a_cluster_losses_come_from_the_logs_that_are_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    api = FakeApi()
    owner = add_job(api, status=succeeded())
    for index in range(2):
        add_pod(api, owner, "train", 0, index, phase="Succeeded")
    api.instead["GET", f"{PODS}/tiny-train-a0-0-xyz/log"] = (200, f"hello\n{line(1, '3.5')}\n{line(2, '3.25')}\n")
    api.instead["GET", f"{PODS}/tiny-train-a0-1-xyz/log"] = (200, f"{line(3, '9.75')}\n")
    with serving(api) as url:
        at_home(monkeypatch, tmp_path, write_kubeconfig(tmp_path / "kubeconfig", url))
        run = command(monkeypatch, capsys)
        assert run("report", "tiny").out == "Report: tiny.html\n"
        text = (tmp_path / "tiny.html").read_text()
        assert "Loss by step, at last 3.25" in text
        api.instead["GET", PODS] = (403, {"kind": "Status", "reason": "Forbidden", "message": "no", "code": 403})
        assert run("report", "tiny").code == 0
        assert "No losses by step are known here" in (tmp_path / "tiny.html").read_text()


def test_a_step_that_was_taken_again_counts_once_as_it_was_told_last() -> None:
    told = [Progress(step=step, total_steps=9, loss=loss) for step, loss in ((2, "3"), (1, "5"), (2, "2.5"))]
    assert [(point.step, point.loss) for point in in_order(told)] == [(1, "5"), (2, "2.5")]
