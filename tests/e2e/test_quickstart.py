"""The operator's own pods, and the quickstart as its user sees it."""

from typing import Any

from cluster.team import Team
from e2e.installation import Installation
from e2e.jobs import REQUESTS, SECONDS, STEPS, event_reasons, script, submit, training, wait_for
from e2e.real_cluster import RealCluster


def test_both_replicas_run_without_a_user_name_on_a_read_only_root(installation: Installation) -> None:
    pods = installation.pods()
    assert len(pods) == 2
    for pod in pods:
        assert pod["status"]["phase"] == "Running"
        # Other tests kill it, so it may have begun anew; one that goes down again and again is not ready.
        assert all(status["ready"] for status in pod["status"]["containerStatuses"])
        name = pod["metadata"]["name"]
        who = installation.kubectl(
            "exec", name, "--", "python", "-c", "import os; print(os.getuid(), os.environ.get('USER'))"
        )
        assert who.split() == ["65532", "None"]
        read_only = installation.kubectl("exec", name, "--", "python", "-c", _TRIES_TO_WRITE)
        assert read_only.strip() == "Read-only file system"
    leader = installation.leader()
    assert leader["metadata"]["uid"] in [pod["metadata"]["uid"] for pod in pods]


_TRIES_TO_WRITE = """
try:
    open("/opt/written", "w")
except OSError as error:
    print(error.strerror)
"""


def test_two_pods_train_over_gloo_and_the_bill_is_what_the_kubelet_says(node: RealCluster, team: Team) -> None:
    prune = {"type": "Prune", "prune": {"structure": "Structured", "percent": 25}}
    job, storage = submit(node, team, training(compress=[{"name": "small", "steps": [prune]}]))
    status = job.wait_until_ended(seconds=SECONDS)
    records = team.check_usage(job)
    assert sorted(record["stage"] for record in records) == ["small", "train", "train"]
    assert {record["outcome"] for record in records} == {"Succeeded"}
    assert status["progress"]["step"] == STEPS
    assert float(status["progress"]["loss"]) < 3.0  # 5.5 untrained
    assert storage.newest_step() == STEPS
    assert status["bill"]["listCost"] is not None
    (variant,) = status["variants"]
    assert variant["reloaded"]
    assert float(variant["sizeRatio"]) > 1.1
    wait_for(lambda: "Completed" in event_reasons(job), "told in an event")

    smaller = team.create(_of_a_model_that_is_there("/storage/tiny/artifacts/model", claim=f"{job.name}-storage"))
    status = smaller.wait_until_ended(seconds=2 * SECONDS)
    records = team.check_usage(smaller)
    assert [(record["stage"], record["outcome"]) for record in records] == [("int8", "Succeeded")]
    (variant,) = status["variants"]
    assert variant["reloaded"]
    assert float(variant["sizeRatio"]) > 1.5
    (graph,) = storage.folder.rglob("smaller/artifacts/**/int8/model.onnx")
    assert (graph.parent / "manifest.json").exists()


def _of_a_model_that_is_there(path: str, claim: str) -> dict[str, Any]:
    """A job without a training, whose variant is kept as a graph for onnxruntime, too."""
    manifest = training("smaller")
    recipe = manifest["spec"].pop("train")["recipe"]
    quantize = {"type": "Quantize", "quantize": {"scheme": "Int8DynamicActivation"}}
    variant = {"name": "int8", "resources": {"requests": REQUESTS}, "steps": [quantize], "formats": ["Onnx"]}
    manifest["spec"] |= {
        "model": {"path": path},
        "evaluation": {"data": recipe["data"], "microBatchSize": 8, "maxSamples": 64},
        "compress": [{**variant, "target": "CPU", "measureSeconds": 30}],
        "storage": {"claimName": claim},
    }
    return manifest


def test_kubectl_explains_lists_and_describes_a_job(node: RealCluster, team: Team) -> None:
    job = team.create(script("seen", "print('done')"))
    job.wait_until_ended()
    explained = node.kubectl("explain", "costoptjob.spec.restarts.stallTimeoutSeconds")
    assert "Restart the gang when no step was finished" in " ".join(explained.split())
    head, row = node.kubectl("get", "costoptjob", "seen", namespace=team.namespace).splitlines()
    assert head.split() == ["NAME", "STATE", "STEP", "OF", "LOSS", "COST", "CURRENCY", "ATTEMPT", "AGE"]
    assert row.split()[:4] == ["seen", "Completed", job.status["bill"]["listCost"], "USD"]
    wait_for(lambda: "Completed" in event_reasons(job), "told in an event")
    described = node.kubectl("describe", "costoptjob", "seen", namespace=team.namespace)
    assert "Completed" in described.partition("Events:")[2]
