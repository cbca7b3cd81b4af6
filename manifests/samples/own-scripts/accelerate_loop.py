"""Accelerate without a Trainer: a loop of one's own. `costopt run accelerate.yaml` in this folder.

It is not called accelerate.py, for then `import accelerate` would find this file.
"""

import os
import time

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn

from costopt_trainer import session
from costopt_trainer.session.hugging_face import batches_after, load_newest_state, save_state

STEPS = int(os.environ.get("STEPS", "300"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
READING_SECONDS = float(os.environ.get("READING_SECONDS", "0"))
"""How slow the storage of the data is."""


class Sums(torch.utils.data.Dataset):
    """Vectors and the sums of them."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(READING_SECONDS)
        inputs = torch.randn(16, generator=torch.Generator().manual_seed(number))
        return inputs, inputs.sum().reshape(1)


def main() -> None:
    """Train, from the newest whole checkpoint if there is one."""
    in_order = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0)  # the order follows from the epoch
    accelerator = Accelerator(cpu=session.device() == "cpu", dataloader_config=in_order)
    set_seed(0)
    plain = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    model, optimizer, loader = accelerator.prepare(
        plain,
        torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9),
        torch.utils.data.DataLoader(Sums(), batch_size=4, shuffle=True),
    )
    start = load_newest_state(accelerator)
    session.report(step=start, total_steps=STEPS)  # start-up ends here
    batches = batches_after(loader, start)
    for step in range(start + 1, STEPS + 1):
        with session.data_wait():
            inputs, targets = next(batches)
        loss = nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        samples = 4 * accelerator.num_processes * step
        session.report(step=step, total_steps=STEPS, loss=loss.detach(), samples_consumed=samples)
        stop = session.should_stop()  # the same on all ranks
        if stop or step % SAVE_EVERY == 0 or step == STEPS:
            save_state(accelerator, step)
        if stop:
            session.leave()  # with exit code 143

    folder = session.checkpoints() / "model"
    accelerator.save_model(model, folder)
    session.artifact(folder)


if __name__ == "__main__":
    with session.running():
        main()
