"""Objects of a new control plane before the first test: nodes, a storage class, volumes."""

from typing import Any

KUBELET_LABEL = "test.costopt.dev/kubelet"
"""Its value is `running` while a kubelet (kwok) looks after the node."""


def node(index: int, kubelet_port: int, *, gpu_product: str = "NVIDIA-H100-80GB-HBM3") -> dict[str, Any]:
    """A machine with 8 GPUs; every fourth is a spot machine."""
    name = f"node-{index}"
    resources = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8", "pods": "5000", "ephemeral-storage": "1Ti"}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "test-8gpu",
        "topology.kubernetes.io/zone": "test-a" if index % 2 == 0 else "test-b",
        "nvidia.com/gpu.product": gpu_product,
        "karpenter.sh/capacity-type": "spot" if index % 4 == 3 else "on-demand",
        KUBELET_LABEL: "running",
    }
    status = {
        "allocatable": resources,
        "capacity": resources,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
    }
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


def storage_class() -> dict[str, Any]:
    """The default class; claims bind to the volumes below."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "test", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
    }


def persistent_volume(name: str) -> dict[str, Any]:
    """A volume that any claim of up to 1 TiB fits. It is never mounted: no container runs."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "test",
            "hostPath": {"path": f"/nowhere/{name}"},
        },
    }
