"""kopf watches the two kinds of our own, and only tells that something has happened; it writes nothing.

It scans no resources, posts no events, keeps no finalizers or annotations, and takes no part in leader election.
"""

import time
from collections.abc import Callable
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from costopt_operator.cluster import Cluster
from costopt_operator.sightings import parse_job

PAGE = 100
"""Objects of one page of the first list."""


def registry_for(cluster: Cluster, configuration: Configuration, *, watch_books: bool) -> kopf.OperatorRegistry:
    """What kopf is to watch, and whom to tell."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo | None:
        return await connection_of(configuration)

    @kopf.on.event("costopt.dev", "v1alpha1", "costoptjobs", registry=registry)
    async def job_changed(event: Any, **_: Any) -> None:
        cluster.heard = time.monotonic()
        job = parse_job(event["object"])
        if event["type"] == "DELETED":
            cluster.forget_job(job)
        else:
            cluster.learn_job(job)

    if watch_books:

        @kopf.on.event("costopt.dev", "v1alpha1", "pricebooks", registry=registry)
        async def book_changed(event: Any, **_: Any) -> None:
            data = event["object"]
            if event["type"] == "DELETED":
                cluster.forget_book(data["metadata"]["name"])
            else:
                cluster.learn_book(data)

    return registry


async def connection_of(configuration: Configuration) -> kopf.ConnectionInfo | None:
    """How kopf reaches the API server: just as we do."""
    token = await configuration.get_api_key_with_prefix("BearerToken")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=configuration.ca_cert_data,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=token.removeprefix("Bearer ") if token else None,
        proxy_url=configuration.proxy,
    )


def settings() -> kopf.OperatorSettings:
    """kopf, quiet."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.watching.chunk_size = PAGE
    chosen.queueing.idle_timeout = 0.5  # for so long it keeps the last event of each job in memory
    chosen.networking.error_backoffs = (1, 1, 2, 3, 5, *[10] * 30)  # after these kopf gives up, and with it we
    return chosen


async def watch(
    cluster: Cluster,
    configuration: Configuration,
    namespaces: tuple[str, ...],
    *,
    watch_books: bool,
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Run kopf until cancelled, or until it has got a signal to end; then it first calls `ending`.

    kopf waits seconds for all tasks that have begun after it, whosesoever they are.
    """
    registry = registry_for(cluster, configuration, watch_books=watch_books)

    @kopf.on.cleanup(registry=registry)
    async def clean_up(**_: Any) -> None:
        ending()

    await kopf.operator(
        registry=registry,
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
