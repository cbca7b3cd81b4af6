"""A process that makes a variant in each storage named, one after another, and dies by SIGKILL where it is told to.

    python -m builders.variant_process SETTINGS.json STORAGE...

It prints how many optimizer steps it took for each. Measuring is short and tries no graph, and no fresh process looks
at the artifact. `auto` tries the lists of steps in FEW.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from builders.compress import pruned, weight_only
from costopt import names
from costopt.schema.replica import ReplicaSettings
from costopt_trainer.compress import auto, candidates, engines, fitting, making, measure, run
from costopt_trainer.compress.candidates import WHOLE, Candidate

KILL_AT = "KILL_AT"
"""It kills itself after so many optimizer steps, counted over all trainings in the storage that is called `killed`."""
HEALED = pruned("Structured", 50, fine_tune_steps=WHOLE)
FEW = (
    Candidate("int8 weights", (weight_only(),)),
    Candidate("pruned", (HEALED,)),
    Candidate("pruned, int8 weights", (HEALED, weight_only())),
)


def make(settings: ReplicaSettings, storage: Path, kill_at: int | None) -> int:
    """Make the variant; returns the optimizer steps that were taken."""
    taken, take_step = 0, fitting.StepTraining.take_step

    def counting(self: fitting.StepTraining, *arguments: Any) -> None:
        nonlocal taken
        take_step(self, *arguments)
        taken += 1
        if taken == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(names.ENV_STORAGE_DIR, str(storage))
        patch.setattr(fitting.StepTraining, "take_step", counting)
        run.main(settings)
    return taken


def main() -> None:
    """See above."""
    settings = ReplicaSettings.model_validate_json(Path(sys.argv[1]).read_text())
    kill_at = os.environ.get(KILL_AT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "MIN_RUNS", 3)
        patch.setattr(measure, "MAX_RUNS", 3)
        patch.setattr(measure, "DECODING_BUDGET_SECONDS", 0.1)
        patch.setattr(auto, "LEAST_SECONDS", 0.5)
        patch.setattr(making, "verify_in_fresh_process", lambda *_: None)
        patch.setattr(engines, "lacking", lambda: "it is not tried here")
        patch.setattr(candidates, "TABLE", FEW)
        for storage in map(Path, sys.argv[2:]):
            taken = make(settings, storage, int(kill_at) if kill_at and storage.name == "killed" else None)
            print(f"{storage.name}: {taken} steps", flush=True)


if __name__ == "__main__":
    main()
