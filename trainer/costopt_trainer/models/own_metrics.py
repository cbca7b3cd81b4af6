"""Metrics that a model of the user's own package brings: functions of its outputs and the targets.

OwnMetrics    them, by name: sums over the samples of a micro-batch, and the means in the end
NO_METRICS    those of every other model
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from costopt.schema.variant_report import MAX_METRICS, METRIC_PATTERN
from costopt_trainer.errors import NotRetryable, first_line, memory_reason

Function = Callable[[Tensor, Tensor], Tensor]
"""Outputs (B, ...) and targets int64 (B, ...) -> one number for each sample (B,)."""


class OwnMetrics:
    """Functions by name. What they do wrong is told in one sentence, as InvalidSettings."""

    def __init__(self, functions: Mapping[str, Function], called: str = "") -> None:
        """`called`: how errors call what gave them."""
        self._functions, self._called = dict(functions), called

    @classmethod
    def of(cls, given: object, called: str) -> Self:
        """Those that a user's function returned beside the model. Raises NotRetryable for anything but a mapping from
        names to functions."""
        metrics = cls(given if isinstance(given, Mapping) else {}, called)
        if not isinstance(given, Mapping):
            raise metrics._wrong(
                f"must return a model, or a model and its metrics by name, but these are a {type(given).__name__}"
            )
        for name, function in given.items():
            if not isinstance(name, str) or not re.fullmatch(METRIC_PATTERN, name):
                raise metrics._wrong(
                    f"names a metric {name!r:.80}; it must be a word such as wordsRight, of at most 32 letters "
                    "and digits"
                )
            if not callable(function):
                raise metrics._wrong(f"gives a {type(function).__name__} as metric {name}; it must be a function")
        if len(given) > MAX_METRICS:
            raise metrics._wrong(f"returns {len(given)} metrics; at most {MAX_METRICS} can be told")
        return metrics

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of their sums."""
        return tuple(self._functions)

    def zeros(self, device: torch.device) -> Tensor:
        """What `sums` are before the first sample."""
        return torch.zeros(len(self._functions) + bool(self._functions), dtype=torch.float64, device=device)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of each metric over the samples of a micro-batch and, last, their number; float64 on their device.

        Nothing at all without metrics. Raises NotRetryable for a function that raises, and for anything but one finite
        number for each sample. A sync point, where there are metrics.
        """
        sums = self.zeros(outputs.device)
        sums[-1:] = len(targets)
        for number, (name, function) in enumerate(self._functions.items()):
            before = _versions(outputs, targets)
            try:
                values: Any = function(outputs, targets)
            except (Exception, SystemExit) as error:
                if memory_reason([kind.__name__ for kind in type(error).__mro__], str(error)) is not None:
                    raise
                raised = f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
                raise self._wrong(f"metric {name} must give a number for each sample, but raises {raised}") from error
            if _versions(outputs, targets) != before:
                # The loss, and the other metrics, would be of what it has left.
                raise self._wrong(f"metric {name} must not change the outputs and targets that it is given")
            wanted = (len(targets),)
            if not isinstance(values, Tensor) or tuple(values.shape) != wanted:
                shape = tuple(values.shape) if isinstance(values, Tensor) else f"a {type(values).__name__}"
                raise self._wrong(
                    f"metric {name} must give a number for each sample, a tensor {wanted}, but gives {shape}"
                )
            if values.is_complex():
                raise self._wrong(f"metric {name} must give a real number for each sample, but gives complex ones")
            if not bool(values.isfinite().all()):
                odd = float(values[~values.isfinite()][0])
                raise self._wrong(f"metric {name} must give a finite number for each sample, but gives {odd}")
            sums[number] = values.detach().double().sum()
        return sums

    def means(self, sums: Tensor) -> dict[str, float]:
        """By name, from `sums` of all samples. Raises NotRetryable for one whose sum is too large."""
        means = {name: float(total / sums[-1]) for name, total in zip(self._functions, sums, strict=False)}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise self._wrong(f"metric {name} must give numbers whose sum is finite, but it is {mean}")
        return means

    def _wrong(self, what: str) -> NotRetryable:
        return NotRetryable("InvalidSettings", f"{self._called} {what}")


def _versions(*tensors: Tensor) -> list[int | None]:
    """How often each was changed in place; None where nobody counts that."""
    return [None if tensor.is_inference() else tensor._version for tensor in tensors]  # noqa: SLF001  its only name


NO_METRICS = OwnMetrics({})
