"""What a kill would leave at each moment of a training: copies of its storage, taken while it trains."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from builders.trainer import train_here
from costopt.schema.recipe import Recipe
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.training import Training

_ACTS = ((Training, "take_step"), (Training, "save"), (Training, "evaluate"), (Checkpoints, "add_evaluation"))


def train_and_keep_moments(settings: Recipe, storage: Path, moments: Path) -> list[Path]:
    """Train to the end; the storage as it was after each step, save and evaluation, and right before an evaluation's
    figures were written, in order, as far as there was a checkpoint."""
    taken: list[Path] = []

    def keep() -> None:
        if any((storage / "checkpoints").glob("step-*")):
            copy = moments / f"{len(taken):03d}"
            shutil.copytree(storage, copy)
            taken.append(copy)

    def watched(act: Any, *, before: bool) -> Any:
        def acting(*arguments: Any, **named: Any) -> Any:
            if before:
                keep()
            result = act(*arguments, **named)
            if not before:
                keep()
            return result

        return acting

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _ACTS:
            patch.setattr(owner, name, watched(getattr(owner, name), before=owner is Checkpoints))
        assert train_here(settings, storage) == 0
    return taken
