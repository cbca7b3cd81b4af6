"""transformers' Trainer: one callback and two lines more. `costopt run hugging_face.yaml` in this folder."""

import argparse
import os
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from costopt_trainer import session
from costopt_trainer.session.hugging_face import CostOptCallback, newest_checkpoint

STEPS = int(os.environ.get("STEPS", "300"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
READING_SECONDS = float(os.environ.get("READING_SECONDS", "0"))
"""How slow the storage of the data is."""


class Source(torch.utils.data.Dataset):
    """The bytes of a module of Python's library, each a token."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.text = torch.frombuffer(bytearray(Path(argparse.__file__).read_bytes()), dtype=torch.uint8).long()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        time.sleep(READING_SECONDS)
        tokens = self.text[16 * number : 16 * number + 16]
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Train, from the newest whole checkpoint if there is one."""
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=256, max_position_embeddings=16))
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
    trainer = Trainer(model, settings, train_dataset=Source(512), eval_dataset=Source(8), callbacks=[CostOptCallback()])
    trainer.train(resume_from_checkpoint=newest_checkpoint(settings.output_dir))
    folder = Path(settings.output_dir, "model")
    trainer.save_model(str(folder))
    session.artifact(folder)


if __name__ == "__main__":
    with session.running():
        main()
