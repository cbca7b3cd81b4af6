"""Settings of what runs on a real node, as the texts of their files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.enter import NODE_ADDRESS
from e2e.images import PAUSE_IMAGE

NODE = "node1"
ANOTHER_NODE = "node2"
POD_NETWORK = "10.88.0.0/16"
STORAGE_CLASS = "standard"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PACKAGES_IN_POD = "/usr/local/lib/python3.11/dist-packages"
"""Where the images' own Python looks for packages: the node brings torch and the like, as it brings a driver."""
FAKE_TIME_IN_POD = "/opt/faketime"
"""Where the node puts the library with which a pod's clock can be set wrong."""


def containerd(folder: Path) -> str:
    """containerd with runc; no systemd, no AppArmor."""
    return f"""
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{folder}/container.json"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""


def container(default: str, packages: Path, fake_time: Path) -> str:
    """The specification that every container begins with: the `default` one and two read-only folders of the node's."""
    spec: dict[str, Any] = json.loads(default)
    for source, target in ((packages, PACKAGES_IN_POD), (fake_time, FAKE_TIME_IN_POD)):
        mount = {"source": str(source), "destination": target, "type": "bind", "options": ["rbind", "ro"]}
        spec["mounts"].append(mount)
    return json.dumps(spec)


def network() -> str:
    """A bridge for pods."""
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipMasq": False, "ipam": addresses,
    }  # fmt: skip
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})


def kubelet(folder: Path, authority: Path, control_group: str) -> str:
    """A kubelet whose pods' control groups stay below one of ours; which deletes no images, for none can be pulled."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{control_group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(folder / "resolv.conf"),
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
            "podLogsDir": str(folder / "pod-logs"),
            "volumePluginDir": str(folder / "volume-plugins"),
            # A rotated token reaches a running pod within about a minute.
            "syncFrequency": "20s",
            "nodeStatusUpdateFrequency": "5s",
            "protectKernelDefaults": False,
            "localStorageCapacityIsolation": True,
            "shutdownGracePeriod": "0s",
        },
        indent=1,
    )


def kube_proxy(kubeconfig: Path) -> str:
    """Services by iptables; connection tracking is left as the machine has it."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": POD_NETWORK,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
    )


def corefile(kubeconfig: Path) -> str:
    """Names of the cluster, and nothing beyond."""
    return f""".:53 {{
  bind {NODE_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 5
  }}
}}
"""


def admission() -> str:
    """The restricted level is enforced in every namespace, whatever its labels say."""
    levels = {f"{mode}{part}": value for mode in ("enforce", "audit", "warn") for part, value in
              (("", "restricted"), ("-version", "latest"))}  # fmt: skip
    security = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": levels,
        "exemptions": {"usernames": [], "runtimeClasses": [], "namespaces": []},
    }
    plugins = [{"name": "PodSecurity", "configuration": security}]
    return json.dumps(
        {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins}
    )


def storage_class() -> dict[str, Any]:
    """The default class. Its volumes are made by hand (see RealCluster.add_volume)."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    }


def volume(
    name: str, path: Path, *, access_modes: tuple[str, ...], capacity: str, claim: tuple[str, str] | None = None
) -> dict[str, Any]:
    """A folder of the node as a volume; to a local one fsGroup is applied, as to a cloud's disk.

    `claim`: namespace and name of the claim that it is kept for.
    """
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **({"claimRef": {"namespace": claim[0], "name": claim[1]}} if claim else {}),
            "capacity": {"storage": capacity},
            "accessModes": list(access_modes),
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }


def another_node() -> dict[str, Any]:
    """A node that is ready and takes no pods."""
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": ANOTHER_NODE, "labels": {"kubernetes.io/hostname": ANOTHER_NODE}},
        "spec": {"unschedulable": True},
        "status": {"conditions": [{**ready, "lastTransitionTime": _now()}]},
    }


def node_lease() -> dict[str, Any]:
    """What a kubelet says every few seconds to be known as alive."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": ANOTHER_NODE, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": ANOTHER_NODE, "leaseDurationSeconds": 40, "renewTime": _now("%S.%f")},
    }


def _now(seconds: str = "%S") -> str:
    return datetime.now(UTC).strftime(f"%Y-%m-%dT%H:%M:{seconds}Z")
