"""transformers' Trainer: one callback and one argument more. `costopt run hugging_face.yaml` in this folder."""

import os
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from costopt_trainer import session
from costopt_trainer.session.hugging_face import CostOptCallback, newest_checkpoint

STEPS = int(os.environ.get("STEPS", "300"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
READING_SECONDS = float(os.environ.get("READING_SECONDS", "0"))
"""How slow the storage of the data is."""


class Counting(torch.utils.data.Dataset):
    """Numbers that follow one another: what comes next can be learnt."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        time.sleep(READING_SECONDS)
        tokens = (torch.arange(16) + number) % 64
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Train, from the newest whole checkpoint if there is one."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=16))
    settings = TrainingArguments(
        output_dir=str(session.checkpoints("output")),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=SAVE_EVERY,
        save_steps=SAVE_EVERY,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=session.device() == "cpu",
    )
    trainer = Trainer(
        model, settings, train_dataset=Counting(512), eval_dataset=Counting(8), callbacks=[CostOptCallback()]
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint(settings.output_dir))
    trainer.save_model("model")
    session.artifact("model")


if __name__ == "__main__":
    with session.running():
        main()
