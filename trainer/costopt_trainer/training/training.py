"""One rank's training: how it begins or goes on, and what is done between its steps and after them.

Training     its actions, which the loop calls in order
"""

import os
import sys
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch

from costopt import names
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.agreement import Question
from costopt_trainer.data import load_data
from costopt_trainer.data.listing import differences
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import save_trained
from costopt_trainer.models.family import fill
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import (
    build_model,
    carries_state,
    context_length_of,
    kind_of_samples,
    metric_of,
    settings_that_must_stay,
    tokenizer_of,
)
from costopt_trainer.phases import phase
from costopt_trainer.reporting.meter import NOT_KEPT, Meter, figure
from costopt_trainer.reporting.reporter import Reporter
from costopt_trainer.storage.folders import not_writable
from costopt_trainer.training.async_save import Saves
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.checkpoint_state import (
    fault_of_state,
    name_changes,
    refuse_fewer_steps,
    refuse_other_training,
)
from costopt_trainer.training.compiling import compiled, eagerly
from costopt_trainer.training.divergence import diverged
from costopt_trainer.training.evaluation import Totals, describe_results, validation_totals
from costopt_trainer.training.learner import Learner
from costopt_trainer.training.optimizers import (
    load_optimizer_state,
    named_optimizer_state,
)
from costopt_trainer.training.parallel.shards import Held
from costopt_trainer.training.parallel.strategy import Batch
from costopt_trainer.training.precision import all_finite
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.schedules import learning_rate
from costopt_trainer.training.snapshot import Snapshot, random_state, restore_random_state, tensors_of
from costopt_trainer.training.stopping import Stop


