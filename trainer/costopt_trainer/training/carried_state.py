"""States that a training carries from sample to sample (truncated back-propagation through time).

CarriedState    those of this rank's lanes, as the loop keeps, saves and loads them; without any, it does nothing

Lane i of the global batch reads one context after another (see data/lanes.py). Between two steps the model holds, for
each lane of this rank, what the next step begins with: nothing where the lane begins anew, else what its last context
has left. A checkpoint has them in the order of all lanes, so that it does not matter how many ranks wrote it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from costopt_trainer.data import TrainingData
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.models.recurrent import Recurrent
from costopt_trainer.storage.checkpoint_files import Region
from costopt_trainer.storage.tensor_pieces import Box, Shard
from costopt_trainer.training.parallel.strategy import Strategy

NAME = "state"
"""Of the tensor in a checkpoint: (S, 2, N, D), N lanes in all."""


class CarriedState:
    """The states of this rank's lanes."""

    def __init__(self, strategy: Strategy, data: TrainingData, seed: int) -> None:
        """All lanes begin anew. `data` has lanes if and only if states are to be carried."""
        self._data, self._seed, self._lanes = data, seed, data.lanes or 0
        self._share = self._lanes // strategy.data_size
        self._first = strategy.data_rank * self._share
        self._model = _recurrent(strategy.module) if self._lanes else None
        if self._model is not None:
            self._model.carried = self._model.fresh_state(self._share)

    def step_ended(self, position: int) -> None:
        """Empty the states of lanes that begin anew in the step at `position` consumed samples."""
        if self._model is None or self._model.carried is None:
            return
        begins = self._data.begins(seed=self._seed, position=position + self._first, count=self._share)
        if begins.any():
            carried = self._model.carried
            anew_N1 = torch.from_numpy(begins).to(carried.device, non_blocking=True).unsqueeze(1)
            self._model.carried = carried.masked_fill(anew_N1, 0)

    def keep(self) -> Callable[[], None]:
        """What goes back to the states as they are now."""
        model = self._model
        kept = None if model is None else model.carried

        def go_back() -> None:
            if model is not None:
                model.carried = kept

        return go_back

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """An evaluation within carries states of its own."""
        go_back = self.keep()
        try:
            yield
        finally:
            go_back()

    def begin(self, count: int) -> None:
        """Begin so many sequences anew, in an evaluation."""
        if self._model is not None:
            self._model.carried = self._model.fresh_state(count)

    def to_save(self) -> Mapping[str, Sequence[Shard]]:
        """What this rank writes into a checkpoint, by name; nothing without states."""
        if self._model is None or self._model.carried is None:
            return {}
        layers, two, _, width = self._model.carried.shape
        return {NAME: [Shard(self._model.carried, (0, 0, self._first, 0), (layers, two, self._lanes, width))]}

    def load(self, read: Callable[[Region], Mapping[str, Tensor]]) -> None:
        """Take over what a checkpoint has of this rank's lanes. Raises KeyError or ValueError if it has others."""
        if self._model is None or self._model.carried is None:
            return
        own = self._model.carried

        def region(_name: str, _shape: tuple[int, ...]) -> Box:
            return Box((0, 0, self._first, 0), tuple(own.shape))

        loaded = read(region)[NAME]
        self._model.carried = loaded.to(own.device, own.dtype)

    def identity(self) -> dict[str, Any]:
        """What, besides the model's settings, must be equal to resume a checkpoint: how many lanes there are."""
        return {"batch.globalBatchSize": self._lanes} if self._lanes else {}


def _recurrent(module: LayeredModel) -> Recurrent:
    if not isinstance(module, Recurrent):
        raise TypeError(f"{type(module).__name__} has no state to carry")
    return module
