"""One rank's training: how it begins or goes on, and what is done between its steps and after them.

Training     its actions, which the loop calls in order
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch

from costopt import names
from costopt.schema.base import SHORT_TEXT_CHARACTERS
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress
from costopt_trainer.agreement import Question
from costopt_trainer.data import TrainingData
from costopt_trainer.data.augmentations.table import identity_of
from costopt_trainer.data.listing import differences
from costopt_trainer.data.reports import saved_in
from costopt_trainer.data.skipping import told_in
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import metric_of, settings_that_must_stay
from costopt_trainer.phases import phase
from costopt_trainer.reporting.meter import NOT_KEPT, Meter, figure
from costopt_trainer.reporting.reporter import Reporter, Reports
from costopt_trainer.storage.tensor_pieces import Box
from costopt_trainer.training import noise_scale
from costopt_trainer.training.async_save import Saves
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.checkpoint_state import (
    fault_of_state,
    name_changes,
    refuse_fewer_steps,
    refuse_other_optimizer,
    refuse_other_training,
)
from costopt_trainer.training.choosing import chooses, chosen, told
from costopt_trainer.training.compiling import compiled, eagerly
from costopt_trainer.training.decisions import NAME, decided, decisions_of, in_words, is_over, report_of
from costopt_trainer.training.divergence import diverged
from costopt_trainer.training.early_stopping import restores_best
from costopt_trainer.training.evaluation import Totals, describe_results, validation_totals
from costopt_trainer.training.learner import Learner
from costopt_trainer.training.measures import measure_of
from costopt_trainer.training.optimizers import (
    load_optimizer_state,
    named_optimizer_state,
)
from costopt_trainer.training.parallel.shards import Held
from costopt_trainer.training.parallel.strategy import Batch
from costopt_trainer.training.precision import all_finite
from costopt_trainer.training.process_group import ProcessGroup
from costopt_trainer.training.recipe_data import (
    data_of,
    in_mixture,
    mixture_identity,
    shares,
    tokenizer_identity,
    told_steps,
    with_steps,
)
from costopt_trainer.training.snapshot import Snapshot, random_state, restore_random_state, tensors_of
from costopt_trainer.training.stopping import Stop
from costopt_trainer.training.trained_model import Provenance, save_model_of, told_of


class Training(Learner):
    """One rank's part in a training: what learns, and what is kept and told of it."""

    def __init__(
        self, recipe: Recipe, storage: Path, gang: ProcessGroup, meter: Meter, stop: Stop, *, job: str
    ) -> None:
        self.storage, self.meter, self.job = storage, meter, job

        # ---- storage and data; before the model, because errors are likelier here
        self.checkpoints = self.open_checkpoints(recipe, gang, job)
        self.saves = Saves(self.checkpoints, gang, recipe.checkpointing, self.refuse_to_save)
        self.tokenizer: dict[str, Any] = {}  # how text has become tokens, where it is read here
        recipe, data = self.find_samples(recipe, gang)
        shape = ModelShape.for_data(recipe.model, data)
        self.metric = metric_of(recipe.model)

        # ---- model and optimizer
        super().__init__(recipe, shape, data, gang, stop, cache_dir=storage / names.CACHE_DIR)

        # ---- where we are
        self.saved_step: int | None = None  # of the newest complete checkpoint
        self.evaluation_due = False  # after this step, and not done yet
        self.evaluated: dict[str, Any] | None = None  # figures of the step that is being saved
        self.evaluated_ns = 0  # what the meter had counted in steps then
        bad_samples = told_in(data.notes, SHORT_TEXT_CHARACTERS)
        saved = saved_in(data.notes, SHORT_TEXT_CHARACTERS)
        self.progress = Progress(  # latest figures
            step=0, total_steps=recipe.steps, bad_samples=bad_samples, data_saved=saved
        )
        self.reported_samples = 0
        self.is_evaluation_to_end = Question(gang, stop)
        self.is_selection_to_end = Question(gang, stop)
        self.reporter = self.make_reporter()

    def open_checkpoints(self, recipe: Recipe, gang: ProcessGroup, job: str) -> Checkpoints:
        """Where it is kept, ready for reading and writing. Raises NotRetryable("CheckpointNotWritable")."""
        saving = recipe.checkpointing
        checkpoints = Checkpoints(
            self.storage / names.CHECKPOINTS_DIR,
            job=job,
            keep_last=saving.keep_last,
            keep_best=saving.keep_best or int(restores_best(recipe)),
            gang=gang,
            measure=measure_of(recipe),
        )
        checkpoints.prepare()
        return checkpoints

    def find_samples(self, recipe: Recipe, gang: ProcessGroup) -> tuple[Recipe, TrainingData]:
        """The samples in their order, and the recipe with the number of steps. Raises NotRetryable for what does not
        fit."""
        data = data_of(recipe, self.storage)
        self.tokenizer = tokenizer_identity(recipe, data)
        with self.meter.apart("selecting") if chooses(recipe) else contextlib.nullcontext():
            data = chosen(recipe, data, self.storage / names.CACHE_DIR, gang)
            recipe = with_steps(recipe, data)
            data = in_mixture(recipe, data)
        for note in (*data.notes, *told_steps(recipe, data)) if gang.rank == 0 else ():
            print(note, file=sys.stderr, flush=True)
        return recipe, data

    def make_reporter(self) -> Reports:
        """Whom its progress is told."""
        progress_file = os.environ.get(names.ENV_PROGRESS_FILE)
        metrics_file = self.storage / names.METRICS_FILE
        return Reporter(self.gang, Path(progress_file) if progress_file else None, metrics_file)

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        recipe, gang, checkpoints = self.recipe, self.gang, self.checkpoints
        step = self.saved_step = checkpoints.newest(fault_of_state)
        if step is not None:
            state = checkpoints.read_state(step)
            refuse_other_training(
                step,
                state["identity"],
                self.identity(),
                lambda: self.why_other_data(state),
            )
            refuse_other_optimizer(step, state["recipe"], recipe)
            consumed = int(state["samplesConsumed"])
            recipe = self.recipe = with_steps(recipe, self.data, step=step, consumed=consumed)
            refuse_fewer_steps(step, recipe.steps)
            if gang.rank == 0:
                changes = name_changes(state["recipe"], recipe.to_plain())
                changes += name_changes({"ranks": state["ranks"]}, {"ranks": gang.world_size})
                also = f" with other settings: {', '.join(changes)}" if changes else ""
                print(f"resuming after step {step}{also}", file=sys.stderr, flush=True)
            self._load(step, state, consumed)
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.step = step
            self.samples_consumed = self.reported_samples = consumed
            self.progress = Progress.model_validate({**state["progress"], "totalSteps": recipe.steps})
            self.decisions = decisions_of(state)
            self.update_progress(
                early_stopping=report_of(self.recipe, self.decisions),
                auto_batch=noise_scale.report_of(self.recipe.batch, self.decisions.batch),
            )
            if state.get("evaluationDue", False):
                evaluated = checkpoints.read_evaluation(step)
                self.evaluation_due = evaluated is None
                self.progress = Progress.model_validate({**self.progress.to_plain(), **(evaluated or {})})
                if evaluated is not None:
                    self.decide(evaluated)
        self.update_progress(resumed_from_step=step, checkpoints_passed_over=checkpoints.passed_over)
        self.update_progress(**self.meter.goes_on_from(self.step))
        self.reporter.resume_after(self.step - self.evaluation_due)
        with self.meter.apart("selecting") if chooses(recipe) else contextlib.nullcontext():
            self.select_if_due()
        if not self.is_over:
            with phase("Compiling" if recipe.compile else "Rehearsing") as pieces:
                compiled(lambda: self.rehearse(pieces.goes_on))
        if step is not None:  # last, so that nothing draws a number in between
            with checkpoints.loading(step):
                restore_random_state(checkpoints.read_random(step), gang.device)

    def why_other_data(self, state: Mapping[str, Any]) -> str:
        """How the data of a checkpoint differs, in words; empty if that is not known."""
        files = differences(self.cache_dir, str(state["identity"].get("data")), self.data.fingerprint)
        saved = state.get("tokenizer")  # none in older checkpoints
        other = name_changes(saved, self.tokenizer) if isinstance(saved, Mapping) else []
        tokenizer = f"the tokenizer is another one: {', '.join(other)}" if other else ""
        return "; ".join(filter(None, (files, tokenizer)))

    def _load(self, step: int, state: Mapping[str, Any], consumed: int) -> None:
        """Weights, the optimizer's state, and what else has tensors, from the checkpoint of `step`."""
        checkpoints, module = self.checkpoints, self.module
        with phase("LoadingCheckpoint") as pieces, checkpoints.loading(step):
            held = Held(module)
            held.load_model(lambda wanted, region: checkpoints.read_model(step, wanted, region))
            pieces.done()
            kept = held.optimizer_state(lambda wanted, region: checkpoints.read_optimizer(step, wanted, region))
            load_optimizer_state(self.recipe.optimizer, module, self.optimizer, kept)
            if self.recipe.ema is not None:
                averages = held.averages(lambda wanted, region: checkpoints.read_averages(step, wanted, region))
                self.averaged.load(averages, were_kept="ema" in state["recipe"])
            self.carried.load(lambda region: checkpoints.read_carried(step, region))
            self.first_epoch.load(consumed, lambda: checkpoints.read_carried(step, lambda _, of: Box.whole(of)))

    def take_step(self, batches: list[Batch], num_targets: int) -> None:
        """One step, if it is not broken off: see `learn`."""
        if not self.learn(batches, num_targets, self.before_change):
            self.end_early()
        self.meter.step_finished(self.step)
        if self.recipe.batch.auto is not None:
            self.tell_batch_size()

    def tell_batch_size(self) -> None:
        """Tell of a size that was chosen by measuring, once it was."""
        batch, state = self.recipe.batch, self.decisions.batch
        if state.chosen is not None and state.last_step == self.step and self.gang.rank == 0:
            print(noise_scale.in_words(batch, state), file=sys.stderr, flush=True)
        self.update_progress(auto_batch=noise_scale.report_of(batch, state))

    @property
    def positions(self) -> range:
        """Consumed samples before each of the remaining steps, if the batch stays as it is."""
        steps = 0 if self.is_over else self.recipe.steps - self.step
        until = self.first_epoch.steps_until(self.samples_consumed, self.batch_size)
        steps = steps if until is None else min(steps, until)
        return range(self.samples_consumed, self.samples_consumed + steps * self.batch_size, self.batch_size)

    def select_if_due(self) -> bool:
        """Choose what is trained on from here on, where that follows from the steps so far and is due. A sync point."""
        if self.is_over or not self.first_epoch.is_due(self.samples_consumed):
            return False
        begun, undo = time.monotonic(), self.keep_state()
        self.module.eval()
        self.is_selection_to_end.begin()
        with phase("Selecting") as pieces, eagerly(self.recipe.compile):

            def go_on(finished: int, of: int) -> bool:
                pieces.done(finished, of)
                return not self.is_selection_to_end.all_end()

            self.strategy.share_buffers()
            data = self.first_epoch.chosen(self.data, go_on)
        undo()
        if data is None:  # told to end: the next attempt chooses
            self.end_early()
        selection, self.data = self.recipe.data.selection, data
        if self.gang.rank == 0 and selection is not None:
            kept = data.num_train_samples * selection.keep_percent // 100
            note = told(data, kept, self.batch_size, time.monotonic() - begun)
            print(note, file=sys.stderr, flush=True)
            self.update_progress(data_saved=saved_in((*data.notes, note), SHORT_TEXT_CHARACTERS))
        return True

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
        self.update_progress(learning_rate=figure(self.rate))

    def evaluate(self) -> None:
        """Loss on the held-out samples, each rank on its share. A sync point."""
        self.module.eval()
        self.is_evaluation_to_end.begin()
        with (
            self.averaged.in_place(self.before_change),
            phase("Evaluating") as pieces,
            eagerly(self.recipe.compile),
            self.carried.set_aside(),
        ):
            self.strategy.share_buffers()

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
        results |= shares(self.data, self.samples_consumed)
        self.update_progress(validation_loss=figure(loss), results=results)
        self.evaluation_due = False
        evaluated = {"validationLoss": figure(loss), "results": results}
        self.decide(evaluated)
        self.meter.lap("evaluation")
        if self.step in (self.saved_step, self.saves.step):
            self.evaluated = evaluated
            self.evaluated_ns = self.meter.in_steps_ns()
        if self.step == self.saved_step:
            self.keep_evaluation()

    def decide(self, evaluated: dict[str, Any]) -> None:
        """Decide what follows from an evaluation's figures: the same on all ranks, which all have the same figures."""
        before, self.decisions = self.decisions, decided(self.recipe, self.decisions, self.step, evaluated)
        for line in in_words(self.recipe, before, self.decisions, self.step) if self.gang.rank == 0 else ():
            print(line, file=sys.stderr, flush=True)
        self.update_progress(early_stopping=report_of(self.recipe, self.decisions))

    @property
    def is_over(self) -> bool:
        """Is no step to be taken any more? The same on all ranks."""
        return self.step >= self.recipe.steps or is_over(self.recipe, self.decisions)

    def evaluation_is_due(self) -> bool:
        """Is one due after this step?"""
        return self.step == self.recipe.steps or self.step % self.recipe.evaluation.every_steps == 0

    def checkpoint_is_due(self) -> bool:
        """Is one due after this step, whatever the time? Early stopping saves what it evaluates, before it does."""
        by_evaluation = self.evaluation_due and self.recipe.early_stopping is not None
        return by_evaluation or self.step == self.recipe.steps or self.saves.is_due(self.step)

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
            "tokenizer": self.tokenizer,
            "evaluationDue": self.evaluation_due,
            NAME: self.decisions.to_plain(),
        }
        snapshot = Snapshot(
            model=self.strategy.to_save(self.module.state_dict()),
            optimizer=self.strategy.to_save(named_optimizer_state(self.recipe.optimizer, self.module, self.optimizer)),
            random=random_state(self.gang.device),
            state=state,
            parameters=frozenset(name for name, _ in self.module.named_parameters()),
            carried={**self.carried.to_save(), **self.first_epoch.to_save()},
            averages=self.strategy.to_save(self.averaged.tensors),
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
        """Save the trained model: from the last checkpoint, or the best."""
        problem: Exception | None = None
        step = self.step
        if self.gang.rank == 0 and restores_best(self.recipe):
            step = self.checkpoints.best_whole(step)
        step = self.gang.broadcast(step)
        figures = None if step == self.step else self.checkpoints.read_evaluation(step)
        told = told_of(step, self.progress, figures)
        if self.gang.rank == 0:
            provenance = Provenance(self.job, self.recipe, self.data, told)
            with phase("SavingModel"):
                folder = self.storage / names.ARTIFACTS_DIR
                problem = save_model_of(step, self.checkpoints, self.shape, folder, provenance)
        self.gang.agree(problem)
        self.progress = told
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
        augmentations = identity_of(self.recipe.data.augmentations or ())
        samples = {"data": self.data.fingerprint, **({"augmentations": augmentations} if augmentations else {})}
        return {
            "model": model,
            **samples,
            "seed": self.recipe.seed,
            **self.carried.identity(),
            **mixture_identity(self.recipe),
        }
