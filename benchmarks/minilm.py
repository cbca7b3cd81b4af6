"""A real pretrained encoder of sentences, smaller: are sentences still as alike as they were?

    PYTHONPATH=.:trainer python benchmarks/minilm.py [--sentences 256] [--heal-steps 50] [--threads 1] [--rounds 15]

The model is all-MiniLM-L6-v2, which a package of PyPI carries (extra dev), the sentences are Shakespeare's
(COSTOPT_DATA_DIR/tinyshakespeare.txt, default ../shared/data). An embedding is the mean of the last layer's outputs
over a sentence's tokens. Of all pairs of held-out sentences the cosine of their embeddings is taken; a variant keeps
what the model is for as far as its cosines have the same order as the model's (Spearman's rank correlation). Forward
passes are timed in turn, so that what else the machine does falls on all. A healed variant has learned the model's own
embeddings of other sentences of the same text: for few steps, since they are most of the five minutes that all of
it takes of one core.
"""

import argparse
import copy
import re
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from costopt.schema.compression import Prune, Quantize, Step
from costopt.schema.models import ModelSettings
from costopt_trainer.compress.engines import start
from costopt_trainer.compress.footprint import bytes_in_memory
from costopt_trainer.compress.onnx_export import export
from costopt_trainer.compress.onnx_quantize import quantize_graph
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.table import apply_steps
from costopt_trainer.models.onnx_model import OnnxModel, graph_files
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model
from measured.texts import tiny_shakespeare

TOKENS, TIMED, BATCH = 32, 16, 32
"""Tokens of a sentence at most, sentences of a timed pass, and those of a step of healing."""


PRUNED: dict[str, dict[str, Any]] = {
    "10 % of channels": {"structure": "Structured", "percent": 10},
    "25 % of channels": {"structure": "Structured", "percent": 25},
    "1 of 6 layers": {"structure": "Structured", "percent": 17, "of": ["Layers"]},
}


class Sentences(nn.Module):
    """Tokens (B, T) -> embeddings (B, D) of length 1."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.encoder, self.pad_id = model.model.bert, pad_id  # type: ignore[union-attr]
        self.encoder.pooler = None  # not used, and not to be counted

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != self.pad_id
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        told = mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * told).sum(1) / told.sum(1), dim=-1)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    engine: str
    forward: Callable[[Tensor], Tensor]
    size_bytes: int


def extracted(folder: Path) -> Path:
    """The model's folder, from the package."""
    import all_minilm_l6_v2

    with zipfile.ZipFile(Path(all_minilm_l6_v2.__file__).parent / "model.zip") as packed:
        packed.extractall(folder)
    return folder


