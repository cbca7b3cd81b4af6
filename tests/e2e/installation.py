"""The chart on a cluster, installed by helm as a platform team does it."""

import json
import os
from typing import Any

from builders.waiting import wait_for
from cluster.clients import ROOT, Cluster

NAMESPACE = "costopt-system"
RELEASE = "costopt"
DEPLOYMENT = "deployment/costopt-operator"
CHART = ROOT / "charts" / "costopt"
PRICES = {"cpu": ("vCPU-Hours", "0.0400"), "memory": ("GiB-Hours", "0.0050")}


def price_book() -> dict[str, Any]:
    """Prices of everything a small pod asks for."""
    source = {"effectiveFrom": "2026-01-01", "source": "sample figure"}
    rows = [
        {"resource": resource, "unit": unit, "listUnitPrice": price, **source}
        for resource, (unit, price) in PRICES.items()
    ]
    return {"currency": "USD", "prices": rows}


class Installation:
    """One release of the chart."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def values(self, **changed: Any) -> dict[str, Any]:
        """Helm values: images, prices, and what a test asks for besides."""
        values: dict[str, Any] = {"priceBooks": {"sample": price_book()}, **changed}
        if operator := os.environ.get("COSTOPT_TEST_OPERATOR_IMAGE"):
            repository, _, tag = operator.rpartition(":")
            values["image"] = {"repository": repository, "tag": tag}
        if trainer := os.environ.get("COSTOPT_TEST_TRAINER_IMAGE"):
            values["trainer"] = {"defaultImage": trainer}
        return values

    def install(self, *arguments: str, **changed: Any) -> None:
        """`helm upgrade --install`, then wait until every replica is ready."""
        words = ["upgrade", "--install", RELEASE, str(CHART), "--create-namespace", "--values", "-", *arguments]
        self.cluster.helm(*words, input=json.dumps(self.values(**changed)), namespace=NAMESPACE)
        self.wait_until_ready()

    def wait_until_ready(self, seconds: int = 90) -> None:
        """Every replica of the operator is ready."""
        self.kubectl("rollout", "status", DEPLOYMENT, f"--timeout={seconds}s")

    def uninstall(self) -> None:
        """`helm uninstall`: jobs, bills and price books stay."""
        self.cluster.helm("uninstall", RELEASE, "--wait", namespace=NAMESPACE)

    def kubectl(self, *arguments: str) -> str:
        """kubectl in the operator's namespace."""
        return self.cluster.kubectl(*arguments, namespace=NAMESPACE)

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods that are not on their way out."""
        selector = "app.kubernetes.io/component=operator"
        found: list[dict[str, Any]] = self.cluster.get("pods", "--selector", selector, namespace=NAMESPACE)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def holder(self) -> str:
        """Identity of the process that acts now; empty if the lease is free."""
        lease = self.cluster.get("lease", "costopt-operator", namespace=NAMESPACE)
        return str(lease["spec"].get("holderIdentity") or "")

    def leader(self) -> dict[str, Any]:
        """The pod of the process that acts now, which is waited for: between two leaders there is none."""
        found: dict[str, Any] = wait_for(self._leader, "led by a pod that is there")
        return found

    def _leader(self) -> dict[str, Any] | None:
        holder = self.holder()
        return next((pod for pod in self.pods() if holder.startswith(pod["metadata"]["name"])), None)

    def logs(self) -> str:
        """What the operator's pods have logged."""
        return "\n".join(self.kubectl("logs", pod["metadata"]["name"]) for pod in self.pods())
