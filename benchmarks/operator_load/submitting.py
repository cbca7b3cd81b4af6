"""Objects created at a steady rate, whatever becomes of them, as users do who do not wait for each other."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from cluster.control_plane import ControlPlane
from costopt_operator.kube.api import Api
from costopt_operator.kube.connection import load_configuration

Json = dict[str, Any]


async def api_of(control_plane: ControlPlane) -> Api:
    """A connection with full rights, of a user other than the operator."""
    return Api(await load_configuration(str(control_plane.kubeconfig), None))


async def submit(api: Api, names: Sequence[str], rate: float, draw: Callable[[str], list[Json]]) -> float:
    """Create what `draw` makes of each name, `rate` names a second; returns the seconds that it took.

    Objects of one name are created one after the other. A slow API server delays no later name, until 200 wait.
    """
    places = asyncio.Semaphore(200)

    async def create(name: str) -> None:
        try:
            for document in draw(name):
                await api.create(document)
        finally:
            places.release()

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(names):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            await places.acquire()
            tasks.create_task(create(name))
    return time.monotonic() - began
