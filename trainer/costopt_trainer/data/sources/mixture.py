"""Several texts of one job, each a source of its own.

Mixture     the sources, opened
Part        one of them
naming      errors within tell of which source they are
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costopt.schema.data import DataSettings, SourceSettings
from costopt.schema.mixture import MixtureSource
from costopt.schema.unions import UNIONS
from costopt_trainer.data.sources import table
from costopt_trainer.errors import NotRetryable


@dataclass(frozen=True)
class Part:
    """One of several sources."""

    name: str
    settings: DataSettings
    """As if it were alone."""
    source: "table.DocumentSource | table.TokenSource"


class Mixture:
    """Several sources of text."""

    def __init__(self, settings: SourceSettings, own_folder: Path | None = None, cache_dir: Path | None = None) -> None:
        """Open them. Raises NotRetryable("InvalidData") of one sentence."""
        if not isinstance(settings, DataSettings) or settings.mixture is None:
            raise ValueError("data of type Mixture must have mixture settings")
        self.parts = tuple(_opened(settings, each, own_folder, cache_dir) for each in settings.mixture.sources)
        """In the order of the settings."""


def _opened(settings: DataSettings, source: MixtureSource, own_folder: Path | None, cache_dir: Path | None) -> Part:
    [(word, key, given)] = [
        (member.word, member.name, own)
        for member in UNIONS[DataSettings]
        if (own := getattr(source, member.name, None)) is not None
    ]
    # Tokens made elsewhere have no tokenizer, and no text that could be changed.
    without = {"transforms": None, "tokenizer": None} if word == "TokenShards" else {}
    alone = settings.model_copy(update={"type": word, "mixture": None, key: given, **without})
    with naming(source.name):
        opened = table.open_source(alone, own_folder, cache_dir)
    if isinstance(opened, table.SampleSource | table.MixedSource):
        raise TypeError(f"a source of text must give documents or tokens, and {word} does not")
    return Part(source.name, alone, opened)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """A sentence about data says in which source of a mixture it is wrong."""
    try:
        yield
    except NotRetryable as error:
        raise NotRetryable(error.reason, f"source {name} of data.mixture: {error}") from error
