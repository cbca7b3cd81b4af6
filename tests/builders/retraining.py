"""A compression step that trains, in place of the table's Prune; and a program that makes a variant with it.

It takes `prune.percent` steps of plain gradient descent, each rank on its own samples, and keeps a checkpoint of every
second step.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from builders.compress import StepInPlaceOfPrune
from costopt.schema.compression import Prune
from costopt.schema.replica import EXIT_PREEMPTED, ReplicaSettings
from costopt_trainer.compress.step import StepRun
from costopt_trainer.data import sample_indices
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.training.snapshot import Snapshot

STOP_AT = "STOP_AT"
"""The rank is told to end before this step."""
BATCH = 4


class RetrainStep(StepInPlaceOfPrune):
    """Fulfils CompressionStep."""

    trains = True

    def apply(self, model: nn.Module, settings: Prune, run: StepRun) -> str:
        assert run.data is not None
        assert run.checkpoints is not None
        assert run.teacher is not None
        teacher, group = run.teacher(), run.group
        begun = run.checkpoints.newest() or 0
        if begun:
            model.load_state_dict(run.checkpoints.read_model(begun))
        question = run.may_end()
        for step in range(begun, settings.percent):
            if os.environ.get(STOP_AT) == str(step):
                os.kill(os.getpid(), signal.SIGTERM)
            while os.environ.get(STOP_AT) == str(step) and not run.stop.asked:
                pass
            if question.all_end():
                self._save(step, model, run)
                raise SystemExit(EXIT_PREEMPTED)
            position = (step * group.world_size + group.rank) * BATCH
            numbers = sample_indices(seed=0, position=position, count=BATCH, num_samples=run.data.num_train_samples)
            inputs, targets = run.data.train_batch(numbers)
            with torch.no_grad():
                told = teacher(inputs).softmax(-1)
            logits = model(inputs)
            distance = nn.functional.cross_entropy(logits.flatten(0, -2), told.flatten(0, -2))
            (loss_sum(logits, targets) / targets.numel() + distance).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(group.sum(parameter.grad), alpha=0.05 / group.world_size)
                        parameter.grad = None
            run.pieces.done(step + 1, settings.percent)
            if (step + 1) % 2 == 0:
                self._save(step + 1, model, run)
        return f"Retrain: steps {begun + 1} to {settings.percent} on {group.world_size} ranks"

    def _save(self, step: int, model: nn.Module, run: StepRun) -> None:
        assert run.checkpoints is not None
        state: dict[str, Any] = {"step": step}
        weights = model.state_dict() if run.group.rank == 0 else {}
        run.checkpoints.save(step, Snapshot(model=weights, optimizer={}, random={}, state=state))


STEP = RetrainStep()


def main() -> None:
    """Make the variant that the settings in a file ask for, of the model in a storage."""
    from costopt_trainer import phases
    from costopt_trainer.compress import measure, run, table
    from costopt_trainer.shutdown import leave_at_once

    settings, storage = Path(sys.argv[1]), sys.argv[2]
    table.STEPS["Prune"] = "builders.retraining:STEP"
    measure.MAX_RUNS = measure.MIN_RUNS
    phases.LINE_EVERY_SECONDS = 0.001  # reports every piece
    phases.VOICE.speak_up(aloud=os.environ["RANK"] == "0")
    os.environ["COSTOPT_STORAGE_DIR"] = storage
    try:
        run.main(ReplicaSettings.model_validate_json(settings.read_text()))
    except SystemExit as end:
        leave_at_once(int(str(end.code)))
    leave_at_once(0)


if __name__ == "__main__":
    main()
