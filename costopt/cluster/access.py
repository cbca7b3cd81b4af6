"""Which cluster and namespace a command is about, and whether this machine knows any."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from costopt.service_account import FOLDER, HOST, exists


@dataclass(frozen=True)
class Access:
    """What the command line says about the cluster."""

    kubeconfig: Path | None = None
    """None: the files of KUBECONFIG, else ~/.kube/config, else the pod's own service account."""
    context: str | None = None
    """None: the kubeconfig's current context."""
    namespace: str | None = None
    """None: the context's, else `default`."""

    @property
    def is_named(self) -> bool:
        """Whether any of it was given, so that a cluster is meant."""
        return self != Access()

    def options(self) -> str:
        """The same as command-line options, with a space before each; for commands that users are told to type."""
        said = {"--kubeconfig": self.kubeconfig, "--context": self.context, "-n": self.namespace}
        return "".join(f" {option} {value}" for option, value in said.items() if value is not None)


def kubeconfig_files(access: Access, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The existing kubeconfig files in kubectl's order, and an explicitly named one even if it does not exist."""
    if access.kubeconfig is not None:
        return [access.kubeconfig]
    listed = environment.get("KUBECONFIG", "")
    paths = [Path(os.path.expanduser(path)) for path in listed.split(os.pathsep) if path]  # noqa: PTH111 -- see below
    # Path.expanduser raises if no home is known, as in a container without a user.
    return [path for path in paths or [Path(os.path.expanduser("~/.kube/config"))] if exists(path)]  # noqa: PTH111


def is_in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a pod with a service account."""
    return bool(environment.get(HOST)) and exists(FOLDER / "token")


def knows_a_cluster(access: Access) -> bool:
    """Whether a cluster is configured; not whether it answers."""
    return bool(kubeconfig_files(access)) or is_in_cluster()
