"""A model that is not our own: one layer to a pipeline."""

from typing import ClassVar, Self

from torch import nn

from costopt_trainer.models.family import LayeredModel


class WholeModel(LayeredModel):
    """What all models share that somebody else's code computes, `model`."""

    model: nn.Module
    num_layers = 1
    called: ClassVar[str]
    """What it is called in errors."""

    def blocks(self) -> list[nn.Module]:
        """The longest list of layers, if there is any."""
        lists = [list(module) for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        return max(lists, key=len, default=[])

    def keep_layers(self, first: int, last: int) -> Self:
        """As LayeredModel says: there is one layer, the whole."""
        if (first, last) != (0, 1):
            raise ValueError(f"{self.called} is one layer: 0, 1 and not {first}, {last}")
        return self

    def drop_ends(self, *, start: bool, end: bool) -> None:
        """Nothing to drop."""

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {}
