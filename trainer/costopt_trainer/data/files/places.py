"""A place as settings name it: a path of this machine, or a URL.

is_remote     whether it is a URL of another place
local_path    the path of this machine, also of a `file://` URL
shown         the place in words that hold no secret
told          a list of places in words
"""

from collections.abc import Sequence
from urllib.parse import unquote

from costopt.schema.data_places import has_secret


def is_remote(place: str) -> bool:
    """Whether it is a URL of another place than this machine."""
    return "://" in place and not place.lower().startswith("file://")


def local_path(place: str) -> str:
    """A path as it is, of a `file://` URL its path."""
    return unquote(place[len("file://") :]) if place.lower().startswith("file://") else place


def shown(place: str) -> str:
    """A place in words: a URL without what stands behind `?`, and without anything if it brings credentials."""
    if has_secret(place):
        return f"{place.partition('://')[0]}://..."
    return place.partition("?")[0] if is_remote(place) else place


def told(setting: str, places: Sequence[str]) -> str:
    """How errors call what settings name."""
    return f"{setting}: {shown(places[0])}" + (f" and {len(places) - 1} more" if places[1:] else "")
