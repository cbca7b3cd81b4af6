"""The largest tensor that a piece of a program makes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """While it is entered: the most elements that a result of an operator had."""

    elements = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self.elements = max(self.elements, leaf.numel() if isinstance(leaf, Tensor) else 0)
        return result
