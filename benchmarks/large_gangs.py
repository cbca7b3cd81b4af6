"""One look of the operator at jobs of very many pods, against reading the JSON of as many pods.

The decision alone is timed (`reconcile`): it is what keeps the operator's one thread from renewing its lease. The peer
is `json.loads` of the same pods as the API server would send them: what it takes merely to be told of them once.

    PYTHONPATH=.:operator:tests python benchmarks/large_gangs.py
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from datetime import timedelta

from builders.operator import Json, a_book, a_job, child_json, moment, pod_json
from costopt.schema.job import CostOptJob
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus
from costopt_operator.decide.objects import parse_child_job, parse_pod
from costopt_operator.decide.observe import JobSnapshot, LogSight
from costopt_operator.decide.reconcile import WriteHistory, reconcile

GANG = 4096
"""The largest gang that a job may have."""
ATTEMPTS, PODS_AN_ATTEMPT = 1000, 8
ROUNDS = 5
METER = {"startup": 9000, "productive": 50_000, "dataWait": 100, "checkpoint": 900, "sinceCheckpoint": 700}


def main() -> None:
    """Print one row a case: medians, and their ratio."""
    print(f"{'':48} {'look, s':>9} {'json.loads, s':>14} {'ratio':>7}")
    for case in (_running, _ended, _history):
        name, pods, world = case()
        text = json.dumps(pods)
        look, read = [], []
        for _ in range(ROUNDS):
            read.append(_seconds(functools.partial(json.loads, text)))
            # A copy, for what is worked out about a world is worked out once.
            look.append(_seconds(functools.partial(reconcile, dataclasses.replace(world), WriteHistory(), moment(600))))
        ours, peer = statistics.median(look), statistics.median(read)
        print(f"{name:48} {ours:9.3f} {peer:14.3f} {ours / peer:7.1f}")


Case = tuple[str, list[Json], JobSnapshot]
"""What it is called, its pods as the API server sends them, and what the operator knows."""


def _running() -> Case:
    pods = [pod_json(index, scheduled=1 + index % 60, node=f"node-{index // 8}") for index in range(GANG)]
    progress = Progress.model_validate({"step": 5, "totalSteps": 9, "metered": METER})
    world = _world(GANG, pods, [child_json(completions=GANG)])
    logs = {pod.uid: LogSight(timedelta(0), progress) for pod in world.pods[:8]}
    return f"{GANG:,} pods run", pods, dataclasses.replace(world, logs=logs)


def _ended() -> Case:
    pods = [
        pod_json(
            index,
            scheduled=1 + index % 60,
            node=f"node-{index // 8}",
            phase="Succeeded",
            exit_code=0,
            message={"exitCode": 0, "progress": {"step": 9, "totalSteps": 9, "metered": METER | {"dataWait": index}}},
        )
        for index in range(GANG)
    ]
    world = _world(GANG, pods, [child_json(completions=GANG, conditions=("Complete",))])
    return f"{GANG:,} pods have ended, each with its own meter", pods, world


def _history() -> Case:
    old = range(ATTEMPTS)
    pods = [
        pod_json(index, attempt=attempt, phase="Failed", exit_code=1, finalizer=False)
        for attempt in old
        for index in range(PODS_AN_ATTEMPT)
    ]
    pods += [pod_json(index, attempt=ATTEMPTS) for index in range(PODS_AN_ATTEMPT)]
    children = [child_json(attempt=attempt, conditions=("Failed",)) for attempt in old]
    world = _world(PODS_AN_ATTEMPT, pods, [*children, child_json(attempt=ATTEMPTS)])
    stages = [world.status.stages[0].model_copy(update={"attempt": ATTEMPTS, "state": "Running"})]
    status = world.status.model_copy(update={"stages": stages})
    return (
        f"{ATTEMPTS:,} attempts of {PODS_AN_ATTEMPT} pods are still there",
        pods,
        dataclasses.replace(world, status=status),
    )


def _world(nodes: int, pods: list[Json], children: list[Json]) -> JobSnapshot:
    """A job whose first attempt has been decided."""
    world = JobSnapshot(job=_job(nodes), status=JobStatus(), book=a_book(), generation=1)
    status = reconcile(world, WriteHistory(), moment(0)).status
    assert status is not None
    return dataclasses.replace(
        world, status=status, pods=tuple(map(parse_pod, pods)), child_jobs=tuple(map(parse_child_job, children))
    )


def _job(nodes: int) -> CostOptJob:
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}}
    return a_job(
        train={"command": ["train"], "numNodes": nodes, "resourcesPerNode": resources},
        restarts={"maxFailures": ATTEMPTS},
    )


def _seconds(call: Callable[[], object]) -> float:
    """Of this process, so that other load counts little."""
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
