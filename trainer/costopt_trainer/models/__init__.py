"""The networks that the built-in trainer trains: one table from a model's type to its class, and their loss.

decoder      DecoderLM
conv_net     ConvNet
artifact     a model on disk, rebuilt without code
ModelShape   all that is needed to build a model of the right shape, as JSON beside its weights
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema import recipe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.conv_net import ConvNet
from costopt_trainer.models.decoder import DecoderLM

__all__ = [
    "ConvNet",
    "DecoderLM",
    "ModelShape",
    "build_model",
    "context_length_of",
    "count_targets",
    "layers_of",
    "loss_sum",
    "read_widths",
]

IGNORED_TARGET = -100
"""A target that counts for nothing: neither in the loss nor among the targets."""

Widths = Mapping[str, tuple[int, ...]]
"""Inner widths of a pruned model, per layer: `attention` and `mlp` of a DecoderLM, `channels` of a ConvNet."""


@dataclass(frozen=True)
class ModelShape:
    """What to build: the user's settings and what only the data can tell."""

    settings: recipe.ModelSettings
    vocabulary_size: int | None = None
    """Tokens in the vocabulary; None for a ConvNet."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None for a DecoderLM."""
    num_classes: int | None = None
    """Classes to tell apart; None for a DecoderLM."""

    def to_plain(self) -> dict[str, Any]:
        """The shape as plain JSON data."""
        return {
            "settings": self.settings.to_plain(),
            "vocabularySize": self.vocabulary_size,
            "imageShape": None if self.image_shape is None else list(self.image_shape),
            "numClasses": self.num_classes,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The shape that `to_plain` wrote. Raises KeyError, ValueError or TypeError on anything else."""
        image_shape = plain["imageShape"]
        if image_shape is not None:
            channels, height, width = (int(extent) for extent in image_shape)
            image_shape = (channels, height, width)
        return cls(
            settings=recipe.ModelSettings.model_validate(plain["settings"]),
            vocabulary_size=plain["vocabularySize"],
            image_shape=image_shape,
            num_classes=plain["numClasses"],
        )


def layers_of(settings: recipe.ModelSettings) -> recipe.DecoderLM | recipe.ConvNet:
    """The settings that `type` names, with their defaults where none are given."""
    if settings.type == "DecoderLM":
        return settings.decoder_lm or recipe.DecoderLM()
    return settings.conv_net or recipe.ConvNet()


def context_length_of(settings: recipe.ModelSettings) -> int | None:
    """Tokens per sample; None for a ConvNet."""
    layers = layers_of(settings)
    return layers.context_length if isinstance(layers, recipe.DecoderLM) else None


def build_model(shape: ModelShape, widths: Widths | None = None) -> DecoderLM | ConvNet:
    """A model of `shape` with fresh weights from torch's global random state, on the CPU, in training mode.

    `widths` gives the inner widths of a structurally pruned model (see `read_widths`). Raises ValueError if the shape
    lacks what its type needs or `widths` has not one width per layer, and NotRetryable("InvalidSettings") if the
    images are too small for the stages.
    """
    widths = widths or {}
    if shape.settings.type == "DecoderLM":
        if shape.vocabulary_size is None:
            raise ValueError("the shape of a DecoderLM must give vocabulary_size")
        return DecoderLM(shape.settings.decoder_lm or recipe.DecoderLM(), shape.vocabulary_size, widths)
    if shape.image_shape is None or shape.num_classes is None:
        raise ValueError("the shape of a ConvNet must give image_shape and num_classes")
    settings = shape.settings.conv_net or recipe.ConvNet()
    channels, height, width = shape.image_shape
    if min(height, width) < 2**settings.num_stages:
        raise NotRetryable(
            "InvalidSettings",
            f"model.convNet.numStages must be at most {min(height, width).bit_length() - 1} for images of "
            f"{height}x{width} pixels, since each stage halves height and width",
        )
    return ConvNet(settings, channels, shape.num_classes, widths)


def read_widths(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The inner widths of a whole model as they are now: what `build_model` needs to build its like.

    Raises TypeError for any other module.
    """
    if isinstance(model, DecoderLM):
        layers: list[Any] = list(model.layers.values())
        return {
            "attention": tuple(layer.attention.q.out_features for layer in layers),
            "mlp": tuple(layer.mlp.expand.out_features for layer in layers),
        }
    if isinstance(model, ConvNet):
        stages: list[Any] = list(model.layers.values())
        return {"channels": tuple(stage.conv.out_channels for stage in stages)}
    raise TypeError(f"widths are known for DecoderLM and ConvNet, not for {type(model).__name__}")


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies in nats over all targets but the ignored, as a 0-dim float32 tensor.

    `logits` is (..., K) in any float type, `targets` int64 (...). A sum, not a mean: sums of micro-batches and ranks
    add up, and one division by the number of all targets weights every token alike.
    """
    return F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED_TARGET, reduction="sum"
    )


def count_targets(targets: Tensor) -> Tensor:
    """How many targets are not ignored, as a 0-dim int64 tensor on their device."""
    return torch.count_nonzero(targets != IGNORED_TARGET)
