"""Checkpoints of compression steps that train: each step's own, thrown away when the variant is made."""

import hashlib
import json
from pathlib import Path
from typing import Any

from costopt import names
from costopt.hostile import Hostile, real_folder
from costopt.schema.compression import Variant
from costopt_trainer.storage.checkpoint_files import remove, storage_folder
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ProcessGroup

KEPT = 2
"""Newest checkpoints kept; a damaged newest one has one before it."""


class StepCheckpoints:
    """Where the steps of one variant keep theirs.

    Their folder is named by all that they follow from (the trained weights, the recipe, the data's fingerprint, the
    steps so far), so that none is ever taken for another's. `of` must be called by all ranks.
    """

    def __init__(self, storage: Path, variant: Variant, made_from: list[Any], *, group: ProcessGroup, job: str) -> None:
        """`made_from`: what the variant follows from besides its steps, JSON data."""
        self._parents = (storage / names.CHECKPOINTS_DIR, storage / names.CHECKPOINTS_DIR / "variants")
        self._folder = self._parents[-1] / variant.name
        self._variant = variant
        self._made_from = made_from
        self._group = group
        self._job = job

    def of(self, number: int) -> Checkpoints:
        """Those of the step of this number, from 1, ready to be read and written.

        Raises NotRetryable("CheckpointNotWritable").
        """
        steps = [step.to_plain() for step in self._variant.steps[:number]]
        made_from = json.dumps([*self._made_from, steps], sort_keys=True).encode()
        folder = self._folder / f"{number}-{hashlib.sha256(made_from).hexdigest()[:16]}"
        for parent in (*self._parents, self._folder):
            storage_folder(parent)  # none of them may be a link to another place
        checkpoints = Checkpoints(folder, job=self._job, keep_last=KEPT, gang=self._group)
        checkpoints.prepare()
        return checkpoints

    def remove(self) -> None:
        """Throw away all that the steps have kept, also under other settings."""
        try:
            for parent in self._parents:
                real_folder(parent)  # a link to another place is not followed
        except (OSError, Hostile):
            return
        remove(self._folder)
