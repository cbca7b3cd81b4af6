"""The training loop of the built-in recipes, on one page. Every rank of the gang runs `main`.

    storage    COSTOPT_STORAGE_DIR: checkpoints/, artifacts/model/, metrics.jsonl, cache/
    ranks      RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, as torch's own launcher sets them

    main -> Training(...) -> resume -> run: steps, and between them read_losses, save, evaluate, report -> finish

A training is a pure function of its recipe and data: on the CPU, 40 steps give the same bits as 20 steps and a resume
for 20 more. (On a GPU some kernels add in no fixed order.) For this, the order of samples is a function of (seed,
samples consumed), and a checkpoint holds everything else that a step reads.

A host that reads a result from the device waits for it. The comments name each such sync point: an ordinary step has
none, so the host runs ahead and the device never waits for work. A thread prepares the samples of the next step.
"""

import os
import sys
import zlib
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from costopt import names
from costopt.schema.memory import Memory
from costopt.schema.recipe import Recipe
from costopt.schema.replica import EXIT_PREEMPTED, Progress, ReplicaSettings
from costopt_trainer.agreement import Question
from costopt_trainer.data import load_data
from costopt_trainer.data.listing import differences
from costopt_trainer.data.prefetch import prepared_ahead
from costopt_trainer.errors import NotRetryable
from costopt_trainer.models.artifact import save_trained
from costopt_trainer.models.family import fill
from costopt_trainer.models.loss import count_targets
from costopt_trainer.models.shape import ModelShape
from costopt_trainer.models.table import (
    build_model,
    context_length_of,
    kind_of_samples,
    metric_of,
    settings_that_must_stay,
    tokenizer_of,
)
from costopt_trainer.phases import phase
from costopt_trainer.reporting.meter import NOT_KEPT, Meter, earlier_rounds, figure, startup_ns
from costopt_trainer.reporting.reporter import Reporter
from costopt_trainer.shutdown import watch_for_stop
from costopt_trainer.storage.folders import not_writable
from costopt_trainer.training.async_save import Saves
from costopt_trainer.training.checkpoint import Checkpoints
from costopt_trainer.training.checkpoint_state import fault_of_state, name_changes, refuse_other_training
from costopt_trainer.training.compiling import compile_blocks, compiled, eagerly
from costopt_trainer.training.evaluation import Totals, describe_results, validation_totals
from costopt_trainer.training.memory import save_memory
from costopt_trainer.training.micro_batch import Fitting, cut, in_recipe, try_pass
from costopt_trainer.training.optimizers import (
    load_optimizer_state,
    make_optimizer,
    named_optimizer_state,
    state_shapes,
)
from costopt_trainer.training.parallel import build_strategy, make_mesh
from costopt_trainer.training.parallel.rehearsal import rehearse
from costopt_trainer.training.parallel.shards import Held
from costopt_trainer.training.parallel.strategy import Batch, Strategy, clip_gradients
from costopt_trainer.training.precision import all_finite, autocast_for, gradient_scaler, set_tf32, slow_precision
from costopt_trainer.training.process_group import ProcessGroup, join_process_group
from costopt_trainer.training.schedules import learning_rate
from costopt_trainer.training.snapshot import Snapshot, random_state, restore_random_state, tensors_of
from costopt_trainer.training.stopping import Stop

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
            training.run()
            training.finish()
        except Exception:
            training.saves.let_end(LAST_SAVE_SECONDS)
            raise
        gang.leave()
    except RuntimeError as error:
        # All ranks are asked to end at about the same time: one that has lost another was asked as well.
        if stop.asked:
            raise SystemExit(EXIT_PREEMPTED) from error
        raise


