"""Every sample does what its first lines say: those for one machine are run, those for a cluster are rendered.

The quickstart is run by tests/docs/test_quickstart.py, as the README says.
"""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.cli import costopt
from builders.hugging_face import PROSE, model_folder
from costopt.render.text import to_yaml
from costopt.schema.job import CostOptJob
from costopt.schema.resources import parse_quantity

SAMPLES = Path(__file__).resolve().parents[2] / "manifests/samples"

RUN_HERE = {"quickstart", "model-parallel", "own-script", "finetune-lora", "lean"}
"""The others ask for GPUs or for a cluster."""
NAMES = sorted(path.stem for path in SAMPLES.glob("*.yaml"))


def finished(tmp_path: Path, sample: str, **recipe: Any) -> dict[str, Any]:
    """Run a sample to its end, with some settings of its recipe replaced; its final status."""
    job, *books = yaml.safe_load_all((SAMPLES / f"{sample}.yaml").read_text())
    if recipe:
        job["spec"]["train"]["recipe"].update(recipe)
    (tmp_path / "sample.yaml").write_text(to_yaml([job, *books]))
    answer = costopt(tmp_path, "run", "sample.yaml", "--run-dir", "here", "--output", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)  # type: ignore[no-any-return]


def job_of(sample: str) -> dict[str, Any]:
    return next(yaml.safe_load_all((SAMPLES / f"{sample}.yaml").read_text()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("sample", NAMES)
def test_a_sample_is_valid(tmp_path: Path, sample: str) -> None:
    answer = costopt(tmp_path, "validate", str(SAMPLES / f"{sample}.yaml"))
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("sample", NAMES)
def test_a_sample_is_rendered_for_a_cluster(tmp_path: Path, sample: str) -> None:
    answer = costopt(tmp_path, "plan", str(SAMPLES / f"{sample}.yaml"))
    kinds = [child["kind"] for child in yaml.safe_load_all(answer.stdout)]
    spec = CostOptJob.model_validate(job_of(sample)).spec
    claim = ["PersistentVolumeClaim"] * (spec.storage is not None and spec.storage.create is not None)
    # Replicas that meet need a Service: those of training, and of a variant of which a step trains.
    gangs = [kind for stage in spec.stages for kind in ["Service"] * (spec.num_replicas(stage) > 1) + ["Job"]]
    assert kinds == [*claim, "NetworkPolicy", "ConfigMap", *gangs]


def test_the_samples_show_what_a_newcomer_looks_for() -> None:
    assert job_of("kueue")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job_of("gpus")["spec"]["train"]["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8}
    assert job_of("gpus")["spec"]["train"]["numNodes"] == 2
    assert {"budget", "restarts", "pods"} <= job_of("spot")["spec"].keys()
    assert "command" in job_of("own-script")["spec"]["train"]
    assert job_of("quickstart-cluster")["spec"]["storage"]["create"]["size"] == "1Gi"


def cpu_and_memory(requests: dict[str, Any], pods: int) -> tuple[Decimal, Decimal]:
    return parse_quantity(str(requests["cpu"])) * pods, parse_quantity(str(requests["memory"])) * pods


def test_the_quickstart_for_clusters_fits_a_node_of_two_cpus_beside_the_operator_and_the_clusters_own_pods() -> None:
    values = yaml.safe_load((SAMPLES.parents[1] / "charts/costopt/values.yaml").read_text())
    spec = job_of("quickstart-cluster")["spec"]
    stages = {"training": spec["train"]["numNodes"], "variants": len(spec["compress"])}
    assert not any("resources" in variant for variant in spec["compress"]), "they ask for what training asks for"
    operator = cpu_and_memory(values["resources"]["requests"], values["replicas"])
    # A control plane of kubeadm and two CoreDNS on the same node ask for 0.95 CPU and 0.3 GiB.
    own = Decimal("0.95"), Decimal("0.3") * 2**30
    for stage, pods in stages.items():
        cpu, memory = map(sum, zip(operator, own, cpu_and_memory(requests_of(spec), pods), strict=True))
        assert cpu <= 2, stage
        assert memory <= 4 * 2**30, stage


def requests_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What each pod asks for; without limits, so that it may use what is idle."""
    assert "limits" not in spec["train"]["resourcesPerNode"]
    return spec["train"]["resourcesPerNode"]["requests"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("num_nodes", [4, 3, 2])
def test_a_queue_may_admit_fewer_nodes_of_its_sample(num_nodes: int) -> None:
    sample = job_of("kueue")
    sample["spec"]["train"]["numNodes"] = num_nodes
    CostOptJob.model_validate(sample)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_model_parallel_trains_with_its_layers_on_two_ranks(tmp_path: Path) -> None:
    status = finished(tmp_path, "model-parallel", totalSteps=30)
    assert float(status["progress"]["validationLoss"]) < 3.3  # 5.5 untrained
    manifest = json.loads((tmp_path / "here/checkpoints/step-00000030/manifest.json").read_text())
    assert len([name for name in manifest["files"] if name.startswith("model")]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_adapters_are_trained_on_two_nodes_that_share_out_the_weights(tmp_path: Path) -> None:
    model_folder(tmp_path / "model", "llama", max_position_embeddings=64)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/prose.txt").write_text(PROSE * 8)
    status = finished(tmp_path, "finetune-lora", totalSteps=12)
    assert status["conditions"][0]["reason"] == "Completed"
    assert float(status["progress"]["validationLoss"]) < math.log(300)  # better than a guess among 300 tokens
    artifacts = tmp_path / "here/artifacts"
    assert (artifacts / "adapter/adapter_model.safetensors").exists()
    assert (artifacts / "model/tokenizer.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_lean_training_ends_before_its_plan_and_tells_what_that_saved(tmp_path: Path) -> None:
    often = {"everySteps": 20, "maxSamples": 32}
    patience = {"patienceEvaluations": 2, "leastImprovement": "0.5"}
    status = finished(tmp_path, "lean", evaluation=often, earlyStopping=patience)
    assert status["conditions"][0]["reason"] == "EarlyStopped"
    told = status["earlyStopped"]
    assert told["stepsSaved"] == 4000 - told["stoppedAtStep"] > 0
    assert float(told["listCostSaved"]) > 0
    bill = status["bill"]
    selecting = [line for line in bill["lines"] if line["cause"] == "Selecting"]
    assert {line["stage"] for line in selecting} == {"train"}
    assert all(float(line["consumedQuantity"]) > 0 for line in selecting), "hours"
    [cost] = [total["listCost"] for total in bill["byCause"] if total["key"] == "Selecting"]
    assert Decimal(cost) == sum(Decimal(line["listCost"]) for line in selecting) > 0
    assert "FilterQuality" in costopt(tmp_path, "logs", "here").stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_your_own_script_runs_once_per_rank_and_the_ranks_find_each_other(tmp_path: Path) -> None:
    status = finished(tmp_path, "own-script")
    assert status["conditions"][0]["reason"] == "Completed"
    logs = costopt(tmp_path, "logs", "here").stdout
    for rank in range(4):
        assert f"rank {rank} of 4 sees 6" in logs


def test_each_sample_is_either_run_or_needs_what_this_machine_lacks() -> None:
    for sample in NAMES:
        spec = job_of(sample)["spec"]
        assert sample in RUN_HERE or "limits" in spec["train"]["resourcesPerNode"] or "storage" in spec
