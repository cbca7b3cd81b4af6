"""How large the status of a job gets, against what an object may have in etcd.

PYTHONPATH=.:operator:tests python benchmarks/status_size.py
"""

import dataclasses
from datetime import timedelta

from builders.operator import a_book, a_job, child, done, moment, pod
from builders.statuses import largest_status
from costopt.schema.replica import Progress
from costopt.schema.status import JobStatus
from costopt_operator.decide.fitting import fitted
from costopt_operator.decide.objects import LARGEST_OBJECT, stored_bytes
from costopt_operator.decide.observe import LARGEST_STATUS, JobSnapshot, LogSight
from costopt_operator.decide.reconcile import WriteHistory, reconcile

GANG = 4096
"""The largest gang that a job may have."""
METER = {"startup": 9000, "productive": 50_000, "dataWait": 100, "checkpoint": 900, "sinceCheckpoint": 700}


def main() -> None:
    """Print one row a case: bytes, and their share of an object."""
    largest = largest_status()
    print(f"{'':64} {'KiB':>7} {'of an object':>13}")
    for name, status in (
        (f"{GANG:,} pods run", _of_a_gang(GANG, ended=0)),
        (f"{GANG:,} pods, as many of them ended as are recorded at a time", _of_a_gang(GANG, ended=GANG)),
        ("all that a status may hold at once, as it would be", largest),
        ("the same as it is written", fitted(largest, LARGEST_STATUS)),
    ):
        size = stored_bytes(status.to_plain())
        print(f"{name:64} {size / 1024:7.0f} {size / LARGEST_OBJECT:13.2f}")


def _of_a_gang(size: int, *, ended: int) -> JobStatus:
    resources = {"requests": {"cpu": "500m", "memory": "1Gi"}}
    job = a_job(train={"command": ["train"], "numNodes": size, "resourcesPerNode": resources})
    world = JobSnapshot(job=job, status=JobStatus(), book=a_book(), generation=1)
    decided = reconcile(world, WriteHistory(), moment(0)).status
    assert decided is not None
    pods = [
        done(index, node=f"node-{index // 8}", scheduled=1 + index % 60, finished=500 + index % 7)
        if index < ended
        else pod(index, node=f"node-{index // 8}", scheduled=1 + index % 60)
        for index in range(size)
    ]
    progress = Progress.model_validate({"step": 5, "totalSteps": 9, "metered": METER})
    world = dataclasses.replace(
        world,
        status=decided,
        pods=tuple(pods),
        child_jobs=(child(completions=size, conditions=("Complete",) if ended == size else ()),),
        logs={one.uid: LogSight(timedelta(0), progress) for one in pods[:8]},
    )
    written = reconcile(world, WriteHistory(noticed=moment(0)), moment(600)).status
    assert written is not None
    return written


if __name__ == "__main__":
    main()
