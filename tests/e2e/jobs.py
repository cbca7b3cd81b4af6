"""Jobs small enough for one node of two CPUs, and a hand on their pods.

`training` is a job of the built-in trainer whose weights at the end are the same however often it was disturbed;
`script` is one with a program of its own.
"""

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders.waiting
from cluster.team import LiveJob, Team
from e2e.real_cluster import RealCluster

REQUESTS = {"cpu": "100m", "memory": "512Mi"}
STEPS = 120
CHECKPOINT_EVERY = 20
SECONDS = 240.0
"""Longest time for a job to end: each attempt imports torch, on two busy CPUs."""
HEARD_AGAIN_SECONDS = 60.0
"""What was away is back, and everybody has heard of what happened meanwhile: kubelets ask again ever more rarely."""


def training(name: str = "tiny", *, nodes: int = 2, steps: int = STEPS, **spec: Any) -> dict[str, Any]:
    """A decoder of 50,000 parameters on the text of Python's standard library."""
    recipe = {
        "model": {
            "type": "DecoderLM",
            "decoderLM": {"numLayers": 2, "numHeads": 2, "embeddingDim": 64, "contextLength": 64},
        },
        "data": {"type": "PythonStandardLibrary", "pythonStandardLibrary": {"maxBytes": 300000}},
        "batch": {"globalBatchSize": 32, "microBatchSize": 8},
        "totalSteps": steps,
        "optimizer": {"learningRate": "3e-3"},
        "evaluation": {"everySteps": steps, "maxSamples": 64},
        "checkpointing": {"everySteps": CHECKPOINT_EVERY},
    }
    train = {"numNodes": nodes, "resourcesPerNode": {"requests": REQUESTS}, "recipe": recipe}
    return _job(name, {"train": train, **_storage(), **spec})


def script(name: str, program: str, *, nodes: int = 1, **spec: Any) -> dict[str, Any]:
    """A job that runs a Python program of its own."""
    train = {
        "numNodes": nodes,
        "processesPerNode": 1,
        "resourcesPerNode": {"requests": REQUESTS},
        "command": ["python3", "-c", program],
    }
    return _job(name, {"train": train, **spec})


def _job(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    plain = {"apiVersion": "costopt.dev/v1alpha1", "kind": "CostOptJob", "metadata": {"name": name}}
    # Frozen and killed pods do not hold up the namespace's end for long.
    pods = {"terminationGracePeriodSeconds": 30, **spec.pop("pods", {})}
    return {**plain, "spec": {"priceBookName": "sample", "pods": pods, **spec}}


def _storage() -> dict[str, Any]:
    create = {"size": "1Gi", "accessMode": "ReadWriteOnce", "keepAfterDeletion": True}
    return {"storage": {"create": create}}


class Storage:
    """The folder of the node behind a job's claim."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole."""
        # Not rglob, which fails if a folder goes while it is looked through.
        found = [Path(folder) for folder, _, files in os.walk(self.folder) if "manifest.json" in files]
        checkpoints = [path for path in found if path.parent.name == "checkpoints" and path.name.startswith("step-")]
        return sorted(int(path.name.removeprefix("step-")) for path in checkpoints)

    def newest_step(self) -> int:
        """The newest of them; 0 if there is none."""
        return max(self.steps(), default=0)

    def weights(self) -> str:
        """SHA-256 over the trained model's files."""
        digest = hashlib.sha256()
        files = sorted(self.folder.rglob("artifacts/model/*.safetensors"))
        assert files, f"no trained model in {[str(path) for path in self.folder.rglob('*')][:40]}"
        for path in files:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def wait_for(read: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first answer of `read` that is true."""
    return builders.waiting.wait_for(read, what, seconds)


def submit(node: RealCluster, team: Team, manifest: dict[str, Any]) -> tuple[LiveJob, Storage]:
    """Create the job, with a volume for its claim."""
    storage = Storage(node.add_volume(claim=claim_of(team, manifest)))
    return team.create(manifest), storage


def claim_of(team: Team, manifest: dict[str, Any]) -> tuple[str, str]:
    """Namespace and name of the claim that is made for a job."""
    return team.namespace, f"{manifest['metadata']['name']}-storage"


def processes_of(pod: dict[str, Any], words: str) -> list[int]:
    """Ids of the processes of a pod whose command line has these words, oldest first."""
    return sorted(_processes(pod["metadata"]["uid"], words))


def _processes(uid: str, words: str) -> Iterator[int]:
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if uid not in (path / "cgroup").read_text():
                continue
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if words in command:
                yield int(path.name)


def send(pod: dict[str, Any], words: str, number: signal.Signals) -> int:
    """Signal these processes of a pod; how many there were."""
    pids = processes_of(pod, words)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(pids)


def event_reasons(job: LiveJob) -> list[str]:
    """Reasons of the events about a job, in order."""
    return [str(event["reason"]) for event in job.events()]


def describe(status: dict[str, Any]) -> str:
    """The parts of a status that a failed test should show."""
    return json.dumps({key: status.get(key) for key in ("conditions", "stages", "failure", "progress")}, indent=1)