class Training:
    """One rank's part in a training: its state, and its actions in order."""

    def __init__(
        self, recipe: Recipe, storage: Path, gang: ProcessGroup, meter: Meter, stop: Stop, *, job: str
    ) -> None:
        self.storage, self.gang, self.meter, self.stop = storage, gang, meter, stop

        # ---- storage and data; before the model, because errors are likelier here
        saving = recipe.checkpointing
        folder = storage / names.CHECKPOINTS_DIR
        self.checkpoints = Checkpoints(
            folder, job=job, keep_last=saving.keep_last, keep_best=saving.keep_best or 0, gang=gang
        )
        self.checkpoints.prepare()
        self.saves = Saves(self.checkpoints, gang, saving, self.refuse_to_save)
        context_length = context_length_of(recipe.model)
        self.cache_dir = storage / names.CACHE_DIR
        self.data = load_data(
            recipe.data,
            context_length=context_length,
            cache_dir=self.cache_dir,
            own_folder=storage,
            reads=kind_of_samples(recipe.model),
            model_tokenizer=tokenizer_of(recipe.model),
        )
        for note in self.data.notes if gang.rank == 0 else ():
            print(note, file=sys.stderr, flush=True)
        self.shape = ModelShape.for_data(recipe.model, self.data)
        self.metric = metric_of(recipe.model)

        # ---- model and optimizer
        self.fitting = Fitting(recipe, self.cache_dir, gang)
        self.recipe = recipe = in_recipe(recipe, self.fitting.size)
        self.mesh = make_mesh(recipe, gang)
        with phase("BuildingModel"):
            self.strategy = self.make_strategy()
        self.module = self.strategy.module
        self.optimizer = make_optimizer(recipe.optimizer, self.module)
        split = self.strategy.gradients_are_split
        self.scaler = gradient_scaler(recipe.precision, gang.device, gradients_are_split=split)
        # Each rank takes an equal share of every global batch, in micro-batches: gradients accumulate over them.
        self.share_size = recipe.batch.global_batch_size // self.strategy.data_size

        # ---- where we are
        self.step = 0  # finished steps
        self.samples_consumed = 0  # over all ranks: the data position
        self.saved_step: int | None = None  # of the newest complete checkpoint
        self.evaluation_due = False  # after this step, and not done yet
        self.evaluated: dict[str, Any] | None = None  # figures of the step that is being saved
        self.evaluated_ns = 0  # what the meter had counted in steps then
        self.losses: list[Tensor] = []  # of the steps since the last read, on the device, each rank's own part
        self.progress = Progress(step=0, total_steps=recipe.total_steps)  # latest figures
        self.reported_samples = 0
        self.is_step_to_end, self.is_evaluation_to_end = Question(gang, stop), Question(gang, stop)
        progress_file = os.environ.get(names.ENV_PROGRESS_FILE)
        self.reporter = Reporter(gang, Path(progress_file) if progress_file else None, storage / names.METRICS_FILE)

    def make_strategy(self) -> Strategy:
        """The model with its initial weights, distributed over the ranks."""
        recipe, gang = self.recipe, self.gang
        torch.manual_seed(recipe.seed)  # the same weights on all ranks
        model = build_model(self.shape)
        save_memory(model, recipe.memory or Memory())
        if recipe.compile:
            compile_blocks(model, self.cache_dir, aloud=gang.rank == 0)
        # But different dropout on each, unless they work on the same samples.
        torch.manual_seed(zlib.crc32(f"{recipe.seed}/{self.mesh.random_rank}".encode()))
        set_tf32(recipe.precision)
        autocast = autocast_for(recipe.precision, gang.device)
        note = slow_precision(recipe.precision, gang.device)
        if note and gang.rank == 0:
            print(note, file=sys.stderr, flush=True)
        return build_strategy(recipe, model, self.mesh, autocast)

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

    def rehearse(self, go_on: Callable[[], bool]) -> None:
        """Take a step that leaves no trace, with micro-batches that fit in memory: see there."""
        batches = [on_device(batch, self.gang.device) for batch in self.batches_at(self.samples_consumed)]
        if not self.strategy.gradients_are_split and self.gang.world_size > 1:
            autocast = autocast_for(self.recipe.precision, self.gang.device)
            states = [] if self.optimizer.state else state_shapes(self.recipe.optimizer, self.module)
            self.fitting.agree(
                lambda size: try_pass(self.module, cut(batches, size)[0], autocast, states),
                self.keep_state(),
                self.module,
            )
        undo, as_in_a_step = self.keep_state(), bool(self.recipe.compile)
        self.fitting.fitted(
            lambda size: rehearse(self.strategy, cut(batches, size), self.scaler, go_on, as_in_a_step=as_in_a_step),
            undo,
            self.module,
        )
        undo()

    def run(self) -> None:
        """Take the remaining steps, with evaluations and checkpoints when they are due."""
        recipe, gang, meter = self.recipe, self.gang, self.meter
        self.stop.in_steps = True
        meter.lap("startup")
        self.report()
        if self.evaluation_due:  # an earlier attempt was stopped during it
            self.evaluate()
            self.report()
        global_batch_size = recipe.batch.global_batch_size
        end = self.samples_consumed + (recipe.total_steps - self.step) * global_batch_size
        positions = range(self.samples_consumed, end, global_batch_size)
        with prepared_ahead(self.batches_at, positions, workers=recipe.data.workers or 1) as prepared:
            for batches in prepared:
                own_targets = (
                    sum(int(count_targets(targets)) for _, targets in batches) if self.strategy.holds_loss else 0
                )
                meter.lap("data_wait")

                # The hosts agree, over gloo, while the GPUs are still busy with the previous step: how many targets
                # this global batch has, whether any rank was asked to end, whether a report or a checkpoint is due by
                # rank 0's clock, and on how many ranks the checkpoint that is being written has come to its end.
                num_targets, stop_asked, report_due, save_due, num_over = gang.sum_integers(
                    own_targets,
                    self.stop.asked,
                    gang.rank == 0 and meter.report_is_due(),
                    gang.rank == 0 and self.saves.is_due_by_time(),
                    self.saves.is_over(),
                )
                if num_over == gang.world_size:
                    meter.lap("training")
                    self.settle()
                if stop_asked:
                    self.end_early()
                if report_due:
                    self.read_losses()
                    meter.lap("training")
                    self.report()

                self.take_step([on_device(batch, gang.device) for batch in batches], num_targets)
                last = self.step == recipe.total_steps
                self.evaluation_due = evaluation_due = last or self.step % recipe.evaluation.every_steps == 0
                checkpoint_due = last or save_due > 0 or self.saves.is_due(self.step)
                if evaluation_due or checkpoint_due:
                    self.read_losses()
                meter.lap("training")
                if checkpoint_due:  # first: an evaluation may take longer than a stop is willing to wait
                    self.save()
                if evaluation_due:
                    self.evaluate()
                if last:
                    self.settle()
                if evaluation_due or checkpoint_due:
                    self.report()

    def batches_at(self, position: int) -> list[Batch]:
        """This rank's micro-batches, on the host, of the step that starts at `position` consumed samples.

        Called from threads, ahead of the step: of what steps change it reads the size of micro-batches only, which may
        be outdated then.
        """
        batches = self.data.train_batches(
            seed=self.recipe.seed,
            position=position + self.strategy.data_rank * self.share_size,
            count=self.share_size,
            batch_size=self.fitting.size,
        )
        return [pinned(batch, self.gang.device) for batch in batches]

    def take_step(self, batches: list[Batch], num_targets: int) -> None:
        """One optimizer step on `batches`, this rank's share of a global batch with `num_targets` targets."""
        rate = learning_rate(self.recipe, self.step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        undo = self.keep_state()
        self.is_step_to_end.begin()
        # Sum of token losses over the number of targets of the global batch: each token weighs the same, for any number
        # of ranks and micro-batches.
        loss_sum = self.fitting.fitted(
            lambda size: self.strategy.accumulate_gradients(
                cut(batches, size), 1 / num_targets, self.scaler, lambda: not self.is_step_to_end.all_end()
            ),
            undo,
            self.module,
        )
        if loss_sum is None:  # told to end between two micro-batches: as if the step had never begun
            undo()
            self.end_early()
        self.scaler.unscale_(self.optimizer)
        clip_norm = float(self.recipe.optimizer.gradient_clip_norm)
        if clip_norm > 0:
            # In FP16 infinite gradients become NaN here; the scaler has seen them and skips the step.
            norm = self.strategy.gradient_norm()
            clip_gradients(self.module, clip_norm, norm)
        if self.saves.is_copying:
            self.meter.lap("training")
            self.saves.before_change()
            self.meter.lap("checkpoint")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss_sum / num_targets)
        self.step += 1
        self.meter.step_finished(self.step)
        self.samples_consumed += self.recipe.batch.global_batch_size

    def keep_state(self) -> Callable[[], None]:
        """Copy what an unfinished step changes; calling the result restores it. No sync point."""
        random, device, training = random_state(self.gang.device), self.gang.device, self.module.training
        kept = [(buffer, buffer.clone()) for buffer in self.module.buffers()]  # such as moving averages

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.module.train(training)
            restore_random_state(random, device)
            for buffer, value in kept:
                buffer.copy_(value)

        return undo

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
        with phase("Evaluating") as pieces, eagerly(self.recipe.compile):

            def go_on(finished: int, of: int) -> bool:
                pieces.done(finished, of)
                return not self.is_evaluation_to_end.all_end()

            def totals_of(micro_batch_size: int) -> Totals | None:
                return validation_totals(
                    self.strategy.forward,
                    self.data,
                    max_samples=self.recipe.evaluation.max_samples,
                    micro_batch_size=micro_batch_size,
                    device=self.gang.device,
                    num_classes=self.data.num_classes if self.metric.accuracy else None,
                    rank=self.strategy.data_rank,
                    world_size=self.strategy.data_size,
                    all_ranks=self.strategy.forward_needs_all_ranks,
                    go_on=go_on,
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
        results = describe_results(self.metric, self.data, totals)
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
        return {"model": model, "data": self.data.fingerprint, "seed": self.recipe.seed}


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory that `device` reads by itself; made where it is prepared, for that copy takes time."""
    if device.type == "cpu":
        return batch
    with torch.cuda.device(device):  # a new thread would begin with the first GPU, and take memory there
        inputs, targets = batch
        return inputs.pin_memory(), targets.pin_memory()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`. From pinned memory the host does not wait for the copy."""
    inputs, targets = batch
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def diverged(what: str, recipe: Recipe) -> NotRetryable:
    """The error of a training whose figures are no longer finite: the same steps would lead there again."""
    advice = f"lower optimizer.learningRate (now {recipe.optimizer.learning_rate}), lengthen schedule.warmupSteps"
    if recipe.precision == "FP16":
        other = "train in BF16 or FP32"
    elif float(recipe.optimizer.gradient_clip_norm) > 0:
        other = f"lower optimizer.gradientClipNorm (now {recipe.optimizer.gradient_clip_norm})"
    else:
        other = "clip gradients (optimizer.gradientClipNorm is 0, which is off)"
    return NotRetryable("LossNotFinite", f"{what}: {advice} or {other}")


def refuse_fewer_steps(step: int, total_steps: int) -> None:
    """Raise NotRetryable if the checkpoint's step is past the last one: its model is not the requested one."""
    if step > total_steps:
        raise NotRetryable(
            "InvalidSettings",
            f"totalSteps is {total_steps}, but training has come to step {step} already: ask for that many, "
            "or use other storage to start anew",
        )
