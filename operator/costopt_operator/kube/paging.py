"""How many objects a list asks for at a time, so that a page is small however large they are. Pure.

The API server counts a page in objects, and one may be 1.5 MB. A page is read into memory and then taken apart, which
takes several times its size; so the first is of few objects, and each further one of as many as should fit, going by
those of the page before. One that turns out larger than may be read at all is not read to its end, and asked for again
with half the objects.
"""

FIRST_PAGE = 50
"""Objects asked for at first, when nothing is known of their size."""
PAGE_BYTES = 2 * 2**20
"""Size that a page is meant to have."""
MAX_PAGE_BYTES = 8 * 2**20
"""Most that is read of a page of more than one object; a single one is as large as the API server lets it be."""


def next_limit(limit: int, *, read: int, objects: int, most: int) -> int:
    """How many objects to ask for after a page of `limit`, of which so many came, with so many bytes `read`."""
    if objects == 0:
        return limit
    fitting = PAGE_BYTES * objects // max(1, read)
    return max(1, min(fitting, 2 * limit, most))


def smaller_limit(limit: int) -> int:
    """How many objects to ask for instead of a page that was too large to be read."""
    return max(1, limit // 2)
