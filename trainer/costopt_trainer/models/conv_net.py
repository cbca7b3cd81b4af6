"""A small convolutional image classifier, and any run of its stages.

Each stage: 3x3 convolution, batch norm (arXiv 1502.03167), ReLU, 2x2 max pooling. Then the mean over the remaining
pixels and one linear layer. A stage is a layer in the sense of `keep_layers`.

Shape suffixes: B = batch (images), C = channels, H = height, W = width, K = classes.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from costopt.schema import recipe


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


class ConvNet(nn.Module):
    """The classifier: float images (B, C, H, W) -> logits (B, K).

    A piece of it (see `keep_layers`) takes or gives activations (B, C, H, W) where it lacks the first or last stage.
    """

    def __init__(
        self,
        settings: recipe.ConvNet,
        in_channels: int,
        num_classes: int,
        widths: Mapping[str, tuple[int, ...]],
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

    def keep_layers(self, first: int, last: int) -> nn.Module:
        """Reduce this model, in place, to stages [first, last), and return it.

        The head stays if `last` is `num_layers`. Parameters and buffers keep their names. Raises ValueError unless
        0 <= first < last <= num_layers.
        """
        if not 0 <= first < last <= self.num_layers:
            raise ValueError(f"layers must satisfy 0 <= first < last <= {self.num_layers}, not {first}, {last}")
        self.layers = nn.ModuleDict({str(stage): self.layers[str(stage)] for stage in range(first, last)})
        if last < self.num_layers:
            self.head = None
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images or activations (B, C, H, W) -> logits (B, K) or activations."""
        for stage in self.layers.values():
            x_BCHW = stage(x_BCHW)
        if self.head is None:
            return x_BCHW
        return self.head(x_BCHW.mean(dim=(2, 3)))
