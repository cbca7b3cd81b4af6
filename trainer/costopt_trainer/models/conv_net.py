"""A small convolutional image classifier, and any run of its stages.

Each stage: 3x3 convolution, batch norm (arXiv 1502.03167), ReLU, 2x2 max pooling. Then the mean over the remaining
pixels and one linear layer. A stage is a layer in the sense of `keep_layers`. What may be pruned: the channels of every
convolution, with their batch norm.

Shape suffixes: B = batch (images), C = channels, H = height, W = width, K = classes.
"""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel, ModelFamily, Prunable
from costopt_trainer.models.shape import ModelShape, Widths


class Stage(nn.Module):
    """One convolution stage: (B, C, H, W) -> (B, out_channels, H // 2, W // 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Batch norm subtracts the mean, so a bias before it would do nothing.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Halves height and width (rounding down)."""
        return self.pool(self.relu(self.norm(self.conv(x_BCHW))))


class ConvNet(LayeredModel):
    """The classifier: float images (B, C, H, W) -> logits (B, K).

    A piece of it (see `keep_layers`) takes or gives activations (B, C, H, W) where it lacks the first or last stage.
    """

    def __init__(
        self,
        settings: language.ConvNet,
        in_channels: int,
        num_classes: int,
        widths: Widths,
    ) -> None:
        """`widths` may give `channels`: one per stage; the default doubles from base_channels."""
        super().__init__()
        channels = widths.get("channels", tuple(settings.base_channels << n for n in range(settings.num_stages)))
        self.num_layers = settings.num_stages
        self.layers = nn.ModuleDict(
            {
                str(stage): Stage(before, after)
                for stage, (before, after) in enumerate(zip((in_channels, *channels[:-1]), channels, strict=True))
            }
        )
        self.head: nn.Linear | None = nn.Linear(channels[-1], num_classes)

    def drop_ends(self, *, start: bool, end: bool) -> None:  # noqa: ARG002  nothing comes before the stages
        if end:
            self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"channels": tuple(cast(Stage, stage).conv.out_channels for stage in self.layers.values())}

    def prunable(self) -> Iterator[Prunable]:
        for stage in self.layers.values():
            conv = cast(Stage, stage).conv
            yield Prunable(conv, conv.out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images or activations (B, C, H, W) -> logits (B, K) or activations."""
        for stage in self.layers.values():
            x_BCHW = stage(x_BCHW)
        if self.head is None:
            return x_BCHW
        return self.head(x_BCHW.mean(dim=(2, 3)))


class ConvNetFamily:
    """A row of the table: see ModelFamily."""

    may_change: frozenset[str] = frozenset()

    def context_length(self, _settings: language.ConvNet) -> int | None:
        return None

    def build(self, settings: language.ConvNet, shape: ModelShape, widths: Widths) -> ConvNet:
        if shape.image_shape is None or shape.num_classes is None:
            raise ValueError("the shape of a ConvNet must give image_shape and num_classes")
        channels, height, width = shape.image_shape
        if min(height, width) < 2**settings.num_stages:
            raise NotRetryable(
                "InvalidSettings",
                f"model.convNet.numStages must be at most {min(height, width).bit_length() - 1} for images of "
                f"{height}x{width} pixels, since each stage halves height and width",
            )
        return ConvNet(settings, channels, shape.num_classes, widths)


FAMILY: ModelFamily = ConvNetFamily()
