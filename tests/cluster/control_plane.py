"""A Kubernetes control plane on loopback: etcd, API server, controllers and scheduler; kwok as the kubelets.

`python -m cluster.control_plane` starts one and runs it until interrupted; `make control-plane` does the same.
"""

import base64
import contextlib
import json
import shutil
import signal
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from builders.ports import free_port
from cluster import components, objects, pod_logs
from cluster.audit import Request, count_requests, read_requests
from cluster.build import build_binaries
from cluster.clients import Cluster
from cluster.components import Ports, Settings
from cluster.credentials import Credentials
from cluster.processes import NotReadyError, Process
from cluster.stages import write_stages

NUDGE_AFTER_LOOKS = 40
"""Looks at nodes that do not become ready, some seconds in all, before they are changed."""
START_ATTEMPTS = 3
"""A port that was free a moment ago may be taken; then all is started once more."""

TESTS = Path(__file__).resolve().parent.parent


class ControlPlane(Cluster):
    """One control plane in a temporary folder; `with ControlPlane(binaries) as control_plane:` starts and ends it."""

    def __init__(self, binaries: Mapping[str, Path], settings: Settings | None = None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="costopt-cluster-"))
        super().__init__(binaries, folder / "admin.kubeconfig", folder)
        self.settings = settings or Settings()
        self.credentials = Credentials(folder)
        self.ports = Ports(0, 0, 0, 0)
        self.processes: dict[str, Process] = {}
        self._looks_at_nodes = 0

    @property
    def url(self) -> str:
        """The API server's address."""
        return self.ports.api_url

    addresses: tuple[str, ...] = ()
    """Where its API server is reached, besides loopback."""

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what runs now, by component."""
        return {name: process.pid for name, process in self.processes.items() if process.pid is not None}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; return when pods can be created and will run."""
        self.credentials.create(*self.addresses)
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start_once()
            except BaseException as error:
                self._end_processes()
                if (
                    attempt < START_ATTEMPTS
                    and isinstance(error, NotReadyError)
                    and "address already in use" in str(error)
                ):
                    continue
                self.stop()
                raise
            return

    def stop(self) -> None:
        """End everything and remove the folder, logs included."""
        self._end_processes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_api_server(self) -> None:
        """SIGKILL: no answer is finished, no connection closed in order."""
        self.processes["kube-apiserver"].stop(signal.SIGKILL)

    def start_api_server(self) -> None:
        """Start it again on the same port and data; return when it is ready."""
        process = self.processes["kube-apiserver"]
        process.start()
        process.wait_until(self._api_ready)

    def compact_etcd(self) -> int:
        """Forget all but the newest revision of every object; return that revision.

        A watch or list from before the last write is then answered with 410, unless the API server's watch cache still
        remembers: start with `Settings(watch_cache=False)`, or restart the API server.
        """
        # A revision of our own, so that the last one of Kubernetes is old, too.
        mark = {"key": base64.b64encode(b"costopt-compaction").decode()}
        revision = int(self._etcd("kv/put", mark)["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def stop_kubelet(self, node: str) -> None:
        """The node falls silent: not ready after `node_grace_seconds`; its pods neither end nor are deleted."""
        self.kubectl("label", "node", node, f"{objects.KUBELET_LABEL}=stopped", "--overwrite")

    def start_kubelet(self, node: str) -> None:
        """The node answers again."""
        self.kubectl("label", "node", node, f"{objects.KUBELET_LABEL}=running", "--overwrite")

    def write_log(self, namespace: str, name: str, *lines: str) -> None:
        """Add lines to the log of pod `name`; or of all pods named `<name>-<5 random>`; or, as `all`, of all others."""
        pod_logs.append_log(self.folder / "pod-logs", namespace, name, list(lines))

    def audit_offset(self) -> int:
        """Where the audit log ends now, to count what comes after."""
        path = self.folder / "audit.jsonl"
        return path.stat().st_size if path.exists() else 0

    def audit_requests(self, since: int = 0, user: str | None = None) -> list[Request]:
        """Requests answered since an `audit_offset()`, oldest first; only those of `user`, if one is given."""
        requests = read_requests(self.folder / "audit.jsonl", since)
        return [request for request in requests if user is None or request.user == user]

    def count_writes(self, *parts: str, since: int = 0, user: str | None = None) -> Counter[tuple[str, ...]]:
        """Writes since an `audit_offset()` by `parts` of Request, e.g. "verb", "resource", "subresource"."""
        return count_requests((each for each in self.audit_requests(since, user) if each.is_write), *parts)

    def count_reads(self, *parts: str, since: int = 0, user: str | None = None) -> Counter[tuple[str, ...]]:
        """As count_writes, for get, list and watch; those of the components themselves are not logged."""
        return count_requests((each for each in self.audit_requests(since, user) if not each.is_write), *parts)

    def _start_once(self) -> None:
        self.ports = Ports(*(free_port() for _ in range(4)))
        settings, credentials = self.settings, self.credentials
        kubeconfigs = {
            name: credentials.write_kubeconfig(name, self.url, credentials.token(name))
            for name in credentials.identities
        }
        shutil.rmtree(self.folder / "etcd-data", ignore_errors=True)
        self._launch("etcd", components.etcd(self.ports, self.folder))
        self._launch("kube-apiserver", components.kube_apiserver(self.ports, credentials, self.folder, settings))
        self.processes["kube-apiserver"].wait_until(self._api_ready)
        controllers = components.kube_controller_manager(kubeconfigs["controller-manager"], credentials, settings)
        self._launch("kube-controller-manager", controllers)
        self._launch("kube-scheduler", components.kube_scheduler(kubeconfigs["scheduler"], settings))
        self._start_nodes(kubeconfigs)
        self.processes["kube-controller-manager"].wait_until(self._has_default_service_account)

    def _start_nodes(self, kubeconfigs: Mapping[str, Path]) -> None:
        stages = write_stages(self.folder / "kwok.yaml")
        self._launch("kwok", components.kwok(kubeconfigs["kwok"], stages, self.settings))
        self._launch_pod_logs()
        self._furnish()
        self.processes["kwok"].wait_until(self._nodes_ready)

    def _launch(self, name: str, arguments: list[str]) -> None:
        self.processes[name] = Process(name, [self.binaries[name], *arguments], self.folder / f"{name}.log")
        self.processes[name].start()

    def _launch_pod_logs(self) -> None:
        serving = [self.credentials.serving_certificate, self.credentials.serving_key]
        script = TESTS / "cluster" / "pod_logs.py"
        command: list[str | Path] = [
            sys.executable,
            script,
            self.folder / "pod-logs",
            str(self.ports.kubelet),
            *serving,
        ]
        self.processes["pod-logs"] = Process("pod-logs", command, self.folder / "pod-logs.log")
        self.processes["pod-logs"].start()

    def _furnish(self) -> None:
        nodes = [objects.node(index, self.ports.kubelet) for index in range(self.settings.nodes)]
        volumes = [objects.persistent_volume(f"volume-{index}") for index in range(self.settings.volumes)]
        document = {"apiVersion": "v1", "kind": "List", "items": [*nodes, objects.storage_class(), *volumes]}
        self.kubectl("create", "-f", "-", input=document)

    def _end_processes(self) -> None:
        for process in reversed(self.processes.values()):
            process.stop(signal.SIGKILL)  # nothing is kept, so nothing need be finished

    def _api_ready(self) -> bool:
        """Whether /readyz says so to anyone, which includes the RBAC roles every cluster has."""
        context = ssl.create_default_context(cafile=self.credentials.ca)
        request = urllib.request.Request(f"{self.url}/readyz")
        request.add_header("Authorization", f"Bearer {self.credentials.token('admin')}")
        try:
            with urllib.request.urlopen(request, context=context, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _nodes_ready(self) -> bool:
        conditions = "{range .items[*]}{.status.conditions[?(@.type=='Ready')].status}{.spec.taints[*].key} {end}"
        states = self.kubectl("get", "nodes", "-o", f"jsonpath={conditions}").split()
        if states.count("True") == self.settings.nodes:
            return True
        # kwok gives a node up whose status somebody else changed at the same moment, until the node changes again.
        self._looks_at_nodes += 1
        if self._looks_at_nodes % NUDGE_AFTER_LOOKS == 0:
            self.kubectl("annotate", "nodes", "--all", "--overwrite", f"looked={self._looks_at_nodes}")
        return False

    def _has_default_service_account(self) -> bool:
        return "default" in self.kubectl("get", "serviceaccounts", "-o", "name", namespace="default")

    def _etcd(self, path: str, body: Mapping[str, object]) -> dict[str, dict[str, str]]:
        request = urllib.request.Request(f"{self.ports.etcd_url}/v3/{path}", data=json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found: dict[str, dict[str, str]] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"etcd answered {error.code}: {error.read().decode()}") from error


def main() -> None:
    """Build what is missing, start a control plane, say how to use it, and wait to be interrupted."""
    binaries = build_binaries()
    with ControlPlane(binaries) as control_plane:
        folder = binaries["kwok"].parent
        sys.stdout.write(f"export KUBECONFIG={control_plane.kubeconfig} PATH={folder}:$PATH\n")
        sys.stdout.write(f"# logs and the audit log are in {control_plane.folder}; Ctrl-C ends it\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        main()
