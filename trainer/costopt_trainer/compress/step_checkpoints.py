"""Checkpoints of compression steps that train: separate for each step, deleted when the variant is made."""

import hashlib
import json
from pathlib import Path
from typing import Any

from costopt import names
from costopt.hostile import Hostile, real_folder
from costopt.schema.compression import Variant
from costopt_trainer.storage.folders import remove, storage_folder
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ProcessGroup

KEPT = 2
"""Newest checkpoints kept; behind a damaged newest one there is another."""


class StepCheckpoints:
    """Where the steps of one variant keep their checkpoints.

    The folder's name depends on all inputs (the trained weights, the recipe, the data's fingerprint, the steps so
    far), so that none is ever taken for another's. All ranks must call `of`.
    """

    def __init__(self, storage: Path, variant: Variant, made_from: list[Any], *, group: ProcessGroup, job: str) -> None:
        """`made_from`: the variant's inputs besides its steps, JSON data."""
        self._parents = (storage / names.CHECKPOINTS_DIR, storage / names.CHECKPOINTS_DIR / "variants")
        self._folder = self._parents[-1] / variant.name
        self._variant = variant
        self._made_from = made_from
        self._group = group
        self._job = job

    def of(self, number: int) -> Checkpoints:
        """Those of the step with this number, from 1, ready for reading and writing.

        Raises NotRetryable("CheckpointNotWritable").
        """
        steps = [step.to_plain() for step in self._variant.steps[:number]]
        made_from = json.dumps([*self._made_from, steps], sort_keys=True).encode()
        folder = self._folder / f"{number}-{hashlib.sha256(made_from).hexdigest()[:16]}"
        self.folder()
        checkpoints = Checkpoints(folder, job=self._job, keep_last=KEPT, gang=self._group)
        checkpoints.prepare()
        return checkpoints

    def folder(self) -> Path:
        """The folder of all that is kept for the variant, made if need be. Raises as `storage_folder`."""
        for parent in (*self._parents, self._folder):
            storage_folder(parent)  # none of them may be a link to another place
        return self._folder

    def remove(self) -> None:
        """Delete all that is kept for the variant, also checkpoints of other settings."""
        if self._is_there(*self._parents):
            remove(self._folder)

    def remove_steps(self) -> None:
        """Delete all checkpoints of steps, also those of other settings, and nothing else."""
        if self._is_there(*self._parents, self._folder):
            for folder in self._folder.iterdir():
                if folder.is_dir() and not folder.is_symlink():
                    remove(folder)

    def _is_there(self, *folders: Path) -> bool:
        """Whether these are folders; a link to another place is not followed."""
        try:
            for folder in folders:
                real_folder(folder)
        except (OSError, Hostile):
            return False
        return True
