"""Which cluster and which namespace a command is about, and whether this machine knows any."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod is given to reach its own cluster with."""


@dataclass(frozen=True)
class Access:
    """What the command line says about the cluster."""

    kubeconfig: Path | None = None
    """None: the files of KUBECONFIG, else ~/.kube/config, else the pod's own service account."""
    context: str | None = None
    """None: the kubeconfig's current one."""
    namespace: str | None = None
    """None: the context's, else `default`."""

    @property
    def is_named(self) -> bool:
        """Whether any of it was said, so that a cluster must be meant."""
        return self != Access()

    def options(self) -> str:
        """The same as options of a command line, with a space before each; for commands that a user is told to type."""
        said = {"--kubeconfig": self.kubeconfig, "--context": self.context, "-n": self.namespace}
        return "".join(f" {option} {value}" for option, value in said.items() if value is not None)


def kubeconfig_files(access: Access, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The kubeconfig files that are there, in kubectl's order; a file that was named is in it even if it is not."""
    if access.kubeconfig is not None:
        return [access.kubeconfig]
    listed = environment.get("KUBECONFIG", "")
    paths = [Path(path).expanduser() for path in listed.split(os.pathsep) if path]
    return [path for path in paths or [Path("~/.kube/config").expanduser()] if path.exists()]


def is_in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a pod that was given a service account."""
    return "KUBERNETES_SERVICE_HOST" in environment and (SERVICE_ACCOUNT / "token").exists()


def knows_a_cluster(access: Access) -> bool:
    """Whether there is anything to reach a cluster with; not whether it answers."""
    return bool(kubeconfig_files(access)) or is_in_cluster()
