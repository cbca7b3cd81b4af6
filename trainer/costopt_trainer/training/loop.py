"""The training loop of the built-in recipes, on one page. Every rank of the gang runs `main`.

    storage    COSTOPT_STORAGE_DIR: checkpoints/, artifacts/model/, metrics.jsonl, cache/
    ranks      RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, as torch's own launcher sets them

    main -> Training(...) -> resume -> run_steps, and between steps read_losses, save, evaluate, report -> finish

A training is a pure function of its recipe and data: on the CPU, 40 steps give the same bits as 20 steps and a resume
for 20 more. (On a GPU some kernels add in no fixed order.) For this, the order of samples is a function of (seed,
samples consumed), and a checkpoint holds everything else that a step reads.

A host that reads a result from the device waits for it. The comments name each such sync point: an ordinary step has
none, so the host runs ahead and the device never waits for work. A thread prepares the samples of the next step.
"""

import os
from pathlib import Path

from costopt import names
from costopt.schema.replica import EXIT_PREEMPTED, ReplicaSettings
from costopt_trainer.data.prefetch import prepared_ahead
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.loss import count_targets
from costopt_trainer.reporting.meter import Meter, earlier_rounds, startup_ns
from costopt_trainer.shutdown import watch_for_stop
from costopt_trainer.training.learner import on_device
from costopt_trainer.training.process_group import join_process_group
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.training import Training

LAST_SAVE_SECONDS = 30.0
"""How long a training that fails waits for the checkpoint that is being written."""


def main(settings: ReplicaSettings) -> None:
    """Train as `settings.recipe` says, from the newest checkpoint if there is one, and save the trained model.

    Ends with SystemExit(143) after SIGTERM and a checkpoint. Raises NotRetryable for what no restart can fix.
    """
    if settings.recipe is None:
        raise NotRetryable("InvalidSettings", "train.recipe must be set for the built-in trainer")
    meter = Meter(already_ns=startup_ns(), earlier=earlier_rounds())
    stop = Stop()
    watch_for_stop(stop, lifeline_fd=None)
    try:
        gang = join_process_group()
        storage = Path(os.environ[names.ENV_STORAGE_DIR])
        training = Training(settings.recipe, storage, gang, meter, stop, job=settings.job_name)
        training.resume()
        try:
            run_steps(training)
            training.finish()
        except Exception:
            training.saves.let_end(LAST_SAVE_SECONDS)
            raise
        gang.leave()
    except SystemExit as error:
        if error.code == EXIT_PREEMPTED:
            raise
        # Else it would be taken for the end of a training.
        raise NotRetryable(
            "InvalidSettings", f"code that the model brings must not end the process, but has called exit({error.code})"
        ) from error
    except RuntimeError as error:
        # All ranks are asked to end at about the same time: one that has lost another was asked as well.
        if stop.asked:
            raise SystemExit(EXIT_PREEMPTED) from error
        raise


def run_steps(training: Training) -> None:
    """Take the remaining steps, with evaluations and checkpoints when they are due."""
    training.stop.in_steps = True
    training.meter.lap("startup")
    training.report()
    if training.evaluation_due:  # an earlier attempt was stopped during it
        training.evaluate()
        training.report()
    while not training.is_over:
        if training.select_if_due():
            training.meter.lap("selecting")
        take_steps(training)


def take_steps(training: Training) -> None:
    """Take steps until no more are to be taken, or the size of the global batch is another, or samples are chosen."""
    recipe, gang, meter, batch_size = training.recipe, training.gang, training.meter, training.batch_size
    with prepared_ahead(
        training.batches_at,
        training.positions,
        workers=recipe.data.workers or 1,
        told_to_end=lambda: training.stop.asked,
    ) as prepared:
        for batches in prepared:  # None: this rank was told to end while it waited for them
            counted = batches if batches is not None and training.strategy.holds_loss else ()
            own_targets = sum(int(count_targets(targets)) for _, targets in counted)
            meter.lap("data_wait")

            # The hosts agree, over gloo, while the GPUs are still busy with the previous step: how many targets
            # this global batch has, whether any rank was asked to end, whether a report or a checkpoint is due by
            # rank 0's clock, and on how many ranks the checkpoint that is being written has come to its end.
            num_targets, stop_asked, report_due, save_due, num_over = gang.sum_integers(
                own_targets,
                training.stop.asked,
                gang.rank == 0 and meter.report_is_due(),
                gang.rank == 0 and training.saves.is_due_by_time(),
                training.saves.is_over(),
            )
            if num_over == gang.world_size:
                meter.lap("training")
                training.settle()
            if stop_asked or batches is None:
                training.end_early()
            if report_due:
                training.read_losses()
                meter.lap("training")
                training.report()

            training.take_step([on_device(batch, gang.device) for batch in batches], num_targets)
            training.evaluation_due = evaluation_due = training.evaluation_is_due()
            checkpoint_due = save_due > 0 or training.checkpoint_is_due()
            if evaluation_due or checkpoint_due:
                training.read_losses()
            meter.lap("training")
            if checkpoint_due:  # first: an evaluation may take longer than a stop is willing to wait
                training.save()
            if evaluation_due:
                training.evaluate()
            if training.is_over:  # at its last step, or an evaluation has decided so
                training.settle()
            if evaluation_due or checkpoint_due:
                training.report()
            if training.is_over or training.batch_size != batch_size:
                break
