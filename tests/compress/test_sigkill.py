"""A process that makes a variant dies by SIGKILL in the midst of a training, and the next one goes on from there."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from builders.compress import pruned, quantized, replica, weight_only
from builders.steps import StepStage
from builders.trainer import start_as_ranks, wait_for
from builders.variant_process import KILL_AT
from costopt.schema.compression import Accept, Auto, Step, Variant
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.compress.table import STEPS
from costopt_trainer.tables import row

TRAINED = 5
RATE = {"learningRate": "1e-3"}
KILLED: dict[str, tuple[Step, int, int]] = {
    "Quantize": (quantized("Int8WeightOnly", fine_tune_steps=TRAINED, learning_rate="1e-3"), 3, TRAINED),
    "Prune": (
        pruned("Structured", 50, rounds=2, fine_tune_steps=TRAINED, learning_rate="1e-3"),
        TRAINED + 3,
        2 * TRAINED,
    ),
    "Distill": (
        Step.model_validate({"type": "Distill", "distill": {"student": "EveryOtherLayer", "steps": TRAINED, **RATE}}),
        3,
        TRAINED,
    ),
    "FineTune": (Step.model_validate({"type": "FineTune", "fineTune": {"steps": TRAINED, **RATE}}), 3, TRAINED),
}
"""A step of each row that trains, behind which of all its optimizer steps it is killed, and how many there are. Every
second one is saved: it is killed one step behind a checkpoint; Prune in its second round."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> StepStage:
    return StepStage.made("DecoderLM", tmp_path_factory.mktemp("stage"))


def ran(settings: ReplicaSettings, folder: Path, *storages: StepStage, **environment: str) -> tuple[int, str]:
    """Exit code and log of a process that makes the variant in each of these."""
    file = folder / "settings.json"
    file.write_text(settings.model_dump_json(by_alias=True))
    program = ["builders.variant_process", str(file), *(str(stage.storage) for stage in storages)]
    said: list[str] = []
    (code,), (error,) = wait_for(start_as_ranks(program, 1, **environment), said=said)
    assert "Traceback" not in error, error
    return code, said[0]


def artifact(stage: StepStage, name: str) -> dict[str, bytes]:
    folder = stage.storage / "artifacts" / name
    if not folder.exists():
        folder = stage.storage / "artifacts/rejected" / name
    return {file: (folder / file).read_bytes() for file in ("model.safetensors", "config.json")}


def test_each_row_that_trains_is_killed_here() -> None:
    assert KILLED.keys() == {word for word in STEPS if row(STEPS, word).trains} - {"External"}  # as its package does


@pytest.mark.slow
@pytest.mark.parametrize("word", KILLED)
def test_a_killed_step_goes_on_from_its_checkpoint_to_the_bits_of_one_that_was_not(
    word: str, stage: StepStage, tmp_path: Path
) -> None:
    step, kill_at, steps = KILLED[word]
    settings = replica(stage.recipe, step)
    whole, killed = (stage.copied(tmp_path / name) for name in ("whole", "killed"))
    code, said = ran(settings, tmp_path, whole, killed, **{KILL_AT: str(kill_at)})
    assert code == -signal.SIGKILL
    assert f"whole: {steps} steps" in said
    assert not list((killed.storage / "artifacts").glob("**/small")), "nothing half made has its name"

    code, said = ran(settings, tmp_path, killed)
    assert code == 0
    assert f"killed: {steps - kill_at + 1} steps" in said, "the one behind the checkpoint is all that is taken again"
    assert f"steps 3 to {TRAINED} on 1 rank" in said
    made = artifact(killed, "small")
    assert made == artifact(whole, "small")
    assert made["model.safetensors"] != artifact(stage, "model")["model.safetensors"]
    assert not (killed.storage / "checkpoints/variants/small").exists(), "nothing is kept of what is done"


@pytest.mark.slow
def test_a_killed_search_repeats_no_finished_trial_and_goes_on_in_the_midst_of_the_one_that_was_not(
    stage: StepStage, tmp_path: Path
) -> None:
    """Trials of 4 optimizer steps, at last 12: the third trial, the second that trains, is killed behind its third."""
    loose = Accept(max_quality_drop_percent="90", min_speedup="0")
    searched = Auto(minimize="Bytes", trials=4, fine_tune_steps=12)
    variant = Variant(name="best", auto=searched, accept=loose, measure_seconds=6)
    settings = replica(stage.recipe, weight_only()).model_copy(update={"variant": variant})
    whole, killed = (stage.copied(tmp_path / name) for name in ("whole", "killed"))
    code, said = ran(settings, tmp_path, whole, killed, **{KILL_AT: "7"})
    assert code == -signal.SIGKILL
    assert "whole: 20 steps" in said

    code, said = ran(settings, tmp_path, killed)
    assert code == 0
    assert said.count("as before the restart") == 2
    assert "steps 3 to 4 on 1 rank" in said
    assert "killed: 14 steps" in said, "two of the trial, twelve of the variant in full"
    assert artifact(killed, "best") == artifact(whole, "best")

    def tried(stage: StepStage) -> list[Any]:
        report = json.loads((stage.storage / "artifacts/best/report.json").read_text())
        return [
            (trial["recipe"], trial["rung"], trial["measured"]["validationLoss"], trial["measured"]["sizeBytes"])
            for trial in report["tried"]
        ]

    assert tried(killed) == tried(whole)
    assert len(tried(killed)) == 4
