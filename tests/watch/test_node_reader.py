"""Nodes are asked what they are, each once in a while."""

import asyncio
from typing import Any

from builders.operator import pod
from costopt_operator.kube.api import ApiError
from costopt_operator.watch.node_reader import NODE_CLASS_SECONDS, Nodes


class NotYetAllowed:
    """An API server that learns of our rights a moment after its start."""

    def __init__(self) -> None:
        self.asked = 0

    async def request(self, _method: str, _path: str) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            raise ApiError(403, "Forbidden", "nodes are forbidden")
        return {"metadata": {"labels": {"karpenter.sh/capacity-type": "spot"}}}


def test_nodes_that_may_not_be_read_are_asked_for_again_after_a_while() -> None:
    api: Any = NotYetAllowed()
    now = 0.0
    nodes = Nodes(api, lambda: now)
    on = pod(0)
    assert on.node is not None
    assert asyncio.run(nodes.of([on]))[on.node].capacity_type == "OnDemand"
    now = NODE_CLASS_SECONDS / 2
    asyncio.run(nodes.of([on]))
    assert api.asked == 1
    now = NODE_CLASS_SECONDS + 1
    assert asyncio.run(nodes.of([on]))[on.node].capacity_type == "Spot"
