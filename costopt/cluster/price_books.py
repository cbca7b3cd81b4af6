"""PriceBooks of a cluster: they belong to no namespace, and often not to those who submit jobs."""

from costopt.cluster.api import APPLY_PATCH, Cluster, Plain, segment
from costopt.cluster.jobs import API_ROOT, Change, apply_query, change
from costopt.cluster.refusals import NotThere


def find_price_book(cluster: Cluster, name: str) -> Plain | None:
    """The price book of that name, if there is one. Raises Forbidden if this user may not look."""
    try:
        return cluster.ask("GET", _path(name))
    except NotThere as error:
        if error.name != name:
            raise
        return None


def apply_price_book(cluster: Cluster, document: Plain, *, dry_run: bool, force: bool) -> Change:
    """Have the price book be as its manifest says. Raises Forbidden if this user may not."""
    name = document["metadata"]["name"]
    before = find_price_book(cluster, name)
    query = apply_query(dry_run=dry_run, force=force)
    return change(before, cluster.ask("PATCH", _path(name), query, document, content_type=APPLY_PATCH))


def _path(name: str) -> str:
    return f"{API_ROOT}/pricebooks/{segment(name)}"
