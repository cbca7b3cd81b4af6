"""What attention keeps of tokens that were read, so that a text is written token by token without reading it again.

KeyValueCache   of a model: tokens, and keys and values of each pass through a layer
KeysAndValues   of one such pass

Shape suffixes: B = batch (texts), T = tokens that were read, K = heads of keys and values, H = head width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KeysAndValues:
    """Of one pass through a layer: each (B, K, T, H), None before anything was read."""

    keys_BKTH: Tensor | None = None
    values_BKTH: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return 0 if self.keys_BKTH is None else self.keys_BKTH.shape[2]

    def add(self, keys_BKTH: Tensor, values_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of further tokens; returns those of all tokens."""
        if self.keys_BKTH is not None and self.values_BKTH is not None:
            keys_BKTH = torch.cat([self.keys_BKTH, keys_BKTH], dim=2)
            values_BKTH = torch.cat([self.values_BKTH, values_BKTH], dim=2)
        self.keys_BKTH, self.values_BKTH = keys_BKTH, values_BKTH
        return keys_BKTH, values_BKTH


@dataclass
class KeyValueCache:
    """Of texts of one length, which a model has read so far. A new one is that of empty texts."""

    tokens_BT: Tensor | None = None
    """All tokens that were read, int64."""
    passes: list[KeysAndValues] = field(default_factory=list)
    """In order; a layer that is applied several times has as many."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return 0 if self.tokens_BT is None else self.tokens_BT.shape[1]
