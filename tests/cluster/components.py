"""The command line of each component: one function each, so that every setting has one place."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.credentials import Credentials


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a test may ask of its control plane."""

    nodes: int = 8
    """Nodes of 64 cores, 512 GiB and 8 GPUs each."""

    node_grace_seconds: int = 40
    """How long a node may be silent before it is not ready (a cluster's default is 50)."""

    eviction_seconds: int = 300
    """How long pods stay on a node that is not ready or not reachable (a cluster's default)."""

    watch_cache: bool = True
    """False: lists and watches go to etcd, so that after a compaction an old resourceVersion is answered with 410."""

    client_qps: int = 1000
    """Requests a second a component allows itself (a cluster's default is 20 to 50: a benchmark would measure that)."""

    job_syncs: int = 16
    """Jobs the Job controller works on at once (a cluster's default is 5)."""

    volumes: int = 50
    """Persistent volumes of 1 TiB, shared by readers and writers, in a default storage class. A claim keeps its volume
    even after its end, and which tests share a control plane is chance: so there is one for each claim of all tests."""

    kubernetes_feature_gates: str = ""
    """As in --feature-gates of the API server, the controllers and the scheduler."""

    runtime_config: str = ""
    """As in --runtime-config of the API server, e.g. scheduling.k8s.io/v1alpha1=true."""

    address: str = "127.0.0.1"
    """Address of the API server: another than loopback where real pods are to reach it."""


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one control plane."""

    etcd: int
    etcd_peer: int
    api_server: int
    kubelet: int
    """Where all nodes' kubelets answer for container logs."""

    @property
    def api_url(self) -> str:
        """Where clients connect."""
        return f"https://127.0.0.1:{self.api_server}"

    @property
    def etcd_url(self) -> str:
        """Where the API server connects."""
        return f"http://127.0.0.1:{self.etcd}"


def etcd(ports: Ports, folder: Path) -> list[str]:
    """One member that does not wait for the disk: it outlives killed clients, not a killed machine."""
    peer = f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        f"--data-dir={folder / 'etcd-data'}",
        f"--listen-client-urls={ports.etcd_url}",
        f"--advertise-client-urls={ports.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--quota-backend-bytes=4294967296",
    ]


def kube_apiserver(ports: Ports, credentials: Credentials, folder: Path, settings: Settings) -> list[str]:
    """As a cluster has it: RBAC, PodSecurity, service account tokens, priority and fairness; with an audit log."""
    policy = folder / "audit-policy.json"
    policy.write_text(json.dumps(audit_policy()), encoding="utf-8")
    loopback = settings.address == "127.0.0.1"
    return [
        f"--etcd-servers={ports.etcd_url}",
        f"--bind-address={settings.address if loopback else '0.0.0.0'}",
        f"--advertise-address={settings.address}",
        f"--secure-port={ports.api_server}",
        f"--tls-cert-file={credentials.serving_certificate}",
        f"--tls-private-key-file={credentials.serving_key}",
        f"--token-auth-file={credentials.tokens}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={credentials.service_account_public_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        "--service-cluster-ip-range=10.0.0.0/16",
        # It would refuse a loopback address, and it delays the end.
        *(["--endpoint-reconciler-type=none"] if loopback else []),
        "--kubelet-preferred-address-types=InternalIP",
        f"--watch-cache={str(settings.watch_cache).lower()}",
        f"--default-not-ready-toleration-seconds={settings.eviction_seconds}",
        f"--default-unreachable-toleration-seconds={settings.eviction_seconds}",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={folder / 'audit.jsonl'}",
        "--profiling=false",
        *_optional("--feature-gates", settings.kubernetes_feature_gates),
        *_optional("--runtime-config", settings.runtime_config),
    ]


def kube_controller_manager(kubeconfig: Path, credentials: Credentials, settings: Settings) -> list[str]:
    """All controllers that run by default, each with its own service account."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={credentials.service_account_key}",
        f"--root-ca-file={credentials.ca}",
        f"--node-monitor-grace-period={settings.node_grace_seconds}s",
        "--node-monitor-period=1s",
        f"--kube-api-qps={settings.client_qps}",
        f"--kube-api-burst={2 * settings.client_qps}",
        f"--concurrent-job-syncs={settings.job_syncs}",
        "--concurrent-gc-syncs=20",
        # As large clusters have it: else each change of each pod of a Service is written down twice.
        "--endpoint-updates-batch-period=1s",
        "--endpointslice-updates-batch-period=1s",
        "--profiling=false",
        *_optional("--feature-gates", settings.kubernetes_feature_gates),
    ]


def kube_scheduler(kubeconfig: Path, settings: Settings) -> list[str]:
    """The default profile."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--kube-api-qps={settings.client_qps}",
        f"--kube-api-burst={2 * settings.client_qps}",
        "--profiling=false",
        *_optional("--feature-gates", settings.kubernetes_feature_gates),
    ]


def kwok(kubeconfig: Path, stages: Path, settings: Settings) -> list[str]:
    """Kubelets of the labelled nodes; their stages are our own, the built-in ones strip finalizers of others."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        "--manage-nodes-with-label-selector=test.costopt.dev/kubelet=running",
        f"--node-lease-duration-seconds={max(2, settings.node_grace_seconds * 3 // 4)}",
        "--cidr=10.64.0.0/12",
        "--node-ip=127.0.0.1",
        "-v=WARN",  # else a line for each change of each pod
    ]


def audit_policy() -> dict[str, Any]:
    """One line per request: every write by anyone, and reads of all but the components themselves."""
    components = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "kwok"]
    reads = ["get", "list", "watch"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "nonResourceURLs": ["*"]},
            {"level": "None", "users": components, "verbs": reads},
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"], "verbs": reads},
            {"level": "None", "resources": [{"group": "coordination.k8s.io"}], "users": components},
            {"level": "Metadata", "omitManagedFields": True},
        ],
    }


def _optional(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value else []
