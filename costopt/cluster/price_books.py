"""PriceBooks of a cluster: no namespace, and often not owned by those who submit jobs."""

from costopt.cluster.api import APPLY_PATCH, Cluster, Plain
from costopt.cluster.jobs import Change, apply_query, change
from costopt.cluster.refusals import NotThere
from costopt.schema.kinds import PRICE_BOOK


def find_price_book(cluster: Cluster, name: str) -> Plain | None:
    """The price book of that name, if there is one. Raises Forbidden if this user may not read it."""
    try:
        return cluster.ask("GET", PRICE_BOOK.path(name=name))
    except NotThere as error:
        if error.name != name:
            raise
        return None


def apply_price_book(cluster: Cluster, document: Plain, *, dry_run: bool, force: bool) -> Change:
    """Apply the price book's manifest. Raises Forbidden if this user may not."""
    name = document["metadata"]["name"]
    before = find_price_book(cluster, name)
    query = apply_query(dry_run=dry_run, force=force)
    return change(before, cluster.ask("PATCH", PRICE_BOOK.path(name=name), query, document, content_type=APPLY_PATCH))
