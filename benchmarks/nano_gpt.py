"""nanoGPT's published setting for a CPU, on Tiny Shakespeare: loss and tokens per second, and those of its own loop.

    PYTHONPATH=.:trainer python benchmarks/nano_gpt.py [--steps 2000] [--threads 1 2] [--forms published rotary]
        [--characters]

The setting: 4 layers of 4 heads, width 128, context 64, 12 samples a step, no dropout, 2,000 steps of AdamW (0.9, 0.99,
decay 0.1 of matrices) from 1e-3 to 1e-4 by a cosine after 100 steps of warm-up, clipped to norm 1, FP32. The last tenth
of the text is held out, and the loss is over the whole of it, in nats per character.

Peer: that loop and model made anew by hand (a random place for each sample, tied embeddings, a fused projection of
queries, keys and values, AdamW as torch makes it on a CPU). Both read bytes, 256 of them, so that both have as much to
multiply; `--characters` gives the peer the 65 characters that the setting has. Each form is one way to set ours;
"published" has the peer's model. The peer takes its steps between ours in the same process, fifty at a time.

The text is `tinyshakespeare.txt` below COSTOPT_DATA_DIR (../shared/data).
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costopt.schema.recipe import Recipe
from costopt_trainer.reporting.meter import Meter
from costopt_trainer.training.loop import run_steps
from costopt_trainer.training.process_group import ALONE
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training
from measured.texts import tiny_shakespeare

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
HIGHEST, LOWEST, WARM_UP = 1e-3, 1e-4, 100
TURN = 50
"""Steps that each takes before it is the other's turn."""

FORMS: dict[str, dict[str, Any]] = {
    "published": {"model": {"preset": "GPT2", "biases": False}},
    "rotary": {"model": {"preset": "GPT2", "biases": False, "positions": "Rotary"}},
    "llama": {"model": {"preset": "Llama", "tiedEmbeddings": True}},
    "published, compiled": {"model": {"preset": "GPT2", "biases": False}, "compile": True},
    "published, BF16": {"model": {"preset": "GPT2", "biases": False}, "precision": "BF16"},
    "rotary, compiled": {"model": {"preset": "GPT2", "biases": False, "positions": "Rotary"}, "compile": True},
}


class PeerBlock(nn.Module):
    """One layer, (B, T, D) -> (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.second_norm = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.projections = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.expand = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.contract = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in self.projections(self.first_norm(x)).split(WIDTH, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.second_norm(x))))


class PeerModel(nn.Module):
    """Characters (B, T) -> logits (B, T, V)."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(PeerBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds_to_residual = name.endswith(("attention_out.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if adds_to_residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.characters(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.characters.weight)


class Peer:
    """The loop made by hand."""

    def __init__(self, text: str, steps: int, *, by_characters: bool = False) -> None:
        torch.manual_seed(1337)
        characters = {character: number for number, character in enumerate(sorted(set(text)))}
        known = len(characters) if by_characters else 256
        tokens = torch.tensor([characters[each] for each in text] if by_characters else list(text.encode()))
        cut = int(0.9 * len(tokens))
        self.train, self.held_out = tokens[:cut], tokens[cut:]
        self.model, self.steps, self.step = PeerModel(known), steps, 0
        matrices = [parameter for parameter in self.model.parameters() if parameter.dim() == 2]
        others = [parameter for parameter in self.model.parameters() if parameter.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=HIGHEST, betas=(0.9, 0.99))
        self.seconds: list[float] = []

    def rate(self) -> float:
        """The learning rate of the next step."""
        if self.step < WARM_UP:
            return HIGHEST * (self.step + 1) / (WARM_UP + 1)
        done = (self.step - WARM_UP) / (self.steps - WARM_UP)
        return LOWEST + 0.5 * (1 + math.cos(math.pi * done)) * (HIGHEST - LOWEST)

    def turn(self) -> None:
        """Take TURN steps."""
        for _ in range(TURN):
            began = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            places = torch.randint(len(self.train) - CONTEXT, (BATCH,))
            inputs = torch.stack([self.train[place : place + CONTEXT] for place in places])
            targets = torch.stack([self.train[place + 1 : place + 1 + CONTEXT] for place in places])
            loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.seconds.append(time.perf_counter() - began)

    @torch.no_grad()
    def loss(self) -> float:
        """Over the whole held-out text, in windows that do not overlap."""
        windows = (len(self.held_out) - 1) // CONTEXT
        inputs = self.held_out[: windows * CONTEXT].view(windows, CONTEXT)
        targets = self.held_out[1 : windows * CONTEXT + 1].view(windows, CONTEXT)
        sums = [
            float(F.cross_entropy(self.model(some).flatten(0, 1), of.flatten(), reduction="sum"))
            for some, of in zip(inputs.split(64), targets.split(64), strict=True)
        ]
        return sum(sums) / targets.numel()


