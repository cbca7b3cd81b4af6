"""How much a job leaves in its storage's cache of what data becomes."""

from typing import Annotated

from pydantic import Field

from costopt.schema.base import Rule, Strict


class CacheLimits(Strict):
    """What goes from the storage's cache once this job has what it needs: tokens, images, sample numbers and copies of
    files that no process uses, whichever job has made them. All of it can be made again. Where the storage's file
    system has no locks, nothing goes."""

    max_age_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    """Days after which what was not used goes. None means that it may stay for ever."""
    max_bytes: Annotated[int, Field(ge=0, le=10**15)] | None = None
    """Bytes that may stay, with what is in use: what was used longest ago goes first. None means any number."""

    rules = (
        Rule(
            cel="has(self.maxAgeDays) || has(self.maxBytes)",
            message="maxAgeDays or maxBytes must be set: without them everything stays",
            holds=lambda data: "maxAgeDays" in data or "maxBytes" in data,
        ),
    )
