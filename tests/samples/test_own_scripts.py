"""Own scripts under costopt: killed with SIGKILL, told to stop with SIGTERM, and resumed each time; with the progress,
causes and bill of a recipe. The DDP script runs on two ranks under the real launcher; the others in the launcher's
place, and from a process that has imported their libraries, for that takes longer than they do."""

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.local import assert_nothing_is_left, price_book, processes_below
from builders.zygote import Zygote, zygote
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
MODEL = {
    "ddp": "weights.pt",
    "hugging_face": "model.safetensors",
    "accelerate": "model.safetensors",
    "lightning": "weights.pt",
}
NEEDS = {"ddp": "torch", "hugging_face": "accelerate", "accelerate": "accelerate", "lightning": "lightning"}
PREFIXES = {"hugging_face": "checkpoint-", "accelerate": "step-"}
"""What the names of checkpoints that are marked as whole begin with."""


@pytest.mark.parametrize("script", NEEDS)
def test_its_manifest_is_valid_and_can_be_drawn_for_a_cluster(script: str) -> None:
    documents, mistakes = read_documents((SCRIPTS / f"{script}.yaml").read_bytes(), script)
    assert (len(documents), mistakes) == (1, [])
    assert [child["kind"] for child in manifests(job_of(script), "train", 0)] == ["NetworkPolicy", "ConfigMap", "Job"]


def test_each_script_beside_the_samples_has_its_manifest() -> None:
    named = {(job_of(path.stem).spec.command or [""])[-1] for path in SCRIPTS.glob("*.yaml")}
    assert named == {path.name for path in SCRIPTS.glob("*.py")}
    assert {path.stem for path in SCRIPTS.glob("*.yaml")} == NEEDS.keys()


def job_of(script: str, **spec: Any) -> CostOptJob:
    plain = yaml.safe_load((SCRIPTS / f"{script}.yaml").read_text())
    plain["spec"] |= {"restarts": {"backoffSeconds": 0}, "priceBookName": "sample", **spec}
    return CostOptJob.model_validate(plain)


def rank_1_of(run: Path) -> int:
    """Process id of the second rank of the replica that runs now, which has become the script."""
    for pid in processes_below(run):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"RANK=1" in variables and b"ddp.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError("the script does not run on a rank 1")


@pytest.fixture(scope="module")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """What these scripts import takes a quarter of a minute of processor time, so it is imported but once."""
    for name in NEEDS.values():
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    modules = ["accelerate", "transformers.trainer", "transformers.models.llama.modeling_llama", "lightning.pytorch"]
    with zygote(tmp_path_factory.mktemp("z"), modules) as mother:
        yield mother


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_script_on_two_ranks_that_is_killed_and_stopped_goes_on_from_its_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="the trainer is not installed")
    assert_killed_and_resumed("ddp", (), lambda: rank_1_of(tmp_path / "run"), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("script", ["hugging_face", "accelerate", "lightning"])
def test_a_script_of_a_library_that_is_killed_and_stopped_goes_on_from_its_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mother: Zygote, script: str
) -> None:
    argv = mother.command((job_of(script).spec.command or [""])[-1])
    assert_killed_and_resumed(script, argv, mother.newest_child, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_folder_that_a_script_has_handed_over_is_compressed_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(NEEDS["hugging_face"], reason="the extra [hf] is not installed")
    shutil.copytree(SCRIPTS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for name, value in {"STEPS": "20", "SAVE_EVERY": "20"}.items():
        monkeypatch.setenv(name, value)
    run, tiny = RunFolder(tmp_path / "run"), job_of("hugging_face")
    run.create()
    run.claim(tiny)
    status = Runner(run, tiny, price_book()).run()
    assert [(stage.name, stage.state) for stage in status.stages] == [("train", "Succeeded"), ("int8", "Succeeded")]
    (report,) = status.variants
    trained = run.path / "artifacts/model/model.safetensors"
    assert report.baseline.size_bytes == trained.stat().st_size > report.measured.size_bytes
    assert (report.loss_per, report.validation_samples, report.reloaded) == ("Token", 64, True)
    assert float(report.measured.validation_loss) < 6
    assert (run.path / report.artifact / "costopt.json").exists()


def assert_killed_and_resumed(
    script: str,
    argv: tuple[str, ...],
    running: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`argv`: what runs in the launcher's place; empty: the launcher. `running`: the process to kill."""
    shutil.copytree(SCRIPTS, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    # Slow reading puts more than a second, and so a report, between two checkpoints on any machine.
    save_every = "60" if script == "ddp" else "15"  # the others read four samples for a step
    for name, value in {"STEPS": "1000000", "SAVE_EVERY": save_every, "READING_SECONDS": "0.02"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path))
    run, tiny = RunFolder(tmp_path / "run"), job_of(script, compress=[])
    run.create()
    run.claim(tiny)
    runner = Runner(run, tiny, price_book(), argv=argv)
    killed: list[int] = []

    def disturb(turn: TurnResult) -> None:
        told = turn.status.progress
        if told is None or told.metered is None or told.last_checkpoint_step is None:
            return
        if not killed and told.metered.since_checkpoint > 0:
            killed.append(told.last_checkpoint_step)
            os.kill(running(), signal.SIGKILL)
        elif told.resumed_from_step is not None and told.last_checkpoint_step > told.resumed_from_step:
            runner.suspend_requested = True

    stopped = runner.run(disturb)
    (stage,) = stopped.stages
    # The launcher starts its ranks anew in place; what runs in its place needs another attempt.
    assert (stage.in_place_restarts, stage.failures, stage.disruptions) == ((0, 1, 0) if argv else (1, 0, 0)), stage
    told = stopped.progress
    assert told is not None
    assert told.last_checkpoint_step == told.step, "what was done when it was told to stop is saved"
    assert told.resumed_from_step is not None
    assert told.resumed_from_step >= killed[0]
    end = ReplicaFolder(run.path / f"replicas/{tiny.metadata.name}-train-a{stage.attempt}-0").end()
    assert end is not None
    assert end.exit_code == EXIT_PREEMPTED

    assert newest_in(run.path / "checkpoints", script) == told.step, "and is what the next attempt will find"
    monkeypatch.setenv("STEPS", str(told.step + 3))
    finished = Runner(run, tiny, price_book(), argv=argv).run()
    assert finished.stages[0].state == "Succeeded", finished.stages[0]
    last = finished.progress
    assert last is not None
    assert (last.step, last.total_steps, last.resumed_from_step) == (told.step + 3, told.step + 3, told.step)
    assert last.loss is not None
    assert (run.path / "artifacts/model" / MODEL[script]).stat().st_size > 0
    there = {path.name for path in Path.cwd().iterdir()} - {"__pycache__"}
    assert there == {path.name for path in SCRIPTS.iterdir()} - {"__pycache__"}, "nothing is written beside the script"
    assert_bill(finished)
    assert_nothing_is_left(run.path)


def newest_in(folder: Path, script: str) -> int:
    """Step of the newest checkpoint that a script's next attempt would take."""
    if script in PREFIXES:
        newest, passed_over = newest_complete(folder, PREFIXES[script])
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
