"""Reading what another version of costopt wrote: fields that are not known here are passed over.

While an installation is upgraded its definitions are newer than its operator for a while, and the API server fills in
the new fields' defaults. Whether a field is a mistake was for the API server to say, which has accepted it. A status or
a run folder of an earlier version may have fields that are gone; those that came later must have defaults.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from costopt.schema.earlier_words import in_todays_words

M = TypeVar("M", bound=BaseModel)


def read_known(model: type[M], document: bytes) -> M:
    """The document in the words of today, without the fields that the model does not know.

    Raises ValidationError for any other mistake.
    """
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        if not _unknown(error):
            raise
    plain = json.loads(document)
    in_todays_words(plain)
    try:
        return model.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        unknown = _unknown(error)
        if not unknown:
            raise
        for place in unknown:
            _remove(plain, place)
        return model.model_validate_json(json.dumps(plain))


def _unknown(error: ValidationError) -> list[tuple[int | str, ...]]:
    """Where there are fields that the model does not know."""
    return [item["loc"] for item in error.errors(include_url=False) if item["type"] == "extra_forbidden"]


def _remove(plain: Any, place: tuple[int | str, ...]) -> None:
    *parents, last = place
    for key in parents:
        plain = plain[key]
    del plain[last]