def sentences(count: int) -> tuple[list[str], list[str]]:
    """`count` held-out sentences from the end of the text, and those before them; each once, of five words or more."""
    speeches = re.sub(r"^[A-Z][^\n]*:\n", "", tiny_shakespeare().read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = (" ".join(part.split()) for part in re.split(r"(?<=[.?!])\s+|\n\n", speeches))
    each = list(dict.fromkeys(one for one in found if len(one.split()) >= 5))
    return each[-count:], each[:-count]


def as_tokens(tokenizer: Any, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def ranks(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return numbers.argsort().argsort().astype(np.float64)


def cosines(forward: Callable[[Tensor], Tensor], tokens: Tensor) -> NDArray[np.float64]:
    """Of each pair of sentences once."""
    with torch.no_grad():
        embeddings = torch.cat([forward(part) for part in tokens.split(TIMED)]).double()
    return (embeddings @ embeddings.T)[tuple(np.triu_indices(len(tokens), k=1))].numpy()


def with_steps(model: Any, steps: list[Step], example: Tensor) -> Any:
    changed = copy.deepcopy(model)
    for line in apply_steps(changed, steps, lambda _number, pieces: StepRun(example, pieces)):
        print(line, flush=True)
    return changed.eval()


def heal(student: Sentences, teacher: Sentences, tokens: Tensor, steps: int) -> None:
    """Have the student learn the teacher's embeddings of these sentences."""
    student.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-4, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = tokens[torch.randint(0, len(tokens), (BATCH,), generator=generator)]
        with torch.no_grad():
            wanted = teacher(batch)
        own = student(batch)
        loss = (1 - (own * wanted).sum(-1)).mean() + (own @ own.T - wanted @ wanted.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    student.eval().requires_grad_(False)


def in_onnx(name: str, model: nn.Module, example: Tensor, place: Path, **quantize: Any) -> Variant:
    folder = place / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    if quantize:
        settings = Quantize.model_validate(quantize)
        quantize_graph(place / "FP32", folder, settings, reduce_range=False)
    else:
        export(model, example, folder)
    return Variant(
        name, "OnnxRuntime", OnnxModel(folder), sum(int(file["size"]) for file in graph_files(folder).values())
    )


def made(place: Path, held_out: Tensor, others: Tensor, pad_id: int, heal_steps: int) -> list[Variant]:
    """The model, which is the first, and its variants."""
    hugging_face = {"path": str(place / "model"), "contextLength": TOKENS, "task": "SequenceClassification"}
    settings = ModelSettings.model_validate({"type": "HuggingFace", "huggingFace": hugging_face})
    model: Any = build_model(ModelShape(settings, vocabulary_size=30522, num_classes=2, pad_id=pad_id))
    model.eval().requires_grad_(False)
    example = held_out[:TIMED]
    pruned = {
        name: with_steps(model, [Step(type="Prune", prune=Prune.model_validate(settings))], example)
        for name, settings in PRUNED.items()
    }
    int8 = {
        scheme: with_steps(model, [Step(type="Quantize", quantize=Quantize(scheme=scheme))], example)
        for scheme in ("Int8WeightOnly", "Int8DynamicActivation")
    }
    source = Sentences(model, pad_id).eval()
    found = [Variant("FP32", "TorchEager", source, bytes_in_memory(source))]
    found.append(in_onnx("FP32", source, example, place))
    for scheme, changed in int8.items():
        own = Sentences(changed, pad_id).eval()
        engine = "TorchQuantized" if scheme == "Int8DynamicActivation" else "TorchEager"
        found.append(Variant(scheme, engine, start(engine, own), bytes_in_memory(own)))
    for embeddings in (False, True):
        also = ", embeddings" if embeddings else ""
        found += [
            in_onnx(f"{scheme}{also}", source, example, place, scheme=scheme, embeddings=embeddings)
            for scheme in ("Int8DynamicActivation", "Int4WeightOnly")
        ]
    for name, changed in pruned.items():
        own = Sentences(changed, pad_id).eval()
        found.append(Variant(name, "TorchEager", own, bytes_in_memory(own)))
        if heal_steps:
            print(f"healing {name}", flush=True)
            healed = copy.deepcopy(own)
            heal(healed, source, others, heal_steps)
            found.append(Variant(f"{name}, healed", "TorchEager", healed, bytes_in_memory(healed)))
    return found


def timed(variants: list[Variant], batch: Tensor, rounds: int) -> list[float]:
    """Median milliseconds of a pass of each, taken in turn."""
    times: list[list[float]] = [[] for _ in variants]
    with torch.no_grad():
        for number in range(rounds + 2):
            for variant, own in zip(variants, times, strict=True):
                begun = time.process_time()
                variant.forward(batch)
                if number >= 2:
                    own.append(1000 * (time.process_time() - begun))
    return [statistics.median(each) for each in times]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sentences", type=int, default=256)
    arguments.add_argument("--heal-steps", type=int, default=50)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=15)
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    from costopt_trainer.models.hugging_face.library import library

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tokenizer = library().AutoTokenizer.from_pretrained(extracted(place / "model"))
        held_out, others = (as_tokens(tokenizer, texts) for texts in sentences(asked.sentences))
        variants = made(place, held_out, others, tokenizer.pad_token_id, asked.heal_steps)
        wanted = ranks(cosines(variants[0].forward, held_out))
        spearman = [np.corrcoef(wanted, ranks(cosines(one.forward, held_out)))[0, 1] for one in variants]
        milliseconds = timed(variants, held_out[:TIMED], asked.rounds)
        print(f"\n{len(held_out)} sentences, {len(wanted)} pairs, passes of {TIMED} by {TOKENS} tokens; processor time")
        print("\n| variant | engine | Spearman | MB | smaller | ms | as fast |\n|---|---|---|---|---|---|---|")
        for one, alike, ms in zip(variants, spearman, milliseconds, strict=True):
            size = f"{one.size_bytes / 1e6:.1f} | {variants[0].size_bytes / one.size_bytes:.2f} x"
            print(f"| {one.name} | {one.engine} | {alike:.4f} | {size} | {ms:.1f} | {milliseconds[0] / ms:.2f} x |")


if __name__ == "__main__":
    main()
