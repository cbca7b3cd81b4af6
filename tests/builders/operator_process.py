"""The operator as a separate process, with the arguments and the rights that the chart gives it, for tests and
benchmarks on a control plane.

    account = install(control_plane)                      # the chart's objects; a kubeconfig of its service account
    with OperatorProcess(control_plane, account) as operator:
        ...
        operator.kill(); operator.start()                 # as if its node had gone; the lease is still held by the dead
"""

import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builders.charts import NAMESPACE, hooks_of, rendered, the
from builders.ports import free_port
from builders.waiting import meanwhile
from cluster.clients import Cluster
from cluster.processes import NotReadyError, Process

ACCOUNT = "costopt-operator"
RELEASING_ACCOUNT = "costopt-release-finalizers"
NO_ELECTION = "--no-leader-election"
MISTAKE = "this is a mistake in the operator"
"""What it logs for an unknown exception."""
START_SECONDS = 240
"""Longest time from its start until it acts; imports alone take several seconds on a busy machine."""


def install(cluster: Cluster, **values: Any) -> Path:
    """Apply the chart with these values, except the pods of the operator: it runs here.

    Returns a kubeconfig with exactly the rights of the operator's service account.
    """
    objects = rendered(**values)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    definitions = [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    cluster.apply(namespace, *definitions)
    others = [one for one in objects if not hooks_of(one) and one["kind"] != "Deployment" and one not in definitions]
    cluster.apply(*others)
    names = [f"crd/{one['metadata']['name']}" for one in definitions]
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    return cluster.kubeconfig_for_service_account(NAMESPACE, ACCOUNT)


def install_release(cluster: Cluster) -> Path:
    """Apply the rights of the chart's hook that releases finalizers; returns a kubeconfig of its account."""
    hooks = [one for one in rendered() if hooks_of(one) and one["kind"] != "Job"]
    cluster.apply(*hooks)
    return cluster.kubeconfig_for_service_account(NAMESPACE, RELEASING_ACCOUNT)


def chart_arguments(**values: Any) -> list[str]:
    """The arguments of `costopt-operator run` in the chart's Deployment, except the listen address."""
    container = the("Deployment", rendered(**values))["spec"]["template"]["spec"]["containers"][0]
    return [word for word in container["args"] if not word.startswith(("--listen=", "--log-format="))]


class OperatorProcess:
    """One operator process; `arguments` are added to the chart's. It ends with the process that started it."""

    def __init__(
        self,
        cluster: Cluster,
        kubeconfig: Path,
        *arguments: str,
        identity: str = "operator",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.identity = identity
        self.cluster = cluster
        given = chart_arguments()
        if NO_ELECTION in arguments:
            given = [word for word in given if not word.startswith("--lease-name=")]
        own = [
            f"--kubeconfig={kubeconfig}",
            f"--listen=127.0.0.1:{self.port}",
            "--log-format=text",
            f"--identity={identity}",
            f"--lease-namespace={NAMESPACE}",
        ]
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        program = ["/usr/bin/env", *variables, sys.executable, "-m", "costopt_operator", "run"]
        self.process = Process(identity, [*program, *given, *own, *arguments], cluster.folder / f"{identity}.log")

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_acting()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(f"--- the end of the log of {self.identity}:\n{self.process.log_tail(80)}\n")
        self.stop()  # so that the next one need not wait for its lease to run out
        if error is None:
            assert MISTAKE not in self.log, self.log

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        return self.process.log.read_text(encoding="utf-8", errors="replace") if self.process.log.exists() else ""

    def start(self) -> None:
        """Start it; returns at once."""
        self.process.start()

    def restarted_at_its_end(self) -> AbstractContextManager[None]:
        """Meanwhile it is started again whenever it has ended by itself, as a kubelet does."""

        def restart() -> None:
            if self.pid is None:
                self.start()

        return meanwhile(restart, 0.2)

    def kill(self) -> None:
        """SIGKILL: nothing is finished, no lease given back."""
        self.process.stop(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as when its pod is deleted."""
        self.process.stop(signal.SIGTERM, patience_seconds=30)

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of /healthz, /readyz or /metrics; status 0 if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_acting(self) -> bool:
        """Whether it leads and has listed all objects."""
        return self.page("/readyz") == (200, "acting")

    def wait_until_acting(self, seconds: float = START_SECONDS) -> float:
        """Return once it acts; the seconds that took."""
        return self._wait_until_says("acting", seconds)

    def wait_until_standing_by(self) -> None:
        """Return once it waits for the lease."""
        self._wait_until_says("standing by", START_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels; 0 if there are none."""
        total = 0.0
        for line in self.page("/metrics")[1].splitlines():
            found = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            if found is None or found[1] != name:
                continue
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if labels.items() <= given.items():
                total += float(found[3])
        return total

    def _wait_until_says(self, words: str, seconds: float) -> float:
        began = time.monotonic()
        try:
            self.process.wait_until(lambda: self.page("/readyz") == (200, words), seconds)
        except NotReadyError as error:
            raise AssertionError(f"the operator is not {words}: {error}") from error
        return time.monotonic() - began
