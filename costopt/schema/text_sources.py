"""The sources of text without labels, alone or in a mixture.

TextData, PythonStandardLibraryData, RecordsData, TokenShardsData
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.schema.base import Path, Rule
from costopt.schema.data_kinds import TEXT, GivesSamples
from costopt.schema.data_places import SeveralPlaces, no_secret_in
from costopt.schema.records import BadSamples, RecordFiles
from costopt.schema.unions import one_of


@one_of(path="one place", paths="several")
class TextData(SeveralPlaces, BadSamples, GivesSamples):
    """UTF-8 text from files, or from all matching files below folders. Each file is a document, and a bad sample if it
    is not UTF-8 or cannot be read."""

    gives = TEXT

    include: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "*.txt"
    """File-name pattern (fnmatch) for a folder; what is named by a path or pattern of its own is always read. A packed
    file counts as what is in it: `a.txt.gz` matches `*.txt`, unless `a.txt` lies beside it. Hidden files and folders
    are passed over unless the pattern begins with a dot: a mounted ConfigMap keeps a second copy of its files in
    one."""
    max_bytes: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """Stop reading whole files after this many bytes of text. None reads everything."""


class PythonStandardLibraryData(GivesSamples):
    """The `.py` files of the standard library of the Python that trains: real text that every machine has."""

    gives = TEXT

    max_bytes: Annotated[int, Field(ge=1, le=10**13)] | None = None
    """Stop reading whole files after this many bytes. None reads everything."""


@one_of(path="one place", paths="several")
class RecordsData(RecordFiles, GivesSamples):
    """Documents from records: lines of JSON Lines, rows of CSV, TSV, Parquet or Arrow. Each is a document."""

    gives = TEXT


@one_of(path="one place", paths="several")
class TokenShardsData(SeveralPlaces, GivesSamples):
    """Tokens made elsewhere: files of token numbers without a header, little-endian, one text behind the other, as
    nanoGPT's programs write them. They are read where they lie, mapped into memory."""

    gives = TEXT
    has_documents = False

    include: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "*.bin"
    """File-name pattern (fnmatch) for a folder; what is named by a path or pattern of its own is always read."""
    number_type: Literal["UInt16", "UInt32"] = "UInt16"
    """What a token number is in the files."""
    vocabulary_size: Annotated[int, Field(ge=2, le=2**24)]
    """Tokens of the tokenizer that made them; every token number must be less."""
    end_of_text_token: Annotated[int, Field(ge=0, le=2**24)] | None = None
    """The token between two documents. If it is given, the part that is held out begins behind one, so that no document
    is in both parts."""
    validation_path: Path | None = None
    """Files that are held out, as `path` has it. None means that `data.validationPercent` of the tokens are, at the
    end."""

    rules = (
        no_secret_in("path", "paths", "validationPath"),
        Rule(
            cel="!has(self.endOfTextToken) || self.endOfTextToken < self.vocabularySize",
            message="endOfTextToken must be less than vocabularySize",
            holds=lambda data: "endOfTextToken" not in data or data["endOfTextToken"] < data["vocabularySize"],
        ),
        Rule(
            cel="!has(self.validationPath) || !((has(self.path) ? [self.path] : self.paths).exists(p, "
            "p == self.validationPath))",
            message="validationPath must name other files than path and paths, which are trained on",
            holds=lambda data: data.get("validationPath", "") not in (data.get("path"), *data.get("paths", ())),
        ),
    )
