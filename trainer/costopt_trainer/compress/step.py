"""What a compression step is, and what it may use.

CompressionStep   one row of the table
StepRun           the run that it is part of: data, teacher, ranks, stop, its own checkpoints
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from torch import Tensor

from costopt.schema.recipe import Recipe
from costopt.schema.replica import PhaseName
from costopt_trainer.agreement import Question
from costopt_trainer.compress.origin import HeldOut
from costopt_trainer.compress.step_reports import StepMeter
from costopt_trainer.data import TrainingData
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.phases import Pieces
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.process_group import ALONE, ProcessGroup
from costopt_trainer.training.stopping import Stop


@dataclass(frozen=True)
class StepRun:
    """What a step may use. A step that only changes weights needs at most `example`."""

    example: Tensor
    """A batch of inputs, to trace layers with."""
    pieces: Pieces
    """`pieces.done(3, 10)` after each piece of work: a silent step is taken for stalled."""
    teacher: Callable[[], LayeredModel] | None = None
    """Loads the trained model that the variant is made from, frozen, in eval mode, on the CPU."""
    recipe: Recipe | None = None
    """The model's recipe."""
    data: TrainingData | None = None
    """Its training data."""
    group: ProcessGroup = ALONE
    """This rank and the others; all apply the step, and all must end with the same weights."""
    stop: Stop = field(default_factory=Stop)
    """Whether this rank was asked to end."""
    checkpoints: Checkpoints | None = None
    """Prepared, and only this step's: none of another step, variant, model or setting."""
    number: int = 1
    """Of this step among those of its variant, from 1."""
    say: Callable[[str], None] = lambda _line: None
    """Tells the log, on the first rank, how far a long step is."""
    shape: ModelShape | None = None
    """What the trained model was built from."""
    meter: StepMeter = field(default_factory=StepMeter)
    """Of all trainings within this variant."""
    judged_on: HeldOut | None = None
    """The held-out samples that judge the variant: a step may look at any sample of the data but these."""

    def may_end(self) -> Question:
        """For a step that does not train by `fitting.fit`, which sees to this by itself: from now on a stop does not
        end the process at once. Call `all_end()` of the result at each micro-batch, on all ranks; if true, save a
        checkpoint and raise SystemExit(EXIT_PREEMPTED)."""
        self.stop.in_steps = True
        return Question(self.group, self.stop)


class CompressionStep(Protocol):
    """How one type of step does its work. `settings` are those of the step's type."""

    phase: PhaseName
    """The phase it reports."""
    trains: bool
    """Whether it takes optimizer steps, unless a `trains` of its settings says no: then all ranks apply it, with data,
    teacher and checkpoints."""
    quality_drop_percent: Decimal
    """Percent of the model's quality that it may lose, unless the user says otherwise; see `Accept`."""

    def changes_shapes(self, settings: Any) -> bool:
        """Whether it makes matrices smaller: then the artifact stores their widths."""

    def wants_speed(self, settings: Any) -> bool:
        """Whether speed is its purpose: 8-bit weights alone, or zeros, only make a model smaller."""

    def wants_compile(self, settings: Any) -> bool:
        """Whether its speed needs an engine with kernels for it, such as a compiler's."""

    def apply(self, model: LayeredModel, settings: Any, run: StepRun) -> str:
        """Change `model`, in place; returns a line for the log. One that makes another model of it sets `built_as`.

        Raises NotRetryable("InvalidSettings") if it cannot be applied to this model.
        """
