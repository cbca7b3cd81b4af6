"""What must hold of the children of any job whatever: valid names and labels, and nothing of ours in a user's hands."""

import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builders.local import INT8, recipe_job
from costopt.names import RESERVED_ENVIRONMENT, RESERVED_ENVIRONMENT_PREFIXES, RESERVED_MOUNTS
from costopt.render.manifests import manifests
from costopt.schema.job import CostOptJob

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

JOB_NAMES = st.from_regex(DNS_NAME, fullmatch=True).filter(lambda name: len(name) <= 253) | st.integers(200, 252).map(
    lambda length: ("a.9-" * 64)[:length].rstrip(".-") + "0"
)
STAGE_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "train")


def every_mapping(value: Any, key: str) -> Iterator[dict[str, str]]:
    """Every mapping below `key`, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get(key), dict):
            yield value[key]
        for inner in value.values():
            yield from every_mapping(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from every_mapping(inner, key)


@settings(deadline=None)
@given(name=JOB_NAMES, stage=STAGE_NAMES, attempt=st.integers(0, 11000))
def test_every_name_and_label_is_valid_for_kubernetes(name: str, stage: str, attempt: int) -> None:
    drawn_job = recipe_job(name=name, compress=[{**INT8, "name": stage}], storage={"create": {"size": "1Gi"}})
    drawn = [*manifests(drawn_job, "train", attempt), *manifests(drawn_job, stage, attempt, train_attempt=attempt)]
    for child in drawn:
        child_name = child["metadata"]["name"]
        assert DNS_NAME.fullmatch(child_name)
        assert len(child_name) <= 63
        if child["kind"] == "Service":
            assert DNS_LABEL.fullmatch(child_name)
        if child["kind"] == "Job":
            replicas = child["spec"]["completions"]
            assert len(f"{child_name}-{replicas - 1}-xxxxx") <= 63, "the name of a pod is its host name"
            assert "." not in child_name
        for labels in (*every_mapping(child, "labels"), *every_mapping(child, "matchLabels")):
            for value in labels.values():
                assert LABEL_VALUE.fullmatch(value)
                assert len(value) <= 63


RESERVED_NAMES = st.sampled_from(
    [*sorted(RESERVED_ENVIRONMENT), *(f"{prefix}X" for prefix in RESERVED_ENVIRONMENT_PREFIXES)]
)
VARIABLES = RESERVED_NAMES | st.sampled_from(["HOME", "NCCL_DEBUG", "TORCH_FR_BUFFER_SIZE", "MY_OWN"])
KEYS = st.sampled_from(
    ["costopt.dev/job", "costopt.dev/any", "app.kubernetes.io/managed-by", "job-name", "batch.kubernetes.io/x", "team"]
)
PLACES = st.sampled_from(RESERVED_MOUNTS).flatmap(
    lambda place: st.sampled_from([place, f"{place}/below", "/" + place.split("/")[1], f"{place}x", f"/x{place}"])
)
VOLUMES = st.sampled_from(["settings", "storage", "tmp", "shm", "mine"])


@settings(deadline=None)
@given(
    variables=st.lists(VARIABLES, max_size=3, unique=True),
    labels=st.dictionaries(KEYS, st.just("users"), max_size=3),
    volumes=st.lists(VOLUMES, max_size=2, unique=True),
    places=st.lists(PLACES, max_size=2, unique=True),
)
def test_no_override_of_a_users_can_set_what_is_ours(
    variables: list[str], labels: dict[str, str], volumes: list[str], places: list[str]
) -> None:
    pods = {
        "env": [{"name": name, "value": "users"} for name in variables],
        "labels": labels,
        "annotations": labels,
        "volumes": [{"name": name, "secret": {"secretName": "users"}} for name in volumes],
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in zip(volumes, places, strict=False)],
    }
    try:
        overridden = recipe_job(pods=pods)
    except ValidationError:
        return
    check_that_ours_are_as_without(overridden, recipe_job())


def check_that_ours_are_as_without(overridden: CostOptJob, plain: CostOptJob) -> None:
    with_pods, without = (manifests(one, "train", 0) for one in (overridden, plain))
    assert with_pods[:-1] == without[:-1]
    template, known = (drawn[-1]["spec"]["template"] for drawn in (with_pods, without))
    assert known["metadata"]["labels"].items() <= template["metadata"]["labels"].items()
    assert not any("costopt" in key or "batch" in key for key in template["metadata"].get("annotations", {}))
    found, expected = (
        {entry["name"]: entry for entry in one["spec"]["containers"][0]["env"]} for one in (template, known)
    )
    for name in found.keys() | expected.keys():
        if name in RESERVED_ENVIRONMENT or name.startswith(RESERVED_ENVIRONMENT_PREFIXES):
            assert found.get(name) == expected.get(name)
    for field in ("volumes", "volumeMounts"):
        ours, all_of_them = (
            one["spec"][field] if field == "volumes" else one["spec"]["containers"][0][field]
            for one in (known, template)
        )
        assert all_of_them[: len(ours)] == ours
        added = [str(item.get("mountPath", item["name"])) for item in all_of_them[len(ours) :]]
        taken = [str(item.get("mountPath", item["name"])) for item in ours]
        for place in added:
            assert not any(f"{place}/".startswith(f"{mine}/") or f"{mine}/".startswith(f"{place}/") for mine in taken)


def test_the_check_sees_an_override_that_the_schema_let_through() -> None:
    from costopt.schema.pods import EnvVar, PodOverrides

    stolen = EnvVar.model_construct(name="COSTOPT_ATTEMPT", value="7", value_from=None)
    plain = recipe_job()
    spec = plain.spec.model_copy(update={"pods": PodOverrides.model_construct(env=[stolen])})
    try:
        check_that_ours_are_as_without(plain.model_copy(update={"spec": spec}), plain)
    except AssertionError:
        return
    raise AssertionError("a stolen variable went unnoticed")
