"""This machine's GPUs, as the driver names them."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from costopt.names import TRAIN_STAGE
from costopt.refused import Refused
from costopt.render.settings import gpus_of
from costopt.schema.job import CostOptJob


@dataclass(frozen=True)
class Devices:
    """GPUs that may be handed out to replicas."""

    ids: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them."""
    product: str | None = None
    """Their model, spelled as in the node label nvidia.com/gpu.product; None if they are of several."""


def devices_for(job: CostOptJob) -> Devices:
    """The devices the job may use: none, if it asks for none.

    Raises Refused if a stage asks for more than there are.
    """
    asked = {stage: gpus_of(job, stage) * job.spec.num_replicas(stage) for stage in job.spec.stages}
    if not any(asked.values()):
        return Devices()
    found = _found()
    for stage, number in asked.items():
        if number > len(found.ids):
            raise Refused(
                f"{stage} asks for {number} GPUs in all, and this machine has {len(found.ids)}; "
                "ask for as many as there are, or remove nvidia.com/gpu to compute on the CPU"
            )
    return found


def one_device_for(job: CostOptJob) -> Devices:
    """A device for one process that does the work of all ranks of the training: none, if that asks for none.

    Raises Refused if this machine has none.
    """
    if not gpus_of(job, TRAIN_STAGE):
        return Devices()
    found = _found()
    if not found.ids:
        raise Refused("train asks for GPUs, and this machine has none; remove nvidia.com/gpu to compute on the CPU")
    return Devices(found.ids[:1], found.product)


def _found() -> Devices:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Devices()
    listing = subprocess.run(
        [tool, "--query-gpu=index,name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        return Devices()
    rows = [line.split(", ", 1) for line in listing.stdout.splitlines() if ", " in line]
    ids = tuple(row[0].strip() for row in rows)
    products = {row[1].strip().replace(" ", "-") for row in rows}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = tuple(name.strip() for name in visible.split(",") if name.strip())
    return Devices(ids, products.pop() if len(products) == 1 else None)
