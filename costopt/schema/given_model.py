"""A model that is there already: then a job has no training, and only makes its variants."""

from costopt.schema.base import Path, ShortText, Strict


class GivenModel(Strict):
    """A model to compress that was trained before. `evaluation` says what it is measured on."""

    path: Path
    """Its folder, as paths of data: what a training of costopt has left (`artifacts/model`), or a model of the Hugging
    Face library with its weights in safetensors. It is only read."""
    image: ShortText | None = None
    """As train.image."""
