"""JSON files of a run folder -> models. A folder is a place where anybody with its rights may have written.

read_ours     what the shell has written itself: damaged, it is refused in one sentence
read_theirs   what the job's own processes write: damaged, it counts as not there
damaged       the sentence
"""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from costopt.hostile import MAX_JSON_BYTES, Hostile, parse_json, read_file
from costopt.plan.foreign_text import one_line
from costopt.refused import Refused
from costopt.schema.base import Strict
from costopt.schema.lenient_parse import read_known

MAX_WORD_BYTES = 2**16
"""Of what a replica says of itself; ours have some thousands, and are read several times a second."""
_LONGEST_REASON = 300
"""Characters: a field that is not known may have any name."""

Model = TypeVar("Model", bound=Strict)


def read_ours(path: Path, model: type[Model], remedy: str) -> Model | None:
    """The file as a model; None when there is none. Raises Refused, saying what is wrong, and `remedy`."""
    try:
        return _read(path, model, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); it must be a file you may read") from None
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in mistake["loc"]) or "document"
        raise damaged(path, f"{where}: {mistake['msg']}", remedy) from None
    except Hostile as error:
        raise damaged(path, str(error), remedy) from None


def read_theirs(path: Path, model: type[Model]) -> Model | None:
    """The file as a model; None when there is none that can be read."""
    try:
        return _read(path, model, MAX_WORD_BYTES)
    except (OSError, ValueError):
        return None


def damaged(path: Path, why: str, remedy: str) -> Refused:
    """The refusal of a file that is not what we wrote."""
    return Refused(f"{path} is damaged ({one_line(why, _LONGEST_REASON)}); {remedy}")


def _read(path: Path, model: type[Model], max_bytes: int) -> Model:
    content = read_file(path, max_bytes=max_bytes)
    parse_json(content, max_bytes=max_bytes)  # pydantic alone knows no bound for depth and numbers
    return read_known(model, content)
