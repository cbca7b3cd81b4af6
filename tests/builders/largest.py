"""The largest tensor that a piece of a program makes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """While it is entered: the most elements that a result of an operator had, if that is `last` wide (None: any)."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.elements, self._last = 0, last

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (self._last is None or leaf.shape[-1:] == (self._last,)):
                self.elements = max(self.elements, leaf.numel())
        return result
