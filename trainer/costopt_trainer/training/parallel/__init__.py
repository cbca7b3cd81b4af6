"""How the ranks share a batch, or a model.

strategy     what the loop asks of any way to do so
mesh         where a rank stands among the degrees
data         every rank holds the model (DDP)
sharded      ranks share out weights and states (FSDP2), or split tensors
tensor       how matrices are split
pipeline     every rank holds some layers, with or without several replicas; stages cuts them
shards       tensors that ranks share out, and the boxes of a checkpoint that they are
rehearsal    a pass that does not count, before the first that does

make_mesh         this rank's place, from the degrees of a recipe
build_strategy    the strategy that they ask for
"""

from costopt.schema.alternatives import OF_RECIPE, advice, training
from costopt.schema.base import PlainData
from costopt.schema.degrees import degrees_of
from costopt.schema.recipe import Recipe
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.parallel.data import DataParallel
from costopt_trainer.training.parallel.mesh import Mesh
from costopt_trainer.training.parallel.pipeline import Pipeline
from costopt_trainer.training.parallel.sharded import Sharded
from costopt_trainer.training.parallel.strategy import Strategy
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup


def make_mesh(recipe: Recipe, gang: ProcessGroup) -> Mesh:
    """This rank's place among the others; all ranks must call it at the same time.

    Raises NotRetryable("InvalidSettings") if the degrees do not make up the ranks, or these do not divide the batch.
    """
    try:
        mesh = Mesh(gang, degrees_of(gang.world_size, recipe.parallelism.to_plain()))
    except ValueError as error:
        raise NotRetryable("InvalidSettings", str(error)) from error
    if recipe.batch.global_batch_size % (mesh.data_size * recipe.batch.micro_batch_size) != 0:
        raise NotRetryable(
            "InvalidSettings",
            "recipe.batch.globalBatchSize must be a multiple of microBatchSize times the "
            f"{mesh.data_size} data-parallel ranks",
        )
    if recipe.batch.auto and recipe.batch.global_batch_size < 2 * mesh.data_size * recipe.batch.micro_batch_size:
        raise NotRetryable(
            "InvalidSettings",
            "recipe.batch.globalBatchSize must be at least twice microBatchSize times the "
            f"{mesh.data_size} data-parallel ranks with batch.auto",
        )
    return mesh


def build_strategy(recipe: Recipe, model: LayeredModel, mesh: Mesh, autocast: Autocast) -> Strategy:
    """Share `model`, which has the same weights on all ranks, among them.

    Raises NotRetryable("InvalidSettings") if it cannot be cut or split so.
    """
    settings, precision = recipe.parallelism, recipe.precision
    if (tensor := mesh.degrees["tensor"]) > 1:
        fault = model.split_fault(tensor, sequence=settings.sequence_parallel)
        if fault is not None:
            raise NotRetryable("InvalidSettings", fault + _instead(recipe, model, mesh))
    if mesh.degrees["pipeline"] > 1:
        num_micro_batches = recipe.batch.global_batch_size // (mesh.data_size * recipe.batch.micro_batch_size)
        return Pipeline(model, mesh, autocast, settings, precision, num_micro_batches=num_micro_batches)
    if mesh.degrees["tensor"] > 1 or mesh.degrees["shard"] > 1:
        return Sharded(model, mesh, autocast, settings, precision)
    return DataParallel(model, mesh, autocast)


def _instead(recipe: Recipe, model: LayeredModel, mesh: Mesh) -> str:
    """What would do instead of degrees that cannot split `model`, behind the sentence of that."""

    def can_be_split(train: PlainData) -> bool:
        degrees = train["recipe"]["parallelism"]
        tensor = degrees["tensor"]
        return tensor == 1 or model.split_fault(tensor, sequence=degrees["sequenceParallel"]) is None

    ranks = training(recipe, num_nodes=1, processes_per_node=mesh.gang.world_size)
    return advice(ranks, ["tensor"], also=can_be_split, settings=OF_RECIPE)
