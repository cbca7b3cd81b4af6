"""Reads nodes, which are not watched: each is requested as rarely as possible."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from costopt_operator.decide import shapes
from costopt_operator.decide.node_pricing import UNKNOWN_NODE, NodeClass, classify
from costopt_operator.decide.objects import Pod
from costopt_operator.kube.api import Api, ApiError, Json

log = logging.getLogger(__name__)

NODE_CLASSES_KEPT = 50_000
NODE_CLASS_SECONDS = 600.0
"""After this long the class of a node is read again: device labels appear some time after the node."""
CONCURRENT_NODES = 16


class Nodes:
    """Classes of nodes, each read now and then."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._classes: dict[str, tuple[NodeClass, float]] = {}
        """By name: the class, and when it was read."""
        self._forbidden_at: float | None = None

    async def of(self, pods: Iterable[Pod]) -> Mapping[str, NodeClass]:
        """The classes of the nodes that these pods were placed on."""
        wanted = {pod.node for pod in pods if pod.node is not None}
        due = [name for name in wanted if self._is_due(name)]
        for begin in range(0, len(due), CONCURRENT_NODES):
            await asyncio.gather(*(self._ask(name) for name in due[begin : begin + CONCURRENT_NODES]))
        return {name: self._classes[name][0] if name in self._classes else UNKNOWN_NODE for name in wanted}

    def _is_due(self, name: str) -> bool:
        if self._forbidden_at is not None and self._clock() - self._forbidden_at <= NODE_CLASS_SECONDS:
            return False
        return name not in self._classes or self._clock() - self._classes[name][1] > NODE_CLASS_SECONDS

    async def _ask(self, name: str) -> None:
        try:
            node = await self._api.request("GET", f"/api/v1/nodes/{name}")
        except ApiError as error:
            if error.status == 403:
                self._forbidden_at = self._clock()  # rights that a server has not learned yet are there a while later
                log.warning("nodes may not be read, so device models and kinds of capacity are not known")
                return
            if error.status != 404:
                raise
            # The node is gone; its class, if known, still holds for the pods that ran there.
            found = self._classes[name][0] if name in self._classes else UNKNOWN_NODE
        else:
            found = classify(_labels_of(node))
        if len(self._classes) >= NODE_CLASSES_KEPT:
            self._classes.pop(next(iter(self._classes)))
        self._classes[name] = (found, self._clock())

    async def is_lost(self, name: str) -> bool:
        """Whether the node is gone or not ready."""
        try:
            node = await self._api.request("GET", f"/api/v1/nodes/{name}")
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return not _is_ready(node)


def _labels_of(node: Json) -> dict[str, str]:
    labels: dict[str, str] = shapes.shaped(shapes.NODE, node)["metadata"].get("labels", {})
    return labels


def _is_ready(node: Json) -> bool:
    conditions = shapes.shaped(shapes.NODE, node).get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
