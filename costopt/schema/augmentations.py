"""What is done to training samples on the fly: one class of settings for each augmentation, and their union.

Tokens of any text: TokenDropout, SpanCorruption. Words of labelled text: Reorder, InsertWords, Synonyms. Images: Flip,
Crop, Rotate, Color, Noise, Cutout, Mixup.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Rule, Strict
from costopt.schema.data_kinds import IMAGES, LABELLED_TEXT, MASKED_TEXT, TEXT, ChangesSamples
from costopt.schema.unions import tagged_union

PHRASE_PATTERN = r"^[^\s\x00-\x1f]([^\x00-\x1f]*[^\s\x00-\x1f])?$"
WORD_PATTERN = r"^[^\s\x00-\x1f.,;:!?()\"]+$"

Percent = Annotated[int, Field(ge=0, le=100)]
PositivePercent = Annotated[int, Field(ge=1, le=100)]
Phrase = Annotated[str, StringConstraints(pattern=PHRASE_PATTERN, min_length=1, max_length=200)]
Word = Annotated[str, StringConstraints(pattern=WORD_PATTERN, min_length=1, max_length=64)]


class TokenDropout(ChangesSamples):
    """Single tokens of the inputs become others; the targets stay what they are. Tokens that stand for no text, and
    those that masked text has chosen as targets, are left alone."""

    fits = (TEXT, MASKED_TEXT, LABELLED_TEXT)

    percent: PositivePercent = 10
    """The chance of each token."""
    replacement: Literal["Random", "Previous", "Mask"] = "Random"
    """Random: any token of the tokenizer. Previous: the one before it, where there is one. Mask: the mask token, which
    the vocabulary has for all but a model that learns the next token."""


class SpanCorruption(ChangesSamples):
    """Spans of tokens of the inputs become others, as in TokenDropout; the targets stay what they are, so that a model
    of the next token must tell what was in a span from what stands before it."""

    fits = (TEXT, MASKED_TEXT, LABELLED_TEXT)

    percent: Annotated[int, Field(ge=1, le=90)] = 15
    """Percent of the tokens that lie in a span, as a mean."""
    mean_span_tokens: Annotated[int, Field(ge=1, le=100)] = 3
    """Tokens of a span as a mean; lengths are spread geometrically, up to ten times as many. Spans may overlap."""
    replacement: Literal["Random", "Previous", "Mask"] = "Random"
    """Random and Mask: as in TokenDropout, each token for itself. Previous: all become the token before the span."""


class Reorder(ChangesSamples):
    """Words or sentences of a document change places; the blanks between them stay where they are."""

    fits = (LABELLED_TEXT,)

    unit: Literal["Words", "Sentences"] = "Words"
    """What changes places. A sentence ends with a full stop, an exclamation or a question mark before a blank."""
    max_distance: Annotated[int, Field(ge=1, le=10000)] = 3
    """Places that one moves at most."""
    samples_percent: PositivePercent = 50
    """The chance of each sample to be changed at all."""


class InsertWords(ChangesSamples):
    """Words or phrases are put behind words of a document."""

    fits = (LABELLED_TEXT,)

    phrases: Annotated[list[Phrase], Field(min_length=1, max_length=1000)] | None = None
    """What is inserted, each as likely. None means words of the same document."""
    percent: PositivePercent = 10
    """The chance of each word to be followed by one."""


class Synonyms(ChangesSamples):
    """Words become others that mean the same."""

    fits = (LABELLED_TEXT,)

    groups: Annotated[
        list[Annotated[list[Word], Field(min_length=2, max_length=50)]], Field(min_length=1, max_length=1000)
    ]
    """Words that stand for one another. Capitals at the beginning stay; otherwise small and capital letters are the
    same. A word in several groups may become one of any of them."""
    percent: PositivePercent = 20
    """The chance of each word that is in a group."""


class Flip(ChangesSamples):
    """Images are mirrored."""

    fits = (IMAGES,)

    horizontal_percent: Percent = 50
    """The chance that left and right change places."""
    vertical_percent: Percent = 0
    """The chance that top and bottom do."""

    rules = (
        Rule(
            cel="self.horizontalPercent + self.verticalPercent > 0",
            message="horizontalPercent and verticalPercent must not both be 0",
            holds=lambda data: data["horizontalPercent"] + data["verticalPercent"] > 0,
        ),
    )


class Crop(ChangesSamples):
    """Images are framed with pixels, and cut to their size at a random place: they move."""

    fits = (IMAGES,)

    padding: Annotated[int, Field(ge=1, le=1024)] = 4
    """Pixels of the frame on each side: how far an image moves at most."""
    fill: Literal["Edge", "Black"] = "Edge"
    """What the frame is made of: the nearest pixel of the image, or black."""


class Rotate(ChangesSamples):
    """Images are turned about their middle, between pixels linearly."""

    fits = (IMAGES,)

    max_degrees: Annotated[int, Field(ge=1, le=180)] = 15
    """How far at most, in either direction."""
    fill: Literal["Edge", "Black"] = "Edge"
    """What stands where nothing of the image does: its nearest pixel, or black."""


class Color(ChangesSamples):
    """Images become brighter or darker, of more or less contrast and colour, each by a factor in 100 % +- what is
    given. Images of one channel have no colour that could change."""

    fits = (IMAGES,)

    brightness_percent: Percent = 20
    """Of the distance from black."""
    contrast_percent: Percent = 20
    """Of the distance from the mean of the image."""
    saturation_percent: Percent = 20
    """Of the distance from grey, where there are 3 channels."""


class Noise(ChangesSamples):
    """Each value of a pixel gets noise of its own, spread normally."""

    fits = (IMAGES,)

    percent: PositivePercent = 5
    """Its standard deviation, of the distance from black to white."""


class Cutout(ChangesSamples):
    """A square of each image becomes grey (DeVries and Taylor, arXiv 1708.04552). It may lie in part outside."""

    fits = (IMAGES,)

    side_percent: PositivePercent = 30
    """Its side, of the shorter side of the image."""
    samples_percent: PositivePercent = 100
    """The chance of each sample to be changed at all."""


class Mixup(ChangesSamples):
    """Each image is mixed with any other of the training split, of which it keeps a share that is drawn from
    Beta(alpha + 1, alpha), and its own class. In expectation that is the loss of mixup with classes mixed in the same
    shares, drawn from Beta(alpha, alpha) (Zhang et al., arXiv 1710.09412), without targets of two classes."""

    fits = (IMAGES,)

    alpha_percent: Annotated[int, Field(ge=1, le=1000)] = 20
    """A hundred times alpha: the more, the more is mixed."""


@tagged_union
class Augmentation(Strict):
    """One change of training samples, drawn anew for each sample in each epoch."""

    type: Literal[
        "TokenDropout",
        "SpanCorruption",
        "Reorder",
        "InsertWords",
        "Synonyms",
        "Flip",
        "Crop",
        "Rotate",
        "Color",
        "Noise",
        "Cutout",
        "Mixup",
    ]
    """Which of the settings below is used."""
    token_dropout: TokenDropout | None = None
    """Settings of TokenDropout. None means its defaults."""
    span_corruption: SpanCorruption | None = None
    """Settings of SpanCorruption. None means its defaults."""
    reorder: Reorder | None = None
    """Settings of Reorder. None means its defaults."""
    insert_words: InsertWords | None = None
    """Settings of InsertWords. None means its defaults."""
    synonyms: Synonyms | None = None
    """Settings of Synonyms, which must be given."""
    flip: Flip | None = None
    """Settings of Flip. None means its defaults."""
    crop: Crop | None = None
    """Settings of Crop. None means its defaults."""
    rotate: Rotate | None = None
    """Settings of Rotate. None means its defaults."""
    color: Color | None = None
    """Settings of Color. None means its defaults."""
    noise: Noise | None = None
    """Settings of Noise. None means its defaults."""
    cutout: Cutout | None = None
    """Settings of Cutout. None means its defaults."""
    mixup: Mixup | None = None
    """Settings of Mixup. None means its defaults."""
