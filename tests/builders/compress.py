"""Small models, briefly trained on real text and images, and the storage that a train stage leaves behind."""

import argparse
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from builders.data import image_settings, text_settings, write_images
from costopt.schema.compression import Prune, Quantize, Step, Variant
from costopt.schema.data import DataSettings
from costopt.schema.models import ConvNet, DecoderLM, ModelSettings
from costopt.schema.recipe import Batch, Evaluation, Recipe
from costopt.schema.replica import PhaseName, ReplicaSettings
from costopt_trainer.compress.step import StepRun
from costopt_trainer.compress.table import apply_steps
from costopt_trainer.data import load_data
from costopt_trainer.models.artifact import save_model
from costopt_trainer.models.loss import loss_sum
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import build_model

LM_SETTINGS = ModelSettings(
    type="DecoderLM", decoder_lm=DecoderLM(num_layers=2, num_heads=4, embedding_dim=64, context_length=32)
)
CONV_SETTINGS = ModelSettings(type="ConvNet", conv_net=ConvNet(num_stages=2, base_channels=8))
LM_SHAPE = ModelShape(LM_SETTINGS, vocabulary_size=256)
CONV_SHAPE = ModelShape(CONV_SETTINGS, image_shape=(1, 8, 8), num_classes=4)
SHAPES = {"DecoderLM": LM_SHAPE, "ConvNet": CONV_SHAPE}


def weight_only() -> Step:
    return Step(type="Quantize", quantize=Quantize(scheme="Int8WeightOnly"))


def dynamic() -> Step:
    return Step(type="Quantize", quantize=Quantize(scheme="Int8DynamicActivation"))


def quantized(scheme: Any, **settings: Any) -> Step:
    return Step(type="Quantize", quantize=Quantize(scheme=scheme, **settings))


def pruned(structure: Any, percent: int, **choice: Any) -> Step:
    return Step(type="Prune", prune=Prune(structure=structure, percent=percent, **choice))


class StepInPlaceOfPrune:
    """Base of a step that replaces the table's Prune: all its flags are False."""

    phase: PhaseName = "Pruning"
    trains = False
    quality_drop_percent = Decimal(5)

    def changes_shapes(self, _settings: Prune) -> bool:
        return False

    def wants_speed(self, _settings: Prune) -> bool:
        return False

    def wants_compile(self, _settings: Prune) -> bool:
        return False


def apply(model: nn.Module, steps: Sequence[Step], example: torch.Tensor) -> list[str]:
    """Apply steps that need only an example of the model's inputs."""
    return apply_steps(model, steps, lambda _number, pieces: StepRun(example, pieces))


def example_inputs(model_type: str, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if model_type == "DecoderLM":
        return torch.randint(0, 256, (count, 32), generator=generator)
    return torch.randn((count, 1, 8, 8), generator=generator)


def fresh_model(model_type: str, seed: int = 0) -> Any:
    """An untrained model in eval mode; the ConvNet's batch norm has seen a batch."""
    torch.manual_seed(seed)
    model = build_model(SHAPES[model_type])
    with torch.no_grad():
        model(example_inputs(model_type, 8))
    return model.eval()


def recipe(model_type: str, folder: Path) -> Recipe:
    """A recipe over data written to `folder`: the source of a library module, or noisy images with a bright corner."""
    data: DataSettings
    if model_type == "DecoderLM":
        text = folder / "corpus.txt"
        text.write_text(Path(argparse.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        data = text_settings(text)
    else:
        data = image_settings(write_images(folder / "images.npz", count=80, side=8, classes=4), validation_percent=20)
    return Recipe(
        model=SHAPES[model_type].settings,
        data=data,
        batch=Batch(global_batch_size=8, micro_batch_size=8),
        total_steps=40,
        evaluation=Evaluation(max_samples=64),
    )


def train_stage(model_type: str, storage: Path, steps: int = 40) -> Recipe:
    """Train for a few steps and leave the trained model in `storage`, as the train stage does."""
    settings = recipe(model_type, storage)
    context_length = 32 if model_type == "DecoderLM" else None
    data = load_data(settings.data, context_length=context_length, cache_dir=storage / "cache")
    torch.manual_seed(0)
    model = build_model(SHAPES[model_type])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        inputs, targets = data.train_batch(rng.integers(0, data.num_train_samples, 8))
        (loss_sum(model(inputs), targets) / targets.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(storage / "artifacts" / "model", model, SHAPES[model_type])
    return settings


def replica(settings: Recipe, *steps: Step, name: str = "small", **variant: Any) -> ReplicaSettings:
    """The settings that a shell gives to a variant's replica; `variant`: what else the variant has."""
    return ReplicaSettings(
        job_name="tiny",
        stage=name,
        num_nodes=1,
        processes_per_node=1,
        recipe=settings,
        variant=Variant(name=name, steps=list(steps), **variant),
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
