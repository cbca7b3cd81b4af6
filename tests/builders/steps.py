"""Compression steps with all that a step may use: a trained model, its data, checkpoints; in this process.

    StepStage    a storage with a trained model; made once, copied for each test
    killed_at, stopped_at    what ends a step's training in its midst

As a program, this file is one rank that applies steps: see `main`.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from builders.compress import train_stage
from costopt.schema.compression import Step, Variant
from costopt.schema.recipe import Recipe
from costopt_trainer.compress import fitting
from costopt_trainer.compress.measure import measured_batch
from costopt_trainer.compress.origin import of_recipe
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.step_checkpoints import StepCheckpoints
from costopt_trainer.compress.table import apply_steps, step_of
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.phases import VOICE, Pieces
from costopt_trainer.training.process_group import ALONE, ProcessGroup, join_process_group
from costopt_trainer.training.stopping import Stop

KILL_AT = "KILL_AT"
"""A rank kills itself after this step of a training within a step, in the storage that is called so."""


class Killed(BaseException):
    """In place of SIGKILL, which would end this process: nothing catches it."""


@dataclass(frozen=True)
class StepStage:
    """A storage that holds a trained model."""

    storage: Path
    recipe: Recipe

    @classmethod
    def made(cls, model_type: str, storage: Path) -> "StepStage":
        """Briefly trained; every second step is saved before the next one, so that a kill finds it."""
        recipe = train_stage(model_type, storage)
        saving = recipe.checkpointing.model_copy(update={"every_steps": 2, "mode": "Sync"})
        return cls(storage, recipe.model_copy(update={"checkpointing": saving}))

    def copied(self, folder: Path) -> "StepStage":
        """The same in a folder of its own."""
        return StepStage(Path(shutil.copytree(self.storage, folder)), self.recipe)

    def with_recipe(self, **changes: Any) -> "StepStage":
        """The same with another recipe."""
        return StepStage(self.storage, self.recipe.model_copy(update=changes))

    def saved_rarely(self) -> "StepStage":
        """The same with checkpoints at the end alone, for what is not killed."""
        saving = self.recipe.checkpointing.model_copy(update={"every_steps": 1000})
        return self.with_recipe(checkpointing=saving)

    def model(self) -> LayeredModel:
        """The trained model, anew."""
        return of_recipe(self.recipe, self.storage).load()

    def runs(
        self,
        steps: Sequence[Step],
        said: list[str] | None = None,
        stop: Stop | None = None,
        group: ProcessGroup = ALONE,
    ) -> Callable[[int, Pieces], StepRun]:
        """What each of `steps` may use, as `make_variant` gives it."""
        origin = of_recipe(self.recipe, self.storage)
        variant = Variant(name="small", steps=list(steps))
        kept = StepCheckpoints(self.storage, variant, origin.inputs, group=group, job="tiny")
        example = measured_batch(origin.held_out)[:1]

        def run_of(number: int, pieces: Pieces) -> StepRun:
            return StepRun(
                example=example,
                pieces=pieces,
                teacher=origin.load,
                recipe=origin.recipe,
                data=origin.held_out.data,
                group=group,
                stop=stop or Stop(),
                checkpoints=kept.of(number) if step_of(variant.steps[number - 1]).trains else None,
                number=number,
                say=(lambda _line: None) if said is None else said.append,
                shape=origin.shape,
            )

        return run_of

    def run(self, said: list[str] | None = None, stop: Stop | None = None) -> StepRun:
        """What a step that trains may use, for tests of `fit` alone."""
        step = Step.model_validate({"type": "FineTune", "fineTune": {"steps": 1}})
        return self.runs([step], said, stop)(1, Pieces(VOICE, "FineTuning", aloud=False))

    def applied(
        self, *steps: Step, said: list[str] | None = None, group: ProcessGroup = ALONE
    ) -> tuple[LayeredModel, list[str]]:
        """The trained model after `steps`, and their lines."""
        model = self.model()
        return model, apply_steps(model, steps, self.runs(steps, said, group=group))


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training within a step is killed after this step of it."""
    _after(step, monkeypatch, _kill)


def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training within a step hears SIGTERM after this step of it."""
    _after(step, monkeypatch, _stop)


def _kill(_training: fitting.StepTraining) -> None:
    raise Killed


def _stop(training: fitting.StepTraining) -> None:
    training.stop("SIGTERM")


def _after(step: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[fitting.StepTraining], None]) -> None:
    take_step = fitting.StepTraining.take_step

    def take_and_act(self: fitting.StepTraining, *arguments: Any) -> None:
        take_step(self, *arguments)
        if self.step == step:
            act(self)

    monkeypatch.setattr(fitting.StepTraining, "take_step", take_and_act)


def main() -> None:
    """As one rank of several: apply steps to the model of each storage named, one after another."""
    steps = [Step.model_validate(plain) for plain in json.loads(sys.argv[1])]
    recipe = Recipe.model_validate_json(sys.argv[2])
    group = join_process_group()
    for storage in map(Path, sys.argv[3:]):
        stage, said = StepStage(storage, recipe), list[str]()
        kill_at = os.environ.get(KILL_AT) if storage.name == "killed" else None
        with pytest.MonkeyPatch.context() as patch:
            if kill_at is not None:
                _after(int(kill_at), patch, lambda _training: os.kill(os.getpid(), signal.SIGKILL))
            model, lines = stage.applied(*steps, said=said, group=group)
        print(*lines, *said, sep="\n", flush=True)
        if group.rank == 0:
            save_file(model.state_dict(), storage / "state.safetensors")
    group.leave()


if __name__ == "__main__":
    main()
