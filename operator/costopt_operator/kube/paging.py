"""Page size of a list, so that a page stays small however large its objects are. Pure.

The API server counts a page in objects, and one may be 1.5 MB. A page is read into memory and then taken apart, which
takes several times its size; so the first is of few objects, and each further one of as many as should fit, going by
those of the page before. One that turns out larger than may be read at all is not read to its end, and asked for again
with half the objects.
"""

FIRST_PAGE = 50
"""Page size of the first page, when the size of the objects is unknown."""
PAGE_BYTES = 2 * 2**20
"""Target size of a page in bytes."""
MAX_PAGE_BYTES = 8 * 2**20
"""Limit in bytes for a page of more than one object; a single object may have any size that the API server allows."""


def next_limit(limit: int, *, read: int, objects: int, most: int) -> int:
    """How many objects to ask for after a page of `limit`, of which so many came, with so many bytes `read`."""
    if objects == 0:
        return limit
    fitting = PAGE_BYTES * objects // max(1, read)
    return max(1, min(fitting, 2 * limit, most))


def smaller_limit(limit: int) -> int:
    """Page size to retry with after a page that was too large."""
    return max(1, limit // 2)