class Turns(Training):
    """Our training, between whose steps the peer takes its own."""

    def resume(self) -> None:
        super().resume()
        self.peer: Peer | None = None
        self.seconds: list[float] = []
        self.began: float | None = None

    def take_step(self, *step: Any) -> None:
        now = time.perf_counter()
        if self.began is not None:
            self.seconds.append(now - self.began)
        if self.peer is not None and self.step % TURN == 0:
            self.peer.turn()
        self.began = time.perf_counter()
        super().take_step(*step)

    def save(self) -> None:
        """The peer saves nothing either."""


def make_recipe(text: Path, form: str, steps: int) -> Recipe:
    """The setting, in one form."""
    sizes = {"numLayers": LAYERS, "numHeads": HEADS, "embeddingDim": WIDTH, "contextLength": CONTEXT}
    given = FORMS[form]
    return Recipe.model_validate(
        {
            "model": {"type": "DecoderLM", "decoderLM": {**sizes, **given["model"]}},
            "data": {"type": "Text", "text": {"path": str(text)}, "validationPercent": 10},
            "batch": {"globalBatchSize": BATCH, "microBatchSize": BATCH},
            "totalSteps": steps,
            "optimizer": {
                "learningRate": str(HIGHEST),
                "weightDecay": "0.1",
                "gradientClipNorm": "1",
                "adamW": {"beta2": "0.99"},
            },
            "schedule": {"warmupSteps": WARM_UP, "minLearningRate": str(LOWEST)},
            "evaluation": {"everySteps": steps, "maxSamples": 100_000},
            "checkpointing": {"everySteps": steps},
            **{key: value for key, value in given.items() if key != "model"},
        }
    )


def child(text: Path, form: str, steps: int, *, by_characters: bool) -> None:
    """One form beside the peer; prints a line of JSON."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        training = Turns(make_recipe(text, form, steps), Path(folder), ALONE, Meter(), Stop(), job="benchmark")
        training.resume()
        training.peer = Peer(text.read_text(), steps, by_characters=by_characters)
        run_steps(training)
    result = {
        "ours": statistics.median(training.seconds),
        "peer": statistics.median(training.peer.seconds),
        "means": statistics.fmean(training.peer.seconds) / statistics.fmean(training.seconds),
        "loss": float(training.progress.validation_loss or "nan"),
        "peer_loss": training.peer.loss(),
    }
    print("result " + json.dumps(result), flush=True)


def main() -> None:
    """Measure, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), by_characters=sys.argv[5] == "True")
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    options.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options.add_argument("--characters", action="store_true")
    given = options.parse_args()
    text = tiny_shakespeare()
    print("| threads | form | tokens/s | its loop by hand | ratio | loss | its loss |")
    print("|---|---|---|---|---|---|---|")
    for threads in given.threads:
        for form in given.forms:
            done = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--child",
                    str(text.resolve()),
                    form,
                    str(given.steps),
                    str(given.characters),
                ],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith("result ")]
            if not lines:
                sys.exit(f"{form} failed: {done.stderr[-2000:]}")
            found = json.loads(lines[-1].removeprefix("result "))
            tokens = BATCH * CONTEXT
            print(
                f"| {threads} | {form} | {tokens / found['ours']:,.0f} | {tokens / found['peer']:,.0f} | "
                f"{found['peer'] / found['ours']:.2f} (means {found['means']:.2f}) | {found['loss']:.4f} | "
                f"{found['peer_loss']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
