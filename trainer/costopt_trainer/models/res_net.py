"""A residual network of basic blocks (He et al., arXiv 1512.03385), and any run of its blocks.

A stem (convolution, batch norm, ReLU), blocks, the mean over the remaining pixels, and one linear layer. A block is a
layer in the sense of `keep_layers`. What may be pruned: the channels inside each block (those between blocks are added
up and stay), and whole blocks that change neither size nor channels.

Shape suffixes: B = batch (images), C = channels, H = height, W = width, K = classes.
"""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from costopt.schema import models as language
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel, ModelFamily, Prunable, kept_layers
from costopt_trainer.models.light import conv3x3, make_sparse
from costopt_trainer.models.shape import ModelShape, Widths

LARGE_STEM_STRIDES = 2
"""How often the stem for large images halves height and width."""


class Block(nn.Module):
    """Two convolutions whose result is added to what came in: (B, C, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, settings: language.ResNet, in_channels: int, inner: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, inner, stride=stride, sparsity=settings.sparsity)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, out_channels, sparsity=settings.sparsity)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Height and width are divided by the stride, rounded up."""
        added = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x_BCHW)))))
        return self.relu(added + self.shortcut(x_BCHW))


class ResNet(LayeredModel):
    """The classifier: float images (B, C, H, W) -> logits (B, K).

    A piece of it (see `keep_layers`) takes or gives activations (B, C, H, W) where it lacks the first or last block.
    """

    def __init__(self, settings: language.ResNet, in_channels: int, num_classes: int, widths: Widths) -> None:
        """`widths` may give `inner`: the channels inside each block, the default is what leaves it; and `layers`: the
        blocks that are left."""
        super().__init__()
        per_stage = settings.num_blocks // settings.num_stages
        of_all = [settings.base_channels << block // per_stage for block in range(settings.num_blocks)]
        numbers = kept_layers(widths, settings.num_blocks)
        outer = [of_all[number] for number in numbers]
        inner = widths.get("inner", tuple(outer))
        before = [of_all[max(number - 1, 0)] for number in numbers]
        if before != [of_all[0], *outer[:-1]]:
            raise ValueError("widths must leave the blocks at which a stage begins")
        self.layer_numbers = numbers if "layers" in widths else None
        self.num_layers = len(numbers)
        self.stem: nn.Module | None = _stem(settings, in_channels)
        self.layers = nn.ModuleDict(
            {
                str(block): Block(settings, enters, within, leaves, stride=1 if enters == leaves else 2)
                for block, (enters, within, leaves) in enumerate(zip(before, inner, outer, strict=True))
            }
        )
        self.head: nn.Linear | None = nn.Linear(outer[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if settings.sparsity is not None:
            for block in self.layers.values():
                for conv in (cast(Block, block).conv1, cast(Block, block).conv2):
                    make_sparse(conv.weight, settings.sparsity)

    def drop_ends(self, *, start: bool, end: bool) -> None:
        if start:
            self.stem = None
        if end:
            self.head = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {
            "inner": tuple(cast(Block, block).conv1.out_channels for block in self.layers.values()),
            **({} if self.layer_numbers is None else {"layers": self.layer_numbers}),
        }

    def removable_layers(self) -> tuple[int, ...]:
        blocks = [cast(Block, block) for block in self.layers.values()]
        return tuple(place for place, block in enumerate(blocks) if isinstance(block.shortcut, nn.Identity))

    def prunable(self) -> Iterator[Prunable]:
        for block in self.layers.values():
            conv = cast(Block, block).conv1
            yield Prunable(conv, conv.out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images or activations (B, C, H, W) -> logits (B, K) or activations."""
        if self.stem is not None:
            x_BCHW = self.stem(x_BCHW)
        for block in self.layers.values():
            x_BCHW = block(x_BCHW)
        return x_BCHW if self.head is None else self.head(x_BCHW.mean(dim=(2, 3)))


def _stem(settings: language.ResNet, in_channels: int) -> nn.Module:
    """Images to the channels of the first stage."""
    channels = settings.base_channels
    if not settings.large_images:
        return nn.Sequential(conv3x3(in_channels, channels), nn.BatchNorm2d(channels), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


class ResNetFamily:
    """A row of the table: see ModelFamily."""

    may_change: frozenset[str] = frozenset()

    def context_length(self, _settings: language.ResNet) -> int | None:
        return None

    def build(self, settings: language.ResNet, shape: ModelShape, widths: Widths) -> ResNet:
        if shape.image_shape is None or shape.num_classes is None:
            raise ValueError("the shape of a ResNet must give image_shape and num_classes")
        channels, height, width = shape.image_shape
        halvings = settings.num_stages - 1 + (LARGE_STEM_STRIDES if settings.large_images else 0)
        if min(height, width) < 2**halvings:
            raise NotRetryable(
                "InvalidSettings",
                f"model.resNet must halve images of {height}x{width} pixels at most "
                f"{min(height, width).bit_length() - 1} times, not {halvings}: lower numStages"
                + (" or set largeImages to false" if settings.large_images else ""),
            )
        return ResNet(settings, channels, shape.num_classes, widths)


FAMILY: ModelFamily = ResNetFamily()
