"""Gangs of real ranks that train several recipes, whole and in parts, and what one process makes of the same."""

from dataclasses import dataclass
from pathlib import Path

from builders.trainer import Run, losses, run, train_here, written
from costopt.schema.parallelism import Parallelism
from costopt.schema.recipe import Recipe


def alone(settings: Recipe) -> Recipe:
    """The same recipe for one rank."""
    return settings.model_copy(update={"parallelism": Parallelism()})


@dataclass(frozen=True)
class Trained:
    """Where a gang has left its trainings, each under its name; and the recipes."""

    folder: Path
    recipes: dict[str, Recipe]
    errors: list[str]

    def losses(self, name: str) -> dict[int, float]:
        return {step: float(loss) for step, loss in losses(self.folder / name).items()}

    def ends_in_the_same_bits(self, name: str) -> bool:
        """Whether the last checkpoint of the training in parts is that of the undisturbed one."""
        last = self.recipes[name].total_steps
        return written(self.folder / name, last) == written(self.folder / f"{name}-parts", last)

    def losses_of_one_process(self, name: str) -> dict[int, float]:
        """The same recipe with one rank."""
        storage = self.folder / f"{name}-alone"
        assert train_here(alone(self.recipes[name]), storage) == 0
        return {step: float(loss) for step, loss in losses(storage).items()}


def whole_and_in_parts(recipes: dict[str, Recipe], folder: Path) -> list[Run]:
    """Each training twice: undisturbed, and stopped after 3 steps and resumed."""
    runs = []
    for name, settings in recipes.items():
        runs.append(run(settings, folder / name))
        runs.append(run(settings, folder / f"{name}-parts", stop_after=3))
        runs.append(run(settings, folder / f"{name}-parts"))
    return runs


def whole_and_its_end(recipes: dict[str, Recipe], folder: Path) -> list[Run]:
    """Each training twice: undisturbed, and only what follows its checkpoint before the last."""
    runs = []
    for name, settings in recipes.items():
        runs.append(run(settings, folder / name))
        runs.append(run(settings, folder / f"{name}-parts", begins_as=str(folder / name)))
    return runs
