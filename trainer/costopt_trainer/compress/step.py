"""What a compression step is, and what it may use.

CompressionStep   one row of the table
StepRun           the run that it is a part of: data, teacher, ranks, stop, checkpoints of its own
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from costopt.schema.recipe import Recipe
from costopt.schema.replica import PhaseName
from costopt_trainer.data import TrainingData
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.phases import Pieces
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ALONE, ProcessGroup
from costopt_trainer.training.stopping import Question, Stop


@dataclass(frozen=True)
class StepRun:
    """What a step may use. One that only changes weights needs `example` at most."""

    example: Tensor
    """A batch of inputs, to trace layers with."""
    pieces: Pieces
    """`pieces.done(3, 10)` after each piece of work: a step that falls silent is taken for stalled."""
    teacher: Callable[[], nn.Module] | None = None
    """Loads the trained model that the variant is made from, frozen, in eval mode, on the CPU."""
    recipe: Recipe | None = None
    """What the model was trained with."""
    data: TrainingData | None = None
    """What it was trained on."""
    group: ProcessGroup = ALONE
    """This rank and the others; all apply the step, and all must end with the same weights."""
    stop: Stop = field(default_factory=Stop)
    """Whether this rank was asked to end."""
    checkpoints: Checkpoints | None = None
    """Prepared, and of this step alone: nothing another step, variant, model or setting wrote is there."""

    def may_end(self) -> Question:
        """From now on a stop is no longer the end at once: ask `all_end()` of the result at each micro-batch, on all
        ranks; when it says so, save a checkpoint and raise SystemExit(EXIT_PREEMPTED)."""
        self.stop.in_steps = True
        return Question(self.group, self.stop)


class CompressionStep(Protocol):
    """How one type of step does its work. `settings` are those that the step's type names."""

    phase: PhaseName
    """What it tells while it works."""
    trains: bool
    """Whether it takes optimizer steps: then all ranks apply it, with data, teacher and checkpoints at hand."""

    def changes_shapes(self, settings: Any) -> bool:
        """Whether it makes matrices smaller: the artifact keeps their widths then."""

    def wants_speed(self, settings: Any) -> bool:
        """Whether being faster is what it is for: 8 bits for weights alone, or zeros, make a model only smaller."""

    def wants_compile(self, settings: Any) -> bool:
        """Whether its speed needs an engine with kernels for it, such as a compiler's."""

    def apply(self, model: LayeredModel, settings: Any, run: StepRun) -> str:
        """Change `model`, in place; returns a line for the log.

        Raises NotRetryable("InvalidSettings") if it cannot be applied to this model.
        """
