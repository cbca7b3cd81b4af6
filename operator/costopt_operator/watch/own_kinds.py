"""kopf watches our own kinds and only reports changes; it writes nothing.

It does not scan resources, post events, set finalizers or annotations, or take part in leader election.
"""

from collections.abc import Callable, Iterable
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from costopt.schema.base import API_GROUP
from costopt.schema.kinds import VERSION
from costopt_operator.kube.connection import Pauses, session_of
from costopt_operator.watch.own_objects import OwnObjects

IDENTITY: Any = "costopt-operator"
"""For kopf's peering, which is off. By default kopf looks up the user in passwd and this host in DNS; a pod's user has
no entry in passwd, and DNS may block for long."""

PAGE = 100
"""Page size of the first list."""


def registry_for(watched: Iterable[OwnObjects[Any]], configuration: Configuration) -> kopf.OperatorRegistry:
    """The handlers of kopf: what it watches, and which cache it reports to."""
    registry = kopf.OperatorRegistry()

    pauses = Pauses()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # A new session each time: kopf never retries credentials that were refused once, and an API server that has
        # just started may refuse good ones for a moment.
        await pauses.before_login()
        return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session_of(configuration))

    for own in watched:
        kopf.on.event(API_GROUP, VERSION, own.kind.plural, registry=registry)(_handler(own))

    return registry


def _handler(own: OwnObjects[Any]) -> Any:
    async def changed(event: Any, **_: Any) -> None:
        own.hear(event["type"], event["object"])

    return changed


def settings() -> kopf.OperatorSettings:
    """Settings with which kopf only watches."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.watching.chunk_size = PAGE
    chosen.queueing.idle_timeout = 0.5  # for so long it keeps the last event of each job in memory
    chosen.networking.error_backoffs = (1, 1, 2, 3, 5, *[10] * 30)  # after these kopf gives up, and with it we
    return chosen


async def watch(
    watched: Iterable[OwnObjects[Any]],
    configuration: Configuration,
    namespaces: tuple[str, ...],
    *,
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Run kopf until cancelled or until it has received a signal to end; it then first calls `ending`.

    kopf waits for seconds for all tasks started after it, also those of others.
    """
    registry = registry_for(watched, configuration)

    @kopf.on.cleanup(registry=registry)
    async def clean_up(**_: Any) -> None:
        ending()

    await kopf.operator(
        registry=registry,
        settings=settings(),
        identity=IDENTITY,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
