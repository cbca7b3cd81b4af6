"""An attempt as Kubernetes objects. The golden files show them whole; here stands what must hold for any job.

`RENEW_GOLDEN=1 pytest tests/render` writes the golden files anew; read the difference before committing it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.golden import check_golden
from builders.local import INT8, RECIPE, given_job, job, recipe_job
from builders.plan import HEALED
from costopt.names import (
    ENV_EARLIER_ROUNDS,
    ENV_HEARTBEAT_FILE,
    ENV_LAUNCHER_PID,
    ENV_LAUNCHER_STARTED,
    ENV_LIFELINE_FD,
    ENV_REPLICA_UID,
    MAX_CHILD_NAME,
    RESERVED_ENVIRONMENT,
)
from costopt.render.labels import label_value
from costopt.render.manifests import manifests
from costopt.render.text import manifests_json, to_yaml
from costopt.schema.job import CostOptJob
from costopt.schema.replica import ReplicaSettings
from costopt.schema.unions import UNIONS
from costopt.schema.volumes import Volume

TOLD_TO_A_LAUNCHER = {name for name in RESERVED_ENVIRONMENT if name.startswith("COSTOPT_")} - {
    ENV_LIFELINE_FD,  # by a supervisor, which pods do not have
    ENV_REPLICA_UID,  # by a supervisor
    ENV_LAUNCHER_PID,  # by the launcher to its ranks
    ENV_LAUNCHER_STARTED,  # likewise
    ENV_EARLIER_ROUNDS,  # likewise
    ENV_HEARTBEAT_FILE,  # likewise
}

GPU_NODE = {"requests": {"cpu": 8, "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 4}}

OF_GPUS = {**RECIPE, "batch": {"globalBatchSize": 8, "microBatchSize": 2}}

PODS: dict[str, Any] = {
    "labels": {"team": "a"},
    "annotations": {"kueue.x-k8s.io/podset-required-topology": "cloud.example.com/rack"},
    "nodeSelector": {"cloud.example.com/pool": "spot"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
    "schedulerName": "other",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "trainer",
    "imagePullSecrets": [{"name": "registry"}],
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "corpus"}},
        {"name": "pod", "downwardAPI": {"items": []}},
    ],
    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "text", "readOnly": True}],
    "terminationGracePeriodSeconds": 25,
}

JOBS: dict[str, tuple[CostOptJob, str, int]] = {
    "command": (job(), "train", 0),
    "recipe-restarted": (recipe_job(), "train", 2),
    "gpus-and-claim": (
        recipe_job(
            train={
                "numNodes": 1,
                "resourcesPerNode": GPU_NODE,
                "image": "trainer:7",
                "recipe": OF_GPUS,
            },
            storage={"claimName": "shared"},
        ),
        "train",
        0,
    ),
    "everything-of-the-users": (recipe_job(storage={"create": {"size": "10Gi"}}, pods=PODS), "train", 1),
    "variant-with-its-own-resources": (
        recipe_job(compress=[{**INT8, "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}}}]),
        "int8",
        1,
    ),
    "variant-of-a-command": (
        job(compress=[INT8], evaluation={"data": RECIPE["data"]}, storage={"claimName": "shared"}),
        "int8",
        0,
    ),
    "variant-of-a-given-model": (
        given_job(INT8, storage={"create": {"size": "1Gi"}}, pods={"terminationGracePeriodSeconds": 25}),
        "int8",
        1,
    ),
    "variant-for-a-cpu": (
        recipe_job(
            train={"numNodes": 1, "resourcesPerNode": GPU_NODE, "recipe": OF_GPUS},
            compress=[{**INT8, "target": "CPU"}],
            pods={
                "nodeSelector": {"nvidia.com/gpu.product": "H200", "cloud.example.com/pool": "spot"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        ),
        "int8",
        0,
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
def test_without_a_queue_nobody_decides_on_suspension(name: str) -> None:
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
        kind.key for kind in UNIONS[Volume]
    }
    assert pod(name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", JOBS)
def test_everything_that_is_mounted_is_there_and_what_is_written_lies_on_a_volume(name: str) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in pod(name)["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) <= {volume["name"] for volume in pod(name)["volumes"]}
    variables = environment(name)
    for written in ("COSTOPT_STORAGE_DIR", "COSTOPT_PROGRESS_FILE", "HOME"):
        assert any(Path(variables[written]).is_relative_to(mount) for mount in mounts), written


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_is_told_its_index_by_the_job_and_all_else_by_us(name: str) -> None:
    variables = environment(name)
    field = variables["COSTOPT_REPLICA_INDEX"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables.keys() >= TOLD_TO_A_LAUNCHER
    [settings] = [volume for volume in pod(name)["volumes"] if volume["name"] == "settings"]
    config_map = children(name)["ConfigMap"]
    assert settings["configMap"]["name"] == config_map["metadata"]["name"]
    folder, _, file = variables["COSTOPT_SETTINGS_FILE"].rpartition("/")
    assert folder == "/etc/costopt"
    assert ReplicaSettings.model_validate_json(config_map["data"][file]).stage == JOBS[name][1]


@pytest.mark.parametrize("name", [name for name in JOBS if "Service" in children(name)])
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
    for child in [*manifests(longest, "train", 11000), *manifests(longest, "v" * 30, 11000)]:
        assert len(child["metadata"]["name"]) <= MAX_CHILD_NAME
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
    assert label_value("a" * 253) != label_value("a" * 252)


def with_metadata(of: CostOptJob, **metadata: Any) -> CostOptJob:
    data = of.to_plain()
    data["metadata"] |= metadata
    return CostOptJob.model_validate(data)


def test_what_is_the_queues_is_copied_to_the_job_and_nothing_else_and_the_queue_lets_it_go() -> None:
    queued = with_metadata(
        job(),
        labels={"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "high", "team": "a"},
        annotations={"kueue.x-k8s.io/job-min-parallelism": "1", "note": "mine"},
    )
    drawn = manifests(queued, "train", 0)[-1]
    queue_labels = {key: value for key, value in drawn["metadata"]["labels"].items() if "kueue" in key}
    assert queue_labels == {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "high"}
    assert "team" not in drawn["metadata"]["labels"]
    assert drawn["metadata"]["annotations"] == {
        "kueue.x-k8s.io/job-min-parallelism": "1",
        # Else a second pod would come for the same completion after the first: a gang has no second round.
        "kueue.x-k8s.io/job-completions-equal-parallelism": "true",
    }
    assert drawn["spec"]["suspend"] is True
    assert not any("kueue" in key for key in drawn["spec"]["template"]["metadata"]["labels"])


def test_a_queued_job_is_not_failed_for_pods_that_its_queue_has_ended_and_a_variant_is_admitted_whole() -> None:
    queued = with_metadata(
        recipe_job(),
        labels={"kueue.x-k8s.io/queue-name": "team-a"},
        annotations={"kueue.x-k8s.io/job-min-parallelism": "1"},
    )
    training, variant = (manifests(queued, stage, 0)[-1] for stage in ("train", recipe_job().spec.compress[0].name))
    assert "podFailurePolicy" not in training["spec"]
    assert training["spec"]["backoffLimit"] == 0
    assert training["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] == "1"
    assert "annotations" not in variant["metadata"]
    for drawn in (training, variant):
        assert drawn["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
        assert drawn["spec"]["suspend"] is True


def test_a_gang_that_was_admitted_in_part_is_told_its_real_size_and_is_otherwise_the_same() -> None:
    whole, part = (manifests(recipe_job(), "train", 0, num_nodes=size) for size in (None, 1))
    sizes = [json.loads(drawn[1]["data"]["train.json"])["numNodes"] for drawn in (whole, part)]
    assert sizes == [2, 1]
    assert whole[2:] == part[2:]
    assert whole[1]["data"]["int8.json"] == part[1]["data"]["int8.json"]


def test_a_variant_reads_the_settings_of_the_attempt_that_trained_its_model() -> None:
    trained, made = (manifests(recipe_job(), *stage, train_attempt=3) for stage in (("train", 3), ("int8", 0)))
    assert [child["kind"] for child in made] == ["ConfigMap", "Job"]
    assert made[0] == trained[1]
    assert made[1]["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == "tiny-train-a3"
    variables = {one["name"]: one.get("value") for one in made[1]["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["COSTOPT_SETTINGS_FILE"] == "/etc/costopt/int8.json"
    assert variables["COSTOPT_RENDEZVOUS_HOST"] == "127.0.0.1"


def test_a_variant_of_a_given_model_brings_settings_of_its_own_and_what_the_job_has_once() -> None:
    two = given_job(INT8, {**INT8, "name": "other"}, storage={"create": {"size": "1Gi"}})
    for stage in ("int8", "other"):
        claim, policy, settings, drawn = manifests(two, stage, 2)
        assert (claim["kind"], policy["kind"]) == ("PersistentVolumeClaim", "NetworkPolicy")
        assert settings["metadata"]["name"] == drawn["metadata"]["name"] == f"tiny-{stage}-a2"
        assert list(settings["data"]) == [f"{stage}.json"]
        told = ReplicaSettings.model_validate_json(settings["data"][f"{stage}.json"])
        assert (told.model, told.recipe, told.command) == (two.spec.model, None, None)
        assert told.evaluation == two.spec.evaluation
        pod_spec = drawn["spec"]["template"]["spec"]
        assert pod_spec["volumes"][0]["configMap"]["name"] == f"tiny-{stage}-a2"
        assert pod_spec["containers"][0]["workingDir"] == "/storage", "a relative path begins at the claim"


def test_a_variant_for_a_cpu_asks_for_no_gpu_nor_for_a_node_with_one() -> None:
    drawn, _, _ = JOBS["variant-for-a-cpu"]
    training, variant = (manifests(drawn, stage, 0)[-1]["spec"]["template"]["spec"] for stage in ("train", "int8"))
    assert training["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert variant["containers"][0]["resources"] == {"requests": {"cpu": 8, "memory": "32Gi"}, "limits": {}}
    assert training["nodeSelector"] == {"nvidia.com/gpu.product": "H200", "cloud.example.com/pool": "spot"}
    assert variant["nodeSelector"] == {"cloud.example.com/pool": "spot"}
    assert variant["tolerations"] == training["tolerations"], "they demand nothing"
    own = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}
    asked = recipe_job(compress=[{**INT8, "target": "CPU", "resources": own}])
    assert asked.spec.resources_of("int8").to_plain() == own, "what is asked for is given"


def test_a_variant_of_which_a_step_trains_is_a_gang_like_training() -> None:
    queue = {"kueue.x-k8s.io/queue-name": "team-a"}
    partly = {"kueue.x-k8s.io/job-min-parallelism": "1"}
    queued = with_metadata(recipe_job(compress=[HEALED]), labels=queue, annotations=partly)
    drawn = {child["kind"]: child for child in manifests(queued, "healed", 3)}
    assert drawn["Service"]["spec"]["selector"]["costopt.dev/stage"] == "healed"
    batch_job = drawn["Job"]["spec"]
    assert (batch_job["completions"], batch_job["parallelism"]) == (2, 2)
    assert "annotations" not in drawn["Job"]["metadata"], "it is admitted whole"
    [container] = batch_job["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["COSTOPT_RENDEZVOUS_HOST"] == "tiny-healed-a3-0.tiny-healed-a3"
    told = ReplicaSettings.model_validate_json(drawn["ConfigMap"]["data"]["healed.json"])
    assert (told.num_nodes, told.processes_per_node, told.in_place_restarts) == (2, 1, 0)


def test_children_come_in_the_order_in_which_they_need_each_other() -> None:
    created = recipe_job(storage={"create": {"size": "1Gi"}})
    kinds = ["PersistentVolumeClaim", "NetworkPolicy", "ConfigMap", "Service", "Job"]
    assert [child["kind"] for child in manifests(created, "train", 0)] == kinds
    alone = job(train={"numNodes": 1})
    assert [child["kind"] for child in manifests(alone, "train", 0)] == ["NetworkPolicy", "ConfigMap", "Job"]


def test_every_pod_waits_for_its_usage_to_be_recorded() -> None:
    for name in JOBS:
        template = children(name)["Job"]["spec"]["template"]["metadata"]
        assert template["finalizers"] == ["costopt.dev/usage"]


def test_a_created_claim_outlives_its_job_unless_that_is_not_wanted() -> None:
    for keep, owners in ((True, 0), (False, 1)):
        asked = {"create": {"size": "1Gi", "storageClassName": "fast", "keepAfterDeletion": keep}}
        claim = manifests(with_metadata(job(storage=asked), uid="1234"), "train", 0)[0]
        assert len(claim["metadata"].get("ownerReferences", [])) == owners
        assert claim["metadata"]["name"] == "tiny-storage"
        assert claim["spec"] == {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}},
        }
    [storage] = [volume for volume in pod("everything-of-the-users")["volumes"] if volume["name"] == "storage"]
    assert storage["persistentVolumeClaim"]["claimName"] == "tiny-storage"


def test_only_pods_of_the_job_reach_its_pods() -> None:
    [policy] = [child for child in manifests(with_metadata(job(), uid="1234"), "train", 0) if "Policy" in child["kind"]]
    pods = policy["spec"]["podSelector"]
    assert pods["matchLabels"]["costopt.dev/job-uid"] == "1234"
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": pods}]}]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_a_variable_of_the_users_replaces_a_default_and_comes_after_ours() -> None:
    names = [entry["name"] for entry in pod("everything-of-the-users")["containers"][0]["env"]]
    assert len(names) == len(set(names))
    assert names[-2:] == ["NCCL_DEBUG", "TOKEN"]
    assert environment("everything-of-the-users")["NCCL_DEBUG"] == "INFO"
    assert environment("command")["NCCL_DEBUG"] == "WARN"


@pytest.mark.parametrize(
    ("api", "kind", "spec", "reference"),
    [
        (
            "v1alpha1",
            "Workload",
            {"podGroups": [{"name": "train", "policy": {"gang": {"minCount": 2}}}]},
            {"workloadRef": {"name": "tiny-train-a0", "podGroup": "train"}},
        ),
        (
            "v1beta1",
            "PodGroup",
            {"schedulingPolicy": {"gang": {"minCount": 2}}},
            {"schedulingGroup": {"podGroupName": "tiny-train-a0"}},
        ),
    ],
)
def test_a_scheduler_that_places_gangs_whole_is_told_of_them(
    api: str, kind: str, spec: dict[str, Any], reference: dict[str, Any]
) -> None:
    *_, group, drawn = manifests(job(), "train", 0, gang_api=api)
    assert (group["apiVersion"], group["kind"]) == (f"scheduling.k8s.io/{api}", kind)
    assert group["spec"] == spec
    assert reference.items() <= drawn["spec"]["template"]["spec"].items()
    alone = manifests(job(train={"numNodes": 1}), "train", 0, gang_api=api)
    assert alone == manifests(job(train={"numNodes": 1}), "train", 0)


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