class Training(Learner):
    """One rank's part in a training: what learns, and what is kept and told of it."""

    def __init__(
        self, recipe: Recipe, storage: Path, gang: ProcessGroup, meter: Meter, stop: Stop, *, job: str
    ) -> None:
        self.storage, self.meter = storage, meter

        # ---- storage and data; before the model, because errors are likelier here
        saving = recipe.checkpointing
        folder = storage / names.CHECKPOINTS_DIR
        self.checkpoints = Checkpoints(
            folder, job=job, keep_last=saving.keep_last, keep_best=saving.keep_best or 0, gang=gang
        )
        self.checkpoints.prepare()
        self.saves = Saves(self.checkpoints, gang, saving, self.refuse_to_save)
        context_length = context_length_of(recipe.model)
        cache_dir = storage / names.CACHE_DIR
        data = load_data(
            recipe.data,
            context_length=context_length,
            cache_dir=cache_dir,
            own_folder=storage,
            reads=kind_of_samples(recipe.model),
            model_tokenizer=tokenizer_of(recipe.model),
        )
        if carries_state(recipe.model):
            data = data.in_lanes(recipe.batch.global_batch_size)
        for note in data.notes if gang.rank == 0 else ():
            print(note, file=sys.stderr, flush=True)
        shape = ModelShape.for_data(recipe.model, data)
        self.metric = metric_of(recipe.model)

        # ---- model and optimizer
        super().__init__(recipe, shape, data, gang, stop, cache_dir=cache_dir)

        # ---- where we are
        self.saved_step: int | None = None  # of the newest complete checkpoint
        self.evaluation_due = False  # after this step, and not done yet
        self.evaluated: dict[str, Any] | None = None  # figures of the step that is being saved
        self.evaluated_ns = 0  # what the meter had counted in steps then
        self.progress = Progress(step=0, total_steps=recipe.total_steps)  # latest figures
        self.reported_samples = 0
        self.is_evaluation_to_end = Question(gang, stop)
        progress_file = os.environ.get(names.ENV_PROGRESS_FILE)
        self.reporter = Reporter(gang, Path(progress_file) if progress_file else None, storage / names.METRICS_FILE)

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        recipe, gang, checkpoints, module = self.recipe, self.gang, self.checkpoints, self.module
        step = self.saved_step = checkpoints.newest(fault_of_state)
        if step is not None:
            state = checkpoints.read_state(step)
            refuse_other_training(
                step,
                state["identity"],
                self.identity(),
                lambda: differences(self.cache_dir, str(state["identity"].get("data")), self.data.fingerprint),
            )
            refuse_fewer_steps(step, recipe.total_steps)
            if gang.rank == 0:
                changes = name_changes(state["recipe"], recipe.to_plain())
                changes += name_changes({"ranks": state["ranks"]}, {"ranks": gang.world_size})
                also = f" with other settings: {', '.join(changes)}" if changes else ""
                print(f"resuming after step {step}{also}", file=sys.stderr, flush=True)
            with phase("LoadingCheckpoint") as pieces, checkpoints.loading(step):
                held = Held(module)
                held.load_model(lambda wanted, region: checkpoints.read_model(step, wanted, region))
                pieces.done()
                kept = held.optimizer_state(lambda wanted, region: checkpoints.read_optimizer(step, wanted, region))
                load_optimizer_state(recipe.optimizer, module, self.optimizer, kept)
                self.carried.load(lambda region: checkpoints.read_carried(step, region))
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.step = step
            self.samples_consumed = self.reported_samples = int(state["samplesConsumed"])
            self.progress = Progress.model_validate({**state["progress"], "totalSteps": recipe.total_steps})
            if state.get("evaluationDue", False):
                evaluated = checkpoints.read_evaluation(step)
                self.evaluation_due = evaluated is None
                self.progress = Progress.model_validate({**self.progress.to_plain(), **(evaluated or {})})
        self.update_progress(resumed_from_step=step, checkpoints_passed_over=checkpoints.passed_over)
        self.update_progress(**self.meter.goes_on_from(self.step))
        self.reporter.resume_after(self.step - self.evaluation_due)
        if self.step < recipe.total_steps:
            with phase("Compiling" if recipe.compile else "Rehearsing") as pieces:
                compiled(lambda: self.rehearse(pieces.goes_on))
        if step is not None:  # last, so that nothing draws a number in between
            with checkpoints.loading(step):
                restore_random_state(checkpoints.read_random(step), gang.device)

    def take_step(self, batches: list[Batch], num_targets: int) -> None:
        """One step, if it is not broken off: see `learn`."""
        if not self.learn(batches, num_targets, self.before_change):
            self.end_early()
        self.meter.step_finished(self.step)

    def before_change(self) -> None:
        """A checkpoint's snapshot is copied before the weights change."""
        if self.saves.is_copying:
            self.meter.lap("training")
            self.saves.before_change()
            self.meter.lap("checkpoint")

    def read_losses(self) -> None:
        """Read the losses of the steps since the last read, and stop if training has diverged. A sync point."""
        if not self.losses:
            return
        losses = self.gang.sum(torch.stack(self.losses)).tolist()
        self.losses.clear()
        for step, loss in enumerate(losses, start=self.step - len(losses) + 1):
            if not isfinite(loss):
                raise diverged(f"the loss of step {step} is {loss}", self.recipe)
        self.update_progress(step=self.step, samples_consumed=self.samples_consumed, loss=figure(losses[-1]))
        self.update_progress(learning_rate=figure(learning_rate(self.recipe, self.step)))

    def evaluate(self) -> None:
        """Loss on the held-out samples, each rank on its share. A sync point."""
        self.strategy.share_buffers()
        self.module.eval()
        self.is_evaluation_to_end.begin()
        with phase("Evaluating") as pieces, eagerly(self.recipe.compile), self.carried.set_aside():

            def go_on(finished: int, of: int) -> bool:
                pieces.done(finished, of)
                return not self.is_evaluation_to_end.all_end()

            def totals_of(micro_batch_size: int) -> Totals | None:
                return validation_totals(
                    self.strategy.each_logits,
                    self.data,
                    max_samples=self.recipe.evaluation.max_samples,
                    micro_batch_size=micro_batch_size,
                    device=self.gang.device,
                    num_classes=self.data.num_classes if self.metric.accuracy else None,
                    own_metrics=self.module.own_metrics,
                    rank=self.strategy.data_rank,
                    world_size=self.strategy.data_size,
                    all_ranks=self.strategy.forward_needs_all_ranks,
                    go_on=go_on,
                    lanes=self.data.lanes,
                    begin=self.carried.begin,
                )

            totals = self.fitting.fitted(totals_of, self.keep_state(), self.module)
        self.module.train()
        self.meter.lap("evaluation")
        if totals is None:  # told to end between two micro-batches: the next attempt evaluates this step
            self.end_early()
        totals = totals.over_ranks(self.gang.sum)
        loss = totals.loss_sum / totals.num_targets
        if not isfinite(loss):
            raise diverged(f"the validation loss after step {self.step} is {loss}", self.recipe)
        results = describe_results(self.metric, self.data, totals, self.module.own_metrics)
        self.update_progress(validation_loss=figure(loss), results=results)
        self.evaluation_due = False
        self.meter.lap("evaluation")
        if self.step in (self.saved_step, self.saves.step):
            self.evaluated = {"validationLoss": figure(loss), "results": results}
            self.evaluated_ns = self.meter.in_steps_ns()
        if self.step == self.saved_step:
            self.keep_evaluation()

    def save(self) -> None:
        """Begin a checkpoint, each rank its part, once the one before it is complete."""
        self.settle()
        progress = self.progress.model_copy(update={**NOT_KEPT, "last_checkpoint_step": self.step})
        state = {
            "step": self.step,
            "samplesConsumed": self.samples_consumed,
            "scaler": self.scaler.state_dict(),
            "progress": progress.to_plain(),
            "ranks": self.gang.world_size,
            "recipe": self.recipe.to_plain(),
            "identity": self.identity(),
            "evaluationDue": self.evaluation_due,
        }
        snapshot = Snapshot(
            model=self.strategy.to_save(self.module.state_dict()),
            optimizer=self.strategy.to_save(named_optimizer_state(self.module, self.optimizer)),
            random=random_state(self.gang.device),
            state=state,
            parameters=frozenset(name for name, _ in self.module.named_parameters()),
            carried=self.carried.to_save(),
        )
        self.saves.begin(self.step, snapshot, self.meter.in_steps_ns())
        if self.recipe.checkpointing.mode == "Sync":
            self.settle()
        self.meter.lap("checkpoint")

    def settle(self) -> None:
        """The checkpoint that is being written, if any, is complete afterwards, or its error is raised on all ranks."""
        saved = self.saves.settle()
        if saved is not None:
            self.saved_step = saved.step
            self.meter.checkpoint_completed(saved.moment_ns)
            self.update_progress(last_checkpoint_step=saved.step)
            self.keep_evaluation()
        self.meter.lap("checkpoint")

    def keep_evaluation(self) -> None:
        """Put the figures of an evaluation beside the checkpoint of their step, which is complete."""
        if self.evaluated is not None and self.saved_step is not None:
            self.checkpoints.add_evaluation(self.saved_step, self.evaluated)
            self.meter.checkpoint_completed(self.evaluated_ns)
            self.meter.lap("checkpoint")
        self.evaluated = None

    def refuse_to_save(self, snapshot: Snapshot) -> None:
        """Raise NotRetryable for a snapshot that nothing good can come of. A sync point of the thread that saves."""
        if not all_finite(tensors_of(snapshot.model, snapshot.parameters)):
            raise diverged(f"the weights after step {snapshot.state['step']} are not finite", self.recipe)

    def end_early(self) -> NoReturn:
        """All ranks save the last finished step, and end."""
        self.read_losses()
        self.meter.lap("training")
        self.settle()
        if self.step not in (0, self.saved_step):
            self.save()
            self.settle()
        self.report()
        raise SystemExit(EXIT_PREEMPTED)

    def finish(self) -> None:
        """Save the trained model: from the checkpoint, which joins the pieces of all ranks, on the host.

        Rank 0 needs no device memory for it, and host memory only for tensors that several ranks hold parts of: the
        rest is read from its file while it is written.
        """
        problem: Exception | None = None
        if self.gang.rank == 0:
            folder = self.storage / names.ARTIFACTS_DIR
            with phase("SavingModel"):
                with torch.device("meta"):
                    model = build_model(self.shape)
                fill(model, self.checkpoints.read_model(self.step), assign=True)
                try:
                    save_trained(folder, model, self.shape)
                except OSError as error:
                    problem = not_writable(folder, error)
                except NotRetryable as error:
                    problem = error
        self.gang.agree(problem)
        self.meter.lap("checkpoint")
        self.report()

    def update_progress(self, **figures: object) -> None:
        """Put new figures into `progress`."""
        self.progress = self.progress.model_copy(update=figures)

    def report(self) -> None:
        """Report the progress."""
        tokens = (self.samples_consumed - self.reported_samples) * self.data.tokens_per_sample
        self.reported_samples = self.samples_consumed
        rate = self.meter.tokens_per_second(tokens)
        name = self.metric.rate
        self.update_progress(**{name: rate or getattr(self.progress, name)}, metered=self.meter.metered())
        self.reporter.report(self.progress, keep=not self.evaluation_due)
        self.meter.reported()

    def identity(self) -> dict[str, Any]:
        """What must be equal in a checkpoint to resume it: model, samples and their order."""
        model = {**self.shape.to_plain(), "settings": settings_that_must_stay(self.shape.settings)}
        return {"model": model, "data": self.data.fingerprint, "seed": self.recipe.seed, **self.carried.identity()}
