"""All that is needed to build a model of the right shape, as JSON beside its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from costopt.schema import models as language
from costopt_trainer.data import TrainingData
from costopt_trainer.data.training_data import FeatureScales

Widths = Mapping[str, tuple[int, ...]]
"""Inner widths of a pruned model, per layer, by what its family calls them."""


@dataclass(frozen=True)
class ModelShape:
    """What to build: the user's settings and what only the data can tell."""

    settings: language.ModelSettings
    vocabulary_size: int | None = None
    """Tokens in the vocabulary; None for other data than text."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None for other data than images."""
    num_classes: int | None = None
    """Classes to tell apart; None for text without labels."""
    pad_id: int | None = None
    """The token that stands for nothing; None where there is none."""
    separator_id: int | None = None
    """The token behind which another document begins, of which the model sees nothing before; None: it sees all."""
    class_names: tuple[str, ...] | None = None
    """The label of each class; None if it has none but its number."""
    num_features: int | None = None
    """Features of a row; None for other data than tables."""
    feature_scales: FeatureScales | None = field(default=None, compare=False, repr=False)
    """What a fresh model begins with. Not written beside the weights: it is one of them."""

    @classmethod
    def for_data(cls, settings: language.ModelSettings, data: TrainingData) -> Self:
        """The shape of a model that is trained on `data`."""
        scales = data.feature_scales
        return cls(
            settings,
            vocabulary_size=data.vocabulary_size,
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            pad_id=data.pad_id,
            separator_id=data.separator_id,
            class_names=data.class_names,
            num_features=None if scales is None else len(scales.means_F),
            feature_scales=scales,
        )

    @property
    def of_data(self) -> tuple[object, ...]:
        """What only the data can tell: vocabulary, image shape, features, classes."""
        return self.vocabulary_size, self.image_shape, self.num_features, self.class_names or self.num_classes

    def to_plain(self) -> dict[str, Any]:
        """The shape as plain JSON data; what only some models have is left out of the others, as it was before."""
        more = {
            "padId": self.pad_id,
            "separatorId": self.separator_id,
            "classNames": None if self.class_names is None else list(self.class_names),
            "numFeatures": self.num_features,
        }
        return {
            "settings": self.settings.to_plain(),
            "vocabularySize": self.vocabulary_size,
            "imageShape": None if self.image_shape is None else list(self.image_shape),
            "numClasses": self.num_classes,
            **{name: value for name, value in more.items() if value is not None},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The shape that `to_plain` wrote. Raises KeyError, ValueError or TypeError on anything else."""
        image_shape = plain["imageShape"]
        if image_shape is not None:
            channels, height, width = (int(extent) for extent in image_shape)
            image_shape = (channels, height, width)
        class_names = plain.get("classNames")
        return cls(
            settings=language.ModelSettings.model_validate(plain["settings"]),
            vocabulary_size=plain["vocabularySize"],
            image_shape=image_shape,
            num_classes=plain["numClasses"],
            pad_id=plain.get("padId"),
            separator_id=plain.get("separatorId"),
            class_names=None if class_names is None else tuple(str(name) for name in class_names),
            num_features=plain.get("numFeatures"),
        )
