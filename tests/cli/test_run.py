"""`costopt run` from the manifest to the bill: real training on two nodes, a real variant, real interruptions."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.cli import TRAINING, costopt, environment, program, start_costopt, write_manifest
from builders.local import processes_below, wait_until
from costopt.local.run_folder import RunFolder

pytest.importorskip("torch", reason="the trainer is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of every weights file of the newest checkpoint and of the trained model."""
    newest = max((run / "checkpoints").glob("step-*"))
    files = [*newest.rglob("*.safetensors"), *(run / "artifacts/model").glob("*.safetensors")]
    assert len(files) > 1
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checkpoint_is_written(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*/manifest.json"))


def long_manifest(folder: Path, steps: int = 400, **spec: Any) -> None:
    """Training without variants, long enough to be interrupted."""
    write_manifest(folder, train={"recipe": {**TRAINING, "totalSteps": steps}}, compress=[], **spec)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a long job that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    long_manifest(folder)
    answer = costopt(folder, "run", "job.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder / "runs/tiny"


def test_a_job_is_trained_compressed_and_billed(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    answer = costopt(tmp_path, "run", "job.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for said in (
        "train: attempt 0 starts",
        "int8: done",
        "(trained model)",
        "Validation loss ",
        "entropy of the text's bytes",
        "Bill (list prices",
        "a test",
        "Succeeded. Run folder: runs/tiny",
    ):
        assert said in answer.stdout

    status = RunFolder(tmp_path / "runs/tiny").status()
    assert [(stage.name, stage.state) for stage in status.stages] == [("train", "Succeeded"), ("int8", "Succeeded")]
    assert [(variant.name, variant.reloaded) for variant in status.variants] == [("int8", True)]
    assert status.bill is not None
    assert {(line.stage, line.resource) for line in status.bill.lines} == {
        (stage, resource) for stage in ("train", "int8") for resource in ("cpu", "memory")
    }
    assert processes_below(tmp_path / "runs/tiny") == []

    ledger = (tmp_path / "runs/tiny/ledger.jsonl").read_bytes()
    again = costopt(tmp_path, "run", "job.yaml", "--output", "json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == status.to_plain()
    assert (tmp_path / "runs/tiny/ledger.jsonl").read_bytes() == ledger, "a finished job is not run again"


def test_json_output_is_the_final_status_and_nothing_else(tmp_path: Path) -> None:
    write_command_manifest(tmp_path, {"numNodes": 1, "command": [sys.executable, "-c", "print('working')"]})
    answer = costopt(tmp_path, "run", "job.yaml", "--output", "json")
    assert json.loads(answer.stdout) == json.loads((tmp_path / "runs/tiny/status.json").read_text())
    assert "train: done" in answer.stderr


def test_ctrl_c_saves_and_suspends_and_the_same_command_resumes_to_the_same_weights(
    tmp_path: Path, undisturbed: Path
) -> None:
    long_manifest(tmp_path)
    run = tmp_path / "runs/tiny"
    first = start_costopt(tmp_path, "run", "job.yaml")
    wait_until(lambda: checkpoint_is_written(run))
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=800)
    assert first.returncode == 130, output
    assert "saving a checkpoint, then suspending" in output
    assert "Suspended as asked. Run the same command again to resume." in output
    assert processes_below(run) == []
    step = RunFolder(run).status().progress
    assert step is not None
    assert 0 < step.step < 400

    second = costopt(tmp_path, "run", "job.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    status = RunFolder(run).status()
    assert (status.execution, status.stages[0].failures, status.stages[0].disruptions) == (2, 0, 0)
    assert weights(run) == weights(undisturbed)


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before_and_said_so(
    tmp_path: Path, undisturbed: Path
) -> None:
    long_manifest(tmp_path)
    run = tmp_path / "runs/tiny"
    first = start_costopt(tmp_path, "run", "job.yaml")
    wait_until(lambda: len(list((run / "checkpoints").glob("step-*/manifest.json"))) > 1)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=800)
    before, newest = sorted((run / "checkpoints").glob("step-*"))[-2:]
    damaged = max(newest.glob("model-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])

    second = costopt(tmp_path, "run", "job.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    step_before, step = int(before.name.removeprefix("step-")), int(newest.name.removeprefix("step-"))
    assert f"train: the checkpoint of step {step} cannot be used" in second.stdout
    assert f"train: resumed from the checkpoint of step {step_before}\n" in second.stdout
    assert weights(run) == weights(undisturbed)


def test_a_failed_job_is_tried_again_when_its_cause_is_mended_and_keeps_its_bill(tmp_path: Path) -> None:
    missing = {**TRAINING, "totalSteps": 10, "data": {"type": "Text", "text": {"path": "later.txt"}}}
    write_manifest(tmp_path, train={"numNodes": 1, "recipe": missing}, compress=[])
    assert costopt(tmp_path, "run", "job.yaml").returncode == 1
    (tmp_path / "later.txt").write_bytes((tmp_path / "text.txt").read_bytes())
    assert costopt(tmp_path, "run", "job.yaml").returncode == 1, "its end is final unless a user says otherwise"

    again = costopt(tmp_path, "run", "job.yaml", "--retry")
    assert again.returncode == 0, again.stdout + again.stderr
    assert [record.attempt for record in RunFolder(tmp_path / "runs/tiny").ledger().records] == [0, 1]


def test_a_killed_runner_loses_nothing(tmp_path: Path, undisturbed: Path) -> None:
    long_manifest(tmp_path)
    run = tmp_path / "runs/tiny"
    first = start_costopt(tmp_path, "run", "job.yaml")
    wait_until(lambda: checkpoint_is_written(run))
    first.kill()
    first.wait()
    wait_until(lambda: processes_below(run) == [])
    assert costopt(tmp_path, "status").stdout.startswith("tiny: Interrupted; run the same command again")

    second = costopt(tmp_path, "run", "job.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    assert RunFolder(run).status().stages[0].disruptions == 1
    assert weights(run) == weights(undisturbed)


def test_a_killed_rank_restarts_the_whole_gang_to_bitwise_the_same_weights(tmp_path: Path, undisturbed: Path) -> None:
    long_manifest(tmp_path, restarts={"inPlace": 0})
    run = tmp_path / "runs/tiny"
    first = start_costopt(tmp_path, "run", "job.yaml")
    wait_until(lambda: checkpoint_is_written(run))
    os.kill(a_rank_of(run), signal.SIGKILL)
    output, _ = first.communicate(timeout=800)
    assert first.returncode == 0, output
    status = RunFolder(run).status()
    assert (status.stages[0].attempt, status.stages[0].failures) == (1, 1)
    assert status.failure is not None
    assert status.failure.reason == "ProcessKilled"
    assert status.failure.exit_code == -signal.SIGKILL
    assert len(RunFolder(run).ledger().records) == 4
    assert weights(run) == weights(undisturbed)
    assert processes_below(run) == []


def a_rank_of(run: Path) -> int:
    """A process that runs a rank, in the second node if it can be told."""
    ranks = []
    for pid in processes_below(run):
        variables = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        if any(variable.startswith(b"LOCAL_RANK=") for variable in variables):
            ranks.append((b"RANK=1" in variables, pid))
    return max(ranks)[1]


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a missing path": ({"data": {"type": "Text", "text": {"path": "no.txt"}}}, "InvalidData", "no.txt"),
    "a loss that is not finite": (
        {"optimizer": {"learningRate": "1e30", "gradientClipNorm": "0"}},
        "LossNotFinite",
        "Lower optimizer.learningRate",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_no_restart_can_mend_fails_at_once_and_says_what_to_do(tmp_path: Path, mistake: str) -> None:
    change, reason, said = MISTAKES[mistake]
    write_manifest(tmp_path, train={"numNodes": 1, "recipe": {**TRAINING, **change}}, compress=[])
    answer = costopt(tmp_path, "run", "job.yaml")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert reason in answer.stdout
    assert said in answer.stdout
    assert "Traceback" not in answer.stderr
    status = RunFolder(tmp_path / "runs/tiny").status()
    assert len(RunFolder(tmp_path / "runs/tiny").ledger().records) == 1, "no attempt is wasted on it"
    assert status.failure is not None
    assert status.failure.reason == reason


def test_a_second_run_beside_the_first_is_refused_and_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    long_manifest(tmp_path, steps=40_000)  # it must outlast the start of the second, and is ended by hand
    run = tmp_path / "runs/tiny"
    first = start_costopt(tmp_path, "run", "job.yaml")
    wait_until(lambda: list(run.glob("replicas/*/supervisor.json")))
    beside = costopt(tmp_path, "run", "job.yaml")
    assert beside.returncode == 2
    assert f"is being run by process {first.pid}" in beside.stderr
    first.send_signal(signal.SIGINT)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=800)
    assert "stopping now" in output
    assert first.returncode in (130, 143), output
    assert processes_below(run) == []


def test_a_command_of_the_users_own_is_run_by_every_rank(tmp_path: Path) -> None:
    code = "import os, pathlib; pathlib.Path('rank-' + os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])"
    train = {"numNodes": 2, "command": [sys.executable, "-c", code]}
    write_command_manifest(tmp_path, train)
    answer = costopt(tmp_path, "run", "job.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert {path.name: path.read_text() for path in tmp_path.glob("rank-*")} == {"rank-0": "2", "rank-1": "2"}


def test_a_job_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    write_command_manifest(tmp_path, {"numNodes": 1, "command": [sys.executable, "-c", "print('working')"]})
    reader, writer = os.pipe()
    os.close(reader)
    command = program("run", "job.yaml")
    answer = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=writer, timeout=240, check=False)
    os.close(writer)
    assert answer.returncode == 0
    assert RunFolder(tmp_path / "runs/tiny").status().stages[0].state == "Succeeded"


def write_command_manifest(folder: Path, train: dict[str, Any]) -> None:
    node = {"requests": {"cpu": 1, "memory": "1Gi"}}
    document = {
        "apiVersion": "costopt.dev/v1alpha1",
        "kind": "CostOptJob",
        "metadata": {"name": "tiny"},
        "spec": {"train": {"resourcesPerNode": node, **train}},
    }
    (folder / "job.yaml").write_text(json.dumps(document))


def test_the_live_panel_appears_on_a_terminal(tmp_path: Path) -> None:
    small = {**TRAINING, "totalSteps": 60}
    write_manifest(tmp_path, train={"numNodes": 1, "recipe": small}, compress=[])
    outer, inner = os.openpty()
    process = subprocess.Popen(
        program("run", "job.yaml"), cwd=tmp_path, env=environment(), stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    seen = bytearray()
    while chunk := read_terminal(outer):
        seen += chunk
    assert process.wait(240) == 0
    text = seen.decode(errors="replace")
    assert "cost so far" in text
    assert "train: done" in text
    assert "Succeeded. Run folder: runs/tiny" in text


def read_terminal(descriptor: int) -> bytes:
    """What the terminal shows next; nothing once all its programs have ended."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
