"""The running operator: its watches, its workers and kopf, which start and end together."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.client import Configuration

from costopt_operator.act.controller import Controller
from costopt_operator.decide.platform import Platform
from costopt_operator.kube.api import Api, ApiError
from costopt_operator.serve.health import Health
from costopt_operator.serve.leader_election import Leadership
from costopt_operator.serve.metrics import Metrics
from costopt_operator.watch import own_kinds
from costopt_operator.watch.object_cache import Cluster
from costopt_operator.watch.work_queue import WorkQueue

log = logging.getLogger(__name__)

GANG_APIS = ("v1alpha1",)
"""Versions of scheduling.k8s.io whose Workload contains pod groups that a pod can refer to."""


@dataclass(frozen=True)
class Choices:
    """What the command line says."""

    namespaces: tuple[str, ...]
    """Empty: all."""
    default_image: str
    price_books: Path | None
    """Folder of price books; None: they are read from the API server."""
    platform: Platform
    """What jobs may ask for."""


async def act(
    configuration: Configuration,
    choices: Choices,
    metrics: Metrics,
    health: Health,
    leadership: Leadership | None,
) -> None:
    """Watch and act until cancelled, or until a signal has ended kopf, which answers to SIGTERM while it runs."""
    api = Api(configuration, leadership.holds if leadership else lambda: True)
    queue = WorkQueue()
    cluster = Cluster(api, choices.namespaces, choices.price_books, queue.add)
    controller = Controller(
        api,
        cluster,
        queue,
        metrics,
        default_image=choices.default_image,
        gang_api=await find_gang_api(api),
        platform=choices.platform,
    )
    cluster.on_job_gone = controller.forget
    health.cluster, health.queue, health.api = cluster, queue, api
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(cluster.run())
            await cluster.known()
            log.info("acting: %d jobs, %d pods", len(cluster.jobs), len(cluster.pods))
            working = tasks.create_task(controller.run())

            def ending() -> None:
                for task in (watching, working):
                    task.cancel()

            await own_kinds.watch(cluster.reported, configuration, choices.namespaces, ending=ending)
            ending()
    finally:
        health.cluster = health.queue = health.api = None
        await api.close()


async def find_gang_api(api: Api) -> str | None:
    """The version of Kubernetes' own gang scheduling that the API server offers; None: none that we know."""
    for version in GANG_APIS:
        try:
            offered = await api.request("GET", f"/apis/scheduling.k8s.io/{version}")
        except ApiError:
            continue
        if any(resource["name"] in ("workloads", "podgroups") for resource in offered.get("resources", [])):
            log.info("gangs are placed whole through scheduling.k8s.io/%s", version)
            return version
    return None
