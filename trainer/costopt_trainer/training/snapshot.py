"""What goes into a checkpoint, and how it is copied to host memory without holding up the training.

Snapshot             one rank's tensors and JSON data
HostCopies           copies of a snapshot's tensors, in memory that is used again for the next
random_state, restore_random_state

Parameters and the optimizer's state change in an optimizer's step and nowhere else. So they need not be copied at once:
a thread copies them while the next step's forward and backward passes read them, and only the step waits for it.
Everything else (buffers, random states) is small and is copied at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from costopt_trainer.storage.tensor_pieces import Shard, shards_of

Held = Tensor | Sequence[Shard]
"""A whole tensor, or what a rank holds of one."""


@dataclass(frozen=True)
class Snapshot:
    """What one rank puts into a checkpoint. It may hold a whole tensor or some of its shards."""

    model: Mapping[str, Held]
    """Parameters and buffers by name; empty on a rank whose part another rank writes."""
    optimizer: Mapping[str, Held]
    """Optimizer state by "<parameter>/<name>"; empty likewise."""
    random: Mapping[str, Tensor]
    """States of this rank's random generators, uint8."""
    state: Mapping[str, Any]
    """JSON data; that of rank 0 is used."""
    parameters: frozenset[str] = frozenset()
    """Those in `model` that only an optimizer's step changes; they must be finite."""
    carried: Mapping[str, Held] = field(default_factory=dict)
    """What this rank holds of the states that go from sample to sample; never changed in place."""
    averages: Mapping[str, Held] = field(default_factory=dict)
    """Averages of the weights, by name; only an optimizer's step changes them."""


class HostCopies:
    """One rank's copies. The optimizer must not take a step between `begin` and the end of `finish`."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._taken: torch.cuda.Event | None = None
        self._kept: dict[tuple[str, str, int], Tensor] = {}

    def begin(self, snapshot: Snapshot) -> Snapshot:
        """Copy at once what a forward pass or a random number changes; the rest is still the training's own.

        No host-device sync point.
        """
        model = {name: held if name in snapshot.parameters else _cloned(held) for name, held in snapshot.model.items()}
        random = {name: state.clone() for name, state in snapshot.random.items()}
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return replace(snapshot, model=model, random=random)

    def copy(self, begun: Snapshot) -> Snapshot:
        """Copy the rest. For a thread: on a GPU this only gives out the work, which `wait_on_device` waits for."""
        with torch.cuda.stream(self._stream):
            copied = replace(
                begun,
                model=self._all("model", begun.model),
                optimizer=self._all("optimizer", begun.optimizer),
                carried=self._all("carried", begun.carried),
                averages=self._all("average", begun.averages),
            )
        if self._stream is not None:
            self._taken = self._stream.record_event()
        return copied

    def wait_on_device(self) -> None:
        """What the device is given from now on runs after the copies. No host-device sync point."""
        if self._taken is not None:
            self._taken.wait()

    def wait_on_host(self) -> None:
        """The copies may be read. Waits for the device."""
        if self._taken is not None:
            self._taken.synchronize()

    def _all(self, kind: str, tensors: Mapping[str, Held]) -> dict[str, Held]:
        return {
            name: [
                replace(shard, tensor=self._copy((kind, name, number), shard.tensor.detach()))
                for number, shard in enumerate(shards_of(held))
            ]
            for name, held in tensors.items()
        }

    def _copy(self, key: tuple[str, str, int], tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            # From pinned memory a GPU copies while it computes.
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
            self._kept[key] = kept
        return kept.copy_(tensor, non_blocking=True)


def _cloned(held: Held) -> list[Shard]:
    return [replace(shard, tensor=shard.tensor.detach().clone()) for shard in shards_of(held)]


def tensors_of(held: Mapping[str, Held], names: Iterable[str]) -> list[Tensor]:
    """What a rank holds of some tensors."""
    return [shard.tensor for name in names if name in held for shard in shards_of(held[name])]


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's random generators that dropout draws from on `device`, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` took; missing states, and those of unused devices, change nothing."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
