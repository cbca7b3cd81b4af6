"""How the ranks share a batch, or a model.

strategy     what the loop asks of any way to do so
data         every rank holds the model (DDP)
pipeline     every rank holds some layers, with or without several replicas
rehearsal    a pass that does not count, before the first that does

build_strategy    the one that the degrees of a recipe ask for
"""

from costopt.schema.degrees import data_parallel_ranks
from costopt.schema.recipe import Batch, Parallelism
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.family import LayeredModel
from costopt_trainer.training.parallel.data import DataParallel
from costopt_trainer.training.parallel.pipeline import Pipeline
from costopt_trainer.training.parallel.strategy import Strategy
from costopt_trainer.training.precision import Autocast
from costopt_trainer.training.process_group import ProcessGroup


def build_strategy(
    degrees: Parallelism, batch: Batch, model: LayeredModel, gang: ProcessGroup, autocast: Autocast
) -> Strategy:
    """Share `model`, which has the same weights on all ranks, among them.

    Raises NotRetryable("InvalidSettings") if the degrees do not make up the ranks, or these do not divide the batch.
    """
    try:
        shares = data_parallel_ranks(gang.world_size, degrees.to_plain())
    except ValueError as error:
        raise NotRetryable("InvalidSettings", str(error)) from error
    if batch.global_batch_size % (shares * batch.micro_batch_size) != 0:
        raise NotRetryable(
            "InvalidSettings",
            f"recipe.batch.globalBatchSize must be a multiple of microBatchSize times the {shares} data-parallel ranks",
        )
    if degrees.pipeline == 1:
        return DataParallel(model, gang, autocast)
    num_micro_batches = batch.global_batch_size // (shares * batch.micro_batch_size)
    return Pipeline(
        model,
        gang,
        autocast,
        schedule=degrees.schedule,
        num_micro_batches=num_micro_batches,
        num_stages=degrees.pipeline,
    )
