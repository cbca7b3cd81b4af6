"""What models have in common that read a sample token by token, and keep a state.

Shape suffixes: B = batch (samples), T = tokens of a sample, D = width, S = layers as they are applied, N = sequences.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from costopt_trainer.models.family import LayeredModel


class Recurrent(LayeredModel):
    """A model whose samples begin with an empty state, or with what the sample before them in their sequence has left.

    The latter is truncated back-propagation through time: a state is carried on, gradients stay within a sample.
    """

    carried: Tensor | None = None
    """States (S, 2, N, D) of N sequences, in the order in which their next samples come. Each forward pass takes as
    many as it has samples from the front, and puts what these leave, detached, at the end. Never changed in place: who
    keeps the tensor can go back to it. No parameter and no buffer: it is part of a training, not of the model. None:
    every sample begins with an empty state."""

    @abstractmethod
    def fresh_state(self, batch_size: int) -> Tensor:
        """The state before a text begins, of the layers that this piece holds: zeros (S, 2, B, D)."""

    @abstractmethod
    def run(self, x: Tensor, state_S2BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `hidden` gives after the text that has left this state (None: no text), and the state after `x`.

        Gradients go back into the state, unless it is detached.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) or hidden activations (B, T, D) -> logits (B, T, V) or hidden activations (B, T, D)."""
        x = self.hidden(x)
        return x if self.vocabulary_head is None else self.vocabulary_head(x)

    def hidden(self, x: Tensor) -> Tensor:
        """The same without the head."""
        if self.carried is None:
            return self.run(x)[0]
        before, waiting = self.carried.tensor_split([len(x)], dim=2)
        y, after = self.run(x, before.contiguous())
        self.carried = torch.cat([waiting, after.detach().to(waiting.dtype)], dim=2)
        return y
