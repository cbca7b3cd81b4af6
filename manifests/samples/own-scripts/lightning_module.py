"""Lightning's Trainer: one callback, one argument and one loader more. `costopt run lightning.yaml` in this folder."""

import os
import time

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from costopt_trainer import session
from costopt_trainer.session.lightning import CostOptCallback, ResumableDataLoader, newest_checkpoint

STEPS = int(os.environ.get("STEPS", "300"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
READING_SECONDS = float(os.environ.get("READING_SECONDS", "0"))
"""How slow the storage of the data is."""


class Sums(torch.utils.data.Dataset):
    """Vectors and the sums of them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(READING_SECONDS)
        inputs = torch.randn(16, generator=torch.Generator().manual_seed(number))
        return inputs, inputs.sum().reshape(1)


class Model(LightningModule):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean squared error."""
        return torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _number: int) -> torch.Tensor:
        """`loss` and `val_loss` are what the callback reports."""
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _number: int) -> None:
        """The same on samples that were kept back."""
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    seed_everything(0)
    trainer = Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu" if session.device() == "cpu" else "gpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        val_check_interval=SAVE_EVERY,
        check_val_every_n_epoch=None,
        callbacks=[CostOptCallback(every_n_steps=SAVE_EVERY)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    train = ResumableDataLoader(Sums(512), batch_size=4)
    held_out = torch.utils.data.DataLoader(Sums(8), batch_size=4)
    model = Model()
    trainer.fit(model, train, held_out, ckpt_path=newest_checkpoint())
    folder = session.checkpoints() / "model"
    if trainer.is_global_zero:
        folder.mkdir(exist_ok=True)
        torch.save(model.state_dict(), folder / "weights.pt")
    session.artifact(folder)


if __name__ == "__main__":
    with session.running():
        main()
