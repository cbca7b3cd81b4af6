"""Plain torch with DDP, saved and resumed by hand. `costopt run ddp.yaml` in this folder, or `python3 ddp.py` alone.

Every batch is made from the number of its step, so an attempt that goes on after step 100 needs no more than that.
"""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from costopt_trainer import session

STEPS = int(os.environ.get("STEPS", "300"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
READING_SECONDS = float(os.environ.get("READING_SECONDS", "0"))
"""How slow the storage of the data is."""


def read_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (32, 16) and targets (32, 1) of this rank for a step."""
    time.sleep(READING_SECONDS)
    numbers = torch.Generator().manual_seed(1000 * step + session.rank())
    inputs = torch.randn(32, 16, generator=numbers)
    return inputs, inputs.sum(1, keepdim=True)


def save(file: Path, **state: object) -> None:
    """Write beside the file and rename: a kill leaves the file before."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


def main() -> None:
    """Train, from the last checkpoint if there is one."""
    device = torch.device(session.device())
    if session.world_size() > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    file, start = session.checkpoints() / "newest.pt", 0
    if file.exists():
        kept = torch.load(file, map_location=device)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        start = kept["step"]
        session.resumed(start)
    wrapped = DistributedDataParallel(model) if dist.is_initialized() else model

    session.report(step=start, total_steps=STEPS)  # start-up ends here
    for step in range(start + 1, STEPS + 1):
        with session.data_wait():
            inputs, targets = read_batch(step)
        loss = nn.functional.mse_loss(wrapped(inputs.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        samples = 32 * session.world_size() * step
        session.report(step=step, total_steps=STEPS, loss=loss.detach(), samples_consumed=samples)
        stop = session.should_stop()  # the same on all ranks
        if stop or step % SAVE_EVERY == 0 or step == STEPS:
            with session.checkpoint():
                if session.rank() == 0:
                    save(file, step=step, model=model.state_dict(), optimizer=optimizer.state_dict())
            session.checkpoint_saved(step)
        if stop:
            session.leave()  # with exit code 143

    folder = session.checkpoints() / "model"
    if session.rank() == 0:
        folder.mkdir(exist_ok=True)
        torch.save(model.state_dict(), folder / "weights.pt")
    session.artifact(folder)


if __name__ == "__main__":
    with session.running():  # a gloo group's destructor may wait for ever at the exit: not here
        main()
