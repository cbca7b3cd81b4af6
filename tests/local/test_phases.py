"""A real job on this machine: slow phases are told of and not taken for stalls, start-up has its limit."""

import random
from pathlib import Path

import pytest

from builders.local import RECIPE, recipe_job
from costopt.local.run_folder import RunFolder
from costopt.local.runner import Runner, TurnResult
from costopt.schema.job import CostOptJob
from costopt.schema.status import JobStatus

pytestmark = pytest.mark.slow


def slow_text(folder: Path, num_bytes: int) -> Path:
    """Many different words, which take long to learn."""
    letters = random.Random(2).randbytes(num_bytes // 2).hex()
    path = folder / "text.txt"
    path.write_text(" ".join(letters[at : at + 7] for at in range(0, num_bytes, 7)))
    return path


def run(folder: Path, job: CostOptJob) -> tuple[JobStatus, list[str]]:
    """The job's last status, and its phases in the order in which they were told."""
    run_folder = RunFolder(folder / "run")
    run_folder.create()
    run_folder.claim(job)
    told: list[str] = []

    def on_look(look: TurnResult) -> None:
        for stage in look.status.stages:
            if stage.phase is not None and stage.phase not in told:
                told.append(stage.phase)

    return Runner(run_folder, job, None).run(on_look), told


def slow_job(text: Path, **restarts: int) -> CostOptJob:
    data = {"type": "Text", "text": {"path": str(text)}, "tokenizer": {"type": "BPE", "vocabularySize": 8000}}
    recipe = {**RECIPE, "data": data, "totalSteps": 3, "evaluation": {"maxSamples": 8}}
    return recipe_job(train={"numNodes": 1, "recipe": recipe}, compress=[], restarts={"maxFailures": 0, **restarts})


def test_a_text_that_takes_about_as_long_as_the_stall_timeout_is_tokenized_in_peace(tmp_path: Path) -> None:
    status, told = run(tmp_path, slow_job(slow_text(tmp_path, 4_000_000), stallTimeoutSeconds=10))
    assert status.failure is None, status.failure
    assert status.stages[0].state == "Succeeded"
    assert status.stages[0].phase is None
    assert any(phase.startswith("learning the tokenizer") for phase in told)


def test_a_start_up_longer_than_its_limit_fails_and_names_its_phase(tmp_path: Path) -> None:
    status, _ = run(tmp_path, slow_job(slow_text(tmp_path, 40_000_000), startupTimeoutSeconds=10))
    assert status.failure is not None
    assert status.failure.reason == "StartupTimedOut"
    assert status.failure.message.startswith("train took no step within startupTimeoutSeconds (10 s); its last phase ")
