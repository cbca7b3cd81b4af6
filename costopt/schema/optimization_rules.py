"""What optimizer and schedule demand of the rest of a recipe.

OPTIMIZATION_RULES    the rules of `recipe` about them, in Python and CEL
"""

from costopt.schema.base import PlainData, Rule, cel_list
from costopt.schema.degrees import cel_degree
from costopt.schema.models import cel_is_sparse, is_sparse
from costopt.schema.optimization import Optimizer

OF_WHOLE_PARAMETERS = ("Adafactor", "AdamW8bit")
"""Optimizers of which each rank must hold whole parameters: means over rows and columns, blocks of 256 numbers."""

WITHOUT_MATRICES = ("ConvNet", "ResNet")
"""Models all of whose layers are convolutions and norms."""
ON_THE_DEVICE = (*OF_WHOLE_PARAMETERS, "Muon")
"""Optimizers of which no rank may keep its parameters in host memory."""


def _optimizer(recipe: PlainData) -> str:
    return str(recipe["optimizer"]["type"])


def _parameters_are_whole(recipe: PlainData) -> bool:
    return bool(recipe["parallelism"]["shard"] == recipe["parallelism"]["tensor"] == 1)


def _decay_steps(recipe: PlainData) -> int:
    return int(recipe["schedule"].get("warmupStableDecay", {}).get("decaySteps", 0))


def _cel_unless(*optimizers: str) -> str:
    return f"!has(self.optimizer) || !(self.optimizer.type in {cel_list(optimizers)})"


_DECAY = "self.schedule.warmupStableDecay"
_HAS_DECAY_STEPS = f"has(self.schedule) && has({_DECAY}) && has({_DECAY}.decaySteps)"

OPTIMIZATION_RULES = (
    Rule(
        cel="!has(self.schedule) || !has(self.totalSteps) || self.schedule.warmupSteps < self.totalSteps",
        message="schedule.warmupSteps must be less than totalSteps",
        holds=lambda data: data["schedule"]["warmupSteps"] < data["totalSteps"],
    ),
    Rule(
        cel=f"!({_HAS_DECAY_STEPS}) || !has(self.totalSteps) || "
        f"self.schedule.warmupSteps + {_DECAY}.decaySteps <= self.totalSteps",
        message="schedule.warmupSteps and warmupStableDecay.decaySteps must together be at most totalSteps",
        holds=lambda data: data["schedule"]["warmupSteps"] + _decay_steps(data) <= data["totalSteps"],
    ),
    Rule(
        cel="!has(self.schedule) || double(self.schedule.minLearningRate) <= (has(self.optimizer) ? "
        f"double(self.optimizer.learningRate) : {float(Optimizer().learning_rate)})",
        message="schedule.minLearningRate must be at most optimizer.learningRate, from which it falls",
        holds=lambda data: float(data["schedule"]["minLearningRate"]) <= float(data["optimizer"]["learningRate"]),
    ),
    Rule(
        cel=f"{_cel_unless('Muon')} || !(self.model.type in {cel_list(WITHOUT_MATRICES)})",
        message=f"optimizer.type must not be Muon for {' and '.join(WITHOUT_MATRICES)}, whose layers have no matrices "
        "that it could step",
        holds=lambda data: _optimizer(data) != "Muon" or data["model"]["type"] not in WITHOUT_MATRICES,
    ),
    Rule(
        cel=f"{_cel_unless(*OF_WHOLE_PARAMETERS)} || "
        f"{cel_degree('self', 'shard')} == 1 && {cel_degree('self', 'tensor')} == 1",
        message="parallelism.shard and parallelism.tensor must be 1 with the optimizers Adafactor and AdamW8bit, which "
        "need whole matrices: use dataParallel or pipeline, or AdamW, SGD, Lion or Muon",
        holds=lambda data: _optimizer(data) not in OF_WHOLE_PARAMETERS or _parameters_are_whole(data),
    ),
    Rule(
        cel=f"{_cel_unless(*ON_THE_DEVICE)} || !self.parallelism.offloadToCpu",
        message="parallelism.offloadToCpu must be false with the optimizers Adafactor, AdamW8bit and Muon, which take "
        "their steps of whole matrices on the device: use AdamW, SGD or Lion",
        holds=lambda data: _optimizer(data) not in ON_THE_DEVICE or not data["parallelism"]["offloadToCpu"],
    ),
    Rule(
        cel="!self.parallelism.offloadToCpu || self.parallelism.shard > 1 || "
        f"has(self.optimizer) && self.optimizer.type in {cel_list(ON_THE_DEVICE)}",
        message="parallelism.offloadToCpu must be false unless parallelism.shard is more than 1: only what ranks share "
        "out is kept in host memory",
        holds=lambda data: (
            not data["parallelism"]["offloadToCpu"]
            or data["parallelism"]["shard"] > 1
            or _optimizer(data) in ON_THE_DEVICE  # refused above, and with more shards as well
        ),
    ),
    Rule(
        cel=f"{_cel_unless('Muon')} || !({cel_is_sparse('self.model')})",
        message="the model's sparsity must be left out with the optimizer Muon, whose steps fill the zeros",
        holds=lambda data: _optimizer(data) != "Muon" or not is_sparse(data["model"]),
    ),
)
"""The rules of `recipe` about optimizer and schedule."""
