"""Where data lies, as a source's settings name it.

SeveralPlaces    settings of a source that reads files: one path, or several
no_secret_in     the rule that a URL holds no password and no signature
"""

import re
from typing import Annotated, ClassVar

from pydantic import Field

from costopt.schema.base import Path, PlainData, Rule, Strict

_BRINGS_CREDENTIALS = (
    r"(?i)^(https?://[^/]*@|(s3a?|gc?s)://[^/]*:.*@|[a-z0-9+.-]+://[^/]*:[^/]*@"
    r"|[a-z0-9+.-]+://[^?]*[?](.*&)?[^=&]*(signature|sig|token|secret|password|credential|accesskey|api_?key)=)"
)
"""A URL that brings credentials: `user:password@`, or a query with a signature or token. RE2, as the API server has."""

_MESSAGE = "a URL must not hold a password, token or signature; give credentials in the environment of the pod"


def has_secret(place: str) -> bool:
    """Whether a path is a URL that brings credentials."""
    return re.search(_BRINGS_CREDENTIALS, place) is not None


def no_secret_in(*fields: str) -> Rule:
    """For a class with these fields, each one path or a list of them."""

    def holds(data: PlainData) -> bool:
        given = [data[field] for field in fields if field in data]
        places = [place for one in given for place in ([one] if isinstance(one, str) else one)]
        return not any(has_secret(place) for place in places)

    pattern = _BRINGS_CREDENTIALS.replace("\\", "\\\\")
    given = (
        f"(has(self.{field}) ? {f'self.{field}' if field == 'paths' else f'[self.{field}]'} : [])" for field in fields
    )
    return Rule(cel=f"!({' + '.join(given)}).exists(place, place.matches('{pattern}'))", message=_MESSAGE, holds=holds)


class SeveralPlaces(Strict):
    """Files of data: `path` is one place, `paths` are several."""

    path: Path | None = None
    """A file, a folder, a pattern such as `data/*.txt` (`**` is any folders), or a URL such as `s3://bucket/folder`. A
    relative path begins where `costopt run` is called; in a pod, at the root of the claim that is the job's storage.
    Files that end in `.gz` or `.zst` are unpacked as they are read. What lies behind a URL is copied once into the
    storage's cache; credentials come from the environment of the pod alone."""
    paths: Annotated[list[Path], Field(min_length=1, max_length=64)] | None = None
    """Several such places, read in the order given. A file that two of them name is read once."""

    rules: ClassVar[tuple[Rule, ...]] = (no_secret_in("path", "paths"),)

    @property
    def places(self) -> tuple[str, list[str]]:
        """The name of the field that is set, and what it names."""
        return ("path", [self.path]) if self.path is not None else ("paths", list(self.paths or ()))
