"""spec.pods: what a user may add to the pods of a job, and what may not be touched.

What costopt sets itself (its environment variables, labels, volumes and mounts) is refused here, in one sentence each,
so that rendering only has to merge.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from costopt.names import (
    RESERVED_ENVIRONMENT,
    RESERVED_ENVIRONMENT_PREFIXES,
    RESERVED_LABEL_PREFIXES,
    RESERVED_LABELS,
)
from costopt.schema.base import (
    OBJECT_NAME_PATTERN,
    ObjectName,
    PlainData,
    Rule,
    Strict,
    cel_list,
    list_map_keys,
)
from costopt.schema.unions import one_of
from costopt.schema.volumes import FreeObject, Volume, VolumeMount

LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
LABEL_NAME_PATTERN = r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
VARIABLE_VALUE_PATTERN = r"^[^\x00]*$"
DATA_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"

LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN, min_length=1, max_length=128)]
DataKey = Annotated[str, StringConstraints(pattern=DATA_KEY_PATTERN, min_length=1, max_length=253)]

DEFAULT_GRACE_PERIOD_SECONDS = 120

MAX_ENV_LENGTH = 65_536
"""Each pod carries it, whoever lists pods reads it, and a gang may have thousands of them."""
MAX_ANNOTATIONS_LENGTH = 16_384


def is_label_key(key: str) -> bool:
    """Whether `key` is one that a label or annotation may have: an optional DNS name and '/', then a short name."""
    domain, slash, name = key.rpartition("/")
    is_domain = re.fullmatch(OBJECT_NAME_PATTERN, domain) is not None and len(domain) <= 253
    return re.fullmatch(LABEL_NAME_PATTERN, name) is not None and (not slash or is_domain)


def is_reserved_variable(name: str) -> bool:
    """Whether costopt or torch's launcher sets this environment variable for every replica or rank."""
    return name in RESERVED_ENVIRONMENT or name.startswith(RESERVED_ENVIRONMENT_PREFIXES)


def is_reserved_label(key: str) -> bool:
    """Whether costopt or the Job controller sets this label or annotation on every pod."""
    return key in RESERVED_LABELS or key.startswith(RESERVED_LABEL_PREFIXES)


_SINGLE_RESERVED_VARIABLES = sorted(
    name for name in RESERVED_ENVIRONMENT if not name.startswith(RESERVED_ENVIRONMENT_PREFIXES)
)


class KeyRef(Strict):
    """One key of a Secret or ConfigMap in the job's namespace."""

    name: ObjectName
    """Name of the Secret or ConfigMap."""
    key: DataKey
    """Key within it."""
    optional: bool = False
    """True: a pod also starts when there is no such key, without the variable."""


@one_of()
class EnvSource(Strict):
    """Where a variable's value comes from: exactly one of these."""

    secret_key_ref: KeyRef | None = None
    """A key of a Secret. costopt itself never reads Secrets; the kubelet does."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""


@one_of()
class EnvVar(Strict):
    """An environment variable of every rank."""

    name: VariableName
    """Name of the variable. It may replace a default such as NCCL_DEBUG or OMP_NUM_THREADS, but none that says which
    rank a process is."""
    value: Annotated[str, StringConstraints(pattern=VARIABLE_VALUE_PATTERN, max_length=4096)] | None = None
    """Its value. Exactly one of value and valueFrom. As everywhere in Kubernetes `$(NAME)` is the value of a variable
    set before this one, and `$$` is one `$`: write `$$(NAME)` for the text `$(NAME)`."""
    value_from: EnvSource | None = None
    """Where its value comes from."""

    rules = (
        Rule(
            cel=" && ".join(f"!self.name.startsWith('{prefix}')" for prefix in RESERVED_ENVIRONMENT_PREFIXES)
            + f" && !(self.name in {cel_list(_SINGLE_RESERVED_VARIABLES)})",
            message="name must not be a variable that costopt sets itself ("
            + ", ".join([*(f"{prefix}*" for prefix in RESERVED_ENVIRONMENT_PREFIXES), *_SINGLE_RESERVED_VARIABLES])
            + ")",
            holds=lambda data: not is_reserved_variable(data["name"]),
        ),
    )


class Toleration(Strict):
    """A taint of nodes that the pods tolerate, as in Kubernetes."""

    key: Annotated[str, StringConstraints(max_length=317)] = ""
    """Key of the taint. Empty, with operator Exists, tolerates every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal: the taint's value must be `value`. Exists: any value."""
    value: LabelValue = ""
    """Value of the taint; only with Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. None means every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Seconds a NoExecute taint is tolerated. None means forever."""

    rules = (
        Rule(
            cel="self.operator == 'Exists' ? self.value == '' : self.key != ''",
            message="operator Exists takes no value, and operator Equal needs a key",
            holds=lambda data: data["value"] == "" if data["operator"] == "Exists" else data["key"] != "",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds needs effect NoExecute",
            holds=lambda data: "tolerationSeconds" not in data or data.get("effect") == "NoExecute",
        ),
    )


