"""Releasing every finalizer of ours, so that nothing hangs once the operator is gone (the chart's pre-delete hook)."""

import logging

from kubernetes.aio.client import Configuration

from costopt.names import MANAGED_BY_SELECTOR, USAGE_FINALIZER
from costopt_operator.kube.api import Api, list_path

log = logging.getLogger(__name__)


async def release_finalizers(configuration: Configuration, namespaces: tuple[str, ...]) -> int:
    """Release our finalizer from all pods in these namespaces (none named: in all); returns of how many."""
    api = Api(configuration)
    released = 0
    try:
        for namespace in namespaces or (None,):
            async for page in api.pages(list_path("Pod", namespace), {"labelSelector": MANAGED_BY_SELECTOR}):
                for item in page["items"]:
                    metadata = item["metadata"]
                    if USAGE_FINALIZER in metadata.get("finalizers", []):
                        await api.remove_finalizer(
                            metadata["namespace"], metadata["name"], metadata["uid"], USAGE_FINALIZER
                        )
                        released += 1
    finally:
        await api.close()
    log.info("released the finalizer of %d pods", released)
    return released
