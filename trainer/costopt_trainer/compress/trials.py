"""Trials that are finished, so that none is repeated after a restart: a file in the storage.

TrialMemory    what was found of each trial, by all that decides it

One line of JSON for each, {"key": ..., "trial": ...}, in the folder of the variant's checkpoints. The key is a hash of
the trained weights, the data, the machine, the settings and the steps, as with StepCheckpoints: what was found under
other circumstances is not asked for. Anybody may have written the file: of a line only figures are taken, within the
bounds of their schema; which steps are published is never read from it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from costopt.files import write_atomically
from costopt.hostile import Hostile, parse_json, read_file
from costopt.schema.variant_details import MAX_TRIALS, Trial

FILE = "trials.jsonl"
MAX_BYTES = 2**20


class TrialMemory:
    """The trials of one variant."""

    def __init__(self, folder: Path, made_from: list[Any]) -> None:
        """`folder` is there, and no link; `made_from`: all inputs of every trial, JSON data."""
        self._file = folder / FILE
        self._made_from = made_from
        self._known = self._read()

    def key(self, *own: Any) -> str:
        """Of a trial that `own`, JSON data, tells from the others."""
        return hashlib.sha256(json.dumps([*self._made_from, *own], sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> Trial | None:
        """What was found; None if the trial did not end."""
        return self._known.get(key)

    def add(self, key: str, trial: Trial) -> None:
        """A trial is finished. Raises OSError."""
        self._known[key] = trial
        newest = list(self._known.items())[-MAX_TRIALS:]
        lines = [json.dumps({"key": key, "trial": trial.to_plain()}) for key, trial in newest]
        write_atomically(self._file, ("\n".join(lines) + "\n").encode())

    def _read(self) -> dict[str, Trial]:
        try:
            content = read_file(self._file, max_bytes=MAX_BYTES)
        except (OSError, Hostile):
            return {}
        known: dict[str, Trial] = {}
        for line in content.splitlines()[:MAX_TRIALS]:
            try:
                data = parse_json(line)
                known[str(data["key"])] = Trial.model_validate(data["trial"])
            except (Hostile, ValidationError, KeyError, TypeError):
                continue  # such a trial is done again
        return known
