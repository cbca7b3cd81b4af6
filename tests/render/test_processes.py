"""An attempt as processes of this machine."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

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
    RESERVED_ENVIRONMENT,
)
from costopt.render.manifests import manifests
from costopt.render.processes import Process, left_to_the_cluster, processes
from costopt.render.references import resolved
from costopt.render.settings import threads_per_rank
from costopt.render.text import process_document, to_yaml
from costopt.schema.job import CostOptJob

ON_GPUS = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 2}}
SMALL_BATCH = {
    **RECIPE,
    "model": {**RECIPE["model"], "decoderLM": {**RECIPE["model"]["decoderLM"], "numHeads": 2}},
    "batch": {"globalBatchSize": 4, "microBatchSize": 1},
    "parallelism": {"tensor": 2},
}


def draw(
    tiny: CostOptJob, stage: str = "train", attempt: int = 0, devices: tuple[str, ...] = ()
) -> tuple[Process, ...]:
    return processes(
        tiny,
        stage,
        attempt,
        run_dir=PurePosixPath("/runs/tiny"),
        working_dir=PurePosixPath("/work"),
        launcher=("python", "-m", "costopt_trainer.launch"),
        rendezvous_port="40123",
        devices=devices,
    )


@pytest.mark.parametrize("stage", ["train", "int8"])
def test_the_processes_are_those_of_the_golden_file(stage: str) -> None:
    text = to_yaml([process_document(process) for process in draw(recipe_job(), stage, 1)])
    check_golden(Path(__file__).parent / f"golden/processes-{stage}.yaml", text)


def test_a_gang_shares_its_rendezvous_and_differs_in_its_index() -> None:
    first, second = draw(job())
    differing = {name for name in first.environment if first.environment[name] != second.environment[name]}
    assert differing == {
        "COSTOPT_REPLICA_INDEX",
        "COSTOPT_SETTINGS_FILE",
        "COSTOPT_PROGRESS_FILE",
        "COSTOPT_TERMINATION_FILE",
    }
    assert first.environment["COSTOPT_RENDEZVOUS_PORT"] == "40123"


def test_every_variable_of_ours_is_set_so_that_none_is_inherited() -> None:
    ours = {name for name in RESERVED_ENVIRONMENT if name.startswith("COSTOPT_")}
    ours -= {
        ENV_LIFELINE_FD,
        ENV_REPLICA_UID,
        ENV_LAUNCHER_PID,
        ENV_LAUNCHER_STARTED,
        ENV_EARLIER_ROUNDS,
        ENV_HEARTBEAT_FILE,
    }
    assert ours <= draw(job())[0].environment.keys()


@pytest.mark.parametrize("stage", ["train", "int8"])
def test_both_worlds_hand_over_the_same_settings(stage: str) -> None:
    [config_map] = [child for child in manifests(recipe_job(), stage, 3) if child["kind"] == "ConfigMap"]
    assert {process.settings for process in draw(recipe_job(), stage, 3)} == {config_map["data"][f"{stage}.json"]}


def test_each_node_sees_the_gpus_it_asks_for_and_no_others() -> None:
    node = {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 2}}
    recipe = {**RECIPE, "batch": {"globalBatchSize": 8, "microBatchSize": 2}}
    drawn = draw(recipe_job(train={"resourcesPerNode": node, "recipe": recipe}), devices=("0", "1", "5", "6", "7"))
    assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in drawn] == ["0,1", "5,6"]
    assert draw(job(), devices=("0",))[0].environment["CUDA_VISIBLE_DEVICES"] == ""
    for target, seen in (("CPU", ""), ("Auto", "0,1")):
        variant = {**INT8, "target": target}
        on_gpus = recipe_job(train={"resourcesPerNode": node, "recipe": recipe}, compress=[variant])
        assert draw(on_gpus, "int8", devices=("0", "1"))[0].environment["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("cpu", "ranks", "threads"),
    [(1, 1, 1), (4, 1, 4), (4, 2, 2), (5, 2, 2), ("500m", 1, 1), ("1500m", 1, 1), (2, 8, 1)],
)
def test_the_vcpus_asked_for_are_shared_among_the_ranks(cpu: int | str, ranks: int, threads: int) -> None:
    node = {"requests": {"cpu": cpu, "memory": "1Gi"}}
    recipe = {**RECIPE, "batch": {"globalBatchSize": 16, "microBatchSize": 1}}
    train = {"numNodes": 1, "processesPerNode": ranks, "resourcesPerNode": node, "recipe": recipe}
    assert threads_per_rank(recipe_job(train=train), "train") == threads


def test_a_variant_is_made_by_one_rank_on_one_node_with_resources_of_its_own() -> None:
    own = {**INT8, "resources": {"requests": {"cpu": 3, "memory": "1Gi"}}}
    [process] = draw(recipe_job(compress=[own]), "int8")
    assert '"processesPerNode": 1' in process.settings
    assert process.environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("train", "variant", "gang"),
    [
        ({}, {}, (2, 1)),
        ({"processesPerNode": 2}, {}, (2, 2)),
        ({"processesPerNode": 2}, {"resources": {"requests": {"cpu": 3, "memory": "1Gi"}}}, (2, 1)),
        ({"resourcesPerNode": ON_GPUS}, {}, (2, 2)),
        ({"resourcesPerNode": ON_GPUS}, {"target": "CPU"}, (2, 1)),
        ({"resourcesPerNode": ON_GPUS}, {"resources": {**ON_GPUS, "limits": {"nvidia.com/gpu": 4}}}, (2, 4)),
        ({"numNodes": 4}, {"resources": ON_GPUS}, (4, 2)),
        # Eight ranks cannot share out a batch of 4 samples.
        ({"numNodes": 8, "recipe": SMALL_BATCH}, {}, (1, 1)),
    ],
)
def test_a_variant_of_which_a_step_trains_has_as_many_ranks_as_its_resources_and_a_batch_allow(
    train: dict[str, Any], variant: dict[str, Any], gang: tuple[int, int]
) -> None:
    large = {**RECIPE, "batch": {"globalBatchSize": 8, "microBatchSize": 2}}
    tiny = recipe_job(train={"recipe": large, **train}, compress=[{**HEALED, **variant}])
    assert (tiny.spec.num_replicas("healed"), tiny.spec.ranks_per_replica("healed")) == gang


def test_without_a_training_a_job_has_its_variants_alone() -> None:
    tiny = given_job(INT8, {**INT8, "name": "other"})
    assert tiny.spec.stages == ("int8", "other")
    [process] = draw(tiny, "other")
    assert '"path": "models/tiny"' in process.settings
    assert process.environment["CUDA_VISIBLE_DEVICES"] == ""


VARIABLES = [
    {"name": "FOLDER", "value": "/data"},
    {"name": "TEXT", "value": "$(FOLDER)/$(COSTOPT_ATTEMPT)/text $$ $(LATER) $FOLDER"},
    {"name": "LATER", "value": "1"},
    {"name": "OMP_NUM_THREADS", "value": "3"},
    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
]


def test_the_variables_of_the_pods_are_those_of_the_processes_too() -> None:
    tiny = job(pods={"env": VARIABLES})
    given = draw(tiny)[0].environment
    assert given["TEXT"] == "/data/0/text $ $(LATER) $FOLDER"
    assert (given["LATER"], given["OMP_NUM_THREADS"]) == ("1", "3")
    assert "TOKEN" not in given
    assert left_to_the_cluster(tiny) == ["TOKEN"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ""),
        ("$", "$"),
        ("$$", "$"),
        ("$$$", "$$"),
        ("a$b", "a$b"),
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$(A)$(A)", "11"),
        ("$($(A))", "$($(A))"),
        ("$(REF)", "$(A)"),
    ],
)
def test_references_are_resolved_as_a_kubelet_does(written: str, meant: str) -> None:
    assert resolved(written, {"A": "1", "REF": "$(A)"}) == meant
