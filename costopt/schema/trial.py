"""What `costopt try` asks of an artifact, and what the process that loads it answers."""

from typing import Annotated, Literal

from pydantic import Field

from costopt.schema.base import Count, DecimalString, Figure, LongText, Path, Strict

MASK = "[MASK]"
"""In a text: a token that is to be told, whatever a tokenizer itself calls it."""
MOST_TOKENS = 4096
MAX_INPUT_CHARACTERS = 2**20


class TrialRequest(Strict):
    """An input for an artifact."""

    folder: Path
    """The artifact's."""
    input: Annotated[str, Field(max_length=MAX_INPUT_CHARACTERS)]
    """A text; of a model of images a file with one; of a table's the numbers of a row, between commas."""
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 64
    """Tokens to add to a text at most."""
    temperature: DecimalString = "1"
    """Logits are divided by it before a token is drawn. 0: the likeliest is taken."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Of what is drawn: the same seed, the same text on the same machine."""


class Choice(Strict):
    """One answer of several."""

    label: Annotated[str, Field(max_length=1024)]
    """A class, or the text of a token."""
    probability: Figure
    """Of that, from 0 to 1."""


class TrialAnswer(Strict):
    """What the model makes of it."""

    task: Literal["Complete", "FillMask", "Classify"]
    """What such a model does: goes on with a text, tells hidden tokens, or tells a class."""
    text: Annotated[str, Field(max_length=2**22)] | None = None
    """What follows on the input, or the input with its likeliest tokens. None of a class."""
    choices: Annotated[list[Annotated[list[Choice], Field(max_length=16)]], Field(max_length=1024)] = Field(
        default_factory=list
    )
    """The likeliest classes; or the likeliest tokens of each hidden one, in order."""
    tokens: Count | None = None
    """Tokens that were added."""
    shortened: bool = False
    """Whether only the end of a text, or the beginning of a document, fits into the model's context."""


class TrialRefusal(Strict):
    """Why there is no answer."""

    message: LongText
    """What would be right, in one sentence."""
