"""Further volumes of a job's pods: kinds that the restricted Pod Security Standard allows, no place that is ours."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from costopt.names import RESERVED_MOUNTS, RESERVED_VOLUMES
from costopt.schema.base import Name, Rule, Strict, cel_list
from costopt.schema.unions import one_of

_SEGMENT = r"([^/:.\s]|\.[^/:.\s]|\.\.[^/:\s])[^/:\s]*"
MOUNT_PATH_PATTERN = rf"^(/{_SEGMENT})+$"
SUB_PATH_PATTERN = rf"^{_SEGMENT}(/{_SEGMENT})*$"

FreeObject = Annotated[dict[str, Any], Field(max_length=64)]
"""An object of Kubernetes' own, passed on as it is; the API server checks it when the pods are created."""


def is_reserved_mount(path: str) -> bool:
    """Whether a volume mounted at `path` would hide, or be hidden by, what is ours or the node's."""
    return any(f"{path}/".startswith(f"{ours}/") or f"{ours}/".startswith(f"{path}/") for ours in RESERVED_MOUNTS)


@one_of("tokens of service accounts are not mounted into pods of jobs")
class ProjectedSource(Strict):
    """One of several sources in one folder, as in Kubernetes; none that gives a pod an identity, as serviceAccountToken
    and podCertificate do."""

    cluster_trust_bundle: FreeObject | None = None
    """Certificates of authorities, as in Kubernetes."""
    config_map: FreeObject | None = None
    """A ConfigMap's keys as files, as in Kubernetes."""
    downward_api: FreeObject | None = Field(default=None, alias="downwardAPI")
    """Fields of the pod as files, as in Kubernetes."""
    secret: FreeObject | None = None
    """A Secret's keys as files, as in Kubernetes."""


class Projected(Strict):
    """Several sources in one folder."""

    sources: Annotated[list[ProjectedSource], Field(max_length=32)] = Field(default_factory=list)
    """What is put there, each at the paths that its items name."""
    default_mode: Annotated[int, Field(ge=0, le=0o777)] | None = None
    """Permissions of the files, in decimal: 420 for 0644, which is also what None means."""


@one_of()
class Volume(Strict):
    """A further volume of every pod: its name, and one source as in Kubernetes, of those that the restricted Pod
    Security Standard allows."""

    name: Name
    """Name of the volume, for volumeMounts; not one of costopt's own."""
    config_map: FreeObject | None = None
    """A ConfigMap's keys as files, as in Kubernetes."""
    csi: FreeObject | None = None
    """A volume of a CSI driver, as in Kubernetes."""
    downward_api: FreeObject | None = Field(default=None, alias="downwardAPI")
    """Fields of the pod as files, as in Kubernetes."""
    empty_dir: FreeObject | None = None
    """Scratch space that ends with the pod, as in Kubernetes."""
    ephemeral: FreeObject | None = None
    """A claim that is created and ends with the pod, as in Kubernetes."""
    persistent_volume_claim: FreeObject | None = None
    """A claim that is there already, such as one with data sets, as in Kubernetes."""
    projected: Projected | None = None
    """Several sources in one folder."""
    secret: FreeObject | None = None
    """A Secret's keys as files, as in Kubernetes."""

    rules = (
        Rule(
            cel=f"!(self.name in {cel_list(RESERVED_VOLUMES)})",
            message="name must not be that of a volume of costopt's own (" + ", ".join(RESERVED_VOLUMES) + ")",
            holds=lambda data: data["name"] not in RESERVED_VOLUMES,
        ),
    )


class VolumeMount(Strict):
    """Where one of the further volumes appears in the container."""

    name: Name
    """Name of a volume in spec.pods.volumes."""
    mount_path: Annotated[str, StringConstraints(pattern=MOUNT_PATH_PATTERN, min_length=2, max_length=512)]
    """Absolute path, without '.', '..', ':' or a slash at its end."""
    sub_path: Annotated[str, StringConstraints(pattern=SUB_PATH_PATTERN, min_length=1, max_length=512)] | None = None
    """Folder or file within the volume. None means the whole volume."""
    read_only: bool = False
    """True: nothing can be written there."""

    rules = (
        Rule(
            cel=" && ".join(
                f"!(self.mountPath + '/').startsWith('{path}/') && !'{path}/'.startsWith(self.mountPath + '/')"
                for path in RESERVED_MOUNTS
            ),
            message="mountPath must not be, lie below or hold a folder that is costopt's or the node's own ("
            + ", ".join(RESERVED_MOUNTS)
            + ")",
            holds=lambda data: not is_reserved_mount(data["mountPath"]),
        ),
    )