class PullSecret(Strict):
    """A Secret with credentials for a container registry, read by the kubelet."""

    name: ObjectName
    """Name of the Secret in the job's namespace."""


def _valid_keys(field: str) -> Rule:
    """A rule that the keys of a map of labels, annotations or nodes' labels are such keys."""

    def holds(data: PlainData) -> bool:
        return all(map(is_label_key, data.get(field, {})))

    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(key, !format.qualifiedName().validate(key).hasValue())",
        message=f"{field} must have label keys as its keys: an optional DNS name and '/', then at most 63 letters, "
        "digits, '-', '_' and '.'",
        holds=holds,
    )


def _env_length(env: list[PlainData]) -> int:
    return sum(len(variable["name"]) + len(variable.get("value", "")) for variable in env)


def _annotations_length(annotations: PlainData) -> int:
    return sum(len(key) + len(value) for key, value in annotations.items())


def _no_reserved_key(field: str) -> Rule:
    """A rule that a map of labels or annotations names none of ours."""
    starts = " && ".join(f"!key.startsWith('{prefix}')" for prefix in RESERVED_LABEL_PREFIXES)

    def holds(data: PlainData) -> bool:
        return not any(map(is_reserved_label, data.get(field, {})))

    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(key, {starts} && !(key in {cel_list(RESERVED_LABELS)}))",
        message=f"{field} must not name what costopt or the Job controller sets itself ("
        + ", ".join([*(f"{prefix}*" for prefix in RESERVED_LABEL_PREFIXES), *RESERVED_LABELS])
        + ")",
        holds=holds,
    )


class PodOverrides(Strict):
    """What is added to the pods of every stage."""

    labels: dict[str, LabelValue] = Field(default_factory=dict, max_length=32)
    """Further labels of the pods."""
    annotations: dict[str, AnnotationValue] = Field(default_factory=dict, max_length=32)
    """Further annotations of the pods, such as kueue.x-k8s.io/podset-required-topology;
    at most 16,384 characters in all, with their keys."""
    node_selector: dict[str, LabelValue] = Field(default_factory=dict, max_length=32)
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints of nodes that the pods tolerate."""
    affinity: FreeObject | None = None
    """Affinity as in a pod's spec, passed on as it is."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods. None means the cluster's default."""
    scheduler_name: ObjectName | None = None
    """Scheduler that places the pods. None means the cluster's default."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods. None means the cluster's default."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods, for pull secrets and cloud identities; its token is never mounted. None means the
    namespace's default."""
    image_pull_secrets: Annotated[list[PullSecret], Field(max_length=16)] = Field(
        default_factory=list, json_schema_extra=list_map_keys("name")
    )
    """Credentials for container registries."""
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(
        default_factory=list, json_schema_extra=list_map_keys("name")
    )
    """Further environment variables of every rank, at most 65,536 characters in all with their names; `costopt run`
    sets them too, but for those with valueFrom."""
    volumes: Annotated[list[Volume], Field(max_length=32)] = Field(
        default_factory=list, json_schema_extra=list_map_keys("name")
    )
    """Further volumes."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = Field(
        default_factory=list, json_schema_extra=list_map_keys("mountPath")
    )
    """Where the further volumes appear in the container."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86400)] = DEFAULT_GRACE_PERIOD_SECONDS
    """Longest time to save a checkpoint when a pod is to end. The default suits small models; notices of spot nodes
    last 30 to 120 seconds."""

    rules = (
        *map(_valid_keys, ("labels", "annotations", "nodeSelector")),
        _no_reserved_key("labels"),
        _no_reserved_key("annotations"),
        Rule(
            cel="!has(self.env) || self.env.map(variable, size(variable.name) + "
            f"(has(variable.value) ? size(variable.value) : 0)).sum() <= {MAX_ENV_LENGTH}",
            message=f"env must be at most {MAX_ENV_LENGTH:,} characters in all, names and values; put more into a file "
            "of a ConfigMap (volumes)",
            holds=lambda data: _env_length(data["env"]) <= MAX_ENV_LENGTH,
        ),
        Rule(
            cel="!has(self.annotations) || self.annotations.map(key, size(key) + size(self.annotations[key])).sum() "
            f"<= {MAX_ANNOTATIONS_LENGTH}",
            message=f"annotations must be at most {MAX_ANNOTATIONS_LENGTH:,} characters in all, keys and values",
            holds=lambda data: _annotations_length(data["annotations"]) <= MAX_ANNOTATIONS_LENGTH,
        ),
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(mount, has(self.volumes) && "
            "self.volumes.exists(volume, volume.name == mount.name))",
            message="volumeMounts must name volumes of spec.pods.volumes",
            holds=lambda data: (
                {mount["name"] for mount in data["volumeMounts"]} <= {volume["name"] for volume in data["volumes"]}
            ),
        ),
    )
