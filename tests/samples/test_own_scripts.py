"""Own scripts under costopt: killed with SIGKILL, told to stop with SIGTERM, and resumed each time; with the progress,
causes and bill of a recipe. The DDP script runs on two ranks under the real launcher; the other two in the launcher's
place, whose imports would take longer than they do."""

import importlib.util
import os
import shutil
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.local import assert_nothing_is_left, price_book, processes_below
from costopt.local.replica_folder import ReplicaFolder
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner, TurnResult
from costopt.render.manifests import manifests
from costopt.schema.document import read_documents
from costopt.schema.job import CostOptJob
from costopt.schema.replica import EXIT_PREEMPTED
from costopt.schema.status import JobStatus
from costopt_trainer.session.complete import newest_complete

SCRIPTS = Path(__file__).resolve().parents[2] / "manifests/samples/own-scripts"
NEEDS = {"ddp": "torch", "hugging_face": "accelerate", "lightning": "lightning"}


@pytest.mark.parametrize("script", NEEDS)
def test_its_manifest_is_valid_and_can_be_drawn_for_a_cluster(script: str) -> None:
    documents, mistakes = read_documents((SCRIPTS / f"{script}.yaml").read_bytes(), script)
    assert (len(documents), mistakes) == (1, [])
    assert [child["kind"] for child in manifests(job_of(script), "train", 0)] == ["NetworkPolicy", "ConfigMap", "Job"]


def test_each_script_beside_the_samples_has_its_manifest() -> None:
    named = {(job_of(path.stem).spec.train.command or [""])[-1] for path in SCRIPTS.glob("*.yaml")}
    assert named == {path.name for path in SCRIPTS.glob("*.py")}
    assert {path.stem for path in SCRIPTS.glob("*.yaml")} == NEEDS.keys()


def job_of(script: str, **spec: Any) -> CostOptJob:
    plain = yaml.safe_load((SCRIPTS / f"{script}.yaml").read_text())
    plain["spec"] |= {"restarts": {"backoffSeconds": 0}, "priceBookName": "sample", **spec}
    return CostOptJob.model_validate(plain)


def rank_of(run: Path, program: str) -> int:
    """Process id of the last rank of the replica that runs now."""
    found = {}
    for pid in processes_below(run):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if arguments[1:2] == [program.encode()]:
            found[max((variable for variable in variables if variable.startswith(b"RANK=")), default=b"")] = pid
    return found[max(found)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("script", NEEDS)
def test_a_script_that_is_killed_and_stopped_goes_on_from_its_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    if importlib.util.find_spec(NEEDS[script]) is None:
        pytest.skip(f"needs {NEEDS[script]}")
    shutil.copytree(SCRIPTS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    # Slow reading puts more than a second, and so a report, between two checkpoints on any machine.
    for name, value in {"STEPS": "1000000", "SAVE_EVERY": "60", "READING_SECONDS": "0.02"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path))
    run, tiny = RunFolder(tmp_path / "run"), job_of(script)
    program = (tiny.spec.train.command or [""])[-1]
    argv = () if script == "ddp" else (sys.executable, program)
    run.create()
    run.claim(tiny)
    runner = Runner(run, tiny, price_book(), argv=argv)
    killed: list[int] = []

    def disturb(turn: TurnResult) -> None:
        told = turn.status.progress
        attempt = turn.status.stages[0].attempt
        if told is None or told.metered is None or told.last_checkpoint_step is None:
            return
        if attempt == 0 and not killed and told.metered.since_checkpoint > 0:
            killed.append(told.last_checkpoint_step)
            os.kill(rank_of(run.path, program), signal.SIGKILL)
        elif attempt == 1 and told.resumed_from_step is not None and told.last_checkpoint_step > told.resumed_from_step:
            runner.suspend_requested = True

    stopped = runner.run(disturb)
    assert (stopped.stages[0].failures, stopped.stages[0].disruptions) == (1, 0), stopped.stages[0]
    told = stopped.progress
    assert told is not None
    assert told.last_checkpoint_step == told.step, "what was done when it was told to stop is saved"
    assert told.resumed_from_step is not None
    assert told.resumed_from_step >= killed[0]
    end = ReplicaFolder(run.path / f"replicas/{tiny.metadata.name}-train-a1-0").end()
    assert end is not None
    assert end.exit_code == EXIT_PREEMPTED

    assert newest_in(run.path / "checkpoints", script) == told.step, "and is what the next attempt will find"
    finished = stopped
    if script == "ddp":  # the imports of the others are too long to wait for a third time
        monkeypatch.setenv("STEPS", str(told.step + 3))
        finished = Runner(run, tiny, price_book(), argv=argv).run()
        assert finished.stages[0].state == "Succeeded", finished.stages[0]
        last = finished.progress
        assert last is not None
        assert (last.step, last.total_steps, last.resumed_from_step) == (told.step + 3, told.step + 3, told.step)
        assert (run.path / "artifacts/model/weights.pt").stat().st_size > 0
    assert finished.progress is not None
    assert finished.progress.loss is not None
    assert_bill(finished)
    assert_nothing_is_left(run.path)


def newest_in(folder: Path, script: str) -> int:
    """Step of the newest checkpoint that a script's next attempt would take."""
    if script == "hugging_face":
        newest, passed_over = newest_complete(folder, "checkpoint-")
        assert newest is not None
        assert passed_over == []
        return newest[0]
    if script == "lightning":
        return max(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.ckpt"))
    return int(importlib.import_module("torch").load(folder / "newest.pt")["step"])


def assert_bill(status: JobStatus) -> None:
    """All causes of a recipe, priced."""
    assert status.bill is not None
    spent = {
        cause: Decimal() for cause in ("Startup", "Recovery", "Productive", "DataWait", "Checkpoint", "LostProgress")
    }
    for line in status.bill.lines:
        assert line.list_cost is not None
        if line.cause in spent:
            spent[line.cause] += Decimal(line.list_cost)
    assert all(cost > 0 for cost in spent.values()), spent
