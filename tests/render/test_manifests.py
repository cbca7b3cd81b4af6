"""An attempt as Kubernetes objects. The golden files show them whole; here stands what must hold for any job.

`RENEW_GOLDEN=1 pytest tests/render` writes the golden files anew; read the difference before committing it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders_golden import check_golden
from builders_local import INT8, RECIPE, job, recipe_job
from costopt.names import ENV_LAUNCHER_PID, ENV_LAUNCHER_STARTED, ENV_LIFELINE_FD, ENV_REPLICA_UID, RESERVED_ENVIRONMENT
from costopt.render.manifests import label_value, manifests, service_name
from costopt.render.text import manifests_json, to_yaml
from costopt.schema.job import CostOptJob
from costopt.schema.replica import ReplicaSettings

TOLD_TO_A_LAUNCHER = {name for name in RESERVED_ENVIRONMENT if name.startswith("COSTOPT_")} - {
    ENV_LIFELINE_FD,  # by a supervisor, which pods do not have
    ENV_REPLICA_UID,  # by a supervisor
    ENV_LAUNCHER_PID,  # by the launcher to its ranks
    ENV_LAUNCHER_STARTED,  # likewise
}

GPU_NODE = {"requests": {"cpu": 8, "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 4}}

JOBS: dict[str, tuple[CostOptJob, str, int]] = {
    "command": (job(), "train", 0),
    "recipe-restarted": (recipe_job(), "train", 2),
    "gpus-and-claim": (
        recipe_job(
            train={
                "numNodes": 1,
                "resourcesPerNode": GPU_NODE,
                "image": "trainer:7",
                "recipe": {**RECIPE, "batch": {"globalBatchSize": 8, "microBatchSize": 2}},
            },
            storage={"claimName": "shared"},
        ),
        "train",
        0,
    ),
    "variant-with-its-own-resources": (
        recipe_job(compress=[{**INT8, "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}}}]),
        "int8",
        1,
    ),
}


def children(name: str) -> dict[str, dict[str, Any]]:
    drawn, stage, attempt = JOBS[name]
    return {child["kind"]: child for child in manifests(drawn, stage, attempt)}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = children(name)["Job"]["spec"]["template"]["spec"]
    return spec


def environment(name: str) -> dict[str, Any]:
    [container] = pod(name)["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize("name", JOBS)
def test_the_children_are_those_of_the_golden_file(name: str) -> None:
    drawn, stage, attempt = JOBS[name]
    check_golden(Path(__file__).parent / f"golden/{name}.yaml", to_yaml(manifests(drawn, stage, attempt)))


@pytest.mark.parametrize("name", JOBS)
def test_both_texts_say_the_same(name: str) -> None:
    drawn, stage, attempt = JOBS[name]
    drawn_children = manifests(drawn, stage, attempt)
    assert list(yaml.safe_load_all(to_yaml(drawn_children))) == drawn_children
    assert json.loads(manifests_json(drawn_children))["items"] == drawn_children


@pytest.mark.parametrize("name", JOBS)
def test_nothing_is_retried_inside_a_job(name: str) -> None:
    spec = children(name)["Job"]["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["completions"] == spec["parallelism"]
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert pod(name)["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed", "the only value that podFailurePolicy allows"


@pytest.mark.parametrize("name", JOBS)
def test_a_queue_decides_on_suspension(name: str) -> None:
    assert "suspend" not in children(name)["Job"]["spec"]


@pytest.mark.parametrize("name", JOBS)
def test_pods_meet_the_restricted_security_standard(name: str) -> None:
    security = pod(name)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod(name)["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {kind for volume in pod(name)["volumes"] for kind in volume if kind != "name"} <= {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
    }
    assert pod(name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", JOBS)
def test_everything_that_is_mounted_is_there_and_what_is_written_lies_on_a_volume(name: str) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in pod(name)["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod(name)["volumes"]}
    variables = environment(name)
    for written in ("COSTOPT_STORAGE_DIR", "COSTOPT_PROGRESS_FILE", "HOME"):
        assert any(Path(variables[written]).is_relative_to(mount) for mount in mounts), written


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_is_told_its_index_by_the_job_and_all_else_by_us(name: str) -> None:
    variables = environment(name)
    field = variables["COSTOPT_REPLICA_INDEX"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables.keys() >= TOLD_TO_A_LAUNCHER
    assert ReplicaSettings.model_validate_json(children(name)["ConfigMap"]["data"]["settings.json"]).stage


@pytest.mark.parametrize("name", JOBS)
def test_the_first_pod_can_be_found_by_name_before_it_is_ready(name: str) -> None:
    found = children(name)
    service = found["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert pod(name)["subdomain"] == service["metadata"]["name"]
    host = f"{found['Job']['metadata']['name']}-0.{service['metadata']['name']}"
    assert environment(name)["COSTOPT_RENDEZVOUS_HOST"] == host
    labels = found["Job"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_longest_names_stay_within_what_kubernetes_allows() -> None:
    longest = recipe_job(name="9" * 253, compress=[{**INT8, "name": "v" * 30}])
    for child in manifests(longest, "v" * 30, 11000):
        assert len(child["metadata"]["name"]) <= 54
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
    assert service_name("9lives-train-a0") == "s-9lives-train-a0"
    assert label_value("a" * 253) != label_value("a" * 252)


def test_labels_of_a_queue_are_copied_to_the_job_and_no_others() -> None:
    data = job().to_plain()
    data["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a", "team": "a"}
    labels = manifests(CostOptJob.model_validate(data), "train", 0)[-1]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "team" not in labels


def test_children_of_a_job_in_a_cluster_are_owned_by_it() -> None:
    data = job().to_plain()
    data["metadata"] |= {"uid": "1234", "namespace": "ml"}
    for child in manifests(CostOptJob.model_validate(data), "train", 0):
        assert child["metadata"]["namespace"] == "ml"
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("CostOptJob", "tiny", "1234", True)


@pytest.mark.parametrize("name", ["1e3", "7", "0x1f", "1-2"])
def test_a_name_that_looks_like_a_number_is_quoted_for_kubectl(name: str) -> None:
    assert f"costopt.dev/job: '{name}'" in to_yaml(manifests(job(name=name), "train", 0))
