"""A selection by the training's own losses: it learns from all samples first, and then from those that it keeps.

all_first     the data in that order; `part_of`: what asks for it
FirstEpoch    the losses so far, as steps tell them and checkpoints keep them; without such a selection it does nothing

For an epoch each step tells the loss of its samples, which costs no pass of the model. After `firstSteps`, or where a
model brings its own loss, which is a sum, all samples are asked once instead. Each rank has the losses of its own
samples, and zeros elsewhere: their sum over ranks is the same bits on all of them, and so is what is kept. A checkpoint
has that sum, so it does not matter how many ranks wrote it.

Shape suffixes: P = places in the first epoch, that is, all samples in the order in which that epoch has them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costopt.schema.data_kinds import TEXT
from costopt.schema.recipe import Recipe
from costopt.schema.selection import LossSelection
from costopt_trainer.data import TrainingData
from costopt_trainer.data.files.places import local_path
from costopt_trainer.data.orders.all_first import AllFirst
from costopt_trainer.data.sampler import sample_indices
from costopt_trainer.data.selection.by_loss import by_own_loss
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.hugging_face.reading import is_of_library
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.table import kind_of_samples
from costopt_trainer.training.divergence import diverged
from costopt_trainer.training.parallel.strategy import Strategy
from costopt_trainer.training.precision import autocast_for
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.recipe_data import with_steps
from costopt_trainer.training.references import samples_of

T = TypeVar("T")

LOSSES, SCORES = "losses of samples", "scores of samples"
"""Of the tensor in a checkpoint, float32 (P,): the losses until the part is chosen, and what it was chosen by."""
STRETCH = 256
"""Places among which losses are compared, at least: the model was about the same."""

GoOn = Callable[[int, int], bool]
"""Asked between two pieces of work, with how many are done and how many there are; equally often on all ranks."""


def part_of(recipe: Recipe) -> LossSelection | None:
    """The settings of a selection by own losses; None if the recipe has none."""
    selection = recipe.data.selection
    own = None if selection is None else selection.loss
    return own if own is not None and own.by != "Reference" else None


def all_first(recipe: Recipe, data: TrainingData, device: torch.device) -> TrainingData:
    """The data in its order until a part of it is chosen. Raises NotRetryable if that would never be, or cannot be."""
    own, selection = part_of(recipe), recipe.data.selection
    assert own is not None and selection is not None  # noqa: S101, PT018  asked for by the caller
    size = recipe.batch.global_batch_size
    steps = own.first_steps or -(-data.num_train_samples // size)
    all_steps = with_steps(recipe, data).steps
    if all_steps <= steps:
        raise NotRetryable(
            "InvalidSettings",
            f"totalSteps must be more than the {steps} steps on all samples that come before data.selection keeps a "
            f"part of them, but is {all_steps}: give more, or more epochs, or set data.selection.loss.firstSteps to "
            "fewer",
        )
    digest = ""
    if own.reference.model is not None:
        folder = Path(local_path(own.reference.model))
        if is_of_library(folder) and kind_of_samples(recipe.model) != TEXT:
            raise NotRetryable(
                "InvalidData",
                f"reference.model: {folder} must be a model that costopt has trained on such samples, with by "
                "ExcessLoss: a language model's loss is no loss of what this model tells",
            )
        _, digest = samples_of(recipe, data, device, reference=own.reference)
    note = f"all {data.num_train_samples:,} training samples are learned from for {steps:,} steps, then a part of them"
    name = f"{own.by}-{own.keep}-{selection.keep_percent}-{steps}-{size}-{own.first_steps is None}-{digest}"
    ordered = data.in_order(AllFirst(data.num_train_samples, steps * size), name)
    return replace(ordered, notes=(*data.notes, note))


class FirstEpoch:
    """This rank's part of the losses."""

    def __init__(self, recipe: Recipe, data: TrainingData, strategy: Strategy, gang: ProcessGroup) -> None:
        """`data` has the order of `all_first` if and only if losses are to be told."""
        self._recipe, self._strategy, self._gang = recipe, strategy, gang
        self._order = data.order if isinstance(data.order, AllFirst) else None
        own = part_of(recipe)
        asks_later = own is None or own.first_steps is not None or strategy.module.has_own_loss
        self._listens = self._order is not None and not asks_later
        count = 0 if self._order is None else self._order.num_samples
        self._losses_P = torch.zeros(count, dtype=torch.float32, device=gang.device)
        self._has_scores = False  # in place of the losses
        self._told: list[Tensor] = []
        self._at_once = 1 if strategy.module.has_own_loss else recipe.batch.micro_batch_size

    def steps_until(self, position: int, batch_size: int) -> int | None:
        """Steps that may be prepared at `position` consumed samples; None: any."""
        if self._order is None or self._order.kept is not None:
            return None
        return max(0, self._order.until - position) // batch_size

    def is_due(self, position: int) -> bool:
        """Whether the part is to be chosen now. The same on all ranks."""
        return self._order is not None and self._order.kept is None and position >= self._order.until

    def listening(self, act: Callable[[], T]) -> T:
        """`act`, which computes the losses of this rank's share of a step; what an earlier try has told is dropped."""
        if not self._listens:
            return act()
        with _Told(self._strategy) as self._told:
            return act()

    def step_ended(self, position: int, share: int) -> None:
        """Note what the step at `position` has told, in which each rank has had `share` samples. No sync point."""
        if not self._told:
            return
        start = position + self._strategy.data_rank * share
        own = _of_samples(self._told, share)[: max(0, len(self._losses_P) - start)]  # behind it begins another epoch
        self._losses_P[start : start + len(own)] = own
        self._told = []

    def chosen(self, data: TrainingData, go_on: GoOn) -> TrainingData | None:
        """The data with the part that is kept from here on; None if `go_on` says so. A sync point of all ranks."""
        order, own, selection = self._order, part_of(self._recipe), self._recipe.data.selection
        assert order is not None and own is not None and selection is not None  # noqa: S101, PT018  it is due
        of_all = order.num_samples
        numbers_P = sample_indices(seed=self._recipe.seed, position=0, count=of_all, num_samples=of_all)
        if not self._has_scores:
            scores_P = self._scores(own, data, numbers_P, go_on)
            if scores_P is None:
                return None
            self._losses_P, self._has_scores = scores_P * (self._gang.rank == 0), True
        whole_P = self._gang.sum(self._losses_P.clone()).cpu().numpy()
        if not np.isfinite(whole_P).all():
            number = int(numbers_P[np.argmin(np.isfinite(whole_P))])
            raise diverged(f"the loss of training sample {number}, for data.selection, is not finite", self._recipe)
        size = self._recipe.batch.global_batch_size
        stretch = max(STRETCH, size) if self._listens else of_all
        count = of_all * selection.keep_percent // 100
        kept = np.sort(numbers_P[by_own_loss(whole_P, own.keep, count, stretch)])
        self._order = replace(order, kept=kept)
        self._listens = False
        return replace(data, order=self._order)

    def _scores(
        self, own: LossSelection, data: TrainingData, numbers_P: NDArray[np.int64], go_on: GoOn
    ) -> Tensor | None:
        """What samples are chosen by, float32 (P,) on all ranks: their losses, less those of a reference."""
        if not self._listens and not self._ask_all(data, numbers_P, go_on):
            return None
        scores_P = self._gang.sum(self._losses_P.clone())
        if own.reference.model is None:
            return scores_P
        samples, _ = samples_of(self._recipe, data, self._gang.device, reference=own.reference)
        if samples.losses is None:
            raise ValueError("a reference must tell losses")
        expected_P = torch.zeros_like(scores_P)
        for places, done, of in self._shares(32):
            losses = samples.losses(data.train_batch(numbers_P[places]))
            expected_P[torch.from_numpy(places)] = torch.from_numpy(losses).to(expected_P)
            if not go_on(done, of):
                return None
        return scores_P - self._gang.sum(expected_P)

    def _ask_all(self, data: TrainingData, numbers_P: NDArray[np.int64], go_on: GoOn) -> bool:
        """Note the loss of each of this rank's places by the model as it is, which is in eval mode."""
        module, device = self._strategy.module, self._gang.device
        autocast = autocast_for(self._recipe.precision, device)
        self._losses_P.zero_()
        for places, done, of in self._shares(self._at_once):
            inputs, targets = (part.to(device) for part in data.train_batch(numbers_P[places]))
            with torch.no_grad(), autocast(), _Told(self._strategy) as told:
                total = module.loss_sum(inputs, targets)
            own = total.view(1) / count_targets(targets).clamp(min=1) if not told else _of_samples(told, len(inputs))
            self._losses_P[torch.from_numpy(places)] = own.float()
            if not go_on(done, of):
                return False
        return True

    def _shares(self, at_once: int) -> list[tuple[NDArray[np.int64], int, int]]:
        """This rank's places, so many at a time, how many are then done, and of how many: equally many on all ranks.

        The last ones of some ranks are places that they had before, which adds nothing to what they know.
        """
        count, size = len(self._losses_P), self._strategy.data_size
        own = np.arange(self._strategy.data_rank, count, size, dtype=np.int64)  # a global batch has one for each rank
        each = -(-count // size)
        own = np.concatenate([own, own[: each - len(own)]])
        return [(own[start : start + at_once], min(start + at_once, each), each) for start in range(0, each, at_once)]

    def to_save(self) -> Mapping[str, Tensor]:
        """What a checkpoint has of the losses; all ranks must call it together."""
        if not (self._listens or self._has_scores):
            return {}
        whole_P = self._gang.sum(self._losses_P.clone())
        return {SCORES if self._has_scores else LOSSES: whole_P} if self._gang.rank == 0 else {}

    def load(self, position: int, read: Callable[[], Mapping[str, Tensor]]) -> None:
        """Take over what a checkpoint at `position` consumed samples has. Raises KeyError or ValueError."""
        if self._order is None:
            return
        kept = read()
        self._has_scores = SCORES in kept
        if not self._has_scores and not self._listens and position <= self._order.until:
            return  # nothing was told yet
        loaded_P = kept[SCORES if self._has_scores or position > self._order.until else LOSSES]
        if (loaded_P.shape, loaded_P.dtype) != (self._losses_P.shape, torch.float32):
            raise ValueError(f"losses of samples must be float32 {tuple(self._losses_P.shape)}")
        self._losses_P = loaded_P.to(self._gang.device) * (self._gang.rank == 0)


class _Told:
    """Within it, what the model tells of each target's loss."""

    def __init__(self, strategy: Strategy) -> None:
        self._module = strategy.module

    def __enter__(self) -> list[Tensor]:
        told: list[Tensor] = []
        self._module.tell_losses = told.append
        return told

    def __exit__(self, *_error: object) -> None:
        self._module.tell_losses = None


def _of_samples(told: list[Tensor], count: int) -> Tensor:
    """The mean loss of each of `count` samples, of as many targets each; 0 of one without targets."""
    losses_B = torch.cat(told).view(count, -1).nanmean(dim=1)
    return losses_B.masked_fill(losses_B.isnan(), 0.0)
